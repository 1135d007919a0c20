//! The queues of an emitter are bounded in bytes, as well as in the number of their events.

use std::num::NonZeroUsize;
use std::sync::Arc;

use eventbox::CloudEvent;
use eventbox::chip::{BatchClient, BatchConfig, SendError, Transport};

use super::support::{Fake, STOP, started};
use crate::support::{SOON, eventually, on_every_engine};

/// Bytes of payload that a queue takes. Attributes count too, so the queue takes one event fewer.
const QUEUE: usize = 64 << 20;

fn large(bytes: usize) -> CloudEvent {
    CloudEvent::builder("tests", "large").payload(vec![b'x'; bytes]).build().unwrap()
}

fn client() -> BatchClient {
    let mut config = BatchConfig::durable();
    config.batch_size = NonZeroUsize::MIN;
    BatchClient::new(Fake::ok() as Arc<dyn Transport>, config).unwrap()
}

#[tokio::test]
async fn the_batch_clients_queue_is_full_by_bytes() {
    let client = client();
    let accepted = (0..100).take_while(|_| client.queue(large(1 << 20), None).is_ok()).count();
    assert_eq!(accepted, QUEUE / (1 << 20) - 1);
    assert!(matches!(client.queue(large(1 << 20), None), Err(SendError::BufferFull)));
    assert!(client.free() > 9_000, "its number of events is not what is full");
    // A small one still fits, and what is sent makes room.
    client.queue(large(1), None).unwrap();
    client.start();
    eventually(SOON, async || client.free_bytes() == QUEUE).await;
    client.queue(large(1 << 20), None).unwrap();
    assert!(client.stop(STOP).await.complete);
}

/// One event that is larger than the bound passes alone.
#[tokio::test]
async fn an_event_that_is_larger_than_a_queue_passes_alone() {
    let client = client();
    client.queue(large(QUEUE + 1), None).unwrap();
    assert!(matches!(client.queue(large(1), None), Err(SendError::BufferFull)));
    client.start();
    eventually(SOON, async || client.free_bytes() == QUEUE).await;
    assert!(client.stop(STOP).await.complete);
}

on_every_engine! {
    /// An event that finds no room in bytes is dropped and counted, as an event that finds no room by number is. Emits
    /// that wait are all stored and delivered.
    async fn publishes_of_large_events_wait_for_each_other(db) {
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |config| {
            config.async_buffer = NonZeroUsize::new(10_000).unwrap();
            config.batch.message_buffer = NonZeroUsize::new(10_000).unwrap();
        })
        .await;
        // Nothing of these is stored before this test waits.
        let emitted = (0..100).map(|_| emitter.publish(large(1 << 20)));
        let emitted = futures_util::future::join_all(emitted).await;
        assert!(emitted.iter().all(Result::is_ok), "{emitted:?}");
        for _ in 0..100 {
            emitter.publish_async(large(1 << 20));
        }
        let dropped = emitter.stats().async_dropped;
        assert!(dropped > 0, "none was dropped");
        let wanted = 200 - usize::try_from(dropped).unwrap();
        eventually(2 * SOON, async || fake.events().len() >= wanted && db.count("eventbox_outbox").await == 0).await;
        assert_eq!(emitter.stats().async_dropped, dropped);
        emitter.stop(STOP).await;
    }
}
