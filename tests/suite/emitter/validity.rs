//! Rules of valid events: the builder and the wire refuse the same values.
//! Every accepted event is stored and sent unchanged.

use std::time::{Duration, SystemTime};

use eventbox::proto::io::cloudevents::v1::CloudEvent as Wire;
use eventbox::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use eventbox::proto::io::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use eventbox::{
    CloudEvent,
    cloudevent::{CloudEventError, ExtensionValue},
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use prost_types::Timestamp;

use super::support::{Emits, Fake, STOP, started};
use crate::support::{SOON, TestDb, on_every_engine};

/// Number of random events on each engine and by each path.
const EVENTS: usize = 400;

/// Seconds at the limits of a protobuf timestamp, and their neighbours.
const EDGES: [i64; 8] =
    [-62_135_596_801, -62_135_596_800, -1, 0, 1_700_000_000, 253_402_300_799, 253_402_300_800, 1 << 40];

fn wire() -> Wire {
    CloudEvent::builder("flights", "flight.departed").payload("UA 1545").build().unwrap().into_wire()
}

fn with(name: &str, attr: Attr) -> Wire {
    let mut wire = wire();
    wire.attributes.insert(name.to_owned(), CloudEventAttributeValue { attr: Some(attr) });
    wire
}

fn at(seconds: i64, nanos: i32) -> Attr {
    Attr::CeTimestamp(Timestamp { seconds, nanos })
}

fn time(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
    }
}

#[track_caller]
fn names(event: Result<CloudEvent, CloudEventError>, attribute: &str) {
    let error = event.expect_err(attribute).to_string();
    assert!(error.contains(attribute), "{error} does not name {attribute}");
}

