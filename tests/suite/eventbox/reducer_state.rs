//! The states of reducers: their saves, their removal, their limit, and their reads from outside.

use std::sync::atomic::{AtomicUsize, Ordering};

use eventbox::{BoxError, Error, Event, Outcome, Protobuf, Recipient, Reducer, StateCodec, StateError};

use super::counts::{Counts, MANY, airport, counting, counts, counts_of, emit, reduce};
use crate::support::{TestEngine, on_every_engine};

on_every_engine! {
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
}
