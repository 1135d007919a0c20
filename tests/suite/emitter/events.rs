//! The builder of events, their attributes, headers and error codes.

use std::time::{Duration, SystemTime};

use eventbox::chip::{EventErrorCode, RetryClass, SendError, error_code, resource_headers};
use eventbox::proto::io::cloudevents::v1::CloudEvent as Wire;
use eventbox::proto::io::cloudevents::v1::cloud_event::Data;
use eventbox::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use eventbox::{
    CloudEvent,
    cloudevent::{Attributes, CloudEventError, ExtensionValue, resource_names},
};
use prost::Message;
use tonic::{Code, Status};

fn full() -> CloudEvent {
    CloudEvent::builder("flights", " flight.departed ")
        .payload("UA 1545")
        .subject(" N14228 ")
        .data_schema("https://example.com/flight/1")
        .time(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_891))
        .idempotency_key("k")
        .extension("tailnumber", "N14228")
        .extension("delay", -3)
        .extension("late", true)
        .resource_attributes([("service.name", "demo")])
        .build()
        .unwrap()
}

/// A built event has the attributes that were given, trimmed, and the builder refuses wrong attributes.
#[test]
fn a_built_event_is_as_given_and_valid() {
    let event = full();
    assert_eq!((event.source(), event.event_type()), ("flights", "flight.departed"));
    assert!(uuid::Uuid::parse_str(event.id()).is_ok_and(|id| id.get_version_num() == 4));
    assert_eq!(event.data_content_type(), Some("application/protobuf"));
    assert_eq!(event.data_schema(), Some("https://example.com/flight/1"));
    assert_eq!(event.subject(), Some("N14228"));
    assert_eq!(event.time(), Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_891)));
    let recorded = event.recorded_time().unwrap();
    assert!(recorded > event.time().unwrap());
    assert_eq!(recorded.duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos() % 1_000_000, 0);
    assert_eq!(event.extension("servicename"), Some(ExtensionValue::String("demo".to_owned())));

    let wire = event.into_wire();
    assert_eq!(wire.spec_version, "1.0");
    let valid =
        |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    assert!(wire.attributes.keys().all(valid));
    assert!(matches!(wire.attributes["dataschema"].attr, Some(Attr::CeUri(_))));
    assert!(matches!(wire.attributes["delay"].attr, Some(Attr::CeInteger(-3))));

    let refused = |event: Result<CloudEvent, CloudEventError>| event.unwrap_err();
    assert_eq!(refused(CloudEvent::builder("", "x").build()), CloudEventError::EmptySource);
    assert!(matches!(refused(CloudEvent::builder("a b", "x").build()), CloudEventError::InvalidSource { .. }));
    assert_eq!(refused(CloudEvent::builder("a", "  ").build()), CloudEventError::EmptyType);
    let bad = CloudEvent::builder("a", "x").extension("Bad-Name", "");
    assert!(matches!(refused(bad.build()), CloudEventError::InvalidExtensionName { .. }));
    let reserved = CloudEvent::builder("a", "x").extension("seqnum", "1");
    assert!(matches!(refused(reserved.build()), CloudEventError::ReservedExtension { .. }));
}

/// Every built event passes the server's rules, which are written independently of the builder's.
#[tokio::test]
async fn every_built_event_passes_the_servers_rules() {
    use eventbox::chip::{GrpcConfig, GrpcTransport, Transport};
    use eventbox::proto::chipingress::pb::CloudEventBatch;
    let server = eventbox::ingress::Ingress::builder().serve("127.0.0.1:0").await.unwrap();
    let mut events = vec![full(), CloudEvent::builder("a", "b").build().unwrap()];
    for name in ["platform/ccip", "urn:x:y", "//host/path?q#f", "../up"] {
        let event = CloudEvent::builder(name, name).subject("").idempotency_key("").payload(vec![0xff; 3]);
        let attributes = [("service.name", "é"), ("id", "no"), ("---", "no"), ("specversion", "no")];
        events.push(event.extension("flag", false).resource_attributes(attributes).build().unwrap());
    }
    let transport = GrpcTransport::new(&GrpcConfig::new(server.local_addr().to_string())).unwrap();
    let count = events.len();
    let batch = CloudEventBatch { events: events.into_iter().map(CloudEvent::into_wire).collect(), options: None };
    let response = transport.publish_batch(&batch, Duration::from_secs(10)).await.unwrap();
    assert!(response.results.iter().all(|result| result.error.is_none()), "{response:?}");
    assert_eq!(response.results.len(), count);
}

