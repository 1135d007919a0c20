//! A state comes back as it went in, or the turn that made it fails.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::marker::PhantomData;

use eventbox::{
    BoxError, Error, Event, Outcome, Protobuf, Recipient, Reducer, StateCodec, StateError, admin,
    limits::MAX_JSON_DEPTH,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::extremes::{Delays, Either, Keeps, MANY, airport, delays, emit, emit_x, nested};
use crate::support::{CellEngine, TestDb, on_every_engine};

/// Stores the state, and checks that the next turn and an outside reader see the same state.
async fn comes_back<B: CellEngine, S>(db: &TestDb<B>, state: S)
where
    S: Serialize + DeserializeOwned + Default + Clone + Send + Sync + PartialEq + std::fmt::Debug,
{
    let to = airport(&uuid::Uuid::new_v4().to_string());
    B::emit_on(&db.pool, &to, Event::new("x")).await.unwrap();
    let _ = eventbox::reduce_batch(&db.pool, &to, &Keeps(state.clone()), MANY).await.unwrap();
    let read = eventbox::state::<S>(&db.pool, &to).await.unwrap().unwrap();
    assert_eq!((read.turn, read.state), (1, Some(state)));
}

/// Checks that the turn fails with an error of the state that contains these words. Nothing has changed, and another
/// state can still be stored.
async fn is_refused<B: CellEngine, S>(db: &TestDb<B>, state: S, words: &str)
where
    S: Serialize + DeserializeOwned + Default + Clone + Send + Sync,
{
    let to = airport(&uuid::Uuid::new_v4().to_string());
    B::emit_on(&db.pool, &to, Event::new("x")).await.unwrap();
    let error = eventbox::reduce_batch(&db.pool, &to, &Keeps(state), MANY).await.unwrap_err();
    let Error::State { source, .. } = &error else { panic!("{error:?}") };
    let (StateError::Encode { recipient, source, .. } | StateError::NotReadBack { recipient, source, .. }) = source
    else {
        panic!("{source:?}")
    };
    assert!(*recipient == to && source.to_string().contains(words), "{source}");
    assert!(eventbox::state::<S>(&db.pool, &to).await.unwrap().is_none());
    let _ = eventbox::reduce_batch(&db.pool, &to, &Keeps(S::default()), MANY).await.unwrap();
}

/// A variant of a struct is two levels of JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
enum Tree {
    #[default]
    Leaf,
    Node(Box<Tree>),
    Named {
        child: Box<Tree>,
    },
    Pair(Box<Tree>, u8),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Wrapped<T>(T);

/// A field of the struct and a field of the flattened struct have one name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Flat {
    total: u64,
    #[serde(flatten)]
    rest: BTreeMap<String, u64>,
}

/// A number that serde cannot keep for a flattened struct.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Wide {
    #[serde(flatten)]
    rest: BTreeMap<String, u128>,
}

/// Serde writes this field and never reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct HalfRead {
    #[serde(skip_deserializing)]
    count: u64,
}

