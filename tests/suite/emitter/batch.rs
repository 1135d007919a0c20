//! The batches of the client by itself: their sizes, order, numbers, and ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use eventbox::chip::{BatchConfig, MIN_REQUEST_BYTES, SendError};
use prost::Message;

use super::rig::{rig, size};
use super::support::{Fake, event, of, payload, text};
use crate::support::{SOON, eventually};

/// Every option reaches its field, a request limit below the minimum is raised to it, and the defaults are these.
#[tokio::test]
async fn options_are_used_and_small_request_limits_are_raised() {
    for (given, limit) in [(512, MIN_REQUEST_BYTES), (0, MIN_REQUEST_BYTES), (1 << 20, 1 << 20), (4 << 20, 4 << 20)] {
        let rig = rig(Fake::ok(), |config| config.max_request_bytes = given);
        assert_eq!(rig.client.config().request_limit(), limit);
        assert_eq!(rig.client.config().effective_request_limit(), limit - 10 * 1024);
    }
    let config = BatchConfig::default();
    assert_eq!((config.batch_size, config.max_concurrent_sends, config.message_buffer), (size(10), size(1), size(200)));
    assert_eq!((config.batch_interval, config.publish_timeout), (Duration::from_millis(100), Duration::from_secs(5)));
    assert_eq!((config.max_request_bytes, config.transaction_enabled, config.client_name), (10 << 20, false, None));
    let durable = BatchConfig::durable();
    assert_eq!(
        (durable.batch_size, durable.max_concurrent_sends, durable.message_buffer),
        (size(50), size(4), size(10_000))
    );
    assert_eq!(durable.batch_interval, Duration::from_millis(50));
    assert_eq!(durable.client_name.as_deref(), Some("durable_emitter"));
}

/// A full buffer refuses the next event. The buffered event is sent as it was given.
#[tokio::test]
async fn a_full_buffer_refuses_and_the_buffered_event_is_sent_as_given() {
    let rig = rig(Fake::ok(), |config| config.message_buffer = size(1));
    let first = event("first");
    rig.client.queue(first.clone(), None).unwrap();
    let refused = rig.client.queue(event("second"), None).unwrap_err();
    assert_eq!(refused.to_string(), "message buffer is full");
    rig.client.start();
    rig.stop().await;
    let [sent] = rig.fake.events().try_into().unwrap();
    assert_eq!((sent.id.as_str(), payload(&sent)), (first.id(), "first".to_owned()));
}

/// A batch is sent when it is full, when it is as old as the interval, and at the stop; an empty batch is never sent.
#[tokio::test]
async fn batches_are_sent_by_size_by_age_and_at_the_stop() {
    let by_size =
        rig(Fake::ok(), |config| (config.batch_size, config.batch_interval) = (size(3), Duration::from_secs(3600)));
    (1..=3).for_each(|name| by_size.queue(name));
    by_size.client.start();
    by_size.outcomes(3).await;
    assert_eq!(by_size.names(), [["1", "2", "3"]]);
    by_size.stop().await;
    assert_eq!(by_size.fake.calls(), 1, "an empty batch is never sent");

    let by_age = rig(Fake::ok(), |config| config.batch_interval = Duration::from_millis(50));
    by_age.client.start();
    by_age.queue(1);
    by_age.queue(2);
    by_age.outcomes(2).await;
    assert_eq!(by_age.names(), [["1", "2"]]);

    let at_stop = rig(Fake::ok(), |config| config.batch_interval = Duration::from_secs(3600));
    at_stop.client.start();
    at_stop.queue(1);
    at_stop.stop().await;
    assert_eq!(at_stop.names(), [["1"]]);

    let six = rig(Fake::ok(), |config| config.batch_size = size(2));
    (1..=6).for_each(|name| six.queue(name));
    six.client.start();
    six.stop().await;
    assert_eq!(six.fake.sizes(), [2, 2, 2]);

    let none = rig(Fake::ok(), |_| {});
    none.client.start();
    none.stop().await;
    assert_eq!(none.fake.calls(), 0);
}

