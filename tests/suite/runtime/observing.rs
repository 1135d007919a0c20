//! The instruments of a runtime.

use std::time::Duration;

use eventbox::runtime::{KindRates, Runtime};
use eventbox::{BoxError, Event, Outcome, PostProcess, Recipient, Reducer, admin};

use super::{STOP, Tally, config, emit, emit_all, idle, tally, tallying};
use crate::support::recorded::{Recorded, Recording, recorded};
use crate::support::{CellEngine, SOON, TestDb, eventually, with_database};

/// Runs a hook after every turn.
struct Hooked;

impl Reducer for Hooked {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let hook = PostProcess::new(|| async { Ok(()) });
        Ok(Outcome::to(count + events.len() as u64).consuming(events).post_process(hook))
    }
}

async fn a_known_run<B: CellEngine>(db: &TestDb<B>) {
    let mut by_shard = config();
    by_shard.shard_metrics = true;
    let one = Runtime::builder(db.open(5)).reducer("tally", Tally).reducer("hooked", Hooked).config(by_shard);
    let one = one.rates("tally", KindRates::new().max_concurrent(1_000.try_into().unwrap())).start().await.unwrap();
    eventually(SOON, async || one.shards() == 256).await;
    for n in 0..10 {
        emit(db, &tally(n), 0..3).await;
        emit(db, &Recipient::new("hooked", n.to_string()).unwrap(), 0..3).await;
    }
    idle(db).await;
    emit(db, &Recipient::new("stranger", "1").unwrap(), ["x"]).await;
    admin::pause_kind(&db.pool, "tally").await.unwrap();
    // Another process gets half of the shards.
    let two = tallying(db.open(5)).start().await.unwrap();
    eventually(SOON, async || two.shards() == 128 && one.shards() == 128).await;
    let stats = one.stats();
    assert_eq!((stats.consumed, stats.failures), (60, 0), "{stats:?}");
    assert!(stats.turns >= 20 && stats.rounds >= 1, "{stats:?}");
    one.stop(STOP).await;
    two.stop(STOP).await;
}

/// Checks that the recorded instruments are exactly those of the two tables, with the numbers of the run.
fn instruments_tell_what_happened(recorded: &Recorded) {
    let of_runtime = |name: &str| {
        ["eventbox_runtime_", "eventbox_shard_"].iter().any(|prefix| name.starts_with(prefix))
            || name.ends_with("phase_seconds")
    };
    let ours: Vec<_> = eventbox::runtime::INSTRUMENTS
        .iter()
        .chain(eventbox::metrics::INSTRUMENTS)
        .filter(|instrument| of_runtime(instrument.name))
        .copied()
        .collect();
    let recorded = Recorded(recorded.0.clone().into_iter().filter(|(name, _)| of_runtime(name)).collect());
    recorded.matches_exactly(&ours);
    for phase in ["listing", "preparing", "committing", "post-processing", "idle"] {
        for name in ["eventbox_phase_seconds", "eventbox_shard_phase_seconds"] {
            let series = recorded.0[name].iter().filter(|(_, labels, _)| labels["phase"] == phase);
            assert!(series.count() > 0, "{name}, {phase}");
        }
    }
    assert!(recorded.total("eventbox_shard_phase_seconds", &[("phase", "idle")]) > 0.0);
    assert_eq!(recorded.total("eventbox_runtime_hooks_total", &[("kind", "tally")]), 0.0);
    assert!(recorded.total("eventbox_runtime_hooks_total", &[("kind", "hooked")]) >= 10.0);
    assert_eq!(recorded.total("eventbox_runtime_held_kinds", &[("reason", "paused")]), 1.0);
    assert_eq!(recorded.total("eventbox_runtime_held_recipients", &[("kind", "tally"), ("by", "max_concurrent")]), 0.0);
    assert_eq!(recorded.total("eventbox_runtime_handed_over_total", &[]), 128.0 + 128.0);
    assert_eq!(recorded.total("eventbox_runtime_taken_total", &[]), 256.0);
    assert_eq!(recorded.total("eventbox_runtime_shard_failures_total", &[]), 0.0);
    // Sixty events were consumed by the process that tells of single shards, each of twenty recipients in some turns.
    assert_eq!(recorded.total("eventbox_shard_events_total", &[]), 60.0);
    assert!(recorded.total("eventbox_shard_turns_total", &[]) >= 20.0);
    assert!(recorded.total("eventbox_runtime_unregistered_total", &[("kind", "stranger")]) >= 1.0);
}

