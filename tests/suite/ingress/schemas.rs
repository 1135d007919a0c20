//! Registered schemas, and events that need a schema.

use eventbox::ingress::schema_subject;
use eventbox::proto::chip_common::Schema;
use eventbox::proto::chipingress::pb::{RegisterSchemaRequest, StreamEventsRequest};
use tokio_stream::StreamExt;

use super::*;

fn schema(subject: &str, text: &str) -> Schema {
    Schema { subject: subject.to_owned(), schema: text.to_owned(), ..Schema::default() }
}

async fn register(client: &mut Client, schemas: Vec<Schema>) -> Result<Vec<(String, i32)>, Status> {
    let response = client.register_schema(RegisterSchemaRequest { schemas }).await?.into_inner();
    Ok(response.registered.into_iter().map(|schema| (schema.subject, schema.version)).collect())
}

#[tokio::test]
async fn each_new_text_of_a_subject_is_a_new_version() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ingress.sqlite3");
    let server = Ingress::builder().store_file(&file).serve("127.0.0.1:0").await.unwrap();
    let mut first = client(&server).await;
    let named = |subject: &str, version| (subject.to_owned(), version);
    let registered = register(&mut first, vec![schema("a", "1"), schema("b", "1")]).await.unwrap();
    assert_eq!(registered, [named("a", 1), named("b", 1)]);
    let registered = register(&mut first, vec![schema("a", "2"), schema("b", "1")]).await.unwrap();
    assert_eq!(registered, [named("a", 2), named("b", 1)]);
    assert!(server.stop(PATIENCE).await.complete);

    let server = Ingress::builder().store_file(&file).serve("127.0.0.1:0").await.unwrap();
    let registered = register(&mut client(&server).await, vec![schema("a", "3"), schema("a", "3")]).await.unwrap();
    assert_eq!(registered, [named("a", 3), named("a", 3)]);
    let kept = server.log().schemas().await.unwrap();
    let kept: Vec<_> = kept.iter().map(|(version, schema)| (&*schema.subject, *version, &*schema.schema)).collect();
    assert_eq!(kept, [("a", 1, "1"), ("a", 2, "2"), ("a", 3, "3"), ("b", 1, "1")]);
}

#[tokio::test]
async fn all_schemas_of_a_call_are_registered_or_none() {
    let server = server().await;
    let mut client = client(&server).await;
    let refused = register(&mut client, vec![schema("a", "1"), schema("", "1")]).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(server.log().schemas().await.unwrap().is_empty());
    assert!(register(&mut client, Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_strict_server_requires_known_domains_and_schemas() {
    let builder = Ingress::builder().require_schemas().domains(["shop"]);
    let server = builder.serve("127.0.0.1:0").await.unwrap();
    let mut client = client(&server).await;
    register(&mut client, vec![schema(&schema_subject("shop", "order.paid"), "message Paid {}")]).await.unwrap();
    let elsewhere = CloudEvent { source: "depot".into(), ..event("d", "kd", "1") };
    let events = vec![event("a", "ka", "1"), of_type(event("b", "kb", "1"), "order.sent"), elsewhere];
    let response = publish(&mut client, events.clone()).await.unwrap();
    let wanted = [
        "a",
        "b: PUBLISH_ERROR_CODE_SCHEMA_MISSING no schema is registered for the subject \"shop-order.sent\"",
        "d: PUBLISH_ERROR_CODE_DOMAIN_MISCONFIGURATION the source \"depot\" is not a known domain",
    ];
    assert_eq!(summary(&response), wanted);
    let refused = client.publish_batch(batch(events.clone(), true)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);

    register(&mut client, vec![schema("shop-order.sent", "message Sent {}")]).await.unwrap();
    let response = publish(&mut client, events).await.unwrap();
    assert_eq!(summary(&response)[..2], ["a", "b"]);
    assert_eq!(counts(&server).await, (2, 1, 0, 2 + 1 + 1 + 1));
}

#[tokio::test]
async fn streamed_events_are_answered_one_by_one() {
    let server = server().await;
    let bad = CloudEvent { r#type: String::new(), ..event("bad", "", "") };
    let requests = [Some(event("a", "k", "1")), Some(bad), Some(event("b", "k", "1")), None];
    let requests = tokio_stream::iter(requests.map(|event| StreamEventsRequest { event }));
    let answers = client(&server).await.stream_events(requests).await.unwrap().into_inner();
    let answers: Vec<_> =
        answers.map(|answer| answer.map(|answer| (answer.event_id, answer.status)).unwrap()).collect().await;
    let wanted = [("a", "success"), ("bad", "error"), ("b", "success"), ("", "error")];
    assert_eq!(answers, wanted.map(|(id, status)| (id.to_owned(), status.to_owned())));
    assert_eq!(counts(&server).await, (1, 1, 0, 2));
}

/// A stream that its client leaves open does not delay the stop.
#[tokio::test]
async fn an_open_stream_ends_with_the_server() {
    let server = server().await;
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    requests.send(StreamEventsRequest { event: Some(event("a", "k", "1")) }).await.unwrap();
    let requests_in = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client(&server).await.stream_events(requests_in).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().status, "success");
    assert!(server.stop(PATIENCE).await.complete);
    assert_eq!(answers.message().await.unwrap_err().code(), tonic::Code::Unavailable);
}
