//! The programs of tests/faults, and their prerequisites.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::postgres;
use crate::run::{cargo, exit_code, outlive_interrupts, status_of};

/// Advice for the user when the installation failed.
const ADVICE: &str = "PgBouncer was not found: install the package pgbouncer \
(Debian, Ubuntu: sudo apt-get install pgbouncer), \
or name the other programs: cargo xtask faults dead standby disks storm";

/// Names of the programs of tests/faults.
const PROGRAMS: [&str; 5] = ["dead", "standby", "disks", "poolers", "storm"];

/// Returns whether the arguments ask for a program. Without a name they ask for all, and with an option of storm for
/// storm alone.
fn asks_for(args: &[OsString], program: &str) -> bool {
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    if words.iter().any(|word| PROGRAMS.contains(&word.as_ref())) {
        return words.iter().any(|word| word == program);
    }
    let is_of_storm = |word: &str| ["--seed", "--fail-overs", "--restarts", "--others"].contains(&word);
    program == "storm" || !words.iter().any(|word| is_of_storm(word))
}

/// Runs all programs, or the named programs.
pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode> {
    outlive_interrupts()?;
    postgres::has_programs()?;
    if asks_for(&args, "poolers") && !has_pooler() {
        install("pgbouncer").context(ADVICE)?;
        ensure!(has_pooler(), ADVICE);
    }
    if asks_for(&args, "storm") && !has_faketime() && install("libfaketime").is_err() {
        // The table says which faults were not run.
        eprintln!("xtask: no clock will jump, because libfaketime was not found and could not be installed");
    }
    let mut tests = cargo(["test", "--workspace", "--all-features", "--test", "faults", "--"]);
    exit_code(status_of(tests.args(args))?)
}

fn has_pooler() -> bool {
    std::env::var_os("PGBOUNCER").is_some()
        || which::which_in("pgbouncer", Some("/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"), "/").is_ok()
}

fn has_faketime() -> bool {
    let mut folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    std::env::var_os("LIBFAKETIME").is_some()
        || folders.any(|folder| folder.path().join("faketime/libfaketime.so.1").exists())
}

/// Installs a package, where this program may.
fn install(package: &str) -> Result<()> {
    for arguments in [&["update", "-q"][..], &["install", "-q", "-y", "--no-install-recommends", package]] {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        if !status_of(&mut command).is_ok_and(|status| status.success()) {
            bail!("the package {package} could not be installed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_storm_ask_for_no_other_program() {
        let args = |words: &str| words.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        for (words, poolers, storm) in [
            ("", true, true),
            ("--json", true, true),
            ("--seed 42 --fail-overs 3", false, true),
            ("dead --json", false, false),
            ("poolers storm --seed 1", true, true),
        ] {
            assert_eq!(asks_for(&args(words), "poolers"), poolers, "{words}");
            assert_eq!(asks_for(&args(words), "storm"), storm, "{words}");
        }
    }
}
