//! The results that the batch client reports for its events, and its reactions to refusals.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use eventbox::chip::{BatchConfig, EmptyResults, SendError};
use eventbox::proto::chipingress::pb::PublishResponse;
use tonic::{Code, Status};

use super::rig::{rig, size};
use super::support::{Fake, all_ok, event, ok, payload, refused};

/// The client calls each callback once, with exactly the server's error, in both modes.
#[tokio::test]
async fn every_event_gets_one_callback() {
    for transactional in [false, true] {
        let failing = Fake::failing(Code::Unavailable);
        let rig = rig(failing, |config| config.transaction_enabled = transactional);
        (0..4).for_each(|name| rig.queue(name));
        rig.client.queue(event("without a callback"), None).unwrap();
        rig.client.start();
        rig.stop().await;
        let outcomes = rig.outcomes(4).await;
        assert_eq!(outcomes.len(), 4);
        for (_, result) in outcomes {
            let Err(SendError::Status(status)) = result else { panic!("{result:?}") };
            assert_eq!((status.code(), status.message()), (Code::Unavailable, "scripted"));
        }
    }
}

/// A callback that panics does not prevent the other callbacks.
#[tokio::test]
async fn a_callback_that_panics_harms_no_other() {
    let rig = rig(Fake::ok(), |_| {});
    rig.client.queue(event("bad"), Some(Box::new(|_| panic!("on purpose")))).unwrap();
    rig.queue("good");
    rig.client.start();
    rig.stop().await;
    assert_eq!(rig.outcomes(1).await.len(), 1);
}

fn with_results(
    results: impl Fn(&eventbox::proto::chipingress::pb::CloudEventBatch) -> PublishResponse + Send + Sync + 'static,
) -> Arc<Fake> {
    Fake::new(move |_, batch| Ok(results(batch)))
}

async fn outcome_texts(fake: Arc<Fake>, events: usize, change: impl FnOnce(&mut BatchConfig)) -> Vec<String> {
    let rig = rig(fake, change);
    (0..events).for_each(|name| rig.queue(name));
    rig.client.start();
    rig.stop().await;
    let outcomes = rig.outcomes(events).await;
    outcomes
        .into_iter()
        .map(|(_, result)| result.map_or_else(|error| error.to_string(), |()| "ok".to_owned()))
        .collect()
}

/// The client assigns results to events by position, and not by id.
/// Too few results are a mismatch for the events without a result. Too many results are ignored.
/// A transactional batch has one outcome, and its results are not read.
#[tokio::test]
async fn results_belong_to_events_by_position() {
    let mixed = with_results(|batch| PublishResponse {
        results: vec![ok(&batch.events[0]), refused(&batch.events[1], 2, "no schema"), ok(&batch.events[2])],
    });
    assert_eq!(outcome_texts(mixed, 3, |_| {}).await, ["ok", "PUBLISH_ERROR_CODE_SCHEMA_MISSING: no schema", "ok"]);

    let short = with_results(|batch| PublishResponse { results: vec![ok(&batch.events[0])] });
    let mismatch = "RESULTS_MISMATCH: server returned 1 results for 3 events";
    assert_eq!(outcome_texts(short, 3, |_| {}).await, ["ok", mismatch, mismatch]);

    let long = with_results(|batch| PublishResponse { results: vec![ok(&batch.events[0]); 3] });
    assert_eq!(outcome_texts(long, 2, |_| {}).await, ["ok", "ok"]);

    let refusals = with_results(|batch| PublishResponse {
        results: (0..).zip(&batch.events).map(|(code, event)| refused(event, code, "")).collect(),
    });
    assert_eq!(
        outcome_texts(refusals, 6, |_| {}).await,
        [
            "PUBLISH_ERROR_CODE_UNKNOWN: ",
            "PUBLISH_ERROR_CODE_VALIDATION_FAILED: ",
            "PUBLISH_ERROR_CODE_SCHEMA_MISSING: ",
            "PUBLISH_ERROR_CODE_ENCODE_ERROR: ",
            "PUBLISH_ERROR_CODE_DOMAIN_MISCONFIGURATION: ",
            "PUBLISH_ERROR_CODE_UNKNOWN: ",
        ]
    );

    let renamed = with_results(|batch| {
        let mut response = all_ok(batch);
        response.results[0].event_id = "another".to_owned();
        response
    });
    assert_eq!(outcome_texts(renamed, 2, |_| {}).await, ["ok", "ok"]);

    let empty = || with_results(|_| PublishResponse::default());
    assert_eq!(outcome_texts(empty(), 2, |_| {}).await, ["ok", "ok"]);
    let strict = outcome_texts(empty(), 1, |config| config.empty_results = EmptyResults::Mismatch).await;
    assert_eq!(strict, ["RESULTS_MISMATCH: server returned 0 results for 1 events"]);

    let unread = with_results(|batch| PublishResponse { results: vec![refused(&batch.events[0], 1, "unread")] });
    assert_eq!(outcome_texts(unread, 2, |config| config.transaction_enabled = true).await, ["ok", "ok"]);
}

/// Every request carries the option `transaction_enabled`; it is false by default.
#[tokio::test]
async fn the_transaction_option_is_always_on_the_wire() {
    for (given, wire) in [(None, false), (Some(false), false), (Some(true), true)] {
        let rig = rig(Fake::ok(), |config| config.transaction_enabled = given.unwrap_or(config.transaction_enabled));
        rig.queue("x");
        rig.client.start();
        rig.stop().await;
        assert_eq!(rig.fake.batches()[0].options.unwrap().transaction_enabled, Some(wire));
    }
}

/// The client halves a refused batch until the refused event is alone.
/// An event whose own size is refused fails permanently. A rate limit ends the halving.
#[tokio::test]
async fn a_refused_batch_is_halved() {
    for code in [Code::InvalidArgument, Code::ResourceExhausted] {
        let fake = Fake::new(move |_, batch| {
            if batch.events.iter().any(|event| payload(event) == "13") {
                return Err(Status::new(code, "message larger than max"));
            }
            Ok(all_ok(batch))
        });
        let rig = rig(fake, |config| config.batch_size = size(64));
        (0..64).for_each(|name| rig.queue(name));
        rig.client.start();
        rig.stop().await;
        let failed: Vec<_> = rig.outcomes(64).await.into_iter().filter(|(_, result)| result.is_err()).collect();
        assert_eq!(failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["13"]);
        assert!(rig.fake.calls() <= 13, "{:?}", rig.fake.sizes());
    }

    let limited = rig(Fake::failing(Code::ResourceExhausted), |config| config.batch_size = size(64));
    (0..64).for_each(|name| limited.queue(name));
    limited.client.start();
    limited.stop().await;
    assert_eq!(limited.fake.sizes(), [64, 1], "one small request distinguishes a rate limit from a size limit");
}

/// After refused credentials the client refreshes them once and repeats the request.
#[tokio::test]
async fn refused_credentials_are_refreshed_once() {
    let fake = Fake::new(|call, batch| if call == 0 { Err(Status::unauthenticated("old")) } else { Ok(all_ok(batch)) });
    let rig = rig(fake, |_| {});
    rig.queue("x");
    rig.client.start();
    rig.stop().await;
    assert!(rig.outcomes(1).await[0].1.is_ok());
    assert_eq!((rig.fake.calls(), rig.fake.refreshed.load(Ordering::SeqCst)), (2, 1));
}
