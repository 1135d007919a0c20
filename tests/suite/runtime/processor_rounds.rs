//! Rounds of a processor: many recipients share a transaction with the user's code in it, and each of them still drops
//! out alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventbox::limits::MAX_TURN_AGE;
use eventbox::runtime::{Runtime, RuntimeConfig, RuntimeStats};
use eventbox::{BoxError, Event, Mutation, Processor, Recipient, SideEffect, Transition, process_batch};

use super::{STOP, emit, emit_all, idle, isolating, one_round};
use crate::support::{
    CellEngine, Cells, SOON, TestDb, TestEngine, create_cells, effects, eventually, failing, noting, on_every_engine,
    with_database,
};

pub(super) const CELLS: usize = 12;

pub(super) fn cell(n: usize) -> Recipient {
    Recipient::new("cell", format!("{n:02}")).unwrap()
}

fn values(events: &[Event]) -> String {
    events.iter().map(|event| String::from_utf8_lossy(event.value())).collect()
}

/// Returns cells that do nothing without events.
pub(super) fn deciding<B, F>(decide: F) -> Cells<B>
where
    B: CellEngine,
    F: Fn(&Recipient, &[Event], i64) -> Result<Mutation<B, i64>, BoxError> + Send + Sync + 'static,
{
    Cells::deciding(move |to, events, population| match events {
        [] => Ok(Mutation::none()),
        events => decide(to, events, population),
    })
}

/// Adds its events to the population of each cell, and notes them.
pub(super) fn growing<B: CellEngine>() -> Cells<B> {
    deciding(|to, events, population| {
        let note = noting(format!("{}:{}", to.key(), values(events)));
        Ok(Transition::to(population + events.len() as i64).consuming(events).side_effect(note).into())
    })
}

/// Adds its events to the population of each cell, without a side effect.
pub(super) fn quiet<B: CellEngine>() -> Cells<B> {
    deciding(|_, events, population| Ok(Transition::to(population + events.len() as i64).consuming(events).into()))
}

/// Does what `growing` does, with another side effect for one cell.
fn growing_except<B, F>(one: Recipient, effect: F) -> Cells<B>
where
    B: CellEngine,
    F: Fn() -> SideEffect<B> + Send + Sync + 'static,
{
    deciding(move |to, events, population| {
        let effect = if *to == one { effect() } else { noting(format!("{}:{}", to.key(), values(events))) };
        Ok(Transition::to(population + events.len() as i64).consuming(events).side_effect(effect).into())
    })
}

/// Emits an event to each cell.
pub(super) async fn fill<B: CellEngine>(db: &TestDb<B>) {
    create_cells(db).await;
    let events: Vec<_> = (0..CELLS).map(|n| (cell(n), Event::new("x"))).collect();
    emit_all(db, &events).await;
}

/// Runs until `done`, in rounds that take all waiting cells.
pub(super) async fn run<B, P>(
    db: &TestDb<B>,
    processor: P,
    config: RuntimeConfig,
    done: impl AsyncFn() -> bool,
) -> RuntimeStats
where
    B: CellEngine,
    P: Processor<B> + 'static,
{
    let runtime = Runtime::builder(db.open(6)).processor("cell", processor).config(config).start().await.unwrap();
    eventually(SOON, async || done().await).await;
    assert!(runtime.stop(STOP).await.complete);
    runtime.stats()
}

pub(super) async fn drained<B: TestEngine>(db: &TestDb<B>) -> bool {
    db.count("eventbox_event").await == 0
}

pub(super) async fn population<B: TestEngine>(db: &TestDb<B>, of: usize) -> i64 {
    db.number(format_args!("SELECT coalesce(max(population), 0) FROM cell WHERE key = '{}'", cell(of))).await
}

