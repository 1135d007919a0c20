//! `eventbox bench`: how fast it is, against plain SQL by hand, on this machine.

mod backlog;
mod card;
mod cost;
mod drains;
mod emits;
mod engine;
mod entities;
mod growth;
mod latency;
mod load;
mod measure;
mod outbox;
mod parts;
mod peers;
mod place;
mod plot;
mod progress;
mod report;
mod scale;
mod spec;
mod stamps;
mod wires;
mod yardstick;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use self::engine::Engine;
use self::measure::{Bench, Line};
use self::parts::Part;
use self::place::{Place, Server};
use self::plot::Curve;
use self::progress::Progress;
use self::scale::Scale;

/// Bound for waits that decide no figure. Only a hanging program reaches it.
const HANG_GUARD: Duration = Duration::from_secs(10 * 60);

/// Benchmarks eventbox, alternating with hand-written SQL, and verifies every sum.
///
/// The benchmark uses a throw-away Postgres cluster and a SQLite file in a temporary directory. Every commit is
/// durable. For each workload, a warm-up round counts the costs. Then eventbox and its yardstick alternate. The
/// output has medians, ratios and the cost of 1,000 events.
#[derive(Debug, clap::Args)]
#[command(after_help = "Workloads:
  W1   single emits, each returning after its own commit (plain, and through a Sender), against one-row INSERTs
  W2   emits in batches of 500, against INSERT … SELECT FROM unnest
  W3   200,000 events of 1,000 recipients drained (reducer, processor, processor with the methods for many recipients,
       and reducer with a journal), against a transaction for each 100
  W3b  50,000 recipients with one event each, against a transaction for each event
  W3c  one hot recipient that 16 producers send to while it is drained
  W4   latency from emit to commit of the turn at 500 events/s, in one process and across two, against LISTEN/NOTIFY
  W5   turns that publish, until the message is received and its row deleted, against the same durable work by hand,
       and against the batch client alone
  W5r  a backlog of 1,000,000 messages, as after an outage, until they are received and their rows deleted, against
       the same by hand, and against the batch client alone
  W6   emits, drains and turns with 1,000 to 1,000,000 events pending, and after a soak with an open transaction
  W7   peers: TCP lines in until they are committed, and events out as TCP lines, over 1, 100 and 1,000 streams, against
       named emits of as many tasks through a Sender, and against the same server without a database
  W7b  latency of HTTP request, turn and answer at 500/s, against a server that answers at once

Examples:
  eventbox bench --quick                                 all workloads with small amounts
  eventbox bench --smoke                                 check in seconds that everything works
  eventbox bench --only W3,W3b --engine postgres         two workloads on a throw-away cluster
  eventbox bench --database-url postgres://me@db/postgres --json > figures.json
  eventbox bench --only W6 --soak-minutes 5 --plot .     draw the curves of growth
  eventbox bench --costs                                 count statements, commits and log in seconds, without times

