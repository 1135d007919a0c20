//! A payload comes back as it went in, or it is refused.

use std::collections::{BTreeMap, HashMap};

use eventbox::{
    BoxError, CloudEvent, Error, Event, Outcome, Recipient, Reducer, StateError, cloudevent::CloudEventError,
    limits::MAX_JSON_DEPTH,
};
use serde::{Deserialize, Serialize};

use super::extremes::{Either, Keeps, MANY, Nested, airport, delays, emit, emit_x, nested};
use crate::support::on_every_engine;

/// A payload that would not come back is refused like such a state.
#[test]
fn a_payload_that_would_not_come_back_is_refused() {
    for (refused, words) in [
        (Event::from_json(&delays(f64::NAN)), "legs.1.UA 1545: NaN"),
        (Event::from_json(&[1.0, f64::INFINITY]), "1: an infinite number"),
        (Event::from_json(&nested(128)), "MAX_JSON_DEPTH"),
        (Event::from_json(&Some(None::<u8>)), "`None`"),
        (Event::from_json(&HashMap::from([((1, 2), 3)])), "key must be a string"),
    ] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let deepest = nested(MAX_JSON_DEPTH);
    assert_eq!(Event::from_json(&deepest).unwrap().json::<Nested>().unwrap(), deepest);
    assert_eq!(Event::from_json(&74.850_000_000_000_01).unwrap().json::<f64>().unwrap(), 74.850_000_000_000_01);
}

/// A message's payload is refused too. The error of `build` names the field.
#[test]
fn a_message_that_would_not_come_back_is_refused() {
    let build = |message: eventbox::cloudevent::CloudEventBuilder| match message.build() {
        Err(CloudEventError::Json { problem }) => problem,
        other => panic!("{other:?}"),
    };
    let message = || CloudEvent::builder("flights", "flight.delayed");
    for (problem, words) in [
        (build(message().json(&delays(f64::NAN))), "legs.1.UA 1545: NaN is no number of JSON"),
        (build(message().json(&[1.0, f64::NEG_INFINITY])), "1: an infinite number"),
        (build(message().json(&f32::NAN)), "NaN"),
        (build(message().json(&nested(MAX_JSON_DEPTH + 1))), "MAX_JSON_DEPTH"),
        (build(message().json(&Some(None::<u8>))), "would come back as `None`"),
        (build(message().json(&HashMap::from([((1, 2), 3)]))), "key must be a string"),
    ] {
        assert!(problem.contains(words), "{problem}");
    }
    let deepest = nested(MAX_JSON_DEPTH);
    let payload = message().json(&deepest).build().unwrap().payload().to_vec();
    assert_eq!(serde_json::from_slice::<Nested>(&payload).unwrap(), deepest);
    assert!(message().json("a text without a size").build().is_ok());
}

/// A payload with extreme values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Extremes {
    unsigned: u128,
    signed: i128,
    floats: (f32, f64, f64),
    keys: BTreeMap<i64, BTreeMap<bool, ()>>,
    text: String,
    either: (Either, Either),
    nothing: Option<()>,
}

/// Publishes the JSON of each event as a message.
struct Publishes;

impl Reducer for Publishes {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let message = |event: &Event| {
            Ok::<_, BoxError>(CloudEvent::builder("tests", "extreme").json(&event.json::<Extremes>()?).build()?)
        };
        let messages = events.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::to(count + 1).consuming(events).publishing(messages))
    }
}

on_every_engine! {
    /// JSON comes back through the box and through the outbox.
    async fn payloads_come_back(db) {
        let extremes = Extremes {
            unsigned: u128::MAX,
            signed: i128::MIN,
            floats: (f32::MIN_POSITIVE, 5e-324, 74.850_000_000_000_01),
            keys: BTreeMap::from([(i64::MIN, BTreeMap::from([(true, ())]))]),
            text: "\u{0}\"\\\u{10ffff}é".repeat(20_000),
            either: (Either::Float(0.5), Either::Float(7.0)),
            nothing: None,
        };
        let to = airport("extreme");
        emit(db, &to, Event::from_json(&extremes).unwrap()).await;
        let turn = eventbox::reduce_batch(&db.pool, &to, &Publishes, MANY).await.unwrap();
        assert_eq!((turn.consumed, turn.published.len()), (1, 1));
        let published = turn.published[0].event();
        assert_eq!(serde_json::from_slice::<Extremes>(published.payload()).unwrap(), extremes);
    }

    /// The event and the state refuse a value that is too large before any SQL. JSON that no text column can hold is an
    /// error that names the event.
    async fn a_value_that_is_too_large_or_no_text_is_refused(db) {
        let large = "x".repeat(5 << 20);
        let to = airport("large");
        let error = eventbox::emit(&db.pool, &to, Event::from_json(&large).unwrap()).await.unwrap_err();
        assert!(matches!(error, Error::Misuse { misuse: eventbox::Misuse::TooLong { .. }, .. }), "{error:?}");
        emit_x(db, &to).await;
        let error = eventbox::reduce_batch(&db.pool, &to, &Keeps(large), MANY).await.unwrap_err();
        assert!(matches!(&error, Error::State { source: StateError::TooLarge { .. }, .. }), "{error:?}");
        assert_eq!(db.count("eventbox_event").await, 1);
        for half in [&br#""\ud800""#[..], br#""\udc00\ud800""#, b"\"\xff\""] {
            let to = airport("half");
            emit(db, &to, Event::new(half)).await;
            let event = crate::support::drain(&db.pool, &to).await.remove(0);
            let error = event.json::<String>().unwrap_err();
            assert!(error.to_string().contains(&event.id().to_string()), "{error}");
        }
    }
}