on_every_engine! {
    /// Each of these was once committed, and could never be read again or came back as something else.
    async fn a_state_that_would_not_come_back_is_refused(db) {
        is_refused(db, delays(f64::NAN), "legs.1.UA 1545: NaN is no number of JSON").await;
        is_refused(db, delays(f64::NEG_INFINITY), "legs.1.UA 1545: an infinite number").await;
        is_refused(db, Delays { speed: f32::NAN, ..Delays::default() }, "speed: NaN").await;
        is_refused(db, Wrapped(f32::INFINITY), "an infinite number").await;
        is_refused(db, BTreeMap::from([(7, (1, f64::NAN))]), "7.1: NaN").await;
        is_refused(db, Some(Some(f64::NAN)), "NaN").await;

        is_refused(db, nested(MAX_JSON_DEPTH + 1), "MAX_JSON_DEPTH").await;
        is_refused(db, nested(127), "MAX_JSON_DEPTH").await;
        is_refused(db, nested(128), "MAX_JSON_DEPTH").await;
        is_refused(db, nested(1_000), "MAX_JSON_DEPTH").await;
        let odd = |levels: usize| (0..levels).fold(Tree::Leaf, |child, n| {
            let child = Box::new(child);
            match n % 3 {
                0 => Tree::Node(child),
                1 => Tree::Named { child },
                _ => Tree::Pair(child, 7),
            }
        });
        is_refused(db, odd(90), "MAX_JSON_DEPTH").await;
        comes_back(db, odd(60)).await;

        is_refused(db, Some(None::<u8>), "would come back as `None`").await;
        is_refused(db, BTreeMap::from([("gate".to_owned(), Some(None::<String>))]), "gate: `Some`").await;
        is_refused(db, Some(()), "`Some`").await;
        is_refused(db, Some(Unit), "`Some`").await;
        is_refused(db, Some(Value::Null), "`Some`").await;
        is_refused(db, Some(Wrapped(None::<u8>)), "`Some`").await;
        is_refused(db, Some(Some(None::<Box<u8>>)), "`Some`").await;

        is_refused(db, HashMap::from([((1_u8, 2_u8), 3_u8)]), "key must be a string").await;
        is_refused(db, BTreeMap::from([(Some("gate".to_owned()), 1), (None, 2)]), "key must be a string").await;
        is_refused(db, Flat { total: 1, rest: BTreeMap::from([("total".to_owned(), 2)]) }, "duplicate field").await;
        is_refused(db, Wide { rest: BTreeMap::from([("big".to_owned(), u128::MAX)]) }, "").await;
        is_refused(db, HalfRead { count: 7 }, "comes back as another state").await;
        is_refused(db, Either::Whole(7), "comes back as another state").await;
    }

    /// Values that JSON can hold come back with every bit.
    async fn a_state_comes_back_as_it_was_stored(db) {
        let sum: f64 = (0..300).map(|n| 0.1 + f64::from(n) / 1_000.0).sum();
        comes_back(db, sum).await;
        // Generates bits without a seed: 5,000 finite floats of each width.
        let bits = (1..=5_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left((n % 64) as u32));
        let wide: Vec<f64> = bits.clone().map(f64::from_bits).filter(|float| float.is_finite()).collect();
        let narrow: Vec<f32> =
            bits.map(|n| f32::from_bits((n >> 20) as u32)).filter(|float| float.is_finite()).collect();
        comes_back(db, (wide, narrow)).await;
        comes_back(db, vec![f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, f64::EPSILON, 0.1 + 0.2, 74.85]).await;

        let to = airport("zero");
        keep_minus_zero(db, &to).await;

        comes_back(db, (u64::MAX, i64::MIN, u128::MAX, i128::MIN)).await;
        comes_back(db, vec!["\u{0} \u{1f}\"\\/ \u{7f} \u{2028} \u{fffe}".to_owned(), "🛫 é e\u{301}".to_owned()]).await;
        comes_back(db, ('\u{10ffff}', '\0', true, ())).await;
        comes_back(db, nested(MAX_JSON_DEPTH)).await;
        comes_back(
            db,
            (BTreeMap::from([(1_u8, 2)]), BTreeMap::from([(true, 'x')]), BTreeMap::from([(Some("k".to_owned()), 1)])),
        )
        .await;
        comes_back(db, vec![Some(1), None, Some(3)]).await;
        comes_back(db, None::<Option<u8>>).await;
        comes_back(db, Value::Null).await;
        comes_back(db, serde_json::json!({"a": [1.5, null, {"b": -0.0}], "": {}})).await;
        comes_back(db, delays(75.0)).await;
        comes_back(db, Flat { total: 1, rest: BTreeMap::from([("others".to_owned(), 2)]) }).await;
        // Sets and maps without an order are accepted.
        comes_back(
            db,
            (0..500).map(|n| (format!("key {n}"), (n..n + 40).collect())).collect::<HashMap<String, HashSet<u32>>>(),
        )
        .await;
        comes_back(db, (0..40).collect::<BTreeSet<i8>>()).await;
    }

    /// The library refuses the first state of a codec that cannot read what it writes, also of a user's codec.
    /// The same holds for deep messages of protobuf.
    async fn a_codec_proves_itself(db) {
        struct Broken;
        impl StateCodec<u64> for Broken {
            fn encode(state: &u64) -> Result<Vec<u8>, BoxError> {
                Ok(state.to_string().into_bytes())
            }
            fn decode(bytes: &[u8]) -> Result<u64, BoxError> {
                match bytes.len() {
                    1 => Ok(std::str::from_utf8(bytes)?.parse()?),
                    2 => panic!("two digits"),
                    digits => Err(format!("{digits} digits are too many").into()),
                }
            }
        }
        #[derive(Clone, PartialEq, prost::Message)]
        struct Deep {
            #[prost(message, tag = "1")]
            inner: Option<Box<Deep>>,
        }
        struct Counting<C, S>(PhantomData<fn() -> (C, S)>, S);
        impl<C: StateCodec<S>, S: Clone + Default + Send + Sync> Reducer<C> for Counting<C, S> {
            type State = S;
            fn reduce(&self, _to: &Recipient, events: &[Event], _state: S) -> Result<Outcome<S>, BoxError> {
                Ok(Outcome::to(self.1.clone()).consuming(events))
            }
        }
        let to = airport("JFK");
        emit_x(db, &to).await;
        for (state, words) in [(100, "3 digits are too many"), (10, "it panicked: two digits")] {
            let reducer = Counting::<Broken, u64>(PhantomData, state);
            let error = eventbox::reduce_batch(&db.pool, &to, &reducer, MANY).await.unwrap_err();
            let Error::State { source: StateError::NotReadBack { source, .. }, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(source.to_string(), words);
        }
        let _ = eventbox::reduce_batch(&db.pool, &to, &Counting::<Broken, u64>(PhantomData, 7), MANY).await.unwrap();

        let deep = |levels| (0..levels).fold(Deep::default(), |inner, _| Deep { inner: Some(Box::new(inner)) });
        let to = airport("EWR");
        emit_x(db, &to).await;
        let too_deep = Counting::<Protobuf, Deep>(PhantomData, deep(150));
        let error = eventbox::reduce_batch(&db.pool, &to, &too_deep, MANY).await.unwrap_err();
        assert!(matches!(error, Error::State { source: StateError::NotReadBack { .. }, .. }), "{error:?}");
        let _ = eventbox::reduce_batch(&db.pool, &to, &Counting::<Protobuf, Deep>(PhantomData, deep(50)), MANY)
            .await
            .unwrap();
        assert_eq!(eventbox::state_as::<Protobuf, Deep>(&db.pool, &to).await.unwrap().unwrap().state, Some(deep(50)));
    }

    /// A state of zero bytes is a state, and not the default.
    async fn no_bytes_are_a_state(db) {
        #[derive(Debug, Clone, PartialEq)]
        struct Name(String);
        impl Default for Name {
            fn default() -> Self {
                Name("nobody".to_owned())
            }
        }
        struct Bare;
        impl StateCodec<Name> for Bare {
            fn encode(state: &Name) -> Result<Vec<u8>, BoxError> {
                Ok(state.0.clone().into_bytes())
            }
            fn decode(bytes: &[u8]) -> Result<Name, BoxError> {
                Ok(Name(String::from_utf8(bytes.to_vec())?))
            }
        }
        struct Rename;
        impl Reducer<Bare> for Rename {
            type State = Name;
            fn reduce(&self, _to: &Recipient, events: &[Event], state: Name) -> Result<Outcome<Name>, BoxError> {
                let last = events.last().map_or(Ok(state), |event| Ok::<_, BoxError>(Name(event.json()?)))?;
                Ok(Outcome::to(last).consuming(events))
            }
        }
        let (alone, in_a_round) = (airport("alone"), airport("round"));
        let empty = || Event::from_json(&"").unwrap();
        emit(db, &alone, empty()).await;
        let _ = eventbox::reduce_batch(&db.pool, &alone, &Rename, MANY).await.unwrap();
        emit(db, &in_a_round, empty()).await;
        let runtime = eventbox::runtime::Runtime::builder(db.open(4)).reducer("airport", Rename).start().await.unwrap();
        crate::support::eventually(crate::support::SOON, async || db.count("eventbox_event").await == 0).await;
        runtime.stop(crate::support::SOON).await;
        for to in [alone, in_a_round] {
            let read = eventbox::state_as::<Bare, Name>(&db.pool, &to).await.unwrap().unwrap();
            assert_eq!(read.state, Some(Name(String::new())), "{to}");
        }
    }

    /// A state that cannot be decoded can be read raw and repaired, and the repair raises the turn. The waiting event
    /// is not blamed.
    async fn an_unreadable_state_is_mended(db) {
        let to = airport("JFK");
        admin::set_state(&db.pool, &to, 0, Some(b"{\"legs\":[{\"UA\":NaN}]}")).await.unwrap();
        emit_x(db, &to).await;
        for _ in 0..6 {
            let error = eventbox::reduce_batch(&db.pool, &to, &Keeps(delays(1.0)), MANY).await.unwrap_err();
            assert!(matches!(error, Error::State { source: StateError::Decode { .. }, .. }), "{error:?}");
        }
        assert_eq!((db.count("eventbox_dead_letter").await, db.count("eventbox_event").await), (0, 1));
        let stored = admin::stored_state(&db.pool, &to).await.unwrap();
        assert_eq!((stored.turn, stored.state.as_deref()), (1, Some(&b"{\"legs\":[{\"UA\":NaN}]}"[..])));
        assert_eq!(admin::set_state(&db.pool, &to, 1, Some(b"{\"legs\":[]}")).await.unwrap(), 2);
        let _ = eventbox::reduce_batch(&db.pool, &to, &Keeps(delays(1.0)), MANY).await.unwrap();
        assert_eq!(eventbox::state::<Delays>(&db.pool, &to).await.unwrap().unwrap().state, Some(delays(1.0)));

        admin::set_state(&db.pool, &to, 3, Some(b"\xff\0")).await.unwrap();
        assert!(admin::reset_state(&db.pool, &to, 3).await.unwrap_err().is_contention());
        assert_eq!(admin::reset_state(&db.pool, &to, 4).await.unwrap(), 5);
        let at = eventbox::state::<Delays>(&db.pool, &to).await.unwrap().unwrap();
        assert_eq!((at.turn, at.state), (5, None));
    }
}

/// The comparison looks at the bits, because minus zero equals zero.
async fn keep_minus_zero<B: CellEngine>(db: &TestDb<B>, to: &Recipient) {
    emit_x(db, to).await;
    let _ = eventbox::reduce_batch(&db.pool, to, &Keeps((-0.0_f64, -0.0_f32)), MANY).await.unwrap();
    let (wide, narrow) = eventbox::state::<(f64, f32)>(&db.pool, to).await.unwrap().unwrap().state.unwrap();
    assert!(wide.is_sign_negative() && narrow.is_sign_negative());
}
