//! The storm of `cargo xtask faults`: its schedule, its oracle, its table, and a short run.

#[path = "../faults/proxy.rs"]
mod proxy;
#[path = "../faults/report.rs"]
mod report;
#[path = "../faults/server.rs"]
mod server;
#[path = "../faults/small_disk.rs"]
mod small_disk;
#[path = "../faults/storm/mod.rs"]
mod storm;

use std::collections::{HashMap, HashSet};
use std::process::Command;

use storm::oracle::{Boxes, Broken, Oracle, Verdict};
use storm::patroni::settings::{Settings, version_in};
use storm::schedule::{Kind, Servers, Sizes, Step, schedule};
use storm::table::{Results, Row, Table, names, table_of};
use storm::{Options, process, run};

use crate::support::source::root;

/// Plays the role of a process of the storm when the storm has started this process, and else nothing.
#[test]
#[ignore = "a child process of the tests of this file"]
fn child() {
    let Some(role) = process::role() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(process::play(&role)).unwrap();
}

/// Returns a command that runs [`child`] in a process of its own.
fn again() -> report::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "faults::child", "--ignored", "--nocapture"]);
    Ok(command)
}

/// One fail-over and one restart, with the code of the long run. A machine that runs other tests proves nothing about
/// times, so only the counts decide.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_and_a_restart_lose_nothing() {
    let seed = std::env::var("EVENTBOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let sizes = Sizes { fail_overs: 1, restarts: 1, others: 0 };
    let (report, table) = run(Options { servers: Servers::Pair, seed, sizes, is_timed: false }, again).await.unwrap();
    assert!(report.problems.is_empty(), "EVENTBOX_SEED={seed}: {report}");
    assert_eq!(table.rows.iter().filter_map(|row| row.results).map(|row| row.count).sum::<usize>(), 2);
}

/// Sizes of a storm on a primary and a standby that counts as a proof.
const FULL: Sizes = Servers::Pair.full();

/// Returns the number of steps of each kind.
fn counts(steps: &[Step]) -> HashMap<Kind, usize> {
    let mut counts = HashMap::new();
    steps.iter().for_each(|step| *counts.entry(step.kind).or_default() += 1);
    counts
}

#[test]
fn a_schedule_is_a_function_of_its_seed() {
    let steps = schedule(Servers::Pair, 42, FULL);
    assert_eq!(steps, schedule(Servers::Pair, 42, FULL));
    assert_ne!(steps, schedule(Servers::Pair, 43, FULL));
    // A change of the generator would make old seeds worthless.
    let first: Vec<_> = steps.iter().take(3).map(|step| (step.kind, step.calm, step.notice_ms, step.victim)).collect();
    let known =
        [(Kind::WorkerKilled, 129, 1_194, 0), (Kind::NetworkCut, 134, 1_896, 4), (Kind::DatabaseClock, 60, 757, 4)];
    assert_eq!(first, known);
}

#[test]
fn a_full_schedule_has_every_kind_of_fault() {
    for (seed, servers) in (0..100).flat_map(|seed| [(seed, Servers::Pair), (seed, Servers::Patroni)]) {
        let Sizes { fail_overs, restarts, others } = servers.full();
        let steps = schedule(servers, seed, servers.full());
        assert_eq!(steps.len(), fail_overs + restarts + others);
        assert_eq!(steps.iter().filter(|step| step.kind.is_fail_over()).count(), fail_overs);
        let counts = counts(&steps);
        assert!(servers.kinds().all(|kind| counts.get(&kind).is_some_and(|count| *count >= 4)), "{seed}: {counts:?}");
        assert!(steps.iter().all(|step| step.kind != Kind::WorkerKilled || step.victim < storm::schedule::WORKERS));
    }
}

/// Numbers of messages that arrived, and the places of their events.
type Messages = &'static [(u64, usize)];

/// Boxes that have seen these numbers, in order.
fn boxes(seen: &[&[u64]]) -> Boxes {
    seen.iter().zip(0..).map(|(seen, key)| (("rounds".to_owned(), format!("{key}")), seen.to_vec())).collect()
}

/// Notes of the numbers 0 and 24, which were acknowledged, and 48, whose sender has no answer.
fn oracle(arrived: Messages) -> Oracle {
    Oracle {
        attempted: HashMap::from([(0, 0), (24, 0), (48, 1)]),
        acknowledged: HashSet::from([0, 24]),
        arrived: arrived.iter().copied().collect(),
    }
}

#[test]
fn what_keeps_every_promise_breaks_none() {
    let cases: [(Messages, &[u64]); 2] = [(&[(0, 0), (24, 1)], &[0, 24]), (&[(0, 0), (24, 1), (48, 2)], &[0, 24, 48])];
    for (arrived, seen) in cases {
        let verdict = Verdict::of(&oracle(arrived), &boxes(&[seen]));
        assert_eq!((verdict.total, verdict.applied, verdict.arrived), (Broken::default(), seen.len(), seen.len()));
    }
    // What has no answer may come late.
    let late = Verdict::of(&oracle(&[(48, 0), (0, 1), (24, 2)]), &boxes(&[&[48, 0, 24]]));
    assert_eq!(late.total, Broken::default());
}

