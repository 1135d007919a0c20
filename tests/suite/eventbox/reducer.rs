//! The built-in state: the decision of a reducer commits as a whole in one turn, or not at all.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use eventbox::{
    BoxError, CloudEvent, Error, Event, Misuse, Next, Outcome, PostProcess, Protobuf, Recipient, Reducer, StateCodec,
    StateError,
};
use futures_util::future::join_all;

use crate::support::{CellEngine, TestDb, TestEngine, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
const FEW: NonZeroU32 = NonZeroU32::new(3).unwrap();

fn airport(code: &str) -> Recipient {
    Recipient::new("airport", code).unwrap()
}

/// Reduces with a closure.
struct Reduce<F>(F);

type Counts = BTreeMap<String, i64>;

impl<F> Reducer for Reduce<F>
where
    F: Fn(&Recipient, &[Event], Counts) -> Result<Outcome<Counts>, BoxError> + Send + Sync,
{
    type State = Counts;

    fn reduce(&self, to: &Recipient, events: &[Event], state: Counts) -> Result<Outcome<Counts>, BoxError> {
        (self.0)(to, events, state)
    }
}

fn reduce<F>(with: F) -> Reduce<F>
where
    F: Fn(&Recipient, &[Event], Counts) -> Result<Outcome<Counts>, BoxError> + Send + Sync,
{
    Reduce(with)
}

/// Counts each value.
fn counting(_to: &Recipient, events: &[Event], mut counts: Counts) -> Result<Outcome<Counts>, BoxError> {
    for event in events {
        *counts.entry(String::from_utf8(event.value().to_vec())?).or_default() += 1;
    }
    Ok(Outcome::to(counts).consuming(events))
}

async fn emit<B: CellEngine>(db: &TestDb<B>, to: &Recipient, values: &[&'static str]) {
    let mut tx = eventbox::begin(&db.pool).await.unwrap();
    for value in values {
        B::emit(&mut tx, to, Event::new(*value)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn counts_of<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> (i64, Option<Counts>) {
    let at = eventbox::state::<Counts>(&db.pool, of).await.unwrap().expect("it had a turn");
    (at.turn, at.state)
}

fn counts<const N: usize>(of: [(&str, i64); N]) -> Counts {
    of.into_iter().map(|(value, count)| (value.to_owned(), count)).collect()
}

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

    /// A removed entity keeps its turn, and begins again from the default state.
    async fn a_gone_state_keeps_the_turn(db) {
        let to = airport("JFK");
        emit(db, &to, &["a", "b"]).await;
        let _ = eventbox::reduce_batch(&db.pool, &to, &reduce(counting), MANY).await.unwrap();
        emit(db, &to, &["close"]).await;
        let closing = reduce(|_, events, counts| {
            assert!(counts.contains_key("a"), "it is given what is stored");
            Ok(Outcome::gone().consuming(events))
        });
        let _ = eventbox::reduce_batch(&db.pool, &to, &closing, MANY).await.unwrap();
        assert_eq!(counts_of(db, &to).await, (2, None));
        let again = reduce(|_, _, counts| {
            assert_eq!(counts, Counts::new(), "what is gone is the default");
            Ok(Outcome::gone())
        });
        assert_eq!(eventbox::reduce_batch(&db.pool, &to, &again, MANY).await.unwrap().number, None, "gone is gone");
        emit(db, &to, &["c"]).await;
        let _ = eventbox::reduce_batch(&db.pool, &to, &reduce(counting), MANY).await.unwrap();
        assert_eq!(counts_of(db, &to).await, (3, Some(counts([("c", 1)]))));
    }

    /// A state that was changed in place is saved. A → B → A raises the turn. A state equal to the stored state is no
    /// turn.
    async fn a_state_changed_in_place_is_saved(db) {
        let to = airport("JFK");
        let toggling = reduce(|_, events, mut counts| {
            if !events.is_empty() && counts.remove("open").is_none() {
                counts.insert("open".to_owned(), 1);
            }
            Ok(Outcome::to(counts).consuming(events))
        });
        for (turn, wanted) in [(1, counts([("open", 1)])), (2, counts([])), (3, counts([("open", 1)]))] {
            emit(db, &to, &["toggle"]).await;
            assert_eq!(eventbox::reduce_batch(&db.pool, &to, &toggling, MANY).await.unwrap().number, Some(turn));
            assert_eq!(counts_of(db, &to).await, (turn, Some(wanted)));
            assert_eq!(eventbox::reduce_batch(&db.pool, &to, &toggling, MANY).await.unwrap().number, None);
        }
        let forgetful = reduce(|_, events, mut counts| {
            counts.clear();
            Ok(Outcome::stay().consuming(events))
        });
        emit(db, &to, &["x"]).await;
        assert_eq!(eventbox::reduce_batch(&db.pool, &to, &forgetful, MANY).await.unwrap().number, Some(4));
        assert_eq!(counts_of(db, &to).await, (4, Some(counts([("open", 1)]))), "staying keeps what is stored");
    }

    /// A turn that was decided on A does not commit after another writer went A → B → A.
    async fn a_decision_on_an_old_state_is_made_again(db) {
        let to = airport("JFK");
        emit(db, &to, &["a"]).await;
        let _ = eventbox::reduce_batch(&db.pool, &to, &reduce(counting), MANY).await.unwrap();
        emit(db, &to, &["a"]).await;
        let attempts = AtomicUsize::new(0);
        let racer = db.open(1);
        let racing = reduce(|to, events, counts| {
            if attempts.fetch_add(1, Ordering::SeqCst) == 0 {
                tokio::task::block_in_place(|| {
                    tokio::runtime::Handle::current().block_on(async {
                        for next in [Counts::new(), counts.clone()] {
                            let set = reduce(move |_, _, _| Ok(Outcome::to(next.clone())));
                            let _ = eventbox::reduce_batch(&racer, to, &set, MANY).await.unwrap();
                        }
                    });
                });
            }
            counting(to, events, counts)
        });
        let turn = eventbox::reduce_batch(&db.pool, &to, &racing, MANY).await.unwrap();
        assert_eq!((turn.number, turn.contention, attempts.load(Ordering::SeqCst)), (Some(4), 1, 2));
        assert_eq!(counts_of(db, &to).await, (4, Some(counts([("a", 2)]))));
    }

    /// A state over the limit is refused with an error that names the recipient and the limit. No event is lost.
    async fn a_state_over_its_limit_is_refused(db) {
        struct Small(usize);
        impl Reducer for Small {
            type State = String;
            fn reduce(
                &self,
                _to: &Recipient,
                events: &[Event],
                mut state: String,
            ) -> Result<Outcome<String>, BoxError> {
                events.iter().for_each(|event| state.push_str(std::str::from_utf8(event.value()).unwrap()));
                Ok(Outcome::to(state).consuming(events))
            }
            fn max_state_bytes(&self) -> usize {
                self.0
            }
        }
        let to = airport("JFK");
        emit(db, &to, &["12345678"]).await;
        assert_eq!(Small(10).max_state_bytes() + 1, br#""12345678"x"#.len());
        let _ = eventbox::reduce_batch(&db.pool, &to, &Small(10), MANY).await.unwrap();
        emit(db, &to, &["9"]).await;
        let error = eventbox::reduce_batch(&db.pool, &to, &Small(10), MANY).await.unwrap_err();
        let Error::State { source: source @ StateError::TooLarge { bytes: 11, limit: 10, .. }, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(source.to_string(), "the new state of airport/JFK has 11 bytes, over the limit of 10");
        let at = eventbox::state::<String>(&db.pool, &to).await.unwrap().unwrap();
        assert_eq!((at.turn, at.state.as_deref(), db.count("eventbox_event").await), (1, Some("12345678"), 1));
        let _ = eventbox::reduce_batch(&db.pool, &to, &Small(11), MANY).await.unwrap();
        assert_eq!(reduce(counting).max_state_bytes(), 1 << 20);
    }

    /// A state that cannot be encoded, or cannot be decoded, is reported as such. No event is lost.
    async fn a_state_without_encoding_loses_nothing(db) {
        struct Picky;
        impl StateCodec<i64> for Picky {
            fn encode(state: &i64) -> Result<Vec<u8>, BoxError> {
                match state {
                    0..100 => Ok(vec![*state as u8]),
                    100 => Err("no more than two digits".into()),
                    _ => panic!("far too many digits"),
                }
            }
            fn decode(bytes: &[u8]) -> Result<i64, BoxError> {
                match bytes {
                    [13] => panic!("an unlucky byte"),
                    [byte] => Ok((*byte).into()),
                    other => Err(format!("{} bytes", other.len()).into()),
                }
            }
        }
        struct Last;
        impl Reducer<Picky> for Last {
            type State = i64;
            fn reduce(&self, _to: &Recipient, events: &[Event], state: i64) -> Result<Outcome<i64>, BoxError> {
                let last = events.last().map_or(Ok(state), Event::json)?;
                Ok(Outcome::to(last).consuming(events))
            }
        }
        let to = airport("JFK");
        emit(db, &to, &["7"]).await;
        let _ = eventbox::reduce_batch(&db.pool, &to, &Last, MANY).await.unwrap();
        for (value, wanted) in [("100", "no more than two digits"), ("101", "far too many digits")] {
            emit(db, &to, &[value]).await;
            let error = eventbox::reduce_batch(&db.pool, &to, &Last, MANY).await.unwrap_err();
            let Error::State { source: StateError::Encode { recipient, source, .. }, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(*recipient == to && source.to_string().contains(wanted), "{source}");
        }
        emit(db, &to, &["9"]).await;
        assert_eq!(eventbox::reduce_batch(&db.pool, &to, &Last, MANY).await.unwrap().consumed, 3);
        assert_eq!(eventbox::state_as::<Picky, i64>(&db.pool, &to).await.unwrap().unwrap().state, Some(9));

        emit(db, &to, &["1"]).await;
        for (stored, wanted) in [("x'0d'", "an unlucky byte"), ("x'0102'", "2 bytes"), ("x''", "0 bytes")] {
            let stored = if Engine::FOLDER == "postgres" {
                format!("'\\{}'::bytea", stored.replace('\'', ""))
            } else {
                stored.to_owned()
            };
            db.run(format!("UPDATE eventbox_state SET state = {stored}")).await;
            let error = eventbox::reduce_batch(&db.pool, &to, &Last, MANY).await.unwrap_err();
            let Error::State { source: StateError::Decode { recipient, source, .. }, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(*recipient == to && source.to_string().contains(wanted), "{source}");
        }
        let error = eventbox::state::<i64>(&db.pool, &to).await.unwrap_err();
        assert!(matches!(error, Error::State { source: StateError::Decode { .. }, .. }), "{error:?}");
        assert!(error.to_string().contains("airport/JFK"), "{error}");
        assert_eq!(db.count("eventbox_event").await, 1);
    }

    /// A read from outside returns nothing before the first turn, the state in the codec that the caller names, and
    /// nothing for a recipient with a similar key.
    async fn a_state_is_read_from_outside(db) {
        #[derive(Clone, PartialEq, prost::Message)]
        struct Seen {
            #[prost(uint64, tag = "1")]
            events: u64,
        }
        struct Seeing;
        impl Reducer<Protobuf> for Seeing {
            type State = Seen;
            fn reduce(&self, _to: &Recipient, events: &[Event], state: Seen) -> Result<Outcome<Seen>, BoxError> {
                Ok(Outcome::to(Seen { events: state.events + events.len() as u64 }).consuming(events))
            }
        }
        let to = airport("JFK");
        emit(db, &to, &["a", "b"]).await;
        assert_eq!(eventbox::state::<Counts>(&db.pool, &to).await.unwrap(), None);
        let _ = eventbox::reduce_batch(&db.pool, &to, &Seeing, MANY).await.unwrap();
        let at = eventbox::state_as::<Protobuf, Seen>(&db.pool, &to).await.unwrap().unwrap();
        assert_eq!((at.turn, at.state), (1, Some(Seen { events: 2 })));
        assert!(eventbox::state_as::<Protobuf, Seen>(&db.pool, &airport("JF")).await.unwrap().is_none());
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