/// An empty idempotency key is no key.
#[test]
fn an_empty_idempotency_key_is_no_key() {
    let key = |key: &str| CloudEvent::builder("a", "b").idempotency_key(key).build().unwrap();
    assert_eq!(key("k").idempotency_key(), Some("k"));
    assert_eq!(key("").idempotency_key(), None);
    assert_eq!(CloudEvent::builder("a", "b").build().unwrap().idempotency_key(), None);
}

/// Resource attributes get legal names, and never replace attributes that the event has.
#[test]
fn resource_attributes_are_named_and_never_override() {
    let named = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        let owned: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        resource_names(&owned).into_iter().map(|(name, value)| (name, value.to_owned())).collect()
    };
    for (key, name) in [
        ("chain_id", "chainid"),
        ("k8s.pod.name", "k8spodname"),
        ("ChainID", "chainid"),
        ("Service-Name.1", "servicename1"),
    ] {
        assert_eq!(named(&[(key, "v")]), [(name.to_owned(), "v".to_owned())]);
    }
    assert!(named(&[("---...", "v")]).is_empty());
    assert_eq!(named(&[("service_name", "b"), ("service.name", "a")])[0].1, "a");
    assert_eq!(named(&[("chain_id", "b"), ("Chain-ID", "a")])[0].1, "a");
    for reserved in ["idempotencykey", "Subject", "seqnum", "emitter", "recorded_time", "data"] {
        assert!(named(&[(reserved, "v")]).is_empty(), "{reserved}");
    }

    let event = CloudEvent::builder("a", "b")
        .subject("real")
        .idempotency_key("real")
        .extension("chainid", "real")
        .resource_attributes([("subject", "no"), ("idempotencykey", "no"), ("chain.id", "no")])
        .build()
        .unwrap();
    assert_eq!((event.subject(), event.idempotency_key()), (Some("real"), Some("real")));
    assert_eq!(event.extension("chainid"), Some(ExtensionValue::from("real")));
}

/// An event that is encoded and decoded is equal to the original.
#[test]
fn an_event_survives_the_wire() {
    for payload in ["UA 1545", ""] {
        let event =
            CloudEvent::builder("a", "b").payload(payload).data_schema("urn:s").subject("s").extension("x", "y");
        let event = event.build().unwrap();
        let back = CloudEvent::decode(&event.encode()).unwrap();
        assert_eq!(back, event);
        assert_eq!(back.payload(), payload.as_bytes());
        let Some(Data::ProtoData(any)) = event.into_wire().data else { panic!("the payload is no proto_data") };
        assert_eq!((any.type_url.as_str(), any.value.as_slice()), ("urn:s", payload.as_bytes()));
    }
    // Other senders put the payload into another field, and write the schema as a string.
    for data in [Data::BinaryData("p".into()), Data::TextData("p".to_owned())] {
        let mut wire: Wire = full().into_wire();
        wire.data = Some(data);
        wire.attributes.get_mut("dataschema").unwrap().attr = Some(Attr::CeString("urn:s".to_owned()));
        let read = CloudEvent::decode(&wire.encode_to_vec()).unwrap();
        assert_eq!((read.payload(), read.data_schema()), (b"p".as_slice(), Some("urn:s")));
    }
    let nothing = CloudEvent::decode(&[]).unwrap_err().to_string();
    assert!(nothing.contains("could not convert proto to event"), "{nothing}");
}

