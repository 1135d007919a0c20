//! Reads of the caller's own writes, timers, and wake-ups between processes.

use std::time::{Duration, Instant};

use eventbox::runtime::Runtime;
use eventbox::{Event, PoisonPolicy, Recipient, Status, admin};

use super::failing::Fragile;
use super::{STOP, config, emit, idle, seen, tally, tallying};
use crate::support::{CellEngine, SOON, TestDb, eventually, on_every_engine};

async fn emit_one<B: CellEngine>(db: &TestDb<B>, to: &Recipient, event: Event) -> eventbox::Receipt {
    B::emit_on(&db.pool, to, event).await.unwrap()
}

on_every_engine! {
    /// A state that is read after `wait_processed` includes the event, whichever process has processed it.
    async fn own_writes_are_read(db) {
        let (here, there) = (tallying(db.open(4)).start().await.unwrap(), tallying(db.open(4)).start().await.unwrap());
        for n in 0..20 {
            let receipt = emit_one(db, &tally(n), Event::new(n.to_string())).await;
            // The receipt goes to another process as text.
            let receipt = receipt.to_string().parse().unwrap();
            let status = here.wait_processed(&receipt, SOON).await.unwrap();
            assert!(matches!(status, Status::Done { turn: 1 }), "{status:?}");
            assert_eq!(seen(db, &tally(n)).await, [n.to_string()]);
        }
        here.stop(STOP).await;
        there.stop(STOP).await;
    }

    /// A wait returns the reason why an event is not processed, and not a timeout: paused, failing, in quarantine, or
    /// of a kind without a runtime.
    async fn a_wait_returns_the_reason_why_an_event_is_not_processed(db) {
        let mut config = config();
        config.poison = PoisonPolicy::Block;
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Fragile).config(config).start().await.unwrap();
        admin::pause(&db.pool, &tally("paused")).await.unwrap();
        let paused = emit_one(db, &tally("paused"), Event::new("x")).await;
        assert_eq!(runtime.wait_processed(&paused, SOON).await.unwrap(), Status::Paused);

        let failing = emit_one(db, &tally("fails"), Event::new("fail")).await;
        eventually(SOON, async || db.number("SELECT coalesce(sum(attempts), 0) FROM eventbox_failure").await > 0).await;
        let status = runtime.wait_processed(&failing, Duration::from_millis(1)).await.unwrap();
        assert!(matches!(&status, Status::Failing { error, .. } if error.contains("this event is bad")), "{status:?}");
        admin::quarantine(&db.pool, &tally("fails"), &[failing.id().unwrap()], "by hand").await.unwrap();
        let status = runtime.wait_processed(&failing, SOON).await.unwrap();
        assert!(matches!(&status, Status::Quarantined { reason, .. } if reason.contains("by hand")), "{status:?}");

        let stranger = Recipient::new("stranger", "1").unwrap();
        let pending = emit_one(db, &stranger, Event::new("x")).await;
        assert_eq!(runtime.wait_processed(&pending, Duration::from_millis(20)).await.unwrap(), Status::Waiting);
        runtime.stop(STOP).await;
    }

    /// The runtimes move each timer into its box once, when it is due.
    /// A timer that is not due stays.
    async fn timers_are_moved_when_they_are_due(db) {
        let runtimes = [tallying(db.open(4)).start().await.unwrap(), tallying(db.open(4)).start().await.unwrap()];
        let mut receipts = Vec::new();
        for n in 0..30 {
            let due = Event::new(n.to_string()).named("reminder").due_in(Duration::from_millis(10 * n));
            receipts.push(emit_one(db, &tally(n), due).await);
        }
        let late = emit_one(db, &tally("late"), Event::new("x").due_in(Duration::from_secs(3_600))).await;
        for receipt in &receipts {
            let status = runtimes[0].wait_processed(receipt, SOON).await.unwrap();
            assert!(matches!(status, Status::Done { turn: 1 }), "{status:?}");
        }
        for n in 0..30 {
            assert_eq!(seen(db, &tally(n)).await, [n.to_string()]);
        }
        assert!(matches!(runtimes[0].wait_processed(&late, Duration::ZERO).await.unwrap(), Status::Due { .. }));
        for runtime in &runtimes {
            assert!(runtime.stop(STOP).await.complete);
        }
        assert_eq!(db.count("eventbox_timer").await, 1);
    }

    /// Processes wake each other up. The runtimes here take no wake-ups of their own process, and the poll would come
    /// far too late.
    async fn processes_wake_each_other_up(db) {
        let mut config = config();
        config.local_wake_ups = false;
        (config.poll_interval, config.min_poll_interval) = (Duration::from_secs(20), Duration::from_secs(20));
        let start = async || tallying(db.open(4)).config(config.clone()).start().await.unwrap();
        let (one, other) = (start().await, start().await);
        eventually(SOON, async || one.shards() == 128 && other.shards() == 128).await;
        for n in 0..10 {
            let started = Instant::now();
            emit(db, &tally(n), [n]).await;
            idle(db).await;
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
        one.stop(STOP).await;
        other.stop(STOP).await;
    }
}