/// Checks that every cell has grown once, except one, and that the side effects of the others have happened once.
pub(super) async fn all_but_one_have_grown<B: TestEngine>(db: &TestDb<B>, one: usize) {
    let mut noted = effects(db).await;
    noted.sort();
    let wanted: Vec<_> = (0..CELLS).filter(|n| *n != one).map(|n| format!("{n:02}:x")).collect();
    assert_eq!(noted, wanted);
    for n in (0..CELLS).filter(|n| *n != one) {
        assert_eq!(population(db, n).await, 1, "{n}");
    }
}

on_every_engine! {
    /// An entity that another writer moves between the load and the commit drops out, and its turn of its own decides
    /// on the new state. Nothing of the others happens twice.
    async fn an_entity_that_moves_drops_out(db) {
        fill(db).await;
        let (pool, moved) = (db.open(1), AtomicBool::new(false));
        let cells = growing::<Engine>().before_deciding(move |_| {
            let (pool, is_first) = (pool.clone(), !moved.swap(true, Ordering::SeqCst));
            async move {
                if is_first {
                    Engine::save(&mut *pool.acquire().await.unwrap(), cell(3).as_str(), 100, 1).await.unwrap();
                }
            }
        });
        let stats = run(db, cells, one_round(), async || drained(db).await).await;
        assert!(stats.contention >= 1 && stats.failures == 0, "{stats:?}");
        assert_eq!(population(db, 3).await, 101);
        db.run("DELETE FROM effect WHERE text = '03:x'").await;
        all_but_one_have_grown(db, 3).await;
    }

    /// A recipient that loses its race drops out, and the others commit.
    async fn a_lost_race_drops_out(db) {
        fill(db).await;
        let (pool, raced) = (db.open(1), AtomicBool::new(false));
        let cells = growing::<Engine>().before_deciding(move |_| {
            let (pool, is_first) = (pool.clone(), !raced.swap(true, Ordering::SeqCst));
            async move {
                if is_first {
                    let turn = process_batch(&pool, &cell(5), &quiet(), 10.try_into().unwrap()).await.unwrap();
                    assert_eq!(turn.consumed, 1);
                }
            }
        });
        let stats = run(db, cells, one_round(), async || drained(db).await).await;
        assert_eq!((stats.contention, stats.failures, population(db, 5).await), (1, 0, 1), "{stats:?}");
        all_but_one_have_grown(db, 5).await;
    }

    /// A side effect that fails or panics, or a state that cannot be loaded, fails its recipient alone. Nothing of it
    /// is applied, and the side effects of the others happen once.
    async fn a_failing_recipient_fails_alone(db) {
        fill(db).await;
        let effects: [fn() -> SideEffect<Engine>; 2] =
            [|| failing("it cannot"), || SideEffect::new(|_| Box::pin(async { panic!("it cannot") }))];
        for effect in effects {
            db.run("DELETE FROM effect").await;
            db.run("DELETE FROM cell").await;
            db.run("DELETE FROM eventbox_failure").await;
            let left = async || db.count("eventbox_event").await == 1;
            let failed = async || db.count("eventbox_failure").await == 1;
            let cells = growing_except::<Engine, _>(cell(7), effect);
            let stats = run(db, cells, isolating_rounds(1_000), async || left().await && failed().await).await;
            assert!(stats.failures >= 1 && stats.quarantined == 0, "{stats:?}");
            all_but_one_have_grown(db, 7).await;
            assert_eq!(population(db, 7).await, 0);
            let again: Vec<_> = (0..CELLS).filter(|n| *n != 7).map(|n| (cell(n), Event::new("x"))).collect();
            emit_all(db, &again).await;
        }
    }

    /// An event that makes every batch fail goes into quarantine, as in turns.
    async fn a_bad_event_of_a_round_is_isolated(db) {
        create_cells(db).await;
        for n in 0..3 {
            emit(db, &cell(n), ["a", if n == 1 { "bad" } else { "b" }, "c"]).await;
        }
        let cells = deciding::<Engine, _>(|to, events, population| {
            let is_bad = events.iter().any(|event| event.value() == b"bad");
            let effect = if is_bad { failing("it is bad") } else { noting(format!("{}:{}", to.key(), values(events))) };
            Ok(Transition::to(population + events.len() as i64).consuming(events).side_effect(effect).into())
        });
        let stats = run(db, cells, isolating_rounds(2), async || drained(db).await).await;
        assert_eq!((stats.quarantined, db.count("eventbox_dead_letter").await), (1, 1), "{stats:?}");
        assert_eq!([population(db, 0).await, population(db, 1).await, population(db, 2).await], [3, 2, 3]);
    }

    /// Code that ends the transaction of a round is found. Nothing of it is applied, and the others are not applied
    /// twice.
    async fn code_that_ends_the_transaction_of_a_round_is_found(db) {
        fill(db).await;
        for sql in ["ROLLBACK", "COMMIT"] {
            db.run("DELETE FROM eventbox_failure").await;
            let ending = move || {
                SideEffect::new(move |tx| {
                    Box::pin(async move {
                        let _ = sqlx::Executor::execute(&mut *tx, sqlx::raw_sql(sql)).await;
                        Ok(())
                    })
                })
            };
            let left = async || db.count("eventbox_event").await == 1;
            let failed = async || db.count("eventbox_failure").await == 1;
            let cells = growing_except::<Engine, _>(cell(4), ending);
            run(db, cells, isolating_rounds(1_000), async || left().await && failed().await).await;
            let error = db.texts("SELECT error FROM eventbox_failure").await;
            assert!(error[0].contains("transaction"), "{error:?}");
            all_but_one_have_grown(db, 4).await;
            assert_eq!(population(db, 4).await, 0);
            db.run("DELETE FROM effect").await;
            db.run("DELETE FROM cell").await;
            let again: Vec<_> = (0..CELLS).filter(|n| *n != 4).map(|n| (cell(n), Event::new("x"))).collect();
            emit_all(db, &again).await;
        }
    }

    /// An independent transition fails alone: the rest of its turn commits with the round, and its event stays.
    async fn an_independent_transition_of_a_round_fails_alone(db) {
        create_cells(db).await;
        for n in 0..3 {
            emit(db, &cell(n), ["a", "alone"]).await;
        }
        let cells = deciding::<Engine, _>(|to, events, population| {
            let (alone, rest): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| event.value() == b"alone");
            let effect = if to.key() == "01" { failing("it cannot") } else { noting(format!("{}:alone", to.key())) };
            let grown = Transition::to(population + rest.len() as i64).consuming(rest.iter().copied());
            let alone = Transition::stay().consuming(alone).side_effect(effect).independent();
            if rest.is_empty() { Ok(alone.into()) } else { Ok(Mutation::from(grown).then(alone)) }
        });
        let stats = run(db, cells, isolating_rounds(1_000), async || db.count("eventbox_event").await == 1).await;
        assert_eq!((stats.rounds >= 1, stats.consumed), (true, 5), "{stats:?}");
        let mut noted = effects(db).await;
        noted.sort();
        assert_eq!(noted, ["00:alone", "02:alone"]);
        assert_eq!([population(db, 0).await, population(db, 1).await, population(db, 2).await], [1, 1, 1]);
        assert_eq!(db.count("eventbox_failure WHERE recipient = 'cell/01'").await, 1, "it is noted");
    }

    /// Emits keep the order of the transitions, also when a later one is independent and emits in its place.
    async fn emits_before_an_independent_transition_go_first(db) {
        create_cells(db).await;
        for n in 0..3 {
            emit(db, &cell(n), ["first", "second"]).await;
        }
        let cells = deciding::<Engine, _>(|to, events, population| {
            let sink = |event: &Event| (Recipient::new("sink", to.key()).unwrap(), Event::new(event.value().to_vec()));
            let [first, rest @ ..] = events else { return Ok(Mutation::none()) };
            let grown = Transition::to(population + events.len() as i64).consuming([first]).emitting([sink(first)]);
            let alone = Transition::stay().consuming(rest).emitting(rest.iter().map(sink)).independent();
            Ok(if rest.is_empty() { grown.into() } else { Mutation::from(grown).then(alone) })
        });
        let waits = "eventbox_event WHERE recipient LIKE 'cell/%'";
        run(db, cells, one_round(), async || db.count(waits).await == 0).await;
        for n in 0..3 {
            let sink = Recipient::new("sink", cell(n).key()).unwrap();
            let listed = eventbox::admin::events(&db.pool, &sink, None, 10).await.unwrap();
            let values: Vec<_> = listed.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect();
            assert_eq!(values, ["first", "second"], "{sink}");
        }
    }

    /// Side effects run in the order of their steps, with the emits of each step in that order, too.
    async fn side_effects_keep_their_order(db) {
        create_cells(db).await;
        for n in 0..3 {
            emit(db, &cell(n), ["a"]).await;
        }
        let told = Recipient::new("told", "1").unwrap();
        let to_tell = told.clone();
        let cells = deciding::<Engine, _>(move |to, events, population| {
            let emitting = |n: &str| (to_tell.clone(), Event::new(format!("{}:{n}", to.key())));
            let direct = emitting("2");
            let effect = SideEffect::new(move |tx| {
                Box::pin(async move {
                    Engine::note(&mut *tx, String::from_utf8_lossy(direct.1.value()).into_owned()).await?;
                    Ok(Engine::emit(tx, &direct.0, direct.1).await?)
                })
            });
            let steps = Mutation::from(Transition::to(population + 1).consuming(events).emitting([emitting("1")]));
            let steps = steps.then(Transition::stay().side_effect(effect));
            Ok(steps.then(Transition::stay().side_effect(noting(format!("{}:3", to.key()))).emitting([emitting("3")])))
        });
        run(db, cells, one_round(), async || db.count("eventbox_event").await == 9).await;
        let noted = effects(db).await;
        let told = crate::support::drain(&db.pool, &told).await;
        for n in 0..3 {
            let its = |texts: &[String]| -> Vec<String> {
                texts.iter().filter(|text| text.starts_with(cell(n).key())).cloned().collect()
            };
            assert_eq!(its(&noted), [format!("{n:02}:2"), format!("{n:02}:3")]);
            let emitted: Vec<String> = told.iter().map(|event| values(std::slice::from_ref(event))).collect();
            assert_eq!(its(&emitted), [format!("{n:02}:1"), format!("{n:02}:2"), format!("{n:02}:3")]);
        }
    }

    /// A round takes no more recipients than its setting, and its recipients share its events.
    async fn the_settings_bound_a_round(db) {
        create_cells(db).await;
        for n in 0..7 {
            emit(db, &cell(n), ["1", "2", "3"]).await;
        }
        let mut config = one_round();
        (config.processor_recipients, config.processor_events) = (3.try_into().unwrap(), 6.try_into().unwrap());
        let stats = run(db, growing::<Engine>(), config, async || drained(db).await).await;
        assert!(stats.rounds >= 4, "{stats:?}");
        // Three recipients have two events each. Only a recipient that is alone gets all three, in a turn of its own.
        let whole = effects(db).await.iter().filter(|note| note.ends_with(":123")).count();
        assert!(whole <= 1, "{whole}");
        assert_eq!(db.number("SELECT CAST(sum(population) AS BIGINT) FROM cell").await, 21);
    }

    /// A side effect that never ends delays the others for the patience of a round, which is far below its deadline.
    async fn a_side_effect_that_never_ends_delays_only_itself(db) {
        fill(db).await;
        let mut config = isolating_rounds(1_000);
        // SQLite has one writer, so that the turn of that cell delays the others there.
        let deadline = Duration::from_secs(if Engine::FOLDER == "sqlite" { 1 } else { 3_600 });
        (config.processor_round_time, config.turn_deadline) = (Duration::from_millis(10), deadline);
        let cells =
            growing_except::<Engine, _>(cell(2), || SideEffect::new(|_| Box::pin(std::future::pending())));
        let runtime = Runtime::builder(db.open(6)).processor("cell", cells).config(config).start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_event").await == 1).await;
        all_but_one_have_grown(db, 2).await;
        runtime.stop(Duration::from_millis(100)).await;
    }

    /// Two runtimes race with overlapping rounds: each event is consumed once, in order, with its side effect.
    async fn many_rounds_do_each_thing_once(db) {
        create_cells(db).await;
        const EACH: usize = 20;
        let mut config = one_round();
        (config.rounds, config.leases) = (4.try_into().unwrap(), None);
        (config.processor_recipients, config.max_events) = (5.try_into().unwrap(), 3.try_into().unwrap());
        let mut runtimes = Vec::new();
        for _ in 0..2 {
            let builder = Runtime::builder(db.open(6)).processor("cell", growing::<Engine>()).config(config.clone());
            runtimes.push(builder.start().await.unwrap());
        }
        for n in 0..EACH {
            let events: Vec<_> = (0..CELLS).map(|to| (cell(to), Event::new(format!("{n:02}.")))).collect();
            emit_all(db, &events).await;
        }
        idle(db).await;
        for runtime in &runtimes {
            assert!(runtime.stop(STOP).await.complete);
        }
        let noted = effects(db).await;
        for n in 0..CELLS {
            let its = noted.iter().filter_map(|note| note.strip_prefix(&format!("{n:02}:"))).collect::<String>();
            assert_eq!(its, (0..EACH).map(|n| format!("{n:02}.")).collect::<String>(), "each once and in order");
            assert_eq!(population(db, n).await, EACH as i64);
        }
    }
}

