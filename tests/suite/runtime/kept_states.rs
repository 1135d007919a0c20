//! States that a processor lets the runtime keep between turns: they save loads, and they change no result.

use std::str;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use eventbox::admin::{self, Forgotten};
use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{BoxError, EVersion, Event, Mutation, Processor, Recipient, Transition, process_batch};

use super::{STOP, config, emit, leases};
use crate::support::{CellEngine, Cells, SOON, TestDb, create_cells, eventually, on_every_engine};

/// What a test sees of its processor, and tells it.
#[derive(Default)]
struct Seen {
    loads: AtomicUsize,
    decisions: AtomicUsize,
    /// Whether the next decision fails.
    fails: AtomicBool,
}

impl Seen {
    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

/// Adds the numbers in its events to the population of a cell. Other events stay.
struct Adding {
    seen: Arc<Seen>,
    /// Bytes that a state is said to take; `None` keeps no state.
    bytes: Option<usize>,
}

impl<B: CellEngine> Processor<B> for Adding {
    type State = i64;

    fn kept_bytes(&self, _population: &i64) -> Option<usize> {
        self.bytes
    }

    async fn load_state(&self, conn: &mut B::Connection, to: &Recipient) -> Result<(i64, EVersion), BoxError> {
        self.seen.loads.fetch_add(1, Ordering::SeqCst);
        let (population, eversion) = B::load(conn, to.as_str()).await?;
        Ok((population, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        population: &i64,
    ) -> Result<Mutation<B, i64>, BoxError> {
        self.seen.decisions.fetch_add(1, Ordering::SeqCst);
        if self.seen.fails.swap(false, Ordering::SeqCst) {
            return Err("it fails once".into());
        }
        let number = |event: &Event| str::from_utf8(event.value()).ok()?.parse::<i64>().ok();
        let sum: i64 = events.iter().filter_map(number).sum();
        let consumed: Vec<&Event> = events.iter().filter(|event| number(event).is_some()).collect();
        Ok(match consumed.is_empty() {
            true => Mutation::none(),
            false => Transition::to(population + sum).consuming(consumed).into(),
        })
    }

    async fn fetch_eversion(&self, tx: &mut B::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(B::load(tx, to.as_str()).await?.1))
    }

    async fn save_state(
        &self,
        tx: &mut B::Connection,
        to: &Recipient,
        population: &i64,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        Ok(B::save(tx, to.as_str(), *population, eversion.0).await?)
    }
}

/// Returns settings with leases, because without them the runtime keeps no states.
fn keeping() -> RuntimeConfig {
    let mut config = config();
    config.leases = Some(leases());
    config
}

/// Starts a runtime that holds all shards. A change of its shards would drop the states.
async fn start<B: CellEngine>(
    db: &TestDb<B>,
    seen: &Arc<Seen>,
    bytes: Option<usize>,
    config: RuntimeConfig,
) -> Runtime<B> {
    create_cells(db).await;
    let adding = Adding { seen: Arc::clone(seen), bytes };
    let runtime = Runtime::builder(db.open(4)).processor("cell", adding).config(config).start().await.unwrap();
    eventually(SOON, async || runtime.shards() == 256).await;
    runtime
}

fn cell(key: &str) -> Recipient {
    Recipient::new("cell", key).unwrap()
}

/// Emits a number, and waits until its turn has committed and has left its state.
async fn add<B: CellEngine>(db: &TestDb<B>, runtime: &Runtime<B>, to: &Recipient, number: i64) {
    let turns = runtime.stats().turns;
    emit(db, to, [number]).await;
    eventually(SOON, async || runtime.stats().turns > turns).await;
}

async fn population<B: CellEngine>(db: &TestDb<B>, of: &Recipient) -> i64 {
    db.number(format_args!("SELECT population FROM cell WHERE key = '{of}'")).await
}

/// Commits a turn without events, as another process could.
async fn turn_of_another_process<B: CellEngine>(db: &TestDb<B>, of: &Recipient, more: i64) {
    let other = Cells::<B>::deciding(move |_, _, population| Ok(Transition::to(population + more).into()));
    let turn = process_batch(&db.pool, of, &other, 1.try_into().unwrap()).await.unwrap();
    assert!(turn.number.is_some());
}

on_every_engine! {
    async fn a_busy_recipient_is_loaded_once(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, Some(8), keeping()).await;
        for n in 1..=10 {
            add(db, &runtime, &cell("a"), n).await;
        }
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (55, 1));
        assert_eq!(runtime.stats().contention, 0);
        runtime.stop(STOP).await;
    }

