//! All faults, drawn from a seed, one after the other: two workers, four senders and a probe on a primary with a
//! synchronous standby, or on three nodes of Patroni.

mod clock;
mod cluster;
mod numbers;
pub(crate) mod oracle;
mod pair;
pub(crate) mod patroni;
mod probe;
pub(crate) mod process;
pub(crate) mod schedule;
mod sender;
mod stage;
pub(crate) mod table;
mod worker;

use std::path::Path;

use super::report::{Report, Result};
use super::server::home;
use super::small_disk::SmallDisk;
use cluster::Cluster;
use oracle::Verdict;
use pair::Pair;
use patroni::Patroni;
use probe::Back;
use schedule::{Kind, Servers, Sizes, Step, schedule};
pub(crate) use stage::Again;
use stage::Stage;
use table::{Results, Row, Table};

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) servers: Servers,
    pub(crate) seed: u64,
    pub(crate) sizes: Sizes,
    /// Whether a slow recovery is a problem. A machine that does other things too proves nothing about times.
    pub(crate) is_timed: bool,
}

/// The results of a run.
struct Played {
    /// Times of each fault.
    backs: Vec<Back>,
    verdict: Verdict,
    /// What a table tells of the servers.
    about: Option<String>,
}

/// Runs the faults, and counts what is lost. The folder with notes and logs stays when a promise was broken.
pub(crate) async fn run(options: Options, again: Again) -> Result<(Report, Table)> {
    let Options { servers, seed, sizes, .. } = options;
    let mut home = home()?;
    let steps = schedule(servers, seed, sizes);
    let mut report = Report::new(format!("{}: {} faults, seed {seed}", servers.name(), steps.len()));
    let can_fill = servers == Servers::Patroni || SmallDisk::mount(&home.path().join("try"), "1m").is_ok();
    let (skipped, steps): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(|step| match step.kind {
        Kind::DiskFull => !can_fill,
        Kind::DatabaseClock | Kind::ProcessClock => !clock::can_jump(),
        _ => false,
    });
    for kind in servers.kinds().filter(|kind| skipped.iter().any(|step| step.kind == *kind)) {
        report.note(format!("not run on this machine: {}", kind.name()));
    }
    let wants_disks = steps.iter().any(|step| step.kind == Kind::DiskFull);
    let at = home.path();
    let played = match servers {
        Servers::Pair => play(Pair::start(at, wants_disks).await, at, &steps, options, again, &mut report).await,
        Servers::Patroni => play(Patroni::start(at).await, at, &steps, options, again, &mut report).await,
    };
    let is_broken = played.is_err() || !report.problems.is_empty();
    home.disable_cleanup(is_broken);
    if is_broken {
        report.note(format!("the notes and logs are in {}", home.path().display()));
    }
    let table = table_of(options, &steps, &skipped, &played?);
    Ok((report, table))
}

async fn play(
    cluster: Result<impl Cluster>,
    home: &Path,
    steps: &[Step],
    options: Options,
    again: Again,
    report: &mut Report,
) -> Result<Played> {
    let notes = home.join("notes");
    std::fs::create_dir_all(&notes)?;
    let mut stage = Stage::start(cluster?, notes, again, options.seed).await?;
    let (about, bound_s, mut backs) = (stage.cluster.about(), stage.cluster.bound_s(), Vec::new());
    for (number, step) in steps.iter().enumerate() {
        let back = stage.play(step, report).await.map_err(|error| format!("fault {number}, {step:?}: {error}"))?;
        let Back { emit_s, applied_s } = back;
        let (number, count, name) = (number + 1, steps.len(), step.kind.name());
        report
            .note(format!("{number} of {count}: {name}: emitted after {emit_s:.1} s, applied after {applied_s:.1} s"));
        let is_slow = options.is_timed && emit_s.max(applied_s) > bound_s;
        report.wants(!is_slow, format!("fault {number}, {name}: back at work only after {applied_s:.1} s"));
        backs.push(back);
    }
    let verdict = stage.audit(report).await?;
    judge(&verdict, report);
    Ok(Played { backs, verdict, about })
}

/// Takes over the counts, and checks the promises.
fn judge(verdict: &Verdict, report: &mut Report) {
    let total = verdict.total;
    (report.acknowledged, report.applied, report.delivered) = (verdict.acknowledged, verdict.applied, verdict.arrived);
    (report.lost, report.twice, report.undelivered) = (total.lost, total.twice, total.undelivered);
    report.of_no_turn = total.of_no_turn;
    report.judge();
    report.wants(total.of_nobody == 0, format!("{} events were applied that nobody emitted", total.of_nobody));
    report.wants(total.out_of_order == 0, format!("{} events were applied out of order", total.out_of_order));
    verdict.examples.iter().for_each(|example| report.note(example.clone()));
}

fn table_of(options: Options, steps: &[Step], skipped: &[Step], played: &Played) -> Table {
    let Played { backs, verdict, about } = played;
    let row = |kind: Kind| {
        let name = kind.name().to_owned();
        let mut results = Results::default();
        for number in (0..steps.len()).filter(|number| steps[*number].kind == kind) {
            // What was emitted while the service finished belongs to the last fault.
            let mut broken = verdict.step(number);
            if number + 1 == steps.len() {
                broken.add(verdict.step(steps.len()));
            }
            results.add(backs[number].emit_s, backs[number].applied_s, broken);
        }
        let is_skipped = skipped.iter().any(|step| step.kind == kind);
        (is_skipped || results.count > 0).then_some(Row { name, results: (!is_skipped).then_some(results) })
    };
    let Options { servers, seed, sizes, .. } = options;
    let rows = servers.kinds().filter_map(row).collect();
    Table { servers, seed, sizes, acknowledged: verdict.acknowledged, about: about.clone(), rows }
}
