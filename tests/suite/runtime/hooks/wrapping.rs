//! What hooks wrap: rounds and turns of processors and reducers, one at a time or beside each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use eventbox::runtime::{RoundResult, Runtime};
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer, Transition, process_batch};
use tokio::sync::Semaphore;

use super::{Call, Calls, Watching, all_have_grown, keys, nothing_is_applied, start, stop};
use crate::runtime::batches::one_scan;
use crate::runtime::processor_rounds::{
    CELLS, cell, deciding, drained, fill, growing, isolating_rounds, population, quiet,
};
use crate::runtime::{Tally, config, emit, emit_all, idle, one_round, seen, tally, tallying, turn_of};
use crate::support::{SOON, TestDb, create_cells, effects, eventually, failing, on_every_engine};

on_every_engine! {
    /// A semaphore bounds how many rounds run at the same time. A round that waits for it has read nothing, and holds no
    /// connection that another kind needs.
    async fn a_semaphore_bounds_the_rounds_of_a_kind(db) {
        fill(db).await;
        let (calls, permits) = (Calls::default(), Arc::new(Semaphore::new(0)));
        let (waiting, loads) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (gate, back, entering) = (Arc::clone(&permits), Arc::clone(&permits), Arc::clone(&waiting));
        let hooks = Watching::<Engine>::new(&calls).finishing(move || back.add_permits(1)).beginning(move || {
            entering.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire_owned().await?.forget();
                Ok(())
            })
        });
        let loading = Arc::clone(&loads);
        let cells = growing::<Engine>().after_load(move |_| {
            loading.fetch_add(1, Ordering::SeqCst);
            async {}
        });
        let mut config = config();
        config.processor_recipients = 3.try_into().unwrap();
        let builder = Runtime::builder(db.open(3)).processor("cell", cells).round_hooks("cell", hooks);
        let runtime = builder.reducer("tally", Tally).config(config).start().await.unwrap();
        eventually(SOON, async || waiting.load(Ordering::SeqCst) >= 2).await;
        emit(db, &tally(1), ["x"]).await;
        eventually(SOON, async || seen(db, &tally(1)).await == ["x"]).await;
        assert_eq!((loads.load(Ordering::SeqCst), calls.all()), (0, Vec::new()));
        permits.add_permits(1);
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        assert_eq!((calls.check(), permits.available_permits()), (1, 1));
        all_have_grown(db).await;
    }

    /// Finalize runs once for all recipients of a round, behind their side effects, and commits with them.
    async fn finalize_writes_once_for_a_round(db) {
        fill(db).await;
        let calls = Calls::default();
        let runtime = start(db, growing::<Engine>(), Watching::<Engine>::new(&calls), one_scan()).await;
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        let every: Vec<_> = (0..CELLS).map(|n| format!("{n:02}")).collect();
        assert_eq!(effects(db).await.last(), Some(&format!("final:{}", every.join(","))));
        assert_eq!(all_have_grown(db).await.len(), 1);
        let all = calls.all();
        let [Call::Begun(begun), Call::Finalized(inside), Call::Finished(finished, result)] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!((inside, result), (finished, &RoundResult::Committed));
        assert_eq!((begun.number, begun.kind.as_str(), keys(begun)), (inside.number, "cell", every.clone()));
        assert_eq!(keys(inside), every);
    }

    /// A kind that commits alone has the hooks in each of its turns.
    async fn hooks_wrap_turns_of_single_recipients(db) {
        fill(db).await;
        let calls = Calls::default();
        let runtime = start(db, growing::<Engine>().alone(), Watching::<Engine>::new(&calls), one_round()).await;
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        calls.check();
        assert_eq!(runtime.stats().rounds, 0);
        let mut committed: Vec<_> = calls.committed().iter().map(|round| keys(round).join(",")).collect();
        committed.sort();
        assert_eq!(committed, (0..CELLS).map(|n| format!("{n:02}")).collect::<Vec<_>>());
        assert_eq!(all_have_grown(db).await.len(), CELLS);
    }

    /// The turns that search for a bad event have the hooks, so that finalize misses no commit.
    async fn a_search_for_a_bad_event_has_hooks(db) {
        create_cells(db).await;
        for n in 0..3 {
            emit(db, &cell(n), ["a", if n == 1 { "bad" } else { "b" }, "c"]).await;
        }
        let calls = Calls::default();
        let cells = deciding::<Engine, _>(|_, events, population| {
            let is_bad = events.iter().any(|event| event.value() == b"bad");
            let grown = Transition::to(population + events.len() as i64).consuming(events);
            Ok(if is_bad { grown.side_effect(failing("it is bad")).into() } else { grown.into() })
        });
        let runtime = start(db, cells, Watching::<Engine>::new(&calls), isolating_rounds(2)).await;
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        calls.check();
        assert!(!calls.failed("it is bad").is_empty(), "{:?}", calls.results());
        assert_eq!([population(db, 0).await, population(db, 1).await, population(db, 2).await], [3, 2, 3]);
        assert_eq!(db.count("eventbox_dead_letter").await, 1);
        assert_eq!(effects(db).await.len(), calls.committed().len(), "a note for each commit");
    }

    /// A recipient that loses its race is in neither finalize nor the result.
    async fn a_recipient_that_lost_its_race_is_not_finalized(db) {
        fill(db).await;
        let (calls, pool, raced) = (Calls::default(), db.open(1), AtomicBool::new(false));
        let cells = growing::<Engine>().before_deciding(move |_| {
            let (pool, is_first) = (pool.clone(), !raced.swap(true, Ordering::SeqCst));
            async move {
                if is_first {
                    let turn = process_batch(&pool, &cell(5), &quiet(), 10.try_into().unwrap()).await.unwrap();
                    assert_eq!(turn.consumed, 1);
                }
            }
        });
        let runtime = start(db, cells, Watching::<Engine>::new(&calls), one_scan()).await;
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        calls.check();
        let won: Vec<_> = (0..CELLS).filter(|n| *n != 5).map(|n| format!("{n:02}")).collect();
        assert_eq!(calls.committed().iter().map(keys).collect::<Vec<_>>(), [won]);
    }

    /// A turn that loses its race ends, and its next attempt begins anew.
    async fn each_attempt_of_a_turn_begins_anew(db) {
        create_cells(db).await;
        emit(db, &cell(5), ["x"]).await;
        let (calls, pool, raced) = (Calls::default(), db.open(1), AtomicBool::new(false));
        let cells = growing::<Engine>().alone().before_deciding(move |_| {
            let (pool, is_first) = (pool.clone(), !raced.swap(true, Ordering::SeqCst));
            async move {
                if is_first {
                    let turn = process_batch(&pool, &cell(5), &quiet(), 10.try_into().unwrap()).await.unwrap();
                    assert_eq!(turn.consumed, 1);
                }
            }
        });
        let runtime = start(db, cells, Watching::<Engine>::new(&calls), one_scan()).await;
        eventually(SOON, async || calls.results().len() >= 2).await;
        stop(&runtime).await;
        calls.check();
        assert_eq!(calls.failed("another writer came first").len(), 1, "{:?}", calls.results());
        assert_eq!(calls.results()[1].1, RoundResult::Nothing);
    }

    /// A kind of reducers has hooks in rounds of its own. Its decisions commit with finalize, or not at all.
    async fn reducers_have_hooks(db) {
        create_cells(db).await;
        let (calls, fails) = (Calls::default(), Arc::new(AtomicBool::new(true)));
        let hooks = Watching::<Engine>::new(&calls).failing_to_finalize(&fails, false);
        let tallies: Vec<_> = (0..10).map(|n| (tally(n), Event::new("x"))).collect();
        emit_all(db, &tallies).await;
        let builder = tallying(db.open(5)).reducer("other", Tally).round_hooks("tally", hooks);
        let runtime = builder.config(isolating_rounds(1)).start().await.unwrap();
        eventually(SOON, async || calls.failed("it cannot flush").len() >= 3).await;
        let other = Recipient::new("other", "1").unwrap();
        emit(db, &other, ["x"]).await;
        eventually(SOON, async || seen(db, &other).await == ["x"]).await;
        nothing_is_applied(db, tallies.len()).await;
        for (to, _) in &tallies {
            assert_eq!(turn_of(db, to).await, 0);
        }
        fails.store(false, Ordering::SeqCst);
        idle(db).await;
        stop(&runtime).await;
        calls.check();
        for (to, _) in &tallies {
            assert_eq!(seen(db, to).await, ["x"]);
        }
        let committed = calls.committed();
        assert!(committed.iter().all(|round| round.kind == "tally"), "{committed:?}");
        assert_eq!(committed.iter().map(|round| round.recipients.len()).sum::<usize>(), tallies.len());
        assert_eq!(effects(db).await.len(), committed.len());
    }

    /// The next round begins while one commits, also where the rounds of the kind commit one after the other.
    async fn the_next_round_begins_while_one_commits(db) {
        fill(db).await;
        let (calls, is_first) = (Calls::default(), AtomicBool::new(true));
        let begun = calls.clone();
        let hooks = Watching::<Engine>::new(&calls).finalizing(move |_| {
            let (begun, waits) = (begun.clone(), is_first.swap(false, Ordering::SeqCst));
            Box::pin(async move {
                if waits {
                    begun.until_begun(2).await;
                }
                Ok(())
            })
        });
        let mut config = one_scan();
        (config.rounds, config.processor_recipients) = (4.try_into().unwrap(), 6.try_into().unwrap());
        config.processor_round_time = Duration::from_secs(60);
        let builder = Runtime::builder(db.open(6)).processor("cell", growing::<Engine>()).round_hooks("cell", hooks);
        let builder = builder.round_durations("cell", Duration::ZERO, Duration::ZERO).config(config);
        let runtime = builder.start().await.unwrap();
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        assert_eq!(calls.check(), 2);
        all_have_grown(db).await;
    }

    /// Two rounds of a kind that commit one after the other do not wait for each other's permit.
    async fn rounds_in_a_row_share_one_permit(db) {
        fill(db).await;
        let (calls, permits) = (Calls::default(), Arc::new(Semaphore::new(1)));
        let (gate, back) = (Arc::clone(&permits), Arc::clone(&permits));
        let hooks = Watching::<Engine>::new(&calls).finishing(move || back.add_permits(1)).beginning(move || {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire_owned().await?.forget();
                Ok(())
            })
        });
        let mut config = config();
        config.processor_recipients = 2.try_into().unwrap();
        let builder = Runtime::builder(db.open(6)).processor("cell", growing::<Engine>()).round_hooks("cell", hooks);
        let builder = builder.round_durations("cell", Duration::ZERO, Duration::ZERO).config(config);
        let runtime = builder.start().await.unwrap();
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        assert_eq!((calls.check(), permits.available_permits()), (1, 1));
        all_have_grown(db).await;
    }

    /// What is too large for one transaction waits for the next round, so that each begin has one finalize.
    async fn a_round_with_hooks_has_one_transaction(db) {
        create_cells(db).await;
        let calls = Calls::default();
        let wide: Vec<_> = (0..6).map(|n| (Recipient::new("wide", n.to_string()).unwrap(), Event::new("x"))).collect();
        emit_all(db, &wide).await;
        let mut config = one_scan();
        config.max_event_bytes = 1_000.try_into().unwrap();
        let builder = Runtime::builder(db.open(6)).reducer("wide", Wide);
        let builder = builder.round_hooks("wide", Watching::<Engine>::new(&calls)).config(config);
        let runtime = builder.start().await.unwrap();
        idle(db).await;
        stop(&runtime).await;
        calls.check();
        let begun = |call: &Call| matches!(call, Call::Begun(round) if round.recipients.len() > 1);
        assert!(calls.all().iter().any(begun), "{:?}", calls.all());
        assert_eq!(calls.committed().iter().map(|round| round.recipients.len()).collect::<Vec<_>>(), [1; 6]);
    }

    async fn hooks_of_an_unknown_kind_are_refused(db) {
        let hooks = Watching::<Engine>::new(&Calls::default());
        let error = tallying(db.open(4)).round_hooks("other", hooks).start().await.unwrap_err();
        assert!(error.to_string().contains("hooks of rounds of other"), "{error}");
    }
}

