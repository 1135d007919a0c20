//! A Python with gRPC, for the tests with foreign programs, and the stubs of the wire contract for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{status_of, words_of};

/// The packages and their versions.
const REQUIREMENTS: &str = "tests/suite/shard_api/foreign/requirements.txt";

/// Advice for the user when the environment cannot be made.
const ADVICE: &str = "Python needs its module venv (on Debian and Ubuntu: apt-get install python3-venv), and pip needs \
                      its package index";

/// A Python of its own, in `target/foreign-python`.
pub(crate) struct Python {
    /// The interpreter.
    pub(crate) program: PathBuf,
    /// Folder with the generated stubs.
    pub(crate) stubs: PathBuf,
}

/// Makes an environment with the packages, unless it is there, and generates the stubs from `proto/consumer.proto`.
pub(crate) fn with_grpc() -> Result<Python> {
    let project = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let home = project.join("target/foreign-python");
    let (environment, stubs) = (home.join("environment"), home.join("stubs"));
    let program = environment.join("bin/python");
    let requirements = project.join(REQUIREMENTS);
    let wanted = fs::read_to_string(&requirements).with_context(|| format!("read {REQUIREMENTS}"))?;
    // Written after the packages, so that an interrupted installation is made again.
    let installed = environment.join("installed.txt");
    if fs::read_to_string(&installed).ok().as_ref() != Some(&wanted) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment)).context(ADVICE)?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "-r"];
        run(Command::new(&program).args(pip).arg(&requirements)).context(ADVICE)?;
        fs::write(&installed, &wanted)?;
    }
    fs::create_dir_all(&stubs)?;
    let mut generate = Command::new(&program);
    generate.args(["-m", "grpc_tools.protoc", "--proto_path=proto", "consumer.proto"]).current_dir(project);
    for kind in ["--python_out", "--grpc_python_out"] {
        generate.arg(format!("{kind}={}", stubs.display()));
    }
    run(&mut generate)?;
    Ok(Python { program, stubs })
}

fn run(command: &mut Command) -> Result<()> {
    if !status_of(command)?.success() {
        bail!("{} failed", words_of(command));
    }
    Ok(())
}
