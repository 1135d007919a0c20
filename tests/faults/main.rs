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
use storm::schedule::Sizes;

const HELP: &str = "\
Faults of the infrastructure. Each program counts the acknowledged, applied and delivered events.

  cargo xtask faults [--json] [PROGRAM…] [OPTIONS OF storm]

  dead      connections that die without notice, all or some, and a frozen server
  standby   a synchronous standby: a fail-over under load, and commits that a restart interrupts
  disks     full disks on both engines; needs the right to mount a tmpfs
  poolers   PgBouncer in session, transaction and statement mode
  storm     fail-overs, restarts and other faults one after the other, on a primary with a synchronous standby: two
            workers and four senders are processes, and what they note in files is compared with the database.
            It takes half an hour, and full disks need root, clocks that jump libfaketime

  --seed N         draws the same faults in the same order as an earlier run
  --fail-overs N   number of fail-overs, 50 when not given
  --restarts N     number of restarts of a server, 50 when not given
  --others N       number of dead connections, full disks, wrong clocks and killed workers, 28 when not given

Without a PROGRAM all of them run, and with an option of storm only storm. A storm with 50 fail-overs and 50 restarts or
more writes its table into docs/high-availability.md. All need the programs of a Postgres server, and poolers needs
pgbouncer.

Exit codes: 0 success, 1 check failed, 2 error (a program could not run).";

const PROGRAMS: [&str; 5] = ["dead", "standby", "disks", "poolers", "storm"];

/// The document with the table of the storm.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/high-availability.md");

/// What the user asked for.
struct Wanted {
    programs: Vec<String>,
    is_json: bool,
    storm: storm::Options,
}

impl Wanted {
    /// Reads the words of the command; `None` when the user asks for help.
    fn parse(words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let (mut programs, mut is_json, mut sizes, mut seed) = (Vec::new(), false, Sizes::FULL, None);
        let mut only_storm = false;
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || -> Result<u64> {
                let value = words.next().ok_or(format!("{word} needs a number"))?;
                Ok(value.parse().map_err(|_| format!("{word} is a whole number, not {value}"))?)
            };
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--json" => is_json = true,
                "--seed" => seed = Some(value()?),
                "--fail-overs" => sizes.fail_overs = usize::try_from(value()?)?,
                "--restarts" => sizes.restarts = usize::try_from(value()?)?,
                "--others" => sizes.others = usize::try_from(value()?)?,
                program if PROGRAMS.contains(&program) => programs.push(word.clone()),
                other => return Err(format!("there is no program {other}; see --help").into()),
            }
            only_storm |= ["--seed", "--fail-overs", "--restarts", "--others"].contains(&word.as_str());
        }
        if programs.is_empty() {
            programs = if only_storm { vec!["storm".to_owned()] } else { PROGRAMS.map(str::to_owned).into() };
        }
        let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        Ok(Some(Wanted { programs, is_json, storm: storm::Options { seed, sizes, is_timed: true } }))
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
        _ => blow(wanted.storm).await,
    }
}

/// Runs the storm, and writes the table of a run of full size.
async fn blow(options: storm::Options) -> Result<Vec<Report>> {
    eprintln!("faults: --seed {} repeats this run", options.seed);
    let (report, table) = storm::run(options, || Ok(Command::new(std::env::current_exe()?))).await?;
    eprintln!("\n{}", table.render());
    if options.sizes.is_full() {
        table.write(Path::new(DOCUMENT))?;
        eprintln!("faults: the table is written into {DOCUMENT}");
    }
    Ok(vec![report])
}
