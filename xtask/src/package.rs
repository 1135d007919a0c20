//! The checks before a release: dependencies, every feature by itself, and the package that would be published.

use std::process::{ExitCode, Stdio};

use anyhow::{Result, bail};

use crate::run::{cargo, exit_code, status_of, words_of};

/// The programs that the checks need, and the commands that install them.
const PROGRAMS: [(&str, &str); 2] =
    [("deny", "cargo install cargo-deny --locked"), ("hack", "cargo install cargo-hack --locked")];

/// Runs all checks, and stops at the first failure.
pub(crate) fn run() -> Result<ExitCode> {
    for (program, advice) in PROGRAMS {
        let mut version = cargo([program, "--version"]);
        let is_there = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !is_there.is_ok_and(|status| status.success()) {
            bail!("cargo-{program} is not installed: {advice}");
        }
    }
    let mut checks = [
        cargo(["deny", "check"]),
        // Without the dependencies of the tests, which would switch features on.
        cargo(["hack", "check", "--package", "eventbox", "--each-feature", "--no-dev-deps"]),
        cargo(["publish", "--package", "eventbox", "--dry-run"]),
    ];
    for check in &mut checks {
        eprintln!("xtask: {}", words_of(check));
        let status = status_of(check)?;
        if !status.success() {
            eprintln!("xtask: failed: {}", words_of(check));
            return exit_code(status);
        }
    }
    eprintln!("xtask: the package is ready");
    Ok(ExitCode::SUCCESS)
}
