//! Rounds with hooks that fail, are cancelled or never begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use eventbox::runtime::{Round, RoundResult, Runtime};
use eventbox::{Mutation, Transition};

use super::{Calls, Watching, all_have_grown, fill_again, health_says, nothing_is_applied, start, stop};
use crate::runtime::batches::one_scan;
use crate::runtime::processor_rounds::{CELLS, cell, deciding, drained, fill, growing, isolating_rounds};
use crate::runtime::{Tally, emit, idle, one_round, seen, tally, tallying, turn_of};
use crate::support::{SOON, eventually, on_every_engine};

on_every_engine! {
    /// Case 7 of the consumer framework, an error of finalize: its round is rolled back, and so is each turn of its own
    /// in which it fails. No event is blamed, and all goes on when finalize succeeds.
    async fn a_finalize_that_fails_rolls_back_and_blames_no_event(db) {
        for panics in [false, true] {
            fill_again(db).await;
            let (calls, fails) = (Calls::default(), Arc::new(AtomicBool::new(true)));
            let hooks = Watching::<Engine>::new(&calls).failing_to_finalize(&fails, panics);
            let runtime = start(db, growing::<Engine>(), hooks, isolating_rounds(1)).await;
            let alone = |rounds: Vec<Round>| rounds.iter().filter(|round| round.recipients.len() == 1).count();
            eventually(SOON, async || alone(calls.failed("it cannot flush")) >= 5).await;
            health_says(&runtime, "it cannot flush").await;
            nothing_is_applied(db, CELLS).await;
            fails.store(false, Ordering::SeqCst);
            eventually(SOON, async || drained(db).await).await;
            stop(&runtime).await;
            calls.check();
            assert_eq!(all_have_grown(db).await.len(), calls.committed().len());
        }
    }

    /// Case 7, an error of the code: the rounds end, without finalize.
    async fn code_that_fails_ends_its_rounds(db) {
        fill(db).await;
        let (calls, fails) = (Calls::default(), Arc::new(AtomicBool::new(true)));
        let failing = Arc::clone(&fails);
        let cells = deciding::<Engine, _>(move |_, events, population| match failing.load(Ordering::SeqCst) {
            true => Err("it cannot decide".into()),
            false => Ok(Transition::to(population + events.len() as i64).consuming(events).into()),
        });
        let runtime = start(db, cells, Watching::<Engine>::new(&calls), isolating_rounds(1_000)).await;
        eventually(SOON, async || calls.failed("it cannot decide").len() >= 2).await;
        assert_eq!(calls.finalized(), 0);
        fails.store(false, Ordering::SeqCst);
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        calls.check();
        assert_eq!(db.number("SELECT CAST(sum(population) AS BIGINT) FROM cell").await, CELLS as i64);
    }

    /// Case 7, all events are left for later: the round ends, without finalize.
    async fn a_round_that_decides_nothing_is_finished(db) {
        fill(db).await;
        let calls = Calls::default();
        let cells = deciding::<Engine, _>(|_, _, _| Ok(Mutation::none()));
        let runtime = start(db, cells, Watching::<Engine>::new(&calls), one_round()).await;
        eventually(SOON, async || calls.results().len() >= 2).await;
        stop(&runtime).await;
        calls.check();
        assert!(calls.results().iter().all(|(_, result)| *result == RoundResult::Nothing), "{:?}", calls.results());
        assert_eq!(calls.finalized(), 0);
        nothing_is_applied(db, CELLS).await;
    }

    /// Case 7, an error of begin: nothing is read, and nothing is finished. Health has the text, the recipients are
    /// tried again, and other kinds go on.
    async fn a_round_that_cannot_begin_is_not_finished(db) {
        for panics in [false, true] {
            fill_again(db).await;
            let (calls, fails) = (Calls::default(), Arc::new(AtomicBool::new(true)));
            let (loads, tries) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (failing, trying) = (Arc::clone(&fails), Arc::clone(&tries));
            let hooks = Watching::<Engine>::new(&calls).beginning(move || {
                trying.fetch_add(1, Ordering::SeqCst);
                let fails = failing.load(Ordering::SeqCst);
                Box::pin(async move {
                    assert!(!fails || !panics, "the gate is shut");
                    if fails { Err("the gate is shut".into()) } else { Ok(()) }
                })
            });
            let loading = Arc::clone(&loads);
            let cells = growing::<Engine>().after_load(move |_| {
                loading.fetch_add(1, Ordering::SeqCst);
                async {}
            });
            let builder = Runtime::builder(db.open(6)).processor("cell", cells).round_hooks("cell", hooks);
            let runtime = builder.reducer("tally", Tally).config(isolating_rounds(1)).start().await.unwrap();
            eventually(SOON, async || tries.load(Ordering::SeqCst) >= 3).await;
            health_says(&runtime, "the gate is shut").await;
            let other = tally(format!("beside {panics}"));
            emit(db, &other, ["x"]).await;
            eventually(SOON, async || seen(db, &other).await == ["x"]).await;
            assert_eq!((loads.load(Ordering::SeqCst), calls.all()), (0, Vec::new()));
            nothing_is_applied(db, CELLS).await;
            fails.store(false, Ordering::SeqCst);
            eventually(SOON, async || drained(db).await).await;
            stop(&runtime).await;
            calls.check();
            all_have_grown(db).await;
        }
    }

    /// A finalize that ends the transaction of a round or of a turn is found. Nothing is applied, and no event is
    /// blamed.
    async fn a_finalize_that_ends_its_transaction_changes_nothing(db) {
        for sql in ["COMMIT", "ROLLBACK"] {
            fill_again(db).await;
            emit(db, &tally(sql), ["x"]).await;
            let (calls, ends) = (Calls::default(), Arc::new(AtomicBool::new(true)));
            let hooks = || {
                let ends = Arc::clone(&ends);
                Watching::<Engine>::new(&calls).finalizing(move |tx| {
                    let ends = ends.load(Ordering::SeqCst);
                    Box::pin(async move {
                        if ends {
                            let _ = sqlx::Executor::execute(&mut *tx, sqlx::raw_sql(sql)).await;
                        }
                        Ok(())
                    })
                })
            };
            let builder = tallying(db.open(6)).processor("cell", growing()).round_hooks("cell", hooks());
            let builder = builder.round_hooks("tally", hooks()).config(isolating_rounds(1));
            let runtime = builder.start().await.unwrap();
            let found = |kind: &str| calls.failed("transaction").iter().filter(|round| round.kind == kind).count();
            eventually(SOON, async || found("cell") >= 3 && found("tally") >= 2).await;
            health_says(&runtime, "ended its transaction").await;
            nothing_is_applied(db, CELLS + 1).await;
            ends.store(false, Ordering::SeqCst);
            idle(db).await;
            stop(&runtime).await;
            calls.check();
            assert_eq!((all_have_grown(db).await.len(), turn_of(db, &tally(sql)).await), (calls.committed().len(), 1));
        }
    }

    /// A round that is cancelled in finalize is finished, once, and nothing of it is applied.
    async fn a_cancelled_round_is_finished(db) {
        fill(db).await;
        let calls = Calls::default();
        let hooks = Watching::<Engine>::new(&calls).finalizing(|_| Box::pin(std::future::pending()));
        let mut config = one_scan();
        config.processor_round_time = Duration::from_secs(60);
        let runtime = start(db, growing::<Engine>(), hooks, config).await;
        eventually(SOON, async || calls.finalized() == 1).await;
        let report = runtime.stop(Duration::from_secs(1)).await;
        assert_eq!(report.interrupted, 1, "{report:?}");
        calls.check();
        assert_eq!(calls.failed("ended early").len(), 1, "{:?}", calls.results());
        nothing_is_applied(db, CELLS).await;
    }

    /// A stop ends the wait of a round that has not begun, and counts no failure.
    async fn a_stop_ends_the_wait_of_a_round(db) {
        for is_alone in [false, true] {
            fill_again(db).await;
            let (calls, waiting) = (Calls::default(), Arc::new(AtomicUsize::new(0)));
            let entering = Arc::clone(&waiting);
            let hooks = Watching::<Engine>::new(&calls).beginning(move || {
                entering.fetch_add(1, Ordering::SeqCst);
                Box::pin(std::future::pending())
            });
            let cells = if is_alone { growing::<Engine>().alone() } else { growing() };
            let runtime = start(db, cells, hooks, one_round()).await;
            eventually(SOON, async || waiting.load(Ordering::SeqCst) >= 1).await;
            stop(&runtime).await;
            assert_eq!((runtime.stats().failures, calls.all()), (0, Vec::new()));
            nothing_is_applied(db, CELLS).await;
            db.run("DELETE FROM eventbox_event").await;
        }
    }

    /// The wait of a round has the deadline of a turn.
    async fn the_wait_of_a_round_has_a_bound(db) {
        fill(db).await;
        let calls = Calls::default();
        let hooks = Watching::<Engine>::new(&calls).beginning(|| Box::pin(std::future::pending()));
        let mut config = one_round();
        config.turn_deadline = Duration::from_millis(50);
        let runtime = start(db, growing::<Engine>(), hooks, config).await;
        health_says(&runtime, "not done within 50ms").await;
        stop(&runtime).await;
        assert_eq!(calls.all(), []);
        nothing_is_applied(db, CELLS).await;
    }

    /// A panic of the last hook harms neither its round nor the next one.
    async fn a_panic_in_finish_round_is_caught(db) {
        fill(db).await;
        let calls = Calls::default();
        let hooks = Watching::<Engine>::new(&calls).finishing(|| panic!("it cannot be told"));
        let runtime = start(db, growing::<Engine>(), hooks, one_round()).await;
        eventually(SOON, async || drained(db).await).await;
        emit(db, &cell(CELLS), ["again"]).await;
        eventually(SOON, async || drained(db).await).await;
        stop(&runtime).await;
        calls.check();
        assert_eq!(runtime.stats().turns, CELLS as u64 + 1);
    }
}
