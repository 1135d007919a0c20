//! A server whose time per request grows with the number of events.
//! Requests get smaller until the server answers in time, and few events arrive twice.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::chip::{BatchClient, BatchConfig, SendError, Transport};
use eventbox::emitter::DurableEmitter;
use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishResponse};
use eventbox::proto::io::cloudevents::v1::CloudEvent as Wire;
use tonic::Status;

use super::support::{STOP, all_ok, event, ok, payload, quick};
use crate::support::{SOON, eventually, on_every_engine};

/// A transport that waits for each event of a request, and counts the events that arrive.
struct PerEvent {
    each: Mutex<Duration>,
    arrived: Mutex<BTreeMap<String, usize>>,
    sizes: Mutex<Vec<usize>>,
}

impl PerEvent {
    fn new(each: Duration) -> Arc<Self> {
        Arc::new(PerEvent { each: Mutex::new(each), arrived: Mutex::default(), sizes: Mutex::default() })
    }

    fn copies(&self) -> usize {
        self.arrived.lock().unwrap().values().sum()
    }
}

#[async_trait]
impl Transport for PerEvent {
    async fn publish_batch(&self, batch: &CloudEventBatch, _: Duration) -> Result<PublishResponse, Status> {
        for event in &batch.events {
            *self.arrived.lock().unwrap().entry(payload(event)).or_default() += 1;
        }
        self.sizes.lock().unwrap().push(batch.events.len());
        let each = *self.each.lock().unwrap();
        tokio::time::sleep(each * u32::try_from(batch.events.len()).unwrap()).await;
        Ok(all_ok(batch))
    }

    async fn publish(&self, event: &Wire, _: Duration) -> Result<PublishResponse, Status> {
        Ok(PublishResponse { results: vec![ok(event)] })
    }
}

/// Sends events until the server accepted all of them; a failed event is sent again after a second.
async fn deliver(client: &Arc<BatchClient>, names: impl Iterator<Item = usize>) {
    let deliveries = names.map(|name| {
        let client = Arc::clone(client);
        async move {
            loop {
                let (tell, told) = tokio::sync::oneshot::channel();
                let callback = Box::new(move |sent: eventbox::chip::SendOutcome| drop(tell.send(sent.result)));
                match client.queue(event(name), Some(callback)) {
                    Ok(()) if told.await.unwrap().is_ok() => return,
                    Ok(()) | Err(SendError::BufferFull) => tokio::time::sleep(Duration::from_secs(1)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    futures_util::future::join_all(deliveries).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_deadline_requests_are_smaller_and_few_events_arrive_twice() {
    for each_ms in [60, 150, 1_000] {
        let server = PerEvent::new(Duration::from_millis(each_ms));
        let client = BatchClient::new(Arc::clone(&server) as _, BatchConfig::durable()).unwrap();
        let client = Arc::new(client);
        client.start();
        deliver(&client, 0..600).await;
        let copies = server.copies();
        assert_eq!(server.arrived.lock().unwrap().len(), 600);
        assert!(copies <= 900, "{each_ms} ms an event: {copies} copies of 600 events");
        let last = *server.sizes.lock().unwrap().last().unwrap();
        assert!(Duration::from_millis(each_ms) * u32::try_from(last).unwrap() <= client.config().publish_timeout);
        client.stop(STOP).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_size_grows_again_when_the_server_is_fast_again() {
    let server = PerEvent::new(Duration::from_millis(150));
    let client = Arc::new(BatchClient::new(Arc::clone(&server) as _, BatchConfig::durable()).unwrap());
    client.start();
    deliver(&client, 0..200).await;
    assert!(client.request_size() < 50);
    *server.each.lock().unwrap() = Duration::from_millis(1);
    deliver(&client, 1_000..6_000).await;
    assert_eq!(client.request_size(), 50);
    client.stop(STOP).await;
}

on_every_engine! {
    /// With the outbox, and a server ten times as fast, no event is lost and few arrive twice.
    async fn a_slow_server_settles_everything_with_few_copies(db) {
        let server = PerEvent::new(Duration::from_millis(15));
        let transport: Arc<dyn Transport> = Arc::clone(&server) as _;
        let emitter = DurableEmitter::builder(db.pool.clone(), transport).configure(quick).configure(|config| {
            (config.batch.publish_timeout, config.claim_ttl) = (Duration::from_millis(500), Duration::from_secs(5));
            config.batch.batch_size = NonZeroUsize::new(50).unwrap();
            config.batch.breaker = Some(eventbox::chip::BreakerConfig::default());
        });
        let emitter = emitter.start().await.unwrap();
        futures_util::future::try_join_all((0..600).map(|name| emitter.publish(event(name)))).await.unwrap();
        eventually(SOON, async || db.count("eventbox_outbox").await == 0).await;
        let copies = server.copies();
        assert!(copies <= 1_200, "{copies} copies of 600 events");
        emitter.stop(STOP).await;
    }
}