/// Keeps a state of 600 bytes.
struct Wide;

impl Reducer for Wide {
    type State = String;

    fn reduce(&self, _to: &Recipient, events: &[Event], _state: String) -> Result<Outcome<String>, BoxError> {
        Ok(Outcome::to("x".repeat(600)).consuming(events))
    }
}

/// The answer to the commit of a round is lost. The hooks learn the result when it has been read back.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_learn_what_a_lost_answer_was() {
    use crate::support::proxy::{Fate, Message, Proxy};
    use crate::support::with_database;

    with_database("hooks_answer", async |db: &TestDb<sqlx::Postgres>| {
        create_cells(db).await;
        let (calls, proxy) = (Calls::default(), Proxy::start(db.options()).await);
        // Wake-ups of this process alone, so that no other transaction can lose its answer.
        let mut config = one_round();
        (config.poll_interval, config.min_poll_interval) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
        (config.leases, config.remote_wake_ups) = (None, false);
        let builder = Runtime::builder(proxy.pool_of(6).await).reducer("tally", Tally);
        let builder = builder.round_hooks("tally", Watching::new(&calls)).config(config);
        let runtime = builder.start().await.unwrap();
        emit(db, &tally("first"), ["x"]).await;
        eventually(SOON, async || calls.committed().len() == 1).await;

        proxy.next(Message::Commit, Fate::AnswerLost);
        let tallies: Vec<_> = (0..10).map(|n| (tally(n), Event::new("x"))).collect();
        emit_all(db, &tallies).await;
        proxy.cut(1).await;
        idle(db).await;
        let committed = || calls.committed().iter().map(|round| round.recipients.len()).sum::<usize>();
        eventually(SOON, async || committed() == 11).await;
        stop(&runtime).await;
        calls.check();
        assert_eq!(effects(db).await.len(), calls.committed().len());
    })
    .await;
}

/// A round of reducers without hooks stays one statement, without a transaction around it.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_kind_without_hooks_begins_no_transaction() {
    use crate::support::with_database;

    /// Notes, for each write of a state, the number of cursors of a transaction with code of the user in it.
    const NOTE: &str = "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO effect (text) SELECT count(*)::text FROM pg_cursors WHERE name = 'eventbox_turn'; RETURN NULL;
        END $$;
        CREATE TRIGGER note AFTER INSERT OR UPDATE ON eventbox_state FOR EACH ROW EXECUTE FUNCTION note()";
    with_database("without_hooks", async |db: &TestDb<sqlx::Postgres>| {
        create_cells(db).await;
        db.run(NOTE).await;
        // One recipient, so that its round is one statement.
        for has_hooks in [false, true] {
            let builder = tallying(db.open(4)).config(one_round());
            let calls = Calls::default();
            let builder = if has_hooks { builder.round_hooks("tally", Watching::new(&calls)) } else { builder };
            let runtime = builder.start().await.unwrap();
            emit(db, &tally(has_hooks), ["x"]).await;
            idle(db).await;
            stop(&runtime).await;
        }
        assert_eq!(effects(db).await, ["0", "1", "final:true"]);
    })
    .await;
}
