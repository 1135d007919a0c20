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
mod small_disk;
mod standby;
#[allow(dead_code, reason = "the suite shares the module and reads its tables")]
mod storm;

use std::path::Path;
use std::process::{Command, ExitCode};

use report::{Report, Result};
use storm::schedule::{Servers, Sizes};

const HELP: &str = "\
Faults of the infrastructure. Each program counts the acknowledged, applied and delivered events.

  cargo xtask faults [--json] [PROGRAM…] [OPTIONS OF storm AND patroni]

  dead      connections that die without notice, all or some, and a frozen server
  standby   a synchronous standby: a fail-over under load, and commits that a restart interrupts
  disks     full disks on both engines; needs the right to mount a tmpfs
  poolers   PgBouncer in session, transaction and statement mode
  storm     fail-overs, restarts and other faults one after the other, on a primary with a synchronous standby: two
            workers and four senders are processes, and what they note in files is compared with the database.
            It takes half an hour, and full disks need root, clocks that jump libfaketime
  patroni   the storm on three nodes of Patroni with three members of etcd: processes are killed and frozen, and the
            leader is cut off. It takes half an hour

  --seed N         draws the same faults in the same order as an earlier run
  --fail-overs N   number of fail-overs: for storm 50 when not given, for patroni 42
  --restarts N     number of restarts of a server, 50 when not given; patroni has none
  --others N       number of other faults. For storm 28 when not given: dead connections, full disks, wrong clocks,
                   killed workers. For patroni 12: killed standbys, killed members of etcd, no majority of etcd

Without a PROGRAM all of them run, and with an option of storm only storm. A run with as many fail-overs and restarts as
without options, or more, writes its table into docs/high-availability.md. All need the programs of a Postgres server,
and poolers needs pgbouncer. patroni needs the packages patroni, python3-etcd and etcd-server; the variable PATRONI may
name another Patroni.

Exit codes: 0 success, 1 check failed, 2 error (a program could not run).";

const PROGRAMS: [&str; 6] = ["dead", "standby", "disks", "poolers", "storm", "patroni"];

/// The document with the tables of storm and patroni.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/high-availability.md");

/// What the user asked for.
struct Wanted {
    programs: Vec<String>,
    is_json: bool,
    seed: u64,
    fail_overs: Option<usize>,
    restarts: Option<usize>,
    others: Option<usize>,
}

impl Wanted {
    /// Reads the words of the command; `None` when the user asks for help.
    fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let (programs, seed) = (Vec::new(), fastrand::u64(..1_000_000));
        let mut wanted = Wanted { programs, is_json: false, seed, fail_overs: None, restarts: None, others: None };
        let mut only_storm = false;
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || -> Result<u64> {
                let value = words.next().ok_or(format!("{word} needs a number"))?;
                Ok(value.parse().map_err(|_| format!("{word} is a whole number, not {value}"))?)
            };
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--json" => wanted.is_json = true,
                "--seed" => wanted.seed = value()?,
                "--fail-overs" => wanted.fail_overs = Some(usize::try_from(value()?)?),
                "--restarts" => wanted.restarts = Some(usize::try_from(value()?)?),
                "--others" => wanted.others = Some(usize::try_from(value()?)?),
                program if PROGRAMS.contains(&program) => wanted.programs.push(word.clone()),
                other => return Err(format!("there is no program {other}; see --help").into()),
            }
            only_storm |= ["--seed", "--fail-overs", "--restarts", "--others"].contains(&word.as_str());
        }
        if wanted.programs.is_empty() {
            wanted.programs = if only_storm { vec!["storm".to_owned()] } else { PROGRAMS.map(str::to_owned).into() };
        }
        Ok(Some(wanted))
    }

    /// Returns the options of a storm on these servers.
    fn options(&self, servers: Servers) -> storm::Options {
        let full = servers.full();
        let sizes = Sizes {
            fail_overs: self.fail_overs.unwrap_or(full.fail_overs),
            restarts: if servers == Servers::Patroni { 0 } else { self.restarts.unwrap_or(full.restarts) },
            others: self.others.unwrap_or(full.others),
        };
        storm::Options { servers, seed: self.seed, sizes, is_timed: true }
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    if let Some(role) = storm::process::role() {
        return match runtime.block_on(storm::process::play(&role)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(2)
            }
        };
    }
    let wanted = match Wanted::parse(std::env::args().skip(1)) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("faults: {wrong}");
            return ExitCode::from(2);
        }
    };
    let mut reports = Vec::new();
    for program in &wanted.programs {
        eprintln!("faults: {program} …");
        match runtime.block_on(run(program, &wanted)) {
            Ok(done) => reports.extend(done),
            Err(missing) => {
                eprintln!("faults: {program} could not run: {missing}");
                return ExitCode::from(2);
            }
        }
    }
    if wanted.is_json {
        println!("{}", serde_json::to_string_pretty(&reports).unwrap());
    } else {
        reports.iter().for_each(|report| println!("{report}"));
    }
    let failed = reports.iter().filter(|report| !report.problems.is_empty()).count();
    eprintln!("faults: {} of {} passed", reports.len() - failed, reports.len());
    ExitCode::from(u8::from(failed > 0))
}

async fn run(program: &str, wanted: &Wanted) -> Result<Vec<Report>> {
    match program {
        "dead" => dead::run().await,
        "standby" => standby::run().await,
        "disks" => disks::run().await,
        "poolers" => poolers::run().await,
        "storm" => blow(wanted.options(Servers::Pair)).await,
        _ => blow(wanted.options(Servers::Patroni)).await,
    }
}

/// Runs the storm, and writes the table of a run of full size.
async fn blow(options: storm::Options) -> Result<Vec<Report>> {
    eprintln!("faults: --seed {} repeats this run", options.seed);
    let (report, table) = storm::run(options, || Ok(Command::new(std::env::current_exe()?))).await?;
    eprintln!("\n{}", table.render());
    if options.servers.is_full(options.sizes) {
        table.write(Path::new(DOCUMENT))?;
        eprintln!("faults: the table is written into {DOCUMENT}");
    }
    Ok(vec![report])
}
