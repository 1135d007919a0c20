//! `cargo xtask peers`: the tests with programs of others. They fail where a plain run of the tests leaves them out.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use crate::run::{cargo, exit_code, status_of};
use crate::{postgres, python};

/// What the tests start: the programs, of which one is enough, and a package that has one of them.
const WANTED: [(&[&str], &str); 3] =
    [(&["nc", "ncat", "socat"], "netcat-openbsd"), (&["curl"], "curl"), (&["python3"], "python3")];

/// Environment variable that makes a missing program a failure of the tests.
const REQUIRED: &str = "EVENTBOX_FOREIGN_PEERS";

/// Environment variable with the Python that speaks gRPC, for the client of the shard API.
const PYTHON: &str = "EVENTBOX_FOREIGN_PYTHON";

/// Open files that the test of 10,000 connections needs.
const OPEN_FILES: rlim_t = 11_000;

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Runs the tests, or says what to install.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let missing = WANTED.iter().filter(|(programs, _)| !programs.iter().any(|program| is_installed(program)));
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        bail!("programs are missing: install them (on Debian and Ubuntu: apt-get install {})", packages.join(" "));
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if most < OPEN_FILES {
        bail!("a test needs {OPEN_FILES} open files, and the hard limit is {most}: raise it (`ulimit -Hn`)");
    }
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let python = python::with_grpc()?;
    let server = postgres::server()?;
    // The folders `foreign` of peers and of the shard API. The tests of the latter are ignored by a plain run.
    let mut tests = cargo(["test", "--all-features", "--test", "around", "::foreign::"]);
    tests.args(args).args((!args.iter().any(|arg| arg == "--")).then_some("--")).arg("--include-ignored");
    tests.env("DATABASE_URL", server.url()).env(REQUIRED, "1");
    tests.env(PYTHON, python.program).env("PYTHONPATH", python.stubs);
    exit_code(status_of(&mut tests)?)
}