/// The interval is the maximum age of a batch and no debounce: further events do not postpone the send.
#[tokio::test(start_paused = true)]
async fn single_events_do_not_delay_a_batch() {
    let rig =
        rig(Fake::ok(), |config| (config.batch_size, config.batch_interval) = (size(1000), Duration::from_millis(100)));
    rig.client.start();
    for name in 0..30 {
        rig.queue(name);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(rig.fake.calls() >= 2, "{:?}", rig.fake.sizes());
}

/// Events beyond the request limit are sent in several requests, in their order.
#[tokio::test]
async fn a_batch_that_is_too_large_is_sent_in_parts_in_order() {
    let rig = rig(Fake::ok(), |config| {
        (config.max_request_bytes, config.batch_interval) = (1 << 20, Duration::from_secs(3600));
    });
    let limit = rig.client.config().effective_request_limit();
    let big = "x".repeat(500_000);
    for name in 0..5 {
        rig.queue(format!("{name}{big}"));
    }
    rig.client.start();
    rig.stop().await;
    assert_eq!(rig.fake.sizes(), [2, 2, 1]);
    assert!(rig.fake.batches().iter().all(|batch| batch.encoded_len() <= limit));
    let firsts: Vec<_> = rig.fake.events().iter().map(|event| payload(event)[..1].to_owned()).collect();
    assert_eq!(firsts, ["0", "1", "2", "3", "4"]);
    assert!(rig.outcomes(5).await.iter().all(|(_, result)| result.is_ok()));
}

/// An event above the request limit fails alone, and the events around it are sent.
#[tokio::test]
async fn an_event_that_is_too_large_is_not_sent_and_the_others_are() {
    let rig = rig(Fake::ok(), |config| config.max_request_bytes = 1 << 20);
    rig.queue("before");
    rig.queue("x".repeat(2 << 20));
    rig.queue("after");
    rig.client.start();
    rig.stop().await;
    let outcomes = rig.outcomes(3).await;
    let error = outcomes[1].1.as_ref().unwrap_err().to_string();
    assert!(error.contains("exceeds max gRPC request size 1048576"), "{error}");
    assert!(outcomes[0].1.is_ok() && outcomes[2].1.is_ok());
    assert_eq!(rig.names(), [["before"], ["after"]]);
}

/// The client splits a transactional batch only when `split_transactions` allows it; otherwise its events fail.
#[tokio::test]
async fn a_transactional_batch_is_split_only_on_request() {
    for allowed in [false, true] {
        let rig = rig(Fake::ok(), |config| {
            (config.max_request_bytes, config.transaction_enabled) = (1 << 20, true);
            config.split_transactions = allowed;
        });
        rig.queue("x".repeat(600_000));
        rig.queue("y".repeat(600_000));
        rig.client.start();
        rig.stop().await;
        let outcomes = rig.outcomes(2).await;
        assert_eq!(outcomes.iter().all(|(_, result)| result.is_ok()), allowed);
        assert_eq!(rig.fake.calls(), if allowed { 2 } else { 0 });
    }
}

/// Repeated stops close the transport once. After a stop the client refuses events.
#[tokio::test]
async fn stopping_closes_once_and_refuses_afterwards() {
    let idle = rig(Fake::ok(), |_| {});
    idle.queue("never sent");
    idle.stop().await;
    assert!(matches!(idle.outcomes(1).await[0].1, Err(SendError::Shutdown)));

    let rig = rig(Fake::ok(), |_| {});
    rig.client.start();
    for _ in 0..3 {
        rig.stop().await;
    }
    assert_eq!(rig.fake.closed.load(Ordering::SeqCst), 1);
    assert_eq!(rig.client.queue(event("late"), None).unwrap_err().to_string(), "client is shutdown");
}

/// A stop sends all queued events, however many there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stop_drains_the_queue() {
    let rig = rig(Fake::ok(), |config| config.message_buffer = size(5_000));
    (0..5_000).for_each(|name| rig.queue(name));
    rig.client.start();
    rig.stop().await;
    let outcomes = rig.outcomes.lock().unwrap();
    assert_eq!(outcomes.len(), 5_000);
    assert!(outcomes.iter().all(|(_, result)| result.is_ok()));
}

