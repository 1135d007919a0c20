//! Each fault that a test can inject into the server.

use std::time::Instant;

use eventbox::ingress::{Fault, Faults, When};
use eventbox::proto::chipingress::pb::{EmptyRequest, PublishErrorCode, StreamEventsRequest};
use tonic::Code;

use super::*;

async fn with(faults: Faults) -> (IngressHandle, Client) {
    let server = Ingress::builder().faults(faults).serve("127.0.0.1:0").await.unwrap();
    let client = client(&server).await;
    (server, client)
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn a_failed_call_stores_nothing() {
    let (server, mut client) = with(Faults::none().with(Fault::Code(Code::Internal), When::ALWAYS.times(2))).await;
    for wanted in [Code::Internal, Code::Internal, Code::Ok, Code::Ok] {
        assert_eq!(code(publish(&mut client, vec![event("a", "", "1")]).await), wanted);
    }
    assert_eq!(counts(&server).await, (2, 0, 0, 0));
}

#[tokio::test]
async fn calls_fail_by_rate_and_seed() {
    let outcomes = async |seed| {
        let mut faults = Faults::none().with(Fault::Code(Code::Unavailable), When::ALWAYS.rate(0.3));
        faults.seed = seed;
        let (_server, mut client) = with(faults).await;
        let mut failed = Vec::new();
        for _ in 0..100 {
            failed.push(code(client.ping(EmptyRequest {}).await) == Code::Unavailable);
        }
        failed
    };
    let first = outcomes(1).await;
    assert_eq!(first, outcomes(1).await, "the same seed");
    assert_ne!(first, outcomes(2).await, "another seed");
    let failed = first.iter().filter(|failed| **failed).count();
    assert!((15..45).contains(&failed), "{failed}");
}

#[tokio::test]
async fn only_calls_with_an_event_of_the_type_fail() {
    let (server, mut client) = with(Faults::none().with(Fault::Code(Code::Aborted), When::of_type("order.sent"))).await;
    let sent = of_type(event("b", "", "1"), "order.sent");
    assert_eq!(code(publish(&mut client, vec![event("a", "", "1"), sent.clone()]).await), Code::Aborted);
    assert_eq!(code(client.publish(sent).await), Code::Aborted);
    assert_eq!(code(publish(&mut client, vec![event("a", "", "1")]).await), Code::Ok);
    assert_eq!(code(client.ping(EmptyRequest {}).await), Code::Ok);
    assert_eq!(counts(&server).await.0, 1);
}

#[tokio::test]
async fn events_of_a_type_get_a_publish_error() {
    let fault = Fault::Publish(PublishErrorCode::EncodeError, "no such field".to_owned());
    let (server, mut client) = with(Faults::none().with(fault, When::of_type("order.sent").times(2))).await;
    let events = vec![event("a", "ka", "1"), of_type(event("b", "kb", "1"), "order.sent"), event("c", "kc", "1")];
    let response = publish(&mut client, events.clone()).await.unwrap();
    assert_eq!(summary(&response), ["a", "b: PUBLISH_ERROR_CODE_ENCODE_ERROR no such field", "c"]);
    assert_eq!(code(client.publish_batch(batch(events.clone(), true)).await), Code::InvalidArgument);
    assert_eq!(counts(&server).await, (2, 0, 0, 2));
    let response = publish(&mut client, events).await.unwrap();
    assert_eq!(summary(&response), ["a", "b", "c"]);
}

#[tokio::test]
async fn sizes_are_refused() {
    let (server, mut client) = with(Faults { refuse_over_bytes: Some(200), ..Faults::none() }).await;
    let events: Vec<_> = (0..8).map(|index| event(&index.to_string(), "", "0123456789")).collect();
    let refused = publish(&mut client, events.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("larger than max") && refused.message().contains("vs. 200"), "{refused}");
    publish(&mut client, events[..2].to_vec()).await.unwrap();
    assert_eq!(counts(&server).await.0, 2);
}

#[tokio::test]
async fn a_hanging_call_continues_when_it_is_released() {
    let (server, mut first) = with(Faults::none().with(Fault::Hang, When::ALWAYS)).await;
    let mut impatient = tonic::Request::new(EmptyRequest {});
    impatient.set_timeout(Duration::from_millis(50));
    let gave_up = code(first.ping(impatient).await);
    assert!(matches!(gave_up, Code::Cancelled | Code::DeadlineExceeded), "{gave_up}");

    let mut second = client(&server).await;
    let hanging = tokio::spawn(async move { publish(&mut second, vec![event("a", "", "1")]).await });
    assert!(!hanging.is_finished());
    assert_eq!(counts(&server).await.0, 0);
    server.faults().clear();
    tokio::time::timeout(PATIENCE, hanging).await.unwrap().unwrap().unwrap();
    assert_eq!(counts(&server).await.0, 1);
}

#[tokio::test]
async fn a_hanging_call_does_not_delay_the_stop() {
    let (server, mut client) = with(Faults::none().with(Fault::Hang, When::of_type("order.paid"))).await;
    let hanging = tokio::spawn({
        let mut client = client.clone();
        async move { client.publish(event("a", "", "1")).await }
    });
    // Both calls use one connection, in this order.
    client.ping(EmptyRequest {}).await.unwrap();
    assert!(server.stop(PATIENCE).await.complete);
    assert_eq!(code(tokio::time::timeout(PATIENCE, hanging).await.unwrap().unwrap()), Code::Unavailable);
}

#[tokio::test]
async fn a_dropped_connection_loses_the_response_and_not_the_events() {
    let (server, mut client) = with(Faults::none().with(Fault::Drop, When::ALWAYS.times(1))).await;
    let events = vec![event("a", "ka", "1"), event("b", "kb", "1")];
    let lost = publish(&mut client, events.clone()).await.unwrap_err();
    assert!(!lost.message().contains("asked for"), "no part of a response is sent: {lost}");
    assert_eq!(counts(&server).await, (2, 0, 0, 0));
    assert_eq!(summary(&publish(&mut client, events).await.unwrap()), ["a", "b"]);
    assert_eq!(counts(&server).await, (2, 2, 0, 0));
}

#[tokio::test]
async fn a_drop_ends_only_its_own_connection() {
    let (server, mut one) = with(Faults::none().with(Fault::Drop, When::of_type("order.sent"))).await;
    let mut two = client(&server).await;
    let (_requests, open) = tokio::sync::mpsc::channel::<StreamEventsRequest>(1);
    let mut answers = two.stream_events(tokio_stream::wrappers::ReceiverStream::new(open)).await.unwrap().into_inner();
    one.publish(of_type(event("a", "", "1"), "order.sent")).await.unwrap_err();
    two.ping(EmptyRequest {}).await.unwrap();
    let still_open = tokio::time::timeout(Duration::from_millis(20), answers.message()).await;
    assert!(still_open.is_err(), "the other connection was cut: {still_open:?}");
}

#[tokio::test]
async fn results_are_too_few_or_missing() {
    let faults =
        Faults::none().with(Fault::Results(0), When::ALWAYS.times(1)).with(Fault::Results(2), When::ALWAYS.times(1));
    let (server, mut client) = with(faults).await;
    let events: Vec<_> = ["a", "b", "c"].into_iter().map(|id| event(id, id, "1")).collect();
    for wanted in [&["a", "b", "c"][..0], &["a", "b"], &["a", "b", "c"]] {
        assert_eq!(summary(&publish(&mut client, events.clone()).await.unwrap()), wanted);
    }
    assert_eq!(counts(&server).await, (3, 6, 0, 0));
}

/// With latency before the work, a client that gives up has published nothing; with latency after it, everything.
#[tokio::test]
async fn latency_comes_before_or_after_the_work() {
    const LATENCY: Duration = Duration::from_millis(60);
    for (before, after) in [(LATENCY, Duration::ZERO), (Duration::ZERO, LATENCY)] {
        let (_server, mut client) = with(Faults { latency: before, answer_latency: after, ..Faults::none() }).await;
        let begun = Instant::now();
        publish(&mut client, vec![event("a", "", "1")]).await.unwrap();
        assert!(begun.elapsed() >= LATENCY);
    }
    let long = Duration::from_secs(3600);
    for (before, after, kept) in [(long, Duration::ZERO, 0), (Duration::ZERO, long, 1)] {
        let (server, mut client) = with(Faults { latency: before, answer_latency: after, ..Faults::none() }).await;
        let mut request = tonic::Request::new(batch(vec![event("a", "", "1")], false));
        request.set_timeout(Duration::from_secs(1));
        client.publish_batch(request).await.unwrap_err();
        assert_eq!(counts(&server).await.0, kept);
    }
}

#[tokio::test]
async fn faults_are_changed_while_the_server_runs() {
    let (server, mut client) = with(Faults::none()).await;
    assert_eq!(code(client.ping(EmptyRequest {}).await), Code::Ok);
    let faults = Faults::none().with(Fault::Code(Code::Unavailable), When::ALWAYS.times(1));
    for _ in 0..2 {
        server.faults().set(faults.clone());
        assert_eq!(server.faults().get(), faults);
        assert_eq!(code(client.ping(EmptyRequest {}).await), Code::Unavailable);
        assert_eq!(code(client.ping(EmptyRequest {}).await), Code::Ok);
    }
}

/// A stop cuts off a call that is not finished at its deadline.
#[tokio::test]
async fn a_slow_call_is_cut_at_the_deadline_of_the_stop() {
    let answer_latency = Duration::from_secs(3600);
    let (server, mut client) = with(Faults { answer_latency, ..Faults::none() }).await;
    let slow = tokio::spawn(async move { client.publish(event("a", "", "1")).await });
    let deadline = Instant::now() + PATIENCE;
    while counts(&server).await.0 == 0 {
        assert!(Instant::now() < deadline, "the event was not kept");
        tokio::task::yield_now().await;
    }
    assert!(!server.stop(Duration::from_millis(10)).await.complete);
    tokio::time::timeout(PATIENCE, slow).await.unwrap().unwrap().unwrap_err();
}