#[test]
fn a_nul_character_is_refused_with_the_name_of_its_attribute() {
    let builder = || CloudEvent::builder("a", "b");
    names(CloudEvent::builder("a\0", "b").build(), "source");
    names(CloudEvent::builder("a", "b\0c").build(), "type");
    names(builder().subject("x\0y").build(), "subject");
    names(builder().idempotency_key("x\0").build(), "idempotencykey");
    names(builder().data_schema("x\0").build(), "data schema");
    names(builder().payload_as("text/\0", "x").build(), "datacontenttype");
    names(builder().extension("tail", "x\0").build(), "tail");
    names(builder().extension("tail", ExtensionValue::Uri("urn:\0".to_owned())).build(), "tail");
    names(builder().resource_attributes([("service.name", "x\0")]).build(), "servicename");

    for name in ["subject", "idempotencykey", "datacontenttype", "seqnum", "tail"] {
        names(CloudEvent::from_wire(with(name, Attr::CeString("x/\0".to_owned()))), name);
    }
    names(CloudEvent::from_wire(Wire { id: "\0".to_owned(), ..wire() }), "id");
    names(CloudEvent::from_wire(Wire { source: "a\0b".to_owned(), ..wire() }), "source");
    names(CloudEvent::from_wire(Wire { r#type: "a\0b".to_owned(), ..wire() }), "type");
    // A payload is bytes, and a byte may be zero.
    assert!(builder().payload(vec![0]).extension("raw", bytes::Bytes::from_static(b"\0")).build().is_ok());
}

#[test]
fn the_wire_takes_only_names_that_the_builder_takes() {
    let wrong = ["", "Tail", "tail-number", "tail_number", "tail number", "\0", "é", "id", "type", "source", "data"];
    for name in wrong.into_iter().chain(["specversion"]) {
        names(CloudEvent::builder("a", "b").extension(name, "x").build(), name.trim_matches('\0'));
        names(CloudEvent::from_wire(with(name, Attr::CeString("x".to_owned()))), name.trim_matches('\0'));
    }
    // The wire accepts the attributes of the system; the builder does not let a caller set them.
    for name in ["seqnum", "seqepoch", "emitter", "idempotencykey"] {
        names(CloudEvent::builder("a", "b").extension(name, "x").build(), name);
        assert!(CloudEvent::from_wire(with(name, Attr::CeString("x".to_owned()))).is_ok());
    }
}

#[test]
fn times_outside_the_range_of_a_timestamp_are_refused() {
    for seconds in EDGES {
        let legal = (-62_135_596_800..=253_402_300_799).contains(&seconds);
        let built = CloudEvent::builder("a", "b").time(time(seconds)).build();
        assert_eq!(built.is_ok(), legal, "time {seconds}");
        assert_eq!(CloudEvent::from_wire(with("time", at(seconds, 0))).is_ok(), legal, "time {seconds}");
        let built = CloudEvent::builder("a", "b").extension("arrival", time(seconds)).build();
        assert_eq!(built.is_ok(), legal, "arrival {seconds}");
        assert_eq!(CloudEvent::from_wire(with("arrival", at(seconds, 0))).is_ok(), legal, "arrival {seconds}");
        let legal = legal && seconds >= 0;
        let built = CloudEvent::builder("a", "b").recorded_time(time(seconds)).build();
        assert_eq!(built.is_ok(), legal, "recordedtime {seconds}");
        assert_eq!(CloudEvent::from_wire(with("recordedtime", at(seconds, 0))).is_ok(), legal);
    }
    let before = SystemTime::UNIX_EPOCH - Duration::from_nanos(1);
    names(CloudEvent::builder("a", "b").recorded_time(before).build(), "recordedtime");
    names(CloudEvent::builder("a", "b").time(time(1 << 40)).build(), "\"time\"");
    for nanos in [-1, 1_000_000_000, i32::MIN] {
        names(CloudEvent::from_wire(with("time", at(1, nanos))), "\"time\"");
        names(CloudEvent::from_wire(with("arrival", at(1, nanos))), "arrival");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_the_name_of_its_attribute() {
    for name in ["time", "recordedtime", "dataschema", "datacontenttype", "subject", "idempotencykey"] {
        names(CloudEvent::from_wire(with(name, Attr::CeInteger(1))), name);
        let mut empty = wire();
        empty.attributes.insert(name.to_owned(), CloudEventAttributeValue { attr: None });
        if name != "datacontenttype" {
            names(CloudEvent::from_wire(empty), name);
        }
    }
    names(CloudEvent::from_wire(with("tail", Attr::CeUri("no uri".to_owned()))), "tail");
    names(CloudEvent::from_wire(with("tail", Attr::CeUriRef("a b".to_owned()))), "tail");
    names(CloudEvent::builder("a", "b").extension("tail", ExtensionValue::Uri("flights".to_owned())).build(), "tail");
    names(CloudEvent::from_wire(Wire { source: "a b".to_owned(), ..wire() }), "source");
    names(CloudEvent::from_wire(with("dataschema", Attr::CeUri("a b".to_owned()))), "data schema");
    names(CloudEvent::from_wire(Wire { r#type: " ".to_owned(), ..wire() }), "type");
    // An empty value is no value, as with the builder.
    for name in ["subject", "idempotencykey"] {
        let event = CloudEvent::from_wire(with(name, Attr::CeString(String::new()))).unwrap();
        assert!(event.attribute_names().all(|there| there != name));
    }
}

#[test]
fn a_payload_has_any_content_type() {
    #[derive(serde::Serialize)]
    struct Flight {
        carrier: &'static str,
        number: u16,
    }
    let event = CloudEvent::builder("a", "b").json(&Flight { carrier: "UA", number: 1545 }).build().unwrap();
    assert_eq!(event.data_content_type(), Some("application/json"));
    assert_eq!(event.payload(), br#"{"carrier":"UA","number":1545}"#);
    assert!(matches!(event.clone().into_wire().data, Some(Data::BinaryData(_))));
    assert_eq!(CloudEvent::decode(&event.encode()).unwrap(), event);

    let schema = CloudEvent::builder("a", "b").data_schema("urn:s").payload_as("text/csv; charset=utf-8", "x,y");
    let event = schema.build().unwrap();
    assert_eq!((event.data_schema(), event.data_content_type()), (Some("urn:s"), Some("text/csv; charset=utf-8")));
    let proto = CloudEvent::builder("a", "b").json(&1).payload_as("application/protobuf", "x").build().unwrap();
    assert!(matches!(proto.into_wire().data, Some(Data::ProtoData(_))));

    for wrong in ["", "json", "/json", "application/", "text/é", " text/plain", "text/plain\n"] {
        names(CloudEvent::builder("a", "b").payload_as(wrong, "x").build(), "datacontenttype");
    }
    let keys_that_are_no_text = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = CloudEvent::builder("a", "b").json(&keys_that_are_no_text).build().unwrap_err();
    assert!(matches!(error, CloudEventError::Json { .. }), "{error}");
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z0-9./:-]{1,12}", 2 => any::<String>(), 1 => Just("a\0b".to_owned()), 1 => Just(String::new())]
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[a-z0-9]{1,8}", 1 => Just("subject".to_owned()), 1 => Just("time".to_owned()), 1 => any_text()]
}

fn any_seconds() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0..4_000_000_000i64, 1 => proptest::sample::select(EDGES.as_slice())]
}

fn any_value() -> impl Strategy<Value = ExtensionValue> {
    prop_oneof![
        any::<bool>().prop_map(ExtensionValue::Boolean),
        any::<i32>().prop_map(ExtensionValue::Integer),
        any_text().prop_map(ExtensionValue::String),
        any::<Vec<u8>>().prop_map(|raw| ExtensionValue::Bytes(raw.into())),
        any_text().prop_map(ExtensionValue::Uri),
        any_text().prop_map(ExtensionValue::UriRef),
        any_seconds().prop_map(|seconds| ExtensionValue::Timestamp(time(seconds))),
    ]
}

fn built() -> impl Strategy<Value = Result<CloudEvent, CloudEventError>> {
    let texts = (any_text(), any_text(), any_text(), any_text());
    (texts, proptest::option::of((any_name(), any_value())), any_seconds(), any_seconds(), any::<Vec<u8>>()).prop_map(
        |((source, event_type, subject, key), extension, happened, recorded, payload)| {
            let builder = CloudEvent::builder(source, event_type).subject(subject).idempotency_key(key);
            let builder = builder.time(time(happened)).recorded_time(time(recorded)).payload(payload);
            match extension {
                Some((name, value)) => builder.extension(name, value).build(),
                None => builder.build(),
            }
        },
    )
}

fn any_attr() -> impl Strategy<Value = Option<Attr>> {
    prop_oneof![
        any::<bool>().prop_map(|value| Some(Attr::CeBoolean(value))),
        any_text().prop_map(|value| Some(Attr::CeString(value))),
        any_text().prop_map(|value| Some(Attr::CeUri(value))),
        any_text().prop_map(|value| Some(Attr::CeUriRef(value))),
        (any_seconds(), -1..1_000_000_001).prop_map(|(seconds, nanos)| Some(at(seconds, nanos))),
        Just(None),
    ]
}

fn received() -> impl Strategy<Value = Result<CloudEvent, CloudEventError>> {
    let data = prop_oneof![
        any::<Vec<u8>>().prop_map(|raw| Some(Data::BinaryData(raw.into()))),
        any::<String>().prop_map(|text| Some(Data::TextData(text))),
        any::<Vec<u8>>().prop_map(|value| Some(Data::ProtoData(prost_types::Any { type_url: String::new(), value }))),
        Just(None),
    ];
    let attributes = proptest::collection::btree_map(any_name(), any_attr(), 0..3);
    (any_text(), any_text(), any_text(), attributes, data).prop_map(|(id, source, event_type, attributes, data)| {
        let attributes = attributes.into_iter().map(|(name, attr)| (name, CloudEventAttributeValue { attr })).collect();
        let version = "1.0".to_owned();
        CloudEvent::from_wire(Wire { id, source, spec_version: version, r#type: event_type, attributes, data })
    })
}

/// Returns the accepted events of `EVENTS` random ones. Checks that some were accepted and some refused.
fn taken(events: &impl Strategy<Value = Result<CloudEvent, CloudEventError>>) -> Vec<CloudEvent> {
    let mut runner = TestRunner::deterministic();
    let all: Vec<_> = (0..EVENTS).map(|_| events.new_tree(&mut runner).unwrap().current()).collect();
    let taken: Vec<_> = all.into_iter().flatten().collect();
    assert!(taken.len() > EVENTS / 20 && taken.len() < EVENTS, "{} of {EVENTS}", taken.len());
    taken
}

/// Removes the attributes that the emitter added, so that the event can be compared with the given one.
fn as_given(event: &Wire, given: &CloudEvent) -> Wire {
    let mut event = event.clone();
    for name in ["emitter", "seqnum", "seqepoch", "idempotencykey"] {
        match given.clone().into_wire().attributes.remove(name) {
            Some(value) => event.attributes.insert(name.to_owned(), value),
            None => event.attributes.remove(name),
        };
    }
    event
}

async fn stored_and_sent<B: Emits>(db: &TestDb<B>, events: Vec<CloudEvent>) {
    let mut tx = eventbox::begin(&db.pool).await.unwrap();
    let mut given = Vec::new();
    for event in events {
        assert_eq!(CloudEvent::decode(&event.encode()).as_ref(), Ok(&event));
        assert_eq!(CloudEvent::from_wire(event.clone().into_wire()).as_ref(), Ok(&event));
        let stored = B::publish_in(&mut tx, event.clone()).await;
        given.push((stored.event().idempotency_key().unwrap().to_owned(), event));
    }
    tx.commit().await.unwrap();
    db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
    let fake = Fake::ok();
    let emitter = started(&db.pool, &fake, |_| {}).await;
    assert!(emitter.flush(SOON).await.unwrap());
    assert_eq!(db.count("eventbox_dead_letter").await, 0);
    let mut sent = fake.events();
    assert_eq!(sent.len(), given.len());
    for (key, event) in given {
        let found = sent.iter().position(|sent| {
            super::support::text(sent, "idempotencykey").as_ref() == Some(&key)
                && as_given(sent, &event) == event.clone().into_wire()
        });
        sent.swap_remove(found.unwrap_or_else(|| panic!("{event:?} was not sent as it was given")));
    }
    emitter.stop(STOP).await;
}

on_every_engine! {
    async fn an_event_that_the_builder_accepts_is_stored_and_sent_unchanged(db) {
        stored_and_sent(db, taken(&built())).await;
    }

    async fn an_event_that_the_wire_accepts_is_stored_and_sent_unchanged(db) {
        stored_and_sent(db, taken(&received())).await;
    }
}