/// With a server that hangs, the client calls every callback by the deadline of the stop.
#[tokio::test]
async fn a_stop_that_runs_out_of_time_still_calls_back() {
    let rig = rig(Fake::ok(), |config| config.batch_size = size(2));
    rig.fake.set_open(false);
    rig.client.start();
    (0..50).for_each(|name| rig.queue(name));
    eventually(SOON, async || rig.fake.calls() == 1).await;
    let stopped = rig.client.stop(Duration::from_millis(50)).await;
    assert!(!stopped.complete);
    let outcomes = rig.outcomes(50).await;
    assert_eq!(outcomes.len(), 50);
    assert!(outcomes.iter().all(|(_, result)| matches!(result, Err(SendError::Shutdown))));
    rig.fake.set_open(true);
}

/// Sequence numbers count per source and type, from 1, without a repetition. A refused event uses up its number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_count_per_source_and_type() {
    let numbers =
        |fake: &Fake| -> Vec<String> { fake.events().iter().map(|event| text(event, "seqnum").unwrap()).collect() };

    let one = rig(Fake::ok(), |_| {});
    (0..3).for_each(|name| one.queue(name));
    one.client.queue(of("flights", "other", ""), None).unwrap();
    one.client.queue(of("ab", "c", ""), None).unwrap();
    one.client.queue(of("a", "bc", ""), None).unwrap();
    one.client.start();
    one.stop().await;
    assert_eq!(numbers(&one.fake), ["1", "2", "3", "1", "1", "1"]);
    let epochs: std::collections::BTreeSet<_> = one.fake.events().iter().map(|event| text(event, "seqepoch")).collect();
    assert_eq!(epochs.len(), 1);

    let reused = rig(Fake::ok(), |_| {});
    let event_again = event("again");
    reused.client.queue(event_again.clone(), None).unwrap();
    reused.client.queue(event_again, None).unwrap();
    reused.client.start();
    reused.stop().await;
    assert_eq!(numbers(&reused.fake), ["1", "2"]);

    let gap = rig(Fake::ok(), |config| config.message_buffer = size(1));
    gap.queue("first");
    gap.client.queue(event("dropped"), None).unwrap_err();
    gap.client.start();
    gap.outcomes(1).await;
    gap.queue("third");
    gap.stop().await;
    assert_eq!(numbers(&gap.fake), ["1", "3"]);

    let many = Arc::new(rig(Fake::ok(), |config| config.message_buffer = size(1_000)));
    many.client.start();
    let racers = (0..10).map(|_| {
        let many = Arc::clone(&many);
        tokio::spawn(async move { (0..50).for_each(|name| many.queue(name)) })
    });
    for racer in racers.collect::<Vec<_>>() {
        racer.await.unwrap();
    }
    many.stop().await;
    let mut seen: Vec<u64> = numbers(&many.fake).iter().map(|number| number.parse().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=500).collect::<Vec<_>>());
}

/// Events arrive in the order of the queue, and unchanged but for their sequence number and epoch.
#[tokio::test]
async fn order_and_attributes_are_kept() {
    for count in [0, 1, 2, 100] {
        let rig = rig(Fake::ok(), |config| config.batch_size = size(100));
        let events: Vec<_> = (0..count).map(event).collect();
        events.iter().for_each(|event| rig.client.queue(event.clone(), None).unwrap());
        rig.client.start();
        rig.stop().await;
        let sent = rig.fake.events();
        assert_eq!(sent.len(), count);
        for (event, mut sent) in events.into_iter().zip(sent) {
            assert!(sent.attributes.remove("seqnum").is_some() && sent.attributes.remove("seqepoch").is_some());
            assert_eq!(sent, event.into_wire());
        }
    }
}

/// Sends overlap up to the configured number and no more.
#[tokio::test]
async fn concurrency_is_bounded() {
    let rig = rig(Fake::ok(), |config| (config.batch_size, config.max_concurrent_sends) = (size(1), size(3)));
    rig.fake.set_open(false);
    rig.client.start();
    (0..10).for_each(|name| rig.queue(name));
    eventually(SOON, async || rig.fake.concurrent.load(Ordering::SeqCst) == 3).await;
    rig.fake.set_open(true);
    rig.stop().await;
    assert_eq!(rig.fake.most_concurrent.load(Ordering::SeqCst), 3);
}
