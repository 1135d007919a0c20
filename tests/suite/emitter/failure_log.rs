//! The log reports failures once a minute for each code, with the destination and the counts.

use std::sync::Arc;
use std::time::Duration;

use eventbox::chip::{BatchClient, BatchConfig, GrpcConfig, GrpcTransport, Transport};
use eventbox::proto::chipingress::pb::PublishResponse;
use tonic::{Code, Status};

use super::support::{Fake, GrpcServer, STOP, event, ok, refused};
use crate::support::log::Log;
use crate::support::{SOON, eventually};

async fn send(client: &BatchClient, names: std::ops::Range<usize>) {
    let answers = names.map(|name| {
        let (tell, told) = tokio::sync::oneshot::channel();
        client.queue(event(name), Some(Box::new(move |sent| _ = tell.send(sent.result.is_ok())))).unwrap();
        told
    });
    futures_util::future::join_all(answers.collect::<Vec<_>>()).await;
}

fn client(transport: Arc<dyn Transport>) -> BatchClient {
    let mut config = BatchConfig::default();
    config.batch_size = std::num::NonZeroUsize::MIN;
    config.message_buffer = std::num::NonZeroUsize::new(1_000).unwrap();
    let client = BatchClient::new(transport, config).unwrap();
    client.start();
    client
}

#[tokio::test(start_paused = true)]
async fn failed_requests_are_logged_once_a_minute_with_counts() {
    for code in ["Unavailable", "DeadlineExceeded", "Internal"] {
        let (log, _guard) = Log::listen();
        let scripted = match code {
            "Unavailable" => Code::Unavailable,
            "Internal" => Code::Internal,
            _ => Code::DeadlineExceeded,
        };
        let client = client(Fake::failing(scripted));
        let words = ["requests to the destination failed", code, "the transport of the application", "scripted"];
        send(&client, 0..1).await;
        let [first] = log.lines(&words).try_into().unwrap();
        assert!(first.contains("requests=1") && first.contains("events=1"), "{first}");
        send(&client, 0..500).await;
        assert_eq!(log.lines(&words).len(), 1, "the second line comes a minute later");
        eventually(Duration::from_secs(3_600), async || {
            tokio::time::advance(Duration::from_secs(1)).await;
            log.lines(&words).len() == 2
        })
        .await;
        let second = log.lines(&words).pop().unwrap();
        assert!(second.contains("requests=500") && second.contains("events=500"), "{second}");
        send(&client, 0..2).await;
        client.stop(STOP).await;
        let lines = log.lines(&words);
        assert!(lines.len() == 3 && lines[2].contains("requests=2"), "a stop logs the rest: {lines:?}");
    }
}

#[tokio::test]
async fn refused_events_are_logged_with_their_codes() {
    let (log, _guard) = Log::listen();
    let fake = Fake::new(|_, batch| {
        let code = if batch.events.len() == 1 { 1 } else { 2 };
        let results = batch.events.iter().enumerate().map(|(index, event)| match index {
            0 => refused(event, code, "no subject"),
            _ => ok(event),
        });
        Ok(PublishResponse { results: results.collect() })
    });
    let client = client(fake);
    send(&client, 0..3).await;
    client.stop(STOP).await;
    let lines = log.lines(&["the destination refused events", "PUBLISH_ERROR_CODE_VALIDATION_FAILED", "no subject"]);
    assert!(lines.len() == 2 && lines[0].contains("events=1") && lines[1].contains("events=2"), "{lines:?}");
}

#[tokio::test]
async fn the_log_names_the_destination_by_its_address() {
    let (log, _guard) = Log::listen();
    let server = GrpcServer::start(Fake::new(|_, _| Err(Status::data_loss("scripted")))).await;
    let transport = GrpcTransport::new(&GrpcConfig::new(server.endpoint())).unwrap();
    let client = client(Arc::new(transport));
    send(&client, 0..1).await;
    eventually(SOON, async || !log.lines(&["DataLoss", &server.endpoint()]).is_empty()).await;
    client.stop(STOP).await;
    server.stop().await;
}
