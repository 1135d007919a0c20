//! Faults of the infrastructure, with real servers: `cargo xtask faults`.
//!
//! Each program runs a service under load, as a user would write it, and breaks something.
//! It then counts the acknowledged, applied and delivered events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the output is its purpose")]

mod dead;
mod disks;
mod poolers;
mod proxy;
mod report;
mod server;
mod service;
mod standby;

use std::process::ExitCode;

use report::{Report, Result};

const HELP: &str = "\
Faults of the infrastructure. Each program counts the acknowledged, applied and delivered events.

  cargo xtask faults [--json] [PROGRAM…]

  dead      connections that die without notice, all or some, and a frozen server
  standby   a synchronous standby: a fail-over under load, and commits that a restart interrupts
  disks     full disks on both engines; needs the right to mount a tmpfs
  poolers   PgBouncer in session, transaction and statement mode

Without a PROGRAM all of them run. All need the programs of a Postgres server, and poolers needs pgbouncer.

Exit codes: 0 success, 1 check failed, 2 error (a program could not run).";

const PROGRAMS: [&str; 4] = ["dead", "standby", "disks", "poolers"];

fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.iter().any(|word| word == "--help" || word == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let json = wanted.iter().any(|word| word == "--json");
    wanted.retain(|word| word != "--json");
    if let Some(unknown) = wanted.iter().find(|word| !PROGRAMS.contains(&word.as_str())) {
        eprintln!("faults: there is no program {unknown}; see --help");
        return ExitCode::from(2);
    }
    if wanted.is_empty() {
        wanted = PROGRAMS.map(str::to_owned).into();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let mut reports = Vec::new();
    for program in wanted {
        eprintln!("faults: {program} …");
        match runtime.block_on(run(&program)) {
            Ok(done) => reports.extend(done),
            Err(missing) => {
                eprintln!("faults: {program} could not run: {missing}");
                return ExitCode::from(2);
            }
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&reports).unwrap());
    } else {
        reports.iter().for_each(|report| println!("{report}"));
    }
    let failed = reports.iter().filter(|report| !report.problems.is_empty()).count();
    eprintln!("faults: {} of {} passed", reports.len() - failed, reports.len());
    ExitCode::from(u8::from(failed > 0))
}

async fn run(program: &str) -> Result<Vec<Report>> {
    match program {
        "dead" => dead::run().await,
        "standby" => standby::run().await,
        "disks" => disks::run().await,
        _ => poolers::run().await,
    }
}