/// Returns settings for rounds that isolate after this number of failures.
pub(super) fn isolating_rounds(after: u32) -> RuntimeConfig {
    let mut config = isolating(after);
    config.rounds = 1.try_into().unwrap();
    config
}

/// Another transaction holds the row of one cell: it delays only that cell.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_one_entity_delays_no_other() {
    use crate::support::with_database;

    with_database("lock_in_a_round", async |db: &TestDb<sqlx::Postgres>| {
        fill(db).await;
        db.run("INSERT INTO cell VALUES ('cell/08', 0, 0)").await;
        let mut holder = db.pool.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM cell FOR UPDATE").execute(&mut *holder).await.unwrap();
        let builder = Runtime::builder(db.open(6)).processor("cell", growing()).config(isolating_rounds(1_000));
        let runtime = builder.start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_event").await == 1).await;
        all_but_one_have_grown(db, 8).await;
        holder.rollback().await.unwrap();
        idle(db).await;
        assert_eq!(population(db, 8).await, 1);
        runtime.stop(STOP).await;
    })
    .await;
}

/// A round that decides for longer than [`MAX_TURN_AGE`] is not written, as a turn is not. Its recipients are tried again.
async fn a_round_that_is_too_old_starts_again<B: CellEngine>() {
    with_database("a_round_that_is_too_old", async |db: &TestDb<B>| {
        fill(db).await;
        let aged = AtomicBool::new(false);
        let cells = growing::<B>().before_deciding(move |_| {
            let is_first = !aged.swap(true, Ordering::SeqCst);
            async move {
                if is_first {
                    tokio::time::pause();
                    tokio::time::advance(MAX_TURN_AGE).await;
                    tokio::time::resume();
                }
            }
        });
        let mut config = one_round();
        config.turn_deadline = Duration::from_secs(24 * 60 * 60);
        let stats = run(db, cells, config, async || drained(db).await).await;
        assert!(stats.contention >= CELLS as u64 && stats.turns == CELLS as u64, "{stats:?}");
        assert_eq!(effects(db).await.len(), CELLS);
    })
    .await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_round_that_is_too_old_starts_again_on_postgres() {
    a_round_that_is_too_old_starts_again::<sqlx::Postgres>().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_round_that_is_too_old_starts_again_on_sqlite() {
    a_round_that_is_too_old_starts_again::<sqlx::Sqlite>().await;
}
