//! The built-in state: the decision of a reducer commits as a whole in one turn, or not at all.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use eventbox::{BoxError, CloudEvent, Error, Event, Misuse, Next, Outcome, PostProcess};
use futures_util::future::join_all;

use super::counts::{Counts, MANY, airport, counting, counts, counts_of, emit, reduce};
use crate::support::on_every_engine;

const FEW: NonZeroU32 = NonZeroU32::new(3).unwrap();

on_every_engine! {
    /// Reducers that race with small batches count each event once. The turns have no gap.
    async fn racing_reducers_count_each_event_once(db) {
        const EVENTS: usize = 120;
        let to = airport("JFK");
        let turns = AtomicUsize::new(0);
        let consumed = AtomicUsize::new(0);
        let sender = async {
            for _ in 0..EVENTS / 4 {
                emit(db, &to, &["departed", "departed", "departed", "cancelled"]).await;
            }
        };
        let racer = |pool| {
            let (to, turns, consumed) = (&to, &turns, &consumed);
            async move {
                while consumed.load(Ordering::SeqCst) < EVENTS {
                    match eventbox::reduce_batch(&pool, to, &reduce(counting), FEW).await {
                        Ok(turn) => {
                            consumed.fetch_add(turn.consumed, Ordering::SeqCst);
                            turns.fetch_add(usize::from(turn.number.is_some()), Ordering::SeqCst);
                        }
                        Err(error) => assert!(error.is_contention(), "{error:?}"),
                    }
                }
            }
        };
        tokio::join!(sender, join_all((0..4).map(|_| racer(db.open(1)))));
        let wanted = counts([("cancelled", EVENTS as i64 / 4), ("departed", EVENTS as i64 * 3 / 4)]);
        assert_eq!(counts_of(db, &to).await, (turns.load(Ordering::SeqCst) as i64, Some(wanted)));
        assert_eq!(consumed.load(Ordering::SeqCst), EVENTS);
        assert_eq!(db.count("eventbox_event").await, 0);
    }

    /// The state, the removal of the events, the messages and the emitted events commit together.
    async fn everything_of_an_outcome_commits_together(db) {
        let (to, other) = (airport("JFK"), airport("EWR"));
        emit(db, &to, &["a", "b", "old"]).await;
        let hooks = Arc::new(AtomicUsize::new(0));
        let hook = |wanted: usize| {
            let hooks = Arc::clone(&hooks);
            PostProcess::new(move || async move {
                assert_eq!(hooks.fetch_add(1, Ordering::SeqCst), wanted);
                Ok(())
            })
        };
        let reducer = reduce(|to, events, _| {
            let late = CloudEvent::builder("flights", "flight.delayed").payload("UA").build()?;
            Ok(Outcome::to(counts([("seen", 2)]))
                .consuming(&events[..2])
                .garbage([&events[2]])
                .publishing([late])
                .emitting([(airport("EWR"), Event::new("hello").named("h")), (to.clone(), Event::new("again"))])
                .emitting([(airport("EWR"), Event::new("hello").named("h"))])
                .post_process(hook(0))
                .post_process(hook(1)))
        });
        let turn = eventbox::reduce_batch(&db.pool, &to, &reducer, MANY).await.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.garbage, turn.published.len()), (Some(1), 2, 1, 1));
        assert!(turn.hook_errors.is_none());
        assert_eq!(hooks.load(Ordering::SeqCst), 2);
        assert_eq!(counts_of(db, &to).await, (1, Some(counts([("seen", 2)]))));
        assert_eq!(db.count("eventbox_outbox").await, 1);

        let boxes = db.texts("SELECT recipient FROM eventbox_event ORDER BY recipient").await;
        assert_eq!(boxes, [other.as_str(), to.as_str()], "the second of one name is a duplicate");
        let _ = eventbox::reduce_batch(&db.pool, &to, &reduce(counting), MANY).await.unwrap();
        assert_eq!(counts_of(db, &to).await, (2, Some(counts([("again", 1), ("seen", 2)]))));
    }

    /// The messages of one turn are stored together and complete, whatever their number.
    async fn published_messages_lie_in_the_outbox(db) {
        let to = airport("JFK");
        for count in [1, 10, 11, 100, 101, 500, 501, 1_200] {
            db.run("DELETE FROM eventbox_outbox").await;
            emit(db, &to, &["a"]).await;
            let publish = reduce(move |_, events, _| {
                let message =
                    |n: usize| CloudEvent::builder("flights", "flight.delayed").payload(n.to_string()).build();
                let messages = (0..count).map(message).collect::<Result<Vec<_>, _>>()?;
                Ok(Outcome::stay().consuming(events).publishing(messages))
            });
            let turn = eventbox::reduce_batch(&db.pool, &to, &publish, MANY).await.unwrap();
            assert_eq!((turn.published.len(), db.count("eventbox_outbox").await), (count, count as i64));
            let bytes: usize = turn.published.iter().map(|stored| stored.event().encode().len()).sum();
            let whole = "attempts = 1 AND source = 'flights' AND type = 'flight.delayed'
                         AND next_attempt_at_us = created_at_us + 10000000";
            for (what, wanted) in [
                ("count(DISTINCT id)", count),
                ("count(DISTINCT shard)", 1),
                ("count(*)", count),
                ("CAST(sum(length(payload)) AS bigint)", bytes),
            ] {
                let found = db.number(format!("SELECT {what} FROM eventbox_outbox WHERE {whole}")).await;
                assert_eq!(found, wanted as i64, "{what} of {count}");
            }
            assert!(turn.published.iter().all(|stored| stored.shard() == turn.published[0].shard()));
        }
    }

    /// A turn that fails stores none of its parts.
    async fn a_failure_anywhere_changes_nothing(db) {
        let to = airport("JFK");
        emit(db, &to, &["a"]).await;
        let outcome = |events: &[Event]| -> Result<Outcome<Counts>, BoxError> {
            let late = CloudEvent::builder("flights", "flight.delayed").build()?;
            let emitted = [(airport("EWR"), Event::new("hello"))];
            Ok(Outcome::to(counts([("seen", 1)])).consuming(events).publishing([late]).emitting(emitted))
        };
        let whole = reduce(|_, events, _| outcome(events));
        db.run("ALTER TABLE eventbox_outbox RENAME TO elsewhere").await;
        let error = eventbox::reduce_batch(&db.pool, &to, &whole, MANY).await.unwrap_err();
        assert!(matches!(error, Error::Database { .. }), "{error:?}");
        db.run("ALTER TABLE elsewhere RENAME TO eventbox_outbox").await;

        let too_long = reduce(|_, events, _| {
            Ok(outcome(events)?
                .emitting([(airport("LGA"), Event::new(vec![0; eventbox::limits::MAX_VALUE_BYTES + 1]))]))
        });
        let error = eventbox::reduce_batch(&db.pool, &to, &too_long, MANY).await.unwrap_err();
        let Error::Processor { source, .. } = &error else { panic!("{error:?}") };
        assert!(
            matches!(source.downcast_ref(), Some(Error::Misuse { misuse: Misuse::TooLong { .. }, .. })),
            "{source:?}"
        );
        assert!(source.to_string().contains("airport/LGA"), "{source}");

        for table in ["eventbox_state", "eventbox_outbox"] {
            assert_eq!(db.count(table).await, 0, "{table}");
        }
        assert_eq!(db.texts("SELECT recipient FROM eventbox_event").await, [to.as_str()]);
        let _ = eventbox::reduce_batch(&db.pool, &to, &whole, MANY).await.unwrap();
        assert_eq!(counts_of(db, &to).await, (1, Some(counts([("seen", 1)]))));
    }

    /// A reducer that fails or panics ends its own turn and nothing else.
    async fn a_panic_is_an_error(db) {
        let to = airport("JFK");
        emit(db, &to, &["a"]).await;
        let panicking = reduce(|_, _, _| panic!("no such airport"));
        let failing = reduce(|_, _, _| Err("no such airport".into()));
        for (error, wanted) in [
            (
                eventbox::reduce_batch(&db.pool, &to, &panicking, MANY).await.unwrap_err(),
                "it panicked: no such airport",
            ),
            (eventbox::reduce_batch(&db.pool, &to, &failing, MANY).await.unwrap_err(), "no such airport"),
        ] {
            let Error::Processor { source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(source.to_string(), wanted);
        }
        assert_eq!((db.count("eventbox_state").await, db.count("eventbox_event").await), (0, 1));
        let _ = eventbox::reduce_batch(&db.pool, &to, &reduce(counting), MANY).await.unwrap();
        assert_eq!(counts_of(db, &to).await.0, 1);
    }

    /// A reducer without a decision makes no turn.
    async fn nothing_is_no_turn(db) {
        let to = airport("JFK");
        emit(db, &to, &["a"]).await;
        let turn = eventbox::reduce_batch(&db.pool, &to, &reduce(|_, _, _| Ok(Outcome::stay())), MANY).await.unwrap();
        assert_eq!((turn.number, db.count("eventbox_state").await, db.count("eventbox_event").await), (None, 0, 1));
    }
}

/// A decision is data, so a test needs no database.
#[test]
fn an_outcome_can_be_read() {
    let outcome = counting(&airport("JFK"), &[Event::new("a")], Counts::new()).unwrap();
    assert_eq!(outcome.next, Next::To(counts([("a", 1)])));
    assert_eq!((outcome.consumed.len(), outcome.emitted.len(), outcome.published.len()), (1, 0, 0));
}
