//! Events that the server refuses, with the reasons.

use super::*;

type Spoil = fn(&mut CloudEvent);

/// Changes that make a valid event invalid, with the reason that the sender gets.
const SPOILED: [(&str, Spoil, &str); 15] = [
    ("id", |event| event.id.clear(), "the id is missing"),
    ("source", |event| event.source.clear(), "the source is missing"),
    ("source", |event| event.source = "not a reference".into(), "is not a URI reference"),
    ("source", |event| event.source = "50%".into(), "is not a URI reference"),
    ("specversion", |event| event.spec_version.clear(), "the specversion is missing"),
    ("specversion", |event| event.spec_version = "0.3".into(), "\"0.3\", not \"1.0\""),
    ("type", |event| event.r#type.clear(), "the type is missing"),
    ("name", |event| set(event, "seq_num", Attr::CeString("1".into())), "\"seq_num\" is not made of a-z and 0-9"),
    ("name", |event| set(event, "Key", Attr::CeString("1".into())), "\"Key\" is not made of a-z and 0-9"),
    ("name", |event| set(event, "", Attr::CeString("1".into())), "\"\" is not made of a-z and 0-9"),
    ("reserved", |event| set(event, "source", Attr::CeString("x".into())), "belongs into the field"),
    (
        "value",
        |event| {
            event.attributes.insert("empty".into(), CloudEventAttributeValue { attr: None });
        },
        "\"empty\" has no value",
    ),
    ("key", |event| set(event, "idempotencykey", Attr::CeInteger(7)), "\"idempotencykey\" is not a string"),
    ("key", |event| set(event, "idempotencykey", Attr::CeString(String::new())), "\"idempotencykey\" is empty"),
    ("time", |event| set(event, "time", Attr::CeString("now".into())), "\"time\" is not a timestamp"),
];

#[tokio::test]
async fn each_invalid_event_is_refused_with_its_reason() {
    let server = server().await;
    let mut client = client(&server).await;
    for (what, spoil, reason) in SPOILED {
        let mut spoiled = event("e", "", "");
        spoil(&mut spoiled);
        let response = client.publish(spoiled).await.unwrap().into_inner();
        let found = summary(&response).remove(0);
        assert!(found.contains("PUBLISH_ERROR_CODE_VALIDATION_FAILED"), "{what}: {found}");
        assert!(found.contains(reason), "{what}: {found}");
    }
    assert_eq!(counts(&server).await, (0, 0, 0, SPOILED.len() as u64));
}

#[tokio::test]
async fn all_seven_attribute_types_and_both_forms_of_schema_are_accepted() {
    let server = server().await;
    let mut client = client(&server).await;
    let mut full = event("e", "k", "payload");
    full.source = "https://example.com/a?b#c".into();
    set(&mut full, "abool", Attr::CeBoolean(true));
    set(&mut full, "aninteger", Attr::CeInteger(-1));
    set(&mut full, "abytes", Attr::CeBytes(vec![0, 1].into()));
    set(&mut full, "auri", Attr::CeUri("urn:x".into()));
    set(&mut full, "auriref", Attr::CeUriRef("/x".into()));
    set(&mut full, "time", Attr::CeTimestamp(prost_types::Timestamp { seconds: 1, nanos: 5 }));
    set(&mut full, "dataschema", Attr::CeUri("urn:schema".into()));
    set(&mut full, "subject", Attr::CeString("order 1".into()));
    let mut older = event("f", "l", "payload");
    set(&mut older, "dataschema", Attr::CeString("urn:schema".into()));
    let response = publish(&mut client, vec![full.clone(), older.clone()]).await.unwrap();
    assert_eq!(summary(&response), ["e", "f"]);
    let log = log(&server).await;
    assert_eq!(log[0].event, full);
    assert_eq!(log[0].subject(), Some("order 1"));
    assert_eq!(log[0].payload(), "payload");
    assert_eq!(log[1].event, older);
}
