//! Kinds on hold: paused kinds, and kinds that publish into a full outbox.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use eventbox::runtime::Runtime;
use eventbox::{BoxError, CloudEvent, Error, Event, Outcome, Recipient, Reducer, Status, admin};

use super::{STOP, Tally, config, emit, idle, seen, tally, tallying};
use crate::support::{CellEngine, SOON, eventually, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Publishes every event.
struct Publisher;

impl Reducer for Publisher {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let messages = events
            .iter()
            .map(|event| CloudEvent::builder("tests", "published").payload(event.value().to_vec()).build());
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::to(count + events.len() as u64).consuming(events).publishing(messages))
    }
}

on_every_engine! {
    /// No turn of a paused kind begins, by any caller. Its events wait and other kinds go on. The kind goes on when it
    /// is resumed.
    async fn a_paused_kind_waits(db) {
        assert!(admin::pause_kind(&db.pool, "tally").await.unwrap());
        assert!(!admin::pause_kind(&db.pool, "tally").await.unwrap());
        let receipt = Engine::emit_on(&db.pool, &tally(1), Event::new("x")).await.unwrap();
        let runtime = Runtime::builder(db.open(5)).reducer("tally", Tally).reducer("other", Tally).config(config());
        let runtime = runtime.start().await.unwrap();
        let other = Recipient::new("other", "1").unwrap();
        // The other kind goes on for longer than a scan of all shards takes.
        for n in 0..5 {
            let receipt = Engine::emit_on(&db.pool, &other, Event::new(n.to_string())).await.unwrap();
            assert!(matches!(runtime.wait_processed(&receipt, SOON).await.unwrap(), Status::Done { .. }));
        }
        assert_eq!(runtime.wait_processed(&receipt, SOON).await.unwrap(), Status::Paused);
        let refused = eventbox::reduce_batch(&db.pool, &tally(1), &Tally, MANY).await.unwrap_err();
        assert!(matches!(refused, Error::Paused { .. }), "{refused}");

        assert!(admin::resume_kind(&db.pool, "tally").await.unwrap());
        assert!(matches!(runtime.wait_processed(&receipt, SOON).await.unwrap(), Status::Done { turn: 1 }));
        assert_eq!(admin::paused_kinds(&db.pool).await.unwrap(), []);

        // In the running runtime, recipients that are known to have events wait too.
        admin::pause_kind(&db.pool, "tally").await.unwrap();
        eventually(SOON, async || {
            let receipt = Engine::emit_on(&db.pool, &tally(2), Event::new("y")).await.unwrap();
            runtime.wait_processed(&receipt, Duration::from_millis(200)).await.unwrap() == Status::Paused
        }).await;
        admin::resume_kind(&db.pool, "tally").await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        for kind in ["", "a/b"] {
            assert!(matches!(admin::pause_kind(&db.pool, kind).await.unwrap_err(), Error::Misuse { .. }));
        }
    }

    /// Over the quota of the outbox only the kinds that publish wait. They go on when the outbox has been delivered.
    async fn a_full_outbox_slows_down_kinds_that_publish(db) {
        let mut config = config();
        config.outbox_quota = NonZeroU64::new(20);
        let runtime =
            Runtime::builder(db.open(5)).reducer("publisher", Publisher).reducer("tally", Tally).config(config);
        let runtime = runtime.start().await.unwrap();
        let publisher = Recipient::new("publisher", "1").unwrap();
        emit(db, &publisher, 0..30).await;
        idle(db).await;
        assert_eq!(db.count("eventbox_outbox").await, 30);
        // The runtime notices the full outbox at its next read. From then on new events of the kind wait.
        eventually(SOON, async || {
            let receipt = Engine::emit_on(&db.pool, &publisher, Event::new("waits")).await.unwrap();
            runtime.wait_processed(&receipt, Duration::from_millis(300)).await.unwrap() == Status::Waiting
        }).await;
        let published = db.count("eventbox_outbox").await;
        emit(db, &tally(1), ["x"]).await;
        eventually(SOON, async || !seen(db, &tally(1)).await.is_empty()).await;
        assert_eq!(db.count("eventbox_outbox").await, published);
        db.run("DELETE FROM eventbox_outbox").await;
        idle(db).await;
        assert!(db.count("eventbox_outbox").await > 0);
        runtime.stop(STOP).await;
    }

    /// The runtime finds a resumed recipient, and a replayed event, at once and not by the poll.
    async fn a_change_by_an_operator_is_noticed_at_once(db) {
        let mut config = config();
        (config.poll_interval, config.min_poll_interval, config.remote_wake_ups) =
            (Duration::from_secs(3_600), Duration::from_secs(3_600), false);
        let receipt = Engine::emit_on(&db.pool, &tally(1), Event::new("x")).await.unwrap();
        admin::quarantine(&db.pool, &tally(1), &[receipt.id().unwrap()], "look at it").await.unwrap();
        admin::pause(&db.pool, &tally(2)).await.unwrap();
        emit(db, &tally(2), ["y"]).await;
        let runtime = tallying(db.open(4)).config(config).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        emit(db, &tally(3), ["z"]).await;
        eventually(SOON, async || !seen(db, &tally(3)).await.is_empty()).await;
        admin::replay(&db.pool, &tally(1), &[receipt.id().unwrap()]).await.unwrap();
        admin::resume(&db.pool, &tally(2)).await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(
            (seen(db, &tally(1)).await, seen(db, &tally(2)).await),
            (vec!["x".to_owned()], vec!["y".to_owned()])
        );
    }
}