    async fn a_processor_loads_at_every_turn_by_default(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, None, keeping()).await;
        for n in 1..=4 {
            add(db, &runtime, &cell("a"), n).await;
        }
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (10, 4));
        runtime.stop(STOP).await;
    }

    /// Somebody changes the row of the entity between two turns, and moves its version. The transaction notices the
    /// version, and the retry loads.
    async fn a_changed_version_drops_what_was_kept(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, Some(8), keeping()).await;
        add(db, &runtime, &cell("a"), 1).await;
        db.run("UPDATE cell SET population = population + 100, eversion = eversion + 1").await;
        add(db, &runtime, &cell("a"), 2).await;
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (103, 2));
        assert!(runtime.stats().contention >= 1, "{:?}", runtime.stats());
        add(db, &runtime, &cell("a"), 3).await;
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (106, 2), "the new state is kept");
        runtime.stop(STOP).await;
    }

    /// The listing reads that the turn has moved, so no race is lost.
    async fn a_turn_of_another_process_makes_a_kept_state_stale(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, Some(8), keeping()).await;
        add(db, &runtime, &cell("a"), 1).await;
        turn_of_another_process(db, &cell("a"), 1_000).await;
        add(db, &runtime, &cell("a"), 2).await;
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (1_003, 2));
        assert_eq!(runtime.stats().contention, 0, "{:?}", runtime.stats());
        runtime.stop(STOP).await;
    }

    async fn a_repair_makes_a_kept_state_stale(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, Some(8), keeping()).await;
        add(db, &runtime, &cell("a"), 1).await;
        admin::pause(&db.pool, &cell("a")).await.unwrap();
        // No version moves here, but the repair moves the turn.
        db.run("UPDATE cell SET population = 500").await;
        admin::resume(&db.pool, &cell("a")).await.unwrap();
        add(db, &runtime, &cell("a"), 2).await;
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (502, 2));
        runtime.stop(STOP).await;
    }

    /// The recipient is forgotten, and another process brings it to the same turn and the same version. Only the token
    /// of that turn is another.
    async fn a_recipient_that_began_anew_is_loaded(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, Some(8), keeping()).await;
        add(db, &runtime, &cell("a"), 1).await;
        db.run("UPDATE eventbox_state SET updated_at_us = updated_at_us - 3600000001").await;
        assert_eq!(admin::forget(&db.pool, &cell("a")).await.unwrap(), Forgotten::Done);
        db.run("DELETE FROM cell").await;
        turn_of_another_process(db, &cell("a"), 500).await;
        let now = "SELECT turn * 1000 + eversion FROM eventbox_state, cell";
        assert_eq!(db.number(now).await, 1_001, "turn and version are as they were");
        add(db, &runtime, &cell("a"), 2).await;
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (502, 2));
        runtime.stop(STOP).await;
    }

    async fn a_turn_that_failed_drops_what_was_kept(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, Some(8), keeping()).await;
        add(db, &runtime, &cell("a"), 1).await;
        seen.fails.store(true, Ordering::SeqCst);
        add(db, &runtime, &cell("a"), 2).await;
        assert!(!seen.fails.load(Ordering::SeqCst), "a decision failed");
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (3, 2));
        runtime.stop(STOP).await;
    }

    /// A processor looks again and again at an event that it leaves for later. No commit compares the version then, so a
    /// decision for nothing on a kept state drops the state.
    async fn a_turn_that_decides_nothing_drops_a_kept_state(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, Some(8), keeping()).await;
        add(db, &runtime, &cell("a"), 1).await;
        emit(db, &cell("a"), ["later"]).await;
        let before = seen.decisions.load(Ordering::SeqCst);
        eventually(SOON, async || seen.decisions.load(Ordering::SeqCst) >= before + 3).await;
        add(db, &runtime, &cell("a"), 2).await;
        assert_eq!(population(db, &cell("a")).await, 3);
        assert!(seen.loads() >= 2, "{} loads", seen.loads());
        runtime.stop(STOP).await;
    }

    /// Two states fit, so four recipients that take turns are loaded more than once each.
    async fn kept_states_stay_within_their_bytes(db) {
        let seen = Arc::new(Seen::default());
        let mut config = keeping();
        config.state_cache_bytes = 10_000;
        let runtime = start(db, &seen, Some(4_000), config).await;
        let keys = ["a", "b", "c", "d"];
        for n in 1..=5 {
            for key in keys {
                add(db, &runtime, &cell(key), n).await;
            }
        }
        assert!(seen.loads() > keys.len(), "{}", seen.loads());
        for key in keys {
            assert_eq!(population(db, &cell(key)).await, 15, "{key}");
        }
        runtime.stop(STOP).await;
    }

    async fn a_state_over_the_bound_is_loaded_every_time(db) {
        let seen = Arc::new(Seen::default());
        let runtime = start(db, &seen, Some(usize::MAX), keeping()).await;
        for n in 1..=3 {
            add(db, &runtime, &cell("a"), n).await;
        }
        assert_eq!((population(db, &cell("a")).await, seen.loads()), (6, 3));
        runtime.stop(STOP).await;
    }
}
