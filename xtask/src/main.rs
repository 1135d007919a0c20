//! The chores of the project: `cargo xtask`.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "the output is its purpose")]

mod browser;
mod checks;
mod faults;
mod mutants;
mod package;
mod peers;
mod postgres;
mod prometheus;
mod python;
mod run;
mod upgrade;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::run::{cargo, exit_code, status_of};

const HELP: &str = "\
The chores of eventbox.

  cargo xtask test [ARGS…]   runs all tests on both engines, three per core, or as many at a time as
                             RUST_TEST_THREADS says; ARGS go to `cargo test`
  cargo xtask ci             runs the checks in addition to the tests: formatting, clippy, documentation,
                             sets of features, the tests of the runtime without leases and wake-ups, the
                             tests of tables that are cut by shard, the demo on both engines, and the operator's
                             page in Chromium
  cargo xtask browser [ARGS…]
                             clicks through the operator's page in Chromium, on both engines; ARGS are names of tests;
                             --picture makes docs/dashboard.png instead. The command installs Chromium if it may;
                             `ci` has the tests on SQLite
  cargo xtask prometheus     has a real Prometheus scrape a service: alerts of ops/alerts.yaml fire and end, and every
                             name and query of ops/ is known; takes two minutes. The command installs Prometheus if it
                             may, and is not in `ci`
  cargo xtask faults [ARGS…] breaks servers, disks, clocks and poolers under load and counts what is lost: with
                             `--seed 42 --fail-overs 50 --restarts 50` the same faults in the same order. Takes half
                             an hour, needs root for full disks, and is not in `ci`; `faults patroni` breaks three nodes
                             of Patroni with etcd, which the command installs if it may; see `faults --help`
  cargo xtask handover       measures how long recipients wait while processes come, stop, are replaced and are killed,
                             on both engines, for docs/leases.md; takes minutes, wants a machine that does nothing
                             else, and is not in `ci`
  cargo xtask upgrade [ARGS…]
                             runs the last released version and today's beside each other on one database, on both
                             engines, under load and kills, and counts what is lost; takes 15 minutes, and is not in
                             `ci`; see `upgrade --help`
  cargo xtask mutants [FOLDER…] [OPTIONS…]
                             changes the code in many small ways, and lists the changes that no test notices and
                             that xtask/mutants/FOLDER.txt does not list; FOLDER is round, dsset, runtime, store,
                             emitter, outbox or chip. All changes are in one build, and a change takes seconds; the
                             command wants cargo-mutants, for their list, and is not in `ci`; see `mutants --help`
  cargo xtask peers [ARGS…]  runs the tests with programs of others: peers with netcat, curl and Python, and the shard
                             API with a client in Python, whose gRPC library pip installs below target/. Says what to
                             install if a program is missing, where `test` leaves its tests out
  cargo xtask package        runs the checks before a release: `cargo deny check`, every feature by itself
                             (`cargo hack`), and `cargo publish --dry-run`; it wants cargo-deny and cargo-hack
  cargo xtask pg -- CMD…     runs a command with a throw-away Postgres, with DATABASE_URL and PGHOST,
                             PGPORT … set: `cargo xtask pg -- psql`

Postgres is the server that DATABASE_URL names. Without it the command makes a cluster from the newest server programs
on this machine, and removes the cluster after the run. The command installs missing server programs if it may.

Exit codes: the exit code of the tests or the command, 2 error, 130 interrupted.";

fn main() -> ExitCode {
    match chore(std::env::args_os().skip(1).collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(if run::interrupted() { run::INTERRUPTED } else { 2 })
        }
    }
}

fn chore(mut args: Vec<OsString>) -> Result<ExitCode> {
    let name = if args.is_empty() { "help".into() } else { args.remove(0) };
    match name.to_str() {
        Some("test") => test(args),
        Some("ci") if args.is_empty() => checks::run(),
        Some("browser") => browser::run(args),
        Some("prometheus") if args.is_empty() => prometheus::run(),
        Some("faults") => faults::run(args),
        Some("handover") if args.is_empty() => handover(),
        Some("upgrade") => upgrade::run(args),
        Some("mutants") => mutants::run(&args),
        Some("peers") => peers::run(&args),
        Some("package") if args.is_empty() => package::run(),
        Some("pg") => pg(args),
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("there is no such chore; see `cargo xtask help`"),
    }
}

fn test(args: Vec<OsString>) -> Result<ExitCode> {
    let server = postgres::server()?;
    let tests = || cargo(["test", "--workspace", "--all-features", "--no-fail-fast"]);
    // Cargo builds no doctests without a run.
    if !args.iter().any(|arg| arg == "--doc" || arg == "--no-run") {
        let built = status_of(tests().arg("--no-run").args(&args))?;
        if !built.success() {
            return exit_code(built);
        }
        // What the build has left to write would hold up the first commits of the tests, for seconds on a slow disk.
        nix::unistd::sync();
    }
    let mut tests = tests();
    tests.args(args).env("DATABASE_URL", server.url());
    run_several_per_core(&mut tests);
    exit_code(status_of(&mut tests)?)
}

/// Measures the hand-overs of shards between processes.
fn handover() -> Result<ExitCode> {
    let server = postgres::server()?;
    let mut tests = cargo(["test", "--workspace", "--all-features", "--test", "suite", "--"]);
    tests.args(["--ignored", "--nocapture", "--test-threads", "1", "runtime::gaps::measured"]);
    exit_code(status_of(tests.env("DATABASE_URL", server.url()))?)
}

/// Tests that run at a time for each core. Most of them wait for the database or for a condition.
const TESTS_PER_CORE: usize = 3;

/// Most tests that run at a time: each has up to twenty connections of the server's 300.
const MOST_TESTS: usize = 12;

/// Runs several tests per core, unless the user has said how many.
pub(crate) fn run_several_per_core(tests: &mut Command) {
    const THREADS: &str = "RUST_TEST_THREADS";
    if std::env::var_os(THREADS).is_none() {
        tests.env(THREADS, tests_at_a_time().to_string());
    }
}

/// Returns how many tests run at a time on this machine.
pub(crate) fn tests_at_a_time() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (TESTS_PER_CORE * cores).min(MOST_TESTS)
}

fn pg(mut args: Vec<OsString>) -> Result<ExitCode> {
    if args.first().is_some_and(|arg| arg == "--") {
        args.remove(0);
    }
    let Some((program, args)) = args.split_first() else {
        bail!("which command? For example: cargo xtask pg -- psql");
    };
    let server = postgres::server()?;
    let mut command = Command::new(program);
    command.args(args).env("DATABASE_URL", server.url()).envs(server.variables());
    exit_code(status_of(&mut command)?)
}
