//! The programs of tests/faults, and their prerequisites.

use std::ffi::OsString;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::postgres;
use crate::run::{cargo, exit_code, outlive_interrupts, status_of};

/// Advice for the user when an installation failed.
const ADVICE: &str = "PgBouncer was not found: install the package pgbouncer \
(Debian, Ubuntu: sudo apt-get install pgbouncer), \
or name the other programs: cargo xtask faults dead standby disks storm";
const ADVICE_OF_PATRONI: &str = "Patroni and etcd were not found: install patroni, python3-etcd and etcd-server \
(Debian, Ubuntu: sudo apt-get install --no-install-recommends patroni python3-etcd etcd-server), \
or name the other programs: cargo xtask faults dead standby disks poolers storm";

/// Packages of the program patroni. The second one is Patroni's client for etcd.
const PATRONI: [&str; 3] = ["patroni", "python3-etcd", "etcd-server"];

/// Names of the programs of tests/faults.
const PROGRAMS: [&str; 6] = ["dead", "standby", "disks", "poolers", "storm", "patroni"];

/// Returns whether the arguments ask for a program. Without a name they ask for all, with an option of storm for storm
/// alone, and with `--help` for none.
fn asks_for(args: &[OsString], program: &str) -> bool {
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        return false;
    }
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
        install(&["pgbouncer"]).context(ADVICE)?;
        ensure!(has_pooler(), ADVICE);
    }
    if asks_for(&args, "patroni") && !has_patroni() {
        install(&PATRONI).context(ADVICE_OF_PATRONI)?;
        ensure!(has_patroni(), ADVICE_OF_PATRONI);
    }
    if asks_for(&args, "storm") && !has_faketime() && install(&["libfaketime"]).is_err() {
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

/// Returns whether Patroni, etcd and Patroni's client for etcd are there.
fn has_patroni() -> bool {
    // The interpreter of the package, because another one may come first in the PATH.
    let has_client = || Command::new("/usr/bin/python3").args(["-c", "import etcd"]).stderr(Stdio::null()).status();
    let has_program = || which::which("patroni").is_ok() && has_client().is_ok_and(|status| status.success());
    which::which("etcd").is_ok() && (std::env::var_os("PATRONI").is_some() || has_program())
}

/// Installs packages, where this program may.
fn install(packages: &[&str]) -> Result<()> {
    let install = [&["install", "-q", "-y", "--no-install-recommends"][..], packages].concat();
    for arguments in [&["update", "-q"][..], install.as_slice()] {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        if !status_of(&mut command).is_ok_and(|status| status.success()) {
            bail!("{} could not be installed", packages.join(", "));
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
        for (words, poolers, storm, patroni) in [
            ("", true, true, true),
            ("--json", true, true, true),
            ("--seed 42 --fail-overs 3", false, true, false),
            ("dead --json", false, false, false),
            ("poolers storm --seed 1", true, true, false),
            ("patroni --seed 42 --fail-overs 3", false, false, true),
            ("--help", false, false, false),
            ("poolers -h", false, false, false),
        ] {
            assert_eq!(asks_for(&args(words), "poolers"), poolers, "{words}");
            assert_eq!(asks_for(&args(words), "storm"), storm, "{words}");
            assert_eq!(asks_for(&args(words), "patroni"), patroni, "{words}");
        }
    }
}