#[test]
fn every_broken_promise_is_found() {
    let none = Broken::default;
    let cases: [(Messages, &[&[u64]], Broken); 7] = [
        (&[(0, 0)], &[&[0]], Broken { lost: 1, ..none() }),
        (&[(0, 0), (24, 0)], &[&[0], &[24], &[24]], Broken { twice: 1, ..none() }),
        (&[(0, 0)], &[&[0, 24]], Broken { undelivered: 1, ..none() }),
        (&[(0, 0), (24, 1), (48, 2)], &[&[0, 24]], Broken { of_no_turn: 1, ..none() }),
        // The turn of the message was taken back, and ran again in another order.
        (&[(0, 0), (24, 1), (48, 1), (48, 2)], &[&[0, 24, 48]], Broken { of_no_turn: 1, ..none() }),
        (&[(0, 0), (24, 1), (72, 2)], &[&[0, 24, 72]], Broken { of_nobody: 1, ..none() }),
        (&[(24, 0), (0, 1)], &[&[24, 0]], Broken { out_of_order: 1, ..none() }),
    ];
    for (arrived, seen, broken) in cases {
        let verdict = Verdict::of(&oracle(arrived), &boxes(seen));
        assert_eq!(verdict.total, broken, "{seen:?}");
        assert_eq!(verdict.examples.len(), 1, "{:?}", verdict.examples);
    }
}

/// A broken promise stands in the row of the fault after which its event was emitted.
#[test]
fn a_loss_belongs_to_its_step() {
    let mut oracle = oracle(&[(0, 0), (24, 1)]);
    oracle.acknowledged.insert(48);
    let verdict = Verdict::of(&oracle, &boxes(&[&[0, 24]]));
    assert_eq!((verdict.step(0), verdict.step(1)), (Broken::default(), Broken { lost: 1, ..Broken::default() }));
}

fn results(count: usize, seconds: f64) -> Results {
    Results { count, emit_s: seconds, applied_s: seconds + 1.0, ..Results::default() }
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let row = |name: &str, results| Row { name: name.to_owned(), results };
    let broken = Results { lost: 1, twice: 2, undelivered: 3, of_no_turn: 4, ..results(2, 0.5) };
    let rows = vec![row("switch-over", Some(results(13, 1.0))), row("disk full for 8 s", None), row("x", Some(broken))];
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("document.md");
    for (servers, about) in [(Servers::Pair, None), (Servers::Patroni, Some("Patroni 3.0.2 with …".to_owned()))] {
        let table = Table { servers, seed: 7, sizes: servers.full(), acknowledged: 123, about, rows: rows.clone() };
        assert_eq!(Table::parse(&table.render()), Some(table.clone()));
        assert!(table.render().contains("| all | 15 | 1.0 | 2.0 | 1 | 2 | 3 | 4 |"), "{}", table.render());
        assert_eq!(Table::parse(&table.render().replace("| all |", "| some |")), None);

        std::fs::write(&document, "no markers").unwrap();
        assert!(table.write(&document).is_err());
        std::fs::copy(root().join("docs/high-availability.md"), &document).unwrap();
        table.write(&document).unwrap();
        let once = std::fs::read_to_string(&document).unwrap();
        table.write(&document).unwrap();
        assert_eq!(std::fs::read_to_string(&document).unwrap(), once, "a second run replaces the first one");
        assert_eq!(table_of(&once, servers).map(str::trim_end), Some(table.render().trim_end()));
    }
}

/// Returns the table of the guide, as the command writes it, with each kind of fault. It breaks no promise.
fn table_of_the_guide(servers: Servers) -> Table {
    let guide = std::fs::read_to_string(root().join("docs/high-availability.md")).unwrap();
    let text = table_of(&guide, servers).expect("the markers of the table");
    let table = Table::parse(text).expect("a table that the command has written");
    assert_eq!(text.trim_end(), table.render().trim_end());
    assert!(servers.is_full(table.sizes), "{:?}", table.sizes);
    let known = names(servers);
    assert!(table.rows.iter().all(|row| known.contains(&row.name.as_str())), "{:?}", table.rows);
    assert_eq!(table.rows.len(), known.len(), "each kind of fault has a row");
    for row in &table.rows {
        let is = row.results.unwrap_or_default();
        assert_eq!((is.lost, is.twice, is.undelivered, is.of_no_turn), (0, 0, 0, 0), "{}", row.name);
    }
    table
}

#[test]
fn the_guide_has_a_table_of_the_storm() {
    for row in table_of_the_guide(Servers::Pair).rows {
        let Some(is) = row.results else { continue };
        assert!(is.emit_s.max(is.applied_s) <= 15.0, "{} needs {} s", row.name, is.applied_s);
    }
}

/// The time until Patroni lets another node lead is Patroni's, so this table proves no time.
#[test]
fn the_guide_has_a_table_of_patroni() {
    let table = table_of_the_guide(Servers::Patroni);
    assert!(table.rows.iter().all(|row| row.results.is_some()), "{:?}", table.rows);
    let about = table.about.expect("a line about Patroni");
    let version = version_in(&about).expect("the version of Patroni");
    assert_eq!(about, Settings::of("patroni".to_owned(), version).about());
}

/// Versions that would take over the lease of another leader, or that refuse a short lease, get other settings.
#[test]
fn settings_of_patroni_follow_from_its_version() {
    let cases = [("patroni 3.0.2", true, 8), ("patroni 3.1.2", false, 8), ("patroni 4.1.5", false, 20)];
    for (said, is_of_version_2, ttl_s) in cases {
        let settings = Settings::of("patroni".to_owned(), version_in(said).unwrap());
        assert_eq!((settings.is_of_version_2(), settings.ttl_s), (is_of_version_2, ttl_s), "{said}");
        assert!(settings.loop_wait_s + 2 * settings.retry_timeout_s <= settings.ttl_s, "{said}");
    }
    assert_eq!(version_in("etcd Version: 3.4.23\nGit SHA: Not provided"), Some([3, 4, 23]));
    assert_eq!(version_in("no version"), None);
}
