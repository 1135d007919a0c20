//! The checks of `cargo xtask ci`, which must pass in addition to the tests.

use std::ffi::OsString;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::run::{cargo, exit_code, status_of, words_of};
use crate::{browser, postgres};

/// Sets of features that must build without the others. `cargo xtask package` builds every feature by itself.
const FEATURES: [&str; 8] = [
    "postgres",
    "sqlite",
    "sqlite,emitter",
    "sqlite,runtime",
    "postgres,testing",
    "sqlite,dashboard",
    "sqlite,peer",
    "sqlite,shards",
];

/// The page in Chromium on one engine. `cargo xtask browser` has both: their data come from the same views, which the
/// suite compares.
const BROWSER: [&str; 2] = ["--skip", "::postgres"];

/// Runs all checks, the quick checks first, and stops at the first failure.
pub(crate) fn run() -> Result<ExitCode> {
    let started = Instant::now();
    let mut doc = cargo(["doc", "--workspace", "--all-features", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-Dwarnings");
    let mut checks = vec![
        cargo(["fmt", "--all", "--check"]),
        cargo(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
        doc,
    ];
    for features in FEATURES {
        // Clippy and not `cargo check`, so that warnings are errors without a new build of the dependencies.
        checks.push(cargo([
            "clippy",
            "--package",
            "eventbox",
            "--no-default-features",
            "--features",
            features,
            "--lib",
            "--",
            "-D",
            "warnings",
        ]));
    }
    for check in &mut checks {
        announce(check);
        let status = timed(check)?;
        if !status.success() {
            eprintln!("xtask: failed: {}", words_of(check));
            return exit_code(status);
        }
    }

    let server = postgres::server()?;
    bare_runtime(&server.url())?;
    cut_by_shard(&server.url())?;
    // With the features of the tests, whose build exists. `cargo run` would choose other features and build again.
    let mut build = cargo(["build", "--workspace", "--all-features", "--bins"]);
    announce(&build);
    if !timed(&mut build)?.success() {
        bail!("the program could not be built");
    }
    let program = std::env::current_exe().context("find the programs that were built")?.with_file_name("eventbox");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["demo", "--json"]).args(arguments);
        demo(command)
    };
    run(&[])?;
    run(&["--database-url", &server.url()])?;
    if !browser::tests(&server.url(), &BROWSER.map(OsString::from))?.success() {
        bail!("the tests of the page in Chromium failed");
    }
    eprintln!("xtask: all checks passed ({} s)", started.elapsed().as_secs());
    Ok(ExitCode::SUCCESS)
}

/// Tests of the runtime that must pass without leases and wake-ups, which only make the runtime faster.
const BARE: [&str; 7] = ["finding", "failing", "holding", "overtaken", "rounds", "stopping", "waiting"];
const NOT_BARE: [&str; 4] = [
    "a_wake_up_is_faster_than_a_poll",
    "a_round_whose_answer_was_lost_is_read_back",
    "processes_wake_each_other_up",
    "a_change_by_an_operator_is_noticed_at_once",
];

/// Runs the tests of the runtime again, without leases and wake-ups.
fn bare_runtime(database_url: &str) -> Result<()> {
    let mut tests = cargo(["test", "--workspace", "--all-features", "--test", "suite", "--"]);
    tests.args(BARE.map(|module| format!("runtime::{module}::")));
    tests.args(NOT_BARE.iter().flat_map(|test| ["--skip", test]));
    tests.env("EVENTBOX_TEST_BARE_RUNTIME", "1").env("DATABASE_URL", database_url);
    crate::run_several_per_core(&mut tests);
    announce(&tests);
    if !timed(&mut tests)?.success() {
        bail!("the tests of the runtime failed without leases and wake-ups");
    }
    Ok(())
}

/// Tests that run once more with the statements for tables that a cluster cuts by shard.
const CUT_BY_SHARD: [&str; 3] = ["paths::", "eventbox::depth::", "dsset::"];
/// Tests that need a round of several shards, or an emit of one statement, which there are none of by shard.
const NOT_CUT_BY_SHARD: [&str; 3] = ["round_of_processor", "after_a_lost_answer_it_is_sent_again", "sqlite"];

/// Runs tests of the store's callers again on plain tables, with the statements that touch one shard each.
fn cut_by_shard(database_url: &str) -> Result<()> {
    let mut tests = cargo(["test", "--workspace", "--all-features", "--test", "suite", "--"]);
    tests.args(CUT_BY_SHARD).args(NOT_CUT_BY_SHARD.iter().flat_map(|test| ["--skip", test]));
    tests.env("EVENTBOX_TEST_LAYOUT", "by-shard").env("DATABASE_URL", database_url);
    crate::run_several_per_core(&mut tests);
    announce(&tests);
    if !timed(&mut tests)?.success() {
        bail!("the tests failed with the statements by shard");
    }
    Ok(())
}

/// Runs the demo, prints its output, and fails unless the output is verified.
fn demo(mut command: Command) -> Result<()> {
    announce(&command);
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let answer = String::from_utf8_lossy(&done.stdout);
    println!("{}", answer.trim_end());
    if crate::run::interrupted() {
        bail!("interrupted");
    }
    if !done.status.success() || !is_verified(&answer) {
        bail!("the demo was not verified ({})", done.status);
    }
    Ok(())
}

/// Runs a command, and says how long it took: the checks of a merge may take 35 minutes, so each must be known.
fn timed(command: &mut Command) -> Result<ExitStatus> {
    let started = Instant::now();
    let status = status_of(command)?;
    eprintln!("xtask: {} s", started.elapsed().as_secs());
    Ok(status)
}

fn announce(command: &Command) {
    // Never the URL of a database, because it contains a password.
    let words = words_of(command);
    let shown = words.split(" postgres://").next().unwrap_or_default();
    eprintln!("xtask: {shown}");
}

fn is_verified(json: &str) -> bool {
    json.split_whitespace().collect::<String>().contains(r#""verified":true"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_true_result_is_verified() {
        assert!(is_verified(r#"{"rows":1,"verified":true,"seconds":1.5}"#));
        assert!(is_verified("{\n  \"verified\": true\n}"));
        assert!(!is_verified(r#"{"verified":false}"#));
        assert!(!is_verified(""));
    }
}
