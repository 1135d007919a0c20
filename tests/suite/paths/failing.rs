//! Batches that keep failing, in turns and in rounds: the recipient is blocked, or the cause goes into quarantine.

use eventbox::{CloudEvent, Event, Outcome, PoisonPolicy, admin, limits::POISON_CODE};

use super::by_every_way;
use super::reducers::{Decided, Seen, meddled, reduce, remember, seen, text};
use super::ways::{Bounds, Way, emit, it, turn_of_it, waiting};
use crate::support::{TestDb, TestEngine};

/// Cannot decide on any batch with an event `bad`.
fn refusing(events: &[Event], seen: Seen) -> Decided {
    if events.iter().any(|event| event.value().starts_with(b"bad")) {
        return Err("bad\0 event".into());
    }
    remember(events, seen)
}

async fn failures<B: TestEngine>(db: &TestDb<B>) -> i64 {
    db.number("SELECT coalesce(sum(attempts), 0) FROM eventbox_failure").await
}

/// Returns the values of the events in quarantine, in order.
async fn aside<B: TestEngine>(db: &TestDb<B>) -> Vec<String> {
    admin::quarantined(&db.pool, &it(), None, 100).await.unwrap().iter().map(|dead| text(&dead.event)).collect()
}

by_every_way! {
    /// One poison event among many goes into quarantine with its reason. All others are processed, each once and in
    /// order.
    async fn one_poison_event_is_taken_aside_and_the_rest_proceeds(db, way) {
        let values: Vec<String> = (0..200).map(|n| if n == 117 { "bad".to_owned() } else { n.to_string() }).collect();
        emit(db, values.clone()).await;
        let worked = way.drain_with(db, reduce(refusing), Bounds::isolating(2)).await;
        assert_eq!((worked.quarantined, worked.consumed), (1, 199 + way.mates()), "{worked:?}");
        assert_eq!(seen(db).await, values.into_iter().filter(|value| value != "bad").collect::<Vec<_>>());
        let aside = admin::quarantined(&db.pool, &it(), None, 10).await.unwrap();
        assert_eq!((aside.len(), aside[0].code.as_str(), aside[0].event.value()), (1, POISON_CODE, b"bad".as_slice()));
        assert!(aside[0].reason.contains("bad\u{fffd} event") && aside[0].attempts >= 2, "{:?}", aside[0].reason);
        assert_eq!(failures(db).await, 0);
    }

    /// Several poison events go into quarantine, also next to each other and at both ends.
    async fn every_poison_event_is_found(db, way) {
        emit(db, ["bad 1", "a", "bad 2", "bad 3", "b", "c", "bad 4"]).await;
        way.drain_with(db, reduce(refusing), Bounds::isolating(2)).await;
        assert_eq!(
            (seen(db).await, aside(db).await),
            (
                vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
                vec!["bad 1".to_owned(), "bad 2".to_owned(), "bad 3".to_owned(), "bad 4".to_owned()],
            )
        );
    }

    /// The library also finds an event whose decision breaks the rules, or a limit.
    async fn a_decision_that_is_refused_is_a_poison_too(db, way) {
        emit(db, ["a", "bad", "b"]).await;
        let too_long = reduce(|events: &[Event], seen: Seen| {
            let long = events
                .iter()
                .filter(|event| event.value() == b"bad")
                .map(|_| (it(), Event::new(vec![0; eventbox::limits::MAX_VALUE_BYTES + 1])));
            Ok(remember(events, seen)?.emitting(long))
        });
        way.drain_with(db, too_long, Bounds::isolating(1)).await;
        assert_eq!((seen(db).await, aside(db).await), (vec!["a".to_owned(), "b".to_owned()], vec!["bad".to_owned()]));
    }

    /// With the policy to block, the events wait in order, however often the batch fails.
    async fn a_blocked_box_waits_in_order(db, way) {
        emit(db, ["a", "bad", "b"]).await;
        let bounds = Bounds { poison: PoisonPolicy::Block, ..Bounds::default() };
        let worked = way.work(db, reduce(refusing), bounds, async |worked| worked.failures >= 5).await;
        assert_eq!((worked.turns, worked.quarantined), (way.mates(), 0), "{worked:?}");
        assert_eq!((waiting(db).await, db.count("eventbox_dead_letter").await, turn_of_it(db).await), (3, 0, 0));
        db.run("DELETE FROM eventbox_failure").await;
        way.drain(db, reduce(remember)).await;
        assert_eq!(seen(db).await, ["a", "bad", "b"]);
    }

    /// A turn clears the failures: only failures in a row count.
    async fn a_success_takes_the_failures_back(db, way) {
        emit(db, ["bad"]).await;
        let worked =
            way.work(db, reduce(refusing), Bounds::isolating(1_000), async |worked| worked.failures >= 2).await;
        assert!(failures(db).await >= 2 && worked.quarantined == 0, "{worked:?}");
        // The pause of the recipient is over.
        db.run("UPDATE eventbox_failure SET next_attempt_at_us = 0").await;
        way.drain_with(db, reduce(remember), Bounds::isolating(1_000)).await;
        assert_eq!((failures(db).await, seen(db).await), (0, vec!["bad".to_owned()]));
    }

    /// A lost race is no event's fault: no failure is counted, and no event goes into quarantine.
    async fn a_lost_race_is_no_failure(db, way) {
        emit(db, ["a"]).await;
        let rival = db.open(1);
        let overtaken = meddled(reduce(remember), move |decision| {
            let rival = rival.clone();
            async move {
                if decision <= 10 {
                    let turn = admin::standing(&rival, &it()).await.unwrap().turn;
                    admin::set_state(&rival, &it(), turn, None).await.unwrap();
                }
            }
        });
        let worked = way.drain_with(db, overtaken, Bounds::isolating(1)).await;
        assert!(worked.contention >= 3 && worked.failures == 0 && worked.quarantined == 0, "{worked:?}");
        assert_eq!((db.count("eventbox_dead_letter").await, failures(db).await), (0, 0));
        assert_eq!(seen(db).await, ["a"]);
    }

    /// A paused recipient is not processed, and its reducer is not called. It goes on when it is resumed.
    async fn a_paused_recipient_is_not_processed(db, way) {
        emit(db, ["a"]).await;
        assert!(admin::pause(&db.pool, &it()).await.unwrap());
        let turn = turn_of_it(db).await;
        let never = reduce(|_: &[Event], _: Seen| -> Decided { panic!("it is paused") });
        let worked = way.work(db, never, Bounds::default(), async |worked| {
            worked.rounds > 0 && { db.count("eventbox_event WHERE recipient LIKE 'cell/mate%'").await == 0 }
        });
        let worked = match way {
            // No other recipient waits, and a runtime begins no round for a paused recipient.
            Way::RoundOfOne => tokio::time::timeout(std::time::Duration::from_millis(500), worked).await.ok(),
            _ => Some(worked.await),
        };
        assert!(worked.is_none_or(|worked| worked.failures == 0 && worked.turns == way.mates()));
        assert_eq!((waiting(db).await, turn_of_it(db).await), (1, turn));
        assert!(admin::resume(&db.pool, &it()).await.unwrap());
        way.drain(db, reduce(remember)).await;
        assert_eq!(seen(db).await, ["a"]);
    }

    /// An operator pauses the recipient between the listing and the commit. The decision does not happen.
    async fn a_pause_comes_first(db, way) {
        emit(db, ["a"]).await;
        let operator = db.open(1);
        let pausing = meddled(
            reduce(|events: &[Event], seen: Seen| {
                let message = CloudEvent::builder("cells", "seen").build()?;
                Ok::<Outcome<Seen>, _>(remember(events, seen)?.publishing([message]))
            }),
            move |decision| {
                let operator = operator.clone();
                async move {
                    if decision == 1 {
                        assert!(admin::pause(&operator, &it()).await.unwrap());
                    }
                }
            },
        );
        way.work(db, pausing, Bounds::default(), async |worked| worked.contention > 0 || way == Way::Turn).await;
        assert_eq!((waiting(db).await, db.count("eventbox_outbox").await, seen(db).await), (1, 0, vec![]));
    }
}
