//! The programs of Prometheus, and their installation.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::run::{output_of, status_of, words_of};

/// Advice for the user when the programs are missing.
const ADVICE: &str = "Prometheus was not found. Install it with its promtool, and run this again:
    Debian, Ubuntu    sudo apt-get install prometheus
    Alpine            sudo apk add prometheus
    macOS             brew install prometheus
or put `prometheus` and `promtool` of https://prometheus.io/download into a folder of PATH";

/// The programs.
pub(super) struct Tools {
    pub(super) prometheus: PathBuf,
    pub(super) promtool: PathBuf,
}

/// Finds the programs, and tries to install them otherwise.
pub(super) fn tools() -> Result<Tools> {
    let tools = match find() {
        Some(tools) => tools,
        None => {
            install()?;
            find().context(ADVICE)?
        }
    };
    let version = output_of(Command::new(&tools.prometheus).arg("--version"))?;
    let version = version.split(" (").next().unwrap_or_default();
    eprintln!("xtask: {version}: {}", tools.prometheus.display());
    Ok(tools)
}

fn find() -> Option<Tools> {
    Some(Tools { prometheus: which::which("prometheus").ok()?, promtool: which::which("promtool").ok()? })
}

/// Installs the package of Debian. The error advises the user.
fn install() -> Result<()> {
    if !geteuid().is_root() || which::which("apt-get").is_err() {
        bail!("{ADVICE}");
    }
    for arguments in [&["update", "-q"][..], &["install", "-q", "-y", "--no-install-recommends", "prometheus"]] {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        eprintln!("xtask: no Prometheus here yet: {}", words_of(&command));
        if !status_of(&mut command)?.success() {
            bail!("{} failed\n{ADVICE}", words_of(&command));
        }
    }
    // The package starts a server of its own. A machine without systemd has started none.
    let mut disable = Command::new("systemctl");
    disable.args(["disable", "--now", "prometheus"]).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = disable.status();
    Ok(())
}
