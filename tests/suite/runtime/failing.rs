//! One failing recipient stops only itself.

use std::time::Duration;

use eventbox::runtime::Runtime;
use eventbox::{BoxError, Event, Outcome, PostProcess, Recipient, Reducer, admin};

use super::{STOP, backoff, config, emit, emit_all, idle, isolating, seen, tally, tallying};
use crate::support::{SOON, eventually, on_every_engine};

/// Fails, or panics, on events that say so.
pub(super) struct Fragile;

impl Reducer for Fragile {
    type State = Vec<String>;

    fn reduce(
        &self,
        _to: &Recipient,
        events: &[Event],
        mut seen: Vec<String>,
    ) -> Result<Outcome<Vec<String>>, BoxError> {
        for event in events {
            match event.value() {
                b"fail" => return Err("this event is bad".into()),
                b"panic" => std::panic::resume_unwind(Box::new("this event is terrible")),
                value => seen.push(String::from_utf8_lossy(value).into_owned()),
            }
        }
        Ok(Outcome::to(seen).consuming(events))
    }
}

on_every_engine! {
    /// Two recipients have a bad event among good events, beside many good recipients. The runtime moves the bad events
    /// to quarantine and processes all other events.
    async fn bad_events_end_in_quarantine_and_the_rest_proceeds(db) {
        let good: Vec<_> = (0..100).map(|n| (tally(n), Event::new("good"))).collect();
        emit_all(db, &good).await;
        emit(db, &tally("fails"), ["a", "fail", "b"]).await;
        emit(db, &tally("panics"), ["a", "b", "panic"]).await;
        let runtime =
            Runtime::builder(db.open(4)).reducer("tally", Fragile).config(isolating(3)).start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(
            (seen(db, &tally("fails")).await, seen(db, &tally("panics")).await),
            (vec!["a".into(), "b".into()], vec!["a".into(), "b".into()])
        );
        assert_eq!(db.count("eventbox_dead_letter").await, 2);
        assert_eq!(
            admin::quarantined(&db.pool, &tally("panics"), None, 10).await.unwrap()[0].code,
            eventbox::limits::POISON_CODE
        );
        assert_eq!(seen(db, &tally(99)).await, ["good"]);
        assert_eq!(db.count("eventbox_failure").await, 0);
    }

    /// The search for a bad event goes on at once after a part of the batch has committed, whatever the back-off is.
    async fn the_search_for_a_bad_event_waits_for_no_back_off(db) {
        let mut config = isolating(1);
        config.backoff = backoff(Duration::from_secs(3_600), Duration::from_secs(7_200));
        emit(db, &tally("fails"), ["a", "b", "c", "d", "e", "f", "g", "fail"]).await;
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Fragile).config(config).start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_dead_letter").await == 1).await;
        assert_eq!(seen(db, &tally("fails")).await.len(), 7);
        assert_eq!(db.count("eventbox_failure").await, 0);
        runtime.stop(STOP).await;
    }

    /// A failing recipient backs off for longer and longer, by the database's clock, so for all processes together.
    async fn a_failing_recipient_is_left_alone(db) {
        let mut config = isolating(1_000);
        config.backoff = backoff(Duration::from_secs(3_600), Duration::from_secs(7_200));
        emit(db, &tally("fails"), ["fail"]).await;
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Fragile).config(config).start().await.unwrap();
        eventually(SOON, async || db.number("SELECT coalesce(sum(attempts), 0) FROM eventbox_failure").await == 1)
            .await;
        // Other recipients go on. When they are done, several polls have passed.
        for n in 0..5 {
            emit(db, &tally(n), ["good"]).await;
            eventually(SOON, async || !seen(db, &tally(n)).await.is_empty()).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(db.number("SELECT coalesce(sum(attempts), 0) FROM eventbox_failure").await, 1);
        let wait = db.number("SELECT next_attempt_at_us FROM eventbox_failure").await;
        assert!(wait > 0);
        // An operator resumes the recipient after the repair, and it gets a turn at once.
        admin::resume(&db.pool, &tally("fails")).await.unwrap();
        eventually(SOON, async || db.number("SELECT coalesce(sum(attempts), 0) FROM eventbox_failure").await == 1)
            .await;
        runtime.stop(STOP).await;
    }

    /// A paused recipient waits, and goes on when it is resumed.
    async fn a_paused_recipient_waits(db) {
        admin::pause(&db.pool, &tally("paused")).await.unwrap();
        emit(db, &tally("paused"), ["x"]).await;
        let runtime = tallying(db.open(4)).start().await.unwrap();
        emit(db, &tally("other"), ["x"]).await;
        eventually(SOON, async || !seen(db, &tally("other")).await.is_empty()).await;
        assert!(seen(db, &tally("paused")).await.is_empty());
        admin::resume(&db.pool, &tally("paused")).await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(seen(db, &tally("paused")).await, ["x"]);
    }

    /// Hooks run after the commit. A hook that fails or never ends is no failure of another hook.
    async fn hooks_that_fail_stop_nothing(db) {
        struct Hooked;
        impl Reducer for Hooked {
            type State = u64;
            fn reduce(&self, to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
                let outcome = Outcome::to(count + events.len() as u64).consuming(events);
                Ok(match to.key() {
                    "fails" => outcome.post_process(PostProcess::new(|| async { Err("hook fails".into()) })),
                    "hangs" => outcome.post_process(PostProcess::new(std::future::pending)),
                    _ => outcome,
                })
            }
        }
        let mut config = config();
        config.hook_deadline = Duration::from_millis(50);
        let runtime = Runtime::builder(db.open(4)).reducer("tally", Hooked).config(config).start().await.unwrap();
        for key in ["fails", "hangs", "fine"] {
            emit(db, &tally(key), [1, 2]).await;
        }
        idle(db).await;
        assert!(runtime.stop(STOP).await.complete);
        for key in ["fails", "hangs", "fine"] {
            assert_eq!(eventbox::state::<u64>(&db.pool, &tally(key)).await.unwrap().unwrap().state, Some(2));
        }
    }

    /// A user's transaction that holds one recipient delays only this recipient: the others of its round commit.
    async fn a_held_recipient_delays_no_other(db) {
        emit(db, &tally("held"), ["x"]).await;
        let runtime = tallying(db.open(4)).start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        if cfg!(feature = "sqlite") && db.url().starts_with("sqlite") {
            // On SQLite a writer locks all recipients, so no recipient is separate.
            return;
        }
        let runtime = tallying(db.open(4)).start().await.unwrap();
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        sqlx::Executor::execute(&mut *tx, "UPDATE eventbox_state SET turn = turn WHERE recipient = 'tally/held'")
            .await
            .unwrap();
        let events: Vec<_> =
            (0..50).map(|n| (tally(n), Event::new("x"))).chain([(tally("held"), Event::new("y"))]).collect();
        let other = db.open(1);
        eventbox::emit_all(&other, &events).await.unwrap();
        eventually(SOON, async || db.count("eventbox_event").await == 1).await;
        tx.rollback().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(seen(db, &tally("held")).await, ["x", "y"]);
    }
}
