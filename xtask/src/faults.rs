//! The programs of tests/faults, and their prerequisites.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::postgres;
use crate::run::{cargo, exit_code, outlive_interrupts, status_of};

/// Advice for the user when the installation failed.
const ADVICE: &str = "PgBouncer was not found: install the package pgbouncer \
(Debian, Ubuntu: sudo apt-get install pgbouncer), \
or name the other programs: cargo xtask faults dead standby disks";

/// Runs all programs, or the named programs.
pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode> {
    outlive_interrupts()?;
    postgres::has_programs()?;
    let is_program = |arg: &&OsString| !arg.to_string_lossy().starts_with('-');
    if args.iter().all(|arg| !is_program(&arg)) || args.iter().any(|arg| arg == "poolers") {
        has_pooler()?;
    }
    let mut tests = cargo(["test", "--workspace", "--all-features", "--test", "faults", "--"]);
    exit_code(status_of(tests.args(args))?)
}

/// Checks that PgBouncer exists, and tries to install it otherwise.
fn has_pooler() -> Result<()> {
    let is_here =
        || which::which_in("pgbouncer", Some("/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"), "/").is_ok();
    if is_here() || std::env::var_os("PGBOUNCER").is_some() {
        return Ok(());
    }
    for arguments in [&["update", "-q"][..], &["install", "-q", "-y", "--no-install-recommends", "pgbouncer"]] {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        if !status_of(&mut command).is_ok_and(|status| status.success()) {
            bail!("{ADVICE}");
        }
    }
    if is_here() { Ok(()) } else { bail!("{ADVICE}") }
}
