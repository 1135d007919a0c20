//! Receipts, and the status of the events that they stand for.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use ::eventbox::{
    BoxError, Emitted, Error, Event, EventId, Misuse, Outcome, Receipt, Recipient, Reducer, Status, admin, emit,
    reduce_batch, state, status,
    timer::{cancel, move_due},
};
use proptest::prelude::*;

use crate::support::on_every_engine;

const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

/// Fails while an event that asks for it is in the batch.
struct Counter;

impl Reducer for Counter {
    type State = usize;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: usize) -> Result<Outcome<usize>, BoxError> {
        if events.iter().any(|event| event.value() == b"fail") {
            return Err("told to fail".into());
        }
        Ok(Outcome::to(count + events.len()).consuming(events))
    }
}

on_every_engine! {
    async fn an_event_is_followed_to_its_turn(db) {
        let receipt = emit(&db.pool, &order(), Event::new("x")).await.unwrap();
        // Another process reads the receipt.
        let receipt: Receipt = serde_json::from_str(&serde_json::to_string(&receipt).unwrap()).unwrap();
        let ask = async || status(&db.pool, &receipt).await.unwrap();
        assert_eq!(ask().await, Status::Waiting);
        admin::pause(&db.pool, &order()).await.unwrap();
        assert_eq!(ask().await, Status::Paused);
        admin::resume(&db.pool, &order()).await.unwrap();
        let id = receipt.id().unwrap();
        admin::quarantine(&db.pool, &order(), &[id], "odd").await.unwrap();
        assert_eq!(ask().await, Status::Quarantined { code: admin::QUARANTINED.to_owned(), reason: "odd".to_owned() });
        admin::replay(&db.pool, &order(), &[id]).await.unwrap();
        assert_eq!(ask().await, Status::Waiting);
        let turn = reduce_batch(&db.pool, &order(), &Counter, MANY).await.unwrap().number.unwrap();
        assert_eq!(ask().await, Status::Done { turn });
        let now = state::<usize>(&db.pool, &order()).await.unwrap().unwrap();
        assert_eq!((now.turn, now.state), (turn, Some(1)), "the state at that turn includes the event");
    }

    async fn the_status_of_a_failing_recipient_has_its_error(db) {
        let receipt = emit(&db.pool, &order(), Event::new("fail")).await.unwrap();
        reduce_batch(&db.pool, &order(), &Counter, MANY).await.unwrap_err();
        db.run(format!(
            "INSERT INTO eventbox_failure (shard, recipient, attempts, error) VALUES ({}, 'order/7', 3, 'told to fail')
                        ON CONFLICT (shard, recipient) DO UPDATE SET attempts = 3, error = excluded.error",
            order().shard()
        ))
        .await;
        let answer = status(&db.pool, &receipt).await.unwrap();
        assert_eq!(answer, Status::Failing { attempts: 3, error: "told to fail".to_owned() });
    }

    async fn a_timer_is_due_until_it_has_come(db) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let receipt = emit(&db.pool, &order(), Event::new("x").named("n").due_at(at)).await.unwrap();
        let copy = emit(&db.pool, &order(), Event::new("x").named("n")).await.unwrap();
        assert_eq!((copy.emitted(), copy.id()), (Emitted::Duplicate, None));
        for receipt in [&receipt, &copy] {
            assert_eq!(status(&db.pool, receipt).await.unwrap(), Status::Due { at });
        }
        db.run("UPDATE eventbox_timer SET due_at_us = 0").await;
        move_due(&db.pool, &[order().shard()], MANY).await.unwrap();
        assert_eq!(status(&db.pool, &copy).await.unwrap(), Status::Waiting);
        let _ = reduce_batch(&db.pool, &order(), &Counter, MANY).await.unwrap();
        assert_eq!(status(&db.pool, &copy).await.unwrap(), Status::Done { turn: 1 });

        let other = emit(&db.pool, &order(), Event::new("x").named("m").due_at(at)).await.unwrap();
        assert!(cancel(&db.pool, &order(), "m").await.unwrap());
        assert_eq!(status(&db.pool, &other).await.unwrap(), Status::Done { turn: 1 });
    }

    async fn a_copy_stands_for_the_first_one(db) {
        let named = || Event::new("x").named("n:'ü'");
        let first = emit(&db.pool, &order(), named()).await.unwrap();
        let copy = emit(&db.pool, &order(), named()).await.unwrap();
        assert!(first == Emitted::Added && copy == Emitted::Duplicate && first.id().is_some());
        assert_eq!(status(&db.pool, &copy).await.unwrap(), Status::Waiting);
        let _ = reduce_batch(&db.pool, &order(), &Counter, MANY).await.unwrap();
        let late = emit(&db.pool, &order(), named()).await.unwrap();
        assert_eq!(late, Emitted::Tombstoned);
        for receipt in [first, copy, late] {
            let receipt: Receipt = receipt.to_string().parse().unwrap();
            assert_eq!(status(&db.pool, &receipt).await.unwrap(), Status::Done { turn: 1 });
        }
    }

    /// The status reads the turn and the absence of the event in one snapshot: after "done at turn t", the state at t
    /// has the event.
    async fn done_is_never_said_of_a_turn_before(db) {
        let pool = db.open(2);
        let worker = tokio::spawn(async move {
            let mut done = 0;
            while done < 60 {
                match reduce_batch(&pool, &order(), &Counter, NonZeroU32::MIN).await {
                    Ok(turn) => done += turn.consumed,
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
        });
        for emitted in 1..=60_i64 {
            let receipt = emit(&db.pool, &order(), Event::new("x")).await.unwrap();
            loop {
                match status(&db.pool, &receipt).await.unwrap() {
                    // One event a turn, in order: the turn that consumed this one has its number.
                    Status::Done { turn } => { assert!(turn >= emitted, "{turn} < {emitted}"); break }
                    other => assert_eq!(other, Status::Waiting),
                }
            }
        }
        worker.await.unwrap();
    }
}

#[test]
fn a_text_that_is_no_receipt_is_refused() {
    let id = EventId::from(uuid::Uuid::now_v7());
    let good = format!("added:{id}:order/7");
    assert_eq!(good.parse::<Receipt>().unwrap().to_string(), good);
    for bad in [
        "",
        "added",
        "added:x:order/7",
        &format!("added:{id}:"),
        &format!("lost:{id}:order/7"),
        "duplicate:0:order/7",
        "duplicate:99:norder/7",
        "duplicate:1:üorder/7",
        "duplicate:-1:norder/7",
    ] {
        let error = bad.parse::<Receipt>().unwrap_err();
        assert!(matches!(error, Error::Misuse { misuse: Misuse::NotAReceipt { .. }, .. }), "{bad}: {error:?}");
    }
}

proptest! {
    #[test]
    fn a_receipt_survives_its_text(name in "[^\0]{1,60}", key in "[^\0]{1,60}", tombstoned: bool) {
        let word = if tombstoned { "tombstoned" } else { "duplicate" };
        let to = Recipient::new("order", key).unwrap();
        let text = format!("{word}:{}:{name}{to}", name.len());
        let receipt: Receipt = text.parse().unwrap();
        prop_assert_eq!(receipt.to(), &to);
        prop_assert_eq!(receipt.emitted(), if tombstoned { Emitted::Tombstoned } else { Emitted::Duplicate });
        prop_assert_eq!(receipt.to_string(), text);
    }
}
