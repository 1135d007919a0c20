//! The calls of the service other than PublishBatch.

use eventbox::proto::chipingress::pb::StreamEventsRequest;

use super::*;

#[tokio::test]
async fn a_ping_returns_pong() {
    let server = server().await;
    let pong = client(&server).await.ping(eventbox::proto::chipingress::pb::EmptyRequest {}).await.unwrap();
    assert_eq!(pong.into_inner().message, "pong");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_in_the_usual_words() {
    let server = Ingress::builder().max_request_bytes(1000).serve("127.0.0.1:0").await.unwrap();
    let mut client = client(&server).await;
    let refused = publish(&mut client, vec![event("a", "k", &"x".repeat(2000))]).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("larger than max (2"), "{refused}");
    assert!(refused.message().contains(" vs. 1000)"), "{refused}");
    let request = StreamEventsRequest { event: Some(event("a", "k", &"x".repeat(2000))) };
    let mut answers = client.stream_events(tokio_stream::iter([request])).await.unwrap().into_inner();
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    publish(&mut client, vec![event("a", "k", &"x".repeat(800))]).await.unwrap();
    assert_eq!(counts(&server).await, (1, 0, 0, 0));
}

/// The default limit of the server is 16 MiB, and not the 4 MiB of tonic.
#[tokio::test]
async fn a_request_of_ten_mebibytes_is_accepted() {
    let server = server().await;
    publish(&mut client(&server).await, vec![event("a", "k", &"x".repeat(10 << 20))]).await.unwrap();
    assert_eq!(log(&server).await[0].payload().len(), 10 << 20);
}

#[tokio::test]
async fn an_address_in_use_is_reported() {
    let server = server().await;
    let error = Ingress::builder().serve(server.local_addr()).await.unwrap_err();
    let wanted = format!("listen on {}: choose another address, or stop what uses it", server.local_addr());
    assert_eq!(error.to_string(), wanted);
}

#[tokio::test]
async fn a_stopped_server_accepts_nothing() {
    let server = server().await;
    let mut client = client(&server).await;
    publish(&mut client, vec![event("a", "k", "1")]).await.unwrap();
    assert!(server.stop(PATIENCE).await.complete);
    assert!(server.stop(PATIENCE).await.complete, "a second stop waits for the end of the first");
    assert_eq!(publish(&mut client, vec![event("a", "l", "1")]).await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(counts(&server).await, (1, 0, 0, 0));
}