Exit codes: 0 success, 1 check failed (a sum is wrong), 2 error, 130 interrupted.")]
pub(crate) struct Args {
    /// Postgres server, with a user who may create databases [default: a throw-away cluster]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Engines to measure; repeatable [default: both]
    #[arg(long, value_enum, value_delimiter = ',')]
    engine: Vec<EngineName>,
    /// Workloads to measure, of W1,W2,W3,W3b,W3c,W4,W5,W5r,W6,W7,W7b [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKLOADS")]
    only: Vec<Workload>,
    /// Use smaller amounts, under two minutes in all
    #[arg(long)]
    quick: bool,
    /// Check that everything works: tiny amounts, one cold round, figures without meaning
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Print an array of objects instead of the tables
    #[arg(long)]
    json: bool,
    /// Draw each curve of W6 into an SVG file in this directory
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
    /// Timed rounds of each workload [default: 3; one with --smoke]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(3..=99))]
    rounds: Option<u8>,
    /// Largest number of pending events in W6, up to 10,000,000 [default: 1,000,000; 10,000 with --quick, 1,000 with
    /// --smoke]
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(i64).range(1_000..=10_000_000))]
    pending: Option<i64>,
    /// Length of the soak of W6 in minutes [default: 30; a second with --quick, less with --smoke]
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    soak_minutes: Option<u64>,
    /// Count instead of timing: the statements, commits and log bytes of 1,000 events on each hot path, on small fixed
    /// work. The same program gives the same figures on any machine
    #[arg(long, conflicts_with_all = [
        "database_url", "only", "quick", "smoke", "plot", "rounds", "pending", "soak_minutes",
    ])]
    costs: bool,
    /// Run as a child process of a benchmark
    #[arg(long, hide = true, value_enum)]
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EngineName {
    Postgres,
    Sqlite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Workload {
    #[value(name = "W1")]
    W1,
    #[value(name = "W2")]
    W2,
    #[value(name = "W3")]
    W3,
    #[value(name = "W3b")]
    W3b,
    #[value(name = "W3c")]
    W3c,
    #[value(name = "W4")]
    W4,
    #[value(name = "W5")]
    W5,
    #[value(name = "W5r")]
    W5r,
    #[value(name = "W6")]
    W6,
    #[value(name = "W7")]
    W7,
    #[value(name = "W7b")]
    W7b,
}

const WORKLOADS: [Workload; 11] = [
    Workload::W1,
    Workload::W2,
    Workload::W3,
    Workload::W3b,
    Workload::W3c,
    Workload::W4,
    Workload::W5,
    Workload::W5r,
    Workload::W6,
    Workload::W7,
    Workload::W7b,
];

pub(crate) async fn run(args: Args) -> ExitCode {
    cost::init_log();
    let outcome = match args.part {
        Some(part) => parts::run(part).await.map(|()| true),
        None if args.costs => unless_interrupted(count_costs(&args)).await.map(|()| true),
        None => measure(&args).await.and_then(|found| print_found(&args, &found)),
    };
    match outcome {
        Ok(verified) => ExitCode::from(u8::from(!verified)),
        Err(error) if error.is::<Interrupted>() => {
            eprint_line("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprint_line(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// The result of a run.
#[derive(Default)]
struct Found {
    lines: Vec<Line>,
    curves: Vec<Curve>,
}

#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

impl Args {
    fn scale(&self) -> Scale {
        let rounds = |default| usize::from(self.rounds.unwrap_or(default));
        let mut scale = match (self.quick, self.smoke) {
            (_, true) => Scale::smoke(rounds(1), self.pending.unwrap_or(1_000)),
            (true, false) => Scale::quick(rounds(3), self.pending.unwrap_or(10_000)),
            (false, false) => Scale::full(rounds(3), self.pending.unwrap_or(1_000_000)),
        };
        if let Some(minutes) = self.soak_minutes {
            scale.soak_for = Duration::from_secs(minutes * 60);
        }
        scale
    }

    fn runs_on(&self, engine: EngineName) -> bool {
        self.engine.is_empty() || self.engine.contains(&engine)
    }

    fn workloads(&self) -> Vec<Workload> {
        let wanted = |workload: &Workload| self.only.is_empty() || self.only.contains(workload);
        WORKLOADS.into_iter().filter(wanted).collect()
    }

    /// Returns the number of steps of the progress bar.
    fn steps(&self, scale: &Scale) -> usize {
        let sides = 2 * scale.all_rounds();
        let steps = |workload: &Workload| match workload {
            Workload::W3 => 4 * sides,
            Workload::W3b => 3 * sides,
            Workload::W1 | Workload::W4 | Workload::W7 => 2 * sides,
            Workload::W2 | Workload::W3c | Workload::W5 | Workload::W5r | Workload::W7b => sides,
            Workload::W6 => scale.pending.len() + 1,
        };
        let engines = [EngineName::Postgres, EngineName::Sqlite].into_iter().filter(|engine| self.runs_on(*engine));
        self.workloads().iter().map(steps).sum::<usize>() * engines.count()
    }
}

async fn measure(args: &Args) -> Result<Found> {
    let scale = args.scale();
    if let Some(directory) = &args.plot {
        std::fs::create_dir_all(directory).with_context(|| format!("create the directory {}", directory.display()))?;
    }
    // Check the server before anything is measured.
    let server = match args.runs_on(EngineName::Postgres) {
        true => Some(Server::choose(args.database_url.as_deref())?),
        false => None,
    };
    let progress = Progress::new(!args.json && std::io::stderr().is_terminal(), args.steps(&scale));
    let mut found = Found::default();
    if let Some(server) = server {
        let place = server.create().await?;
        let measured = unless_interrupted(on(args, &scale, &progress, &place, &mut found)).await;
        progress.say("cleaning up".to_owned());
        place::remove(&place.url()).await?;
        measured?;
    }
    if args.runs_on(EngineName::Sqlite) {
        let (place, _directory) = place::sqlite()?;
        unless_interrupted(on(args, &scale, &progress, &place, &mut found)).await?;
    }
    progress.clear();
    Ok(found)
}

/// Counts and prints the cost card.
async fn count_costs(args: &Args) -> Result<()> {
    let mut entries = Vec::new();
    if args.runs_on(EngineName::Postgres) {
        let server = Server::counted()?;
        entries.extend(card::count(server.create().await?).await?);
    }
    if args.runs_on(EngineName::Sqlite) {
        let (place, _directory) = place::sqlite()?;
        entries.extend(card::count(place).await?);
    }
    let text = match args.json {
        true => serde_json::to_string_pretty(&entries)?,
        false => card::table(&entries),
    };
    print_text(&text)
}

/// Drops the run at an interrupt. The caller then cleans up.
async fn unless_interrupted(run: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        done = run => done,
        _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
    }
}

async fn on<B: Engine>(
    args: &Args,
    scale: &Scale,
    progress: &Progress,
    place: &Place<B>,
    found: &mut Found,
) -> Result<()> {
    let bench = Bench::new(place, scale, progress).await?;
    let settings = B::settings(&bench.admin).await.context("read the database's settings")?;
    let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
    eprint_line(&format!("{}: {}", place.description, settings.join(", ")));
    for workload in args.workloads() {
        let lines = match workload {
            Workload::W1 => emits::single(&bench).await?,
            Workload::W2 => emits::batches(&bench).await?,
            Workload::W3 => drains::many(&bench).await?,
            Workload::W3b => drains::singles(&bench).await?,
            Workload::W3c => drains::hot(&bench).await?,
            Workload::W4 => latency::latency(&bench).await?,
            Workload::W5 => outbox::published(&bench).await?,
            Workload::W5r => backlog::drained(&bench).await?,
            Workload::W6 => {
                let (lines, curves) = growth::growth(&bench).await?;
                found.curves.extend(curves);
                lines
            }
            Workload::W7 => peers::lines(&bench).await?,
            Workload::W7b => peers::requests(&bench).await?,
        };
        found.lines.extend(lines);
    }
    bench.admin.close().await;
    Ok(())
}

/// Prints the result. Returns whether all sums are right.
fn print_found(args: &Args, found: &Found) -> Result<bool> {
    let text = match args.json {
        true => serde_json::to_string_pretty(&found.lines)?,
        false => report::tables(&found.lines),
    };
    print_text(&text)?;
    if let Some(directory) = &args.plot {
        for curve in &found.curves {
            eprint_line(&format!("drawn: {}", curve.draw(directory)?.display()));
        }
    }
    Ok(found.lines.iter().all(|line| line.verified))
}

/// Prints a result. A closed pipe ends it.
fn print_text(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("print the result"),
        _ => Ok(()),
    }
}

/// Prints a line on standard error. A closed standard error is ignored.
fn eprint_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