#[cfg(feature = "postgres")]
#[test]
fn instruments_tell_what_happened_on_postgres() {
    instruments_tell_what_happened(&recorded(async |_| {
        with_database::<sqlx::Postgres, _>("observe", a_known_run).await;
    }));
}

#[cfg(feature = "sqlite")]
#[test]
fn instruments_tell_what_happened_on_sqlite() {
    instruments_tell_what_happened(&recorded(async |_| with_database::<sqlx::Sqlite, _>("observe", a_known_run).await));
}

/// Emits to two hundred boxes of one shard without a worker here, and waits until the runtime has scanned five times.
async fn strangers_in_a_shard<B: CellEngine>(db: &TestDb<B>, recording: &Recording) {
    let strangers =
        (0..).map(|n: usize| Recipient::new("stranger", n.to_string()).unwrap()).filter(|to| to.shard() == 7);
    let events: Vec<_> = strangers.take(200).map(|to| (to, Event::new("x"))).collect();
    emit_all(db, &events).await;
    let runtime = tallying(db.open(5)).config(config()).start().await.unwrap();
    eventually(SOON, async || recording.total("eventbox_runtime_scan_seconds") >= 5.0).await;
    runtime.stop(STOP).await;
}

/// A scan returns at most one recipient of such a kind from each shard, whatever their number. No series is by shard.
fn strangers_take_no_time(recorded: &Recorded) {
    assert!(!recorded.0.keys().any(|name| name.starts_with("eventbox_shard_")));
    let named = recorded.total("eventbox_runtime_unregistered_total", &[("kind", "stranger")]);
    let scans = recorded.total("eventbox_runtime_scan_seconds", &[]);
    assert!(named >= 1.0 && named <= scans, "{named} in {scans} scans");
}

#[cfg(feature = "postgres")]
#[test]
fn strangers_take_no_time_on_postgres() {
    strangers_take_no_time(&recorded(async |recording| {
        with_database::<sqlx::Postgres, _>("strangers", async |db| strangers_in_a_shard(db, recording).await).await;
    }));
}

#[cfg(feature = "sqlite")]
#[test]
fn strangers_take_no_time_on_sqlite() {
    strangers_take_no_time(&recorded(async |recording| {
        with_database::<sqlx::Sqlite, _>("strangers", async |db| strangers_in_a_shard(db, recording).await).await;
    }));
}

/// A runtime whose scan hangs is unhealthy, although nothing fails; it is healthy again when the scan goes on.
async fn is_unhealthy_while<B: CellEngine, H>(db: &TestDb<B>, hang: impl AsyncFnOnce(&sqlx::Pool<B>) -> H) {
    let mut config = config();
    config.health_grace = Duration::from_millis(200);
    let pool = db.open(4);
    let runtime = tallying(pool.clone()).config(config).start().await.unwrap();
    eventually(SOON, async || runtime.shards() == 256).await;
    eventually(SOON, async || runtime.health().is_healthy()).await;
    let hanging = hang(&pool).await;
    eventually(SOON, async || runtime.health().problems.iter().any(|problem| problem.contains("finding"))).await;
    drop(hanging);
    eventually(SOON, async || runtime.health().is_healthy()).await;
    runtime.stop(STOP).await;
    assert_eq!(runtime.health().problems, ["stopped"]);
}

/// On Postgres the scan has a connection of its own, so a lock makes it hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_waits_for_a_lock_is_not_healthy() {
    with_database("a_scan_that_waits_for_a_lock_is_not_healthy", async |db: &TestDb<sqlx::Postgres>| {
        is_unhealthy_while(db, async |_| {
            let mut tx = db.pool.begin().await.unwrap();
            sqlx::query("LOCK TABLE eventbox_event IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
            tx
        })
        .await;
    })
    .await;
}

/// On SQLite the scan takes a connection of the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_waits_for_a_connection_is_not_healthy() {
    with_database("a_scan_that_waits_for_a_connection_is_not_healthy", async |db: &TestDb<sqlx::Sqlite>| {
        is_unhealthy_while(db, async |pool| {
            let mut held = Vec::new();
            for _ in 0..pool.options().get_max_connections() {
                held.push(pool.acquire().await.unwrap());
            }
            held
        })
        .await;
    })
    .await;
}