/// Resource attributes in headers have printable ASCII values; reserved header names are dropped.
#[test]
fn metadata_values_are_made_printable() {
    let attributes: Vec<(String, String)> =
        [("TE", "x"), ("k8s.pod.name", "a\u{1}b"), ("city", "café")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let headers = resource_headers(&attributes);
    assert_eq!(headers, [("city".to_owned(), "caf??".to_owned()), ("k8spodname".to_owned(), "a?b".to_owned())]);
}

/// Every error has a code from a bounded set and a retry class.
#[test]
fn error_codes_are_bounded() {
    let status = |code| SendError::Status(Status::new(code, "any words"));
    let event = |code| SendError::Event { code: EventErrorCode(code), reason: "any words".to_owned() };
    use RetryClass::{Endpoint, NotTried, Permanent, SlowTransient, Transient};
    for (error, code, class) in [
        (event(0), "PUBLISH_ERROR_CODE_UNKNOWN", Transient),
        (event(1), "PUBLISH_ERROR_CODE_VALIDATION_FAILED", Permanent),
        (event(2), "PUBLISH_ERROR_CODE_SCHEMA_MISSING", SlowTransient),
        (event(3), "PUBLISH_ERROR_CODE_ENCODE_ERROR", Permanent),
        (event(4), "PUBLISH_ERROR_CODE_DOMAIN_MISCONFIGURATION", SlowTransient),
        (event(77), "PUBLISH_ERROR_CODE_UNKNOWN", Transient),
        (event(-1), "results_mismatch", Transient),
        (SendError::BufferFull, "message buffer is full", NotTried),
        (SendError::Shutdown, "client is shutdown", NotTried),
        (SendError::CircuitOpen, "client_error", NotTried),
        (SendError::ClaimOver, "client_error", NotTried),
        (SendError::TooLarge { bytes: 2, limit: 1 }, "client_error", Permanent),
        (status(Code::Unavailable), "Unavailable", Transient),
        (status(Code::DeadlineExceeded), "DeadlineExceeded", Transient),
        (status(Code::Aborted), "Aborted", Transient),
        (status(Code::Unknown), "Unknown", Transient),
        (status(Code::Cancelled), "Canceled", Transient),
        (status(Code::Internal), "Internal", Transient),
        (status(Code::ResourceExhausted), "ResourceExhausted", Transient),
        (status(Code::Unauthenticated), "Unauthenticated", Endpoint),
        (status(Code::PermissionDenied), "PermissionDenied", Endpoint),
        (status(Code::Unimplemented), "Unimplemented", Endpoint),
        (status(Code::NotFound), "NotFound", Endpoint),
        (status(Code::InvalidArgument), "InvalidArgument", Permanent),
        (status(Code::OutOfRange), "OutOfRange", Permanent),
        (status(Code::FailedPrecondition), "FailedPrecondition", Permanent),
    ] {
        assert_eq!((error.code().as_ref(), error.class(true)), (code, class), "{error}");
        assert_eq!(error_code(Some(&error)), code);
    }
    assert_eq!(error_code(None), "");
    assert_eq!(status(Code::InvalidArgument).class(false), Transient);
    let too_large = SendError::Status(Status::resource_exhausted("grpc: received message larger than max (5 vs. 4)"));
    assert_eq!((too_large.class(true), too_large.class(false)), (Permanent, Transient));
}

/// An attribute list without a last value is an error at once.
#[test]
fn an_attribute_without_a_value_is_refused() {
    let dangling = Attributes::from_list(["source", "a", "type"]).unwrap_err();
    assert_eq!(dangling.to_string(), "the attribute \"type\" has no value");
}

/// Legacy attribute names are accepted, and a new name wins over its legacy name. A time that is text is ignored.
#[test]
fn legacy_attribute_names_are_accepted() {
    let attributes =
        Attributes::from_list(["beholder_domain", "old", "beholder_entity", "old", "type", "new"]).unwrap();
    let event = CloudEvent::from_attributes(&attributes.with("time", "no time").with("subject", "s"), "p").unwrap();
    assert_eq!((event.source(), event.event_type(), event.subject(), event.time()), ("old", "new", Some("s"), None));
}
