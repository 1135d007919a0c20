//! All faults, drawn from a seed, one after the other: two workers, four senders and a probe on a primary with a
//! synchronous standby.

mod clock;
mod numbers;
pub(crate) mod oracle;
mod pair;
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
use oracle::Verdict;
use pair::Pair;
use probe::Back;
use schedule::{Kind, Sizes, Step, schedule};
pub(crate) use stage::Again;
use stage::Stage;
use table::{Results, Row, Table};

/// Bound of the time until the service works again, seconds.
const BOUND_S: f64 = 15.0;

/// What a run does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) sizes: Sizes,
    /// Whether a slow recovery is a problem. A machine that does other things too proves nothing about times.
    pub(crate) is_timed: bool,
}

/// Runs the faults, and counts what is lost. The folder with notes and logs stays when a promise was broken.
pub(crate) async fn run(options: Options, again: Again) -> Result<(Report, Table)> {
    let mut home = home()?;
    let can_fill = SmallDisk::mount(&home.path().join("try"), "1m").is_ok();
    let steps = schedule(options.seed, options.sizes);
    let mut report = Report::new(format!("storm: {} faults, seed {}", steps.len(), options.seed));
    let (skipped, steps): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(|step| match step.kind {
        Kind::DiskFull => !can_fill,
        Kind::DatabaseClock | Kind::ProcessClock => !clock::can_jump(),
        _ => false,
    });
    for kind in Kind::all().filter(|kind| skipped.iter().any(|step| step.kind == *kind)) {
        report.note(format!("not run on this machine: {}", kind.name()));
    }
    let wants_disks = steps.iter().any(|step| step.kind == Kind::DiskFull);
    let played = play(home.path(), &steps, wants_disks, options, again, &mut report).await;
    let is_broken = played.is_err() || !report.problems.is_empty();
    home.disable_cleanup(is_broken);
    if is_broken {
        report.note(format!("the notes and logs are in {}", home.path().display()));
    }
    let (backs, verdict) = played?;
    let table = table_of(options, &steps, &skipped, &backs, &verdict);
    Ok((report, table))
}

async fn play(
    home: &Path,
    steps: &[Step],
    wants_disks: bool,
    options: Options,
    again: Again,
    report: &mut Report,
) -> Result<(Vec<Back>, Verdict)> {
    let notes = home.join("notes");
    std::fs::create_dir_all(&notes)?;
    let pair = Pair::start(home, wants_disks).await?;
    let mut stage = Stage::start(pair, notes, again, options.seed).await?;
    let mut backs = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let back = stage.play(step, report).await.map_err(|error| format!("fault {number}, {step:?}: {error}"))?;
        let Back { emit_s, applied_s } = back;
        let (number, count, name) = (number + 1, steps.len(), step.kind.name());
        report
            .note(format!("{number} of {count}: {name}: emitted after {emit_s:.1} s, applied after {applied_s:.1} s"));
        let is_slow = options.is_timed && emit_s.max(applied_s) > BOUND_S;
        report.wants(!is_slow, format!("fault {number}, {name}: back at work only after {applied_s:.1} s"));
        backs.push(back);
    }
    let verdict = stage.audit(report).await?;
    judge(&verdict, report);
    Ok((backs, verdict))
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

fn table_of(options: Options, steps: &[Step], skipped: &[Step], backs: &[Back], verdict: &Verdict) -> Table {
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
    let rows = Kind::all().filter_map(row).collect();
    Table { seed: options.seed, sizes: options.sizes, acknowledged: verdict.acknowledged, rows }
}
