//! Waits until what an event caused was delivered.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use eventbox::emitter::DurableEmitter;
use eventbox::outbox::{Stored, publish_in, replay_dead_letters};
use eventbox::proto::chipingress::pb::PublishErrorCode;
use eventbox::runtime::{Published, Runtime, RuntimeBuilder};
use eventbox::testing::Clock;
use eventbox::{
    BoxError, CloudEvent, Event, Outcome, Receipt, Recipient, Reducer, SideEffect, Status, Transition, admin,
};
use tonic::Code;

use super::processor_rounds::deciding;
use super::{STOP, config};
use crate::support::receiver::{Fake, all_ok, ok, payload, refused, started};
use crate::support::{CellEngine, SOON, TestDb, create_cells, eventually, on_every_engine};

/// A wait that is long enough to look, and ends before anything is delivered.
const SHORT: Duration = Duration::from_millis(300);

/// Publishes in a side effect that is generic over the engine.
trait Publishes: CellEngine {
    fn publish(tx: &mut Self::Connection, message: CloudEvent)
    -> impl Future<Output = eventbox::Result<Stored>> + Send;
}

impl Publishes for sqlx::Postgres {
    async fn publish(tx: &mut Self::Connection, message: CloudEvent) -> eventbox::Result<Stored> {
        publish_in(tx, message).await
    }
}

impl Publishes for sqlx::Sqlite {
    async fn publish(tx: &mut Self::Connection, message: CloudEvent) -> eventbox::Result<Stored> {
        publish_in(tx, message).await
    }
}

fn message(of: &Recipient, event: &Event) -> Result<CloudEvent, BoxError> {
    let text = format!("{of}:{}", String::from_utf8_lossy(event.value()));
    Ok(CloudEvent::builder("tests", "told").payload(text.into_bytes()).build()?)
}

fn messages(of: &Recipient, events: &[Event]) -> Result<Vec<CloudEvent>, BoxError> {
    let told = events.iter().filter(|event| event.value() != b"silent");
    told.map(|event| message(of, event)).collect()
}

/// Publishes every event but `silent`, and forwards those that begin with `for` to another publisher.
struct Publisher;

impl Reducer for Publisher {
    type State = u64;

    fn reduce(&self, to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        if let Some(event) = events.iter().find(|event| event.value().starts_with(b"for")) {
            let next = Recipient::new("publisher", "next")?;
            return Ok(Outcome::to(count + 1)
                .consuming(events)
                .emitting([(next, Event::new(event.value()[3..].to_vec()))]));
        }
        Ok(Outcome::to(count + 1).consuming(events).publishing(messages(to, events)?))
    }
}

/// Returns a runtime whose recipients publish: in rounds, in decisions of processors, and in side effects.
fn publishing<B: Publishes>(db: &TestDb<B>) -> RuntimeBuilder<B> {
    let in_decisions = deciding::<B, _>(|to, events, population| {
        Ok(Transition::to(population + 1).consuming(events).publishing(messages(to, events)?).into())
    });
    let in_effects = deciding::<B, _>(|to, events, population| {
        let told = messages(to, events)?;
        let effect = SideEffect::new(move |tx| {
            Box::pin(async move {
                for message in told {
                    drop(B::publish(tx, message).await?);
                }
                Ok(())
            })
        });
        Ok(Transition::to(population + 1).consuming(events).side_effect(effect).into())
    });
    Runtime::builder(db.open(5))
        .reducer("publisher", Publisher)
        .processor("cell", in_decisions)
        .processor("effect", in_effects)
        .config(config())
}

async fn emit<B: CellEngine>(db: &TestDb<B>, kind: &str, key: &str, value: &str) -> Receipt {
    B::emit_on(&db.pool, &Recipient::new(kind, key).unwrap(), Event::new(value.to_owned())).await.unwrap()
}

async fn host<B: CellEngine>(db: &TestDb<B>, fake: &Arc<Fake>) -> DurableEmitter<B> {
    started(&db.open(4), fake, |_| {}).await
}

/// Returns a server that refuses the messages whose texts end with `bad` for good, and takes those that end with
/// `stuck` never.
fn choosy() -> Arc<Fake> {
    Fake::new(|_, batch| {
        let mut answer = all_ok(batch);
        answer.results = batch
            .events
            .iter()
            .map(|event| match payload(event) {
                text if text.ends_with("bad") => refused(event, PublishErrorCode::ValidationFailed.into(), "it is bad"),
                text if text.ends_with("stuck") => refused(event, PublishErrorCode::Unknown.into(), "not now"),
                _ => ok(event),
            })
            .collect();
        Ok(answer)
    })
}

/// Waits until the event is processed, and makes the only message in the outbox due: nobody but a host sends the message
/// of a side effect, when its first claim has ended.
async fn end_claim<B: CellEngine>(db: &TestDb<B>, runtime: &Runtime<B>, receipt: &Receipt) {
    assert!(matches!(runtime.wait_processed(receipt, SOON).await.unwrap(), Status::Done { .. }));
    db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
}

on_every_engine! {
    /// A receiver that refuses for a while: what an event caused is published when it is acknowledged, and not before.
    async fn what_an_event_caused_is_published_when_it_is_acknowledged(db) {
        create_cells(db).await;
        let fake = Fake::failing(Code::Unavailable);
        let emitter = host(db, &fake).await;
        let runtime = publishing(db).emitter(emitter.clone()).start().await.unwrap();
        let mut receipts = Vec::new();
        for kind in ["publisher", "cell", "effect"] {
            for key in ["1", "2"] {
                let receipt = emit(db, kind, key, "told").await;
                assert!(matches!(runtime.wait_processed(&receipt, SOON).await.unwrap(), Status::Done { .. }));
                let found = runtime.wait_published(&receipt, SHORT).await.unwrap();
                assert_eq!(found, Published::Undelivered { turn: 1, left: 1, letters: Vec::new() }, "{kind}");
                receipts.push(receipt);
            }
        }
        let (found, ()) = tokio::join!(runtime.wait_published(&receipts[0], SOON), async { fake.become_ok() });
        assert_eq!(found.unwrap(), Published::Delivered { turn: 1 });
        for receipt in &receipts {
            assert_eq!(runtime.wait_published(receipt, SOON).await.unwrap(), Published::Delivered { turn: 1 });
            let text = format!("{}:told", receipt.to());
            assert!(fake.events().iter().any(|event| payload(event) == text), "{text} has arrived");
        }
        assert_eq!(db.count("eventbox_outbox").await, 0);
        // An event that causes no message.
        let silent = emit(db, "publisher", "1", "silent").await;
        assert_eq!(runtime.wait_published(&silent, SOON).await.unwrap(), Published::Delivered { turn: 2 });
        runtime.stop(STOP).await;
        emitter.stop(STOP).await;
    }

    /// A message that became a dead letter is named, whether it did before or during the wait. Later events of the
    /// recipient are not blamed for it, and after a replay nothing is left of it.
    async fn dead_letters_are_named_to_the_events_that_caused_them(db) {
        create_cells(db).await;
        let fake = choosy();
        let emitter = host(db, &fake).await;
        let runtime = publishing(db).emitter(emitter.clone()).start().await.unwrap();
        for kind in ["publisher", "effect"] {
            let bad = emit(db, kind, "1", "bad").await;
            if kind == "effect" {
                end_claim(db, &runtime, &bad).await;
            }
            let during = runtime.wait_published(&bad, SOON).await.unwrap();
            let Published::DeadLettered { turn: 1, letters } = during.clone() else { panic!("{during:?}") };
            assert_eq!(letters.len(), 1);
            assert_eq!(runtime.wait_published(&bad, SOON).await.unwrap(), during, "before the wait");
            let good = emit(db, kind, "1", "good").await;
            if kind == "effect" {
                end_claim(db, &runtime, &good).await;
            }
            assert_eq!(runtime.wait_published(&good, SOON).await.unwrap(), Published::Delivered { turn: 2 });
            assert_eq!(runtime.wait_published(&bad, SOON).await.unwrap(), Published::DeadLettered { turn: 2, letters: letters.clone() });
            fake.become_ok();
            assert_eq!(replay_dead_letters(&db.pool, &letters).await.unwrap(), 1);
            assert_eq!(runtime.wait_published(&bad, SOON).await.unwrap(), Published::Delivered { turn: 2 });
            fake.behave_as(&choosy());
        }
        runtime.stop(STOP).await;
        emitter.stop(STOP).await;
    }

    /// Messages of other recipients, and of turns that a turn caused, are not waited for. An event that is not
    /// processed has published nothing.
    async fn only_messages_of_the_recipient_are_waited_for(db) {
        create_cells(db).await;
        let fake = choosy();
        let emitter = host(db, &fake).await;
        let runtime = publishing(db).emitter(emitter.clone()).start().await.unwrap();
        let stuck = emit(db, "publisher", "1", "stuck").await;
        assert!(matches!(runtime.wait_processed(&stuck, SOON).await.unwrap(), Status::Done { .. }));
        let found = runtime.wait_published(&stuck, SHORT).await.unwrap();
        assert!(matches!(found, Published::Undelivered { left: 1, .. }), "{found:?}");
        let other = emit(db, "publisher", "2", "good").await;
        assert_eq!(runtime.wait_published(&other, SOON).await.unwrap(), Published::Delivered { turn: 1 });
        let forwarded = emit(db, "publisher", "3", "forstuck").await;
        assert_eq!(runtime.wait_published(&forwarded, SOON).await.unwrap(), Published::Delivered { turn: 1 });
        eventually(SOON, async || db.count("eventbox_outbox").await == 2).await;

        admin::pause(&db.pool, &Recipient::new("publisher", "4").unwrap()).await.unwrap();
        let paused = emit(db, "publisher", "4", "good").await;
        assert_eq!(runtime.wait_published(&paused, SOON).await.unwrap(), Published::NotProcessed(Status::Paused));
        runtime.stop(STOP).await;
        emitter.stop(STOP).await;
    }

    /// The clock of the process that processes an event may be behind that of the emitting process: the message is
    /// found all the same, because its id is greater than that of the event.
    async fn a_message_of_an_event_from_the_future_is_waited_for(db) {
        create_cells(db).await;
        let runtime = publishing(db).start().await.unwrap();
        let clock = Clock::at(SystemTime::now() + Duration::from_secs(3_600));
        for kind in ["publisher", "cell", "effect"] {
            let receipt = clock.scope(emit(db, kind, "1", "told")).await;
            assert!(matches!(runtime.wait_processed(&receipt, SOON).await.unwrap(), Status::Done { .. }));
            let found = runtime.wait_published(&receipt, SHORT).await.unwrap();
            assert!(matches!(found, Published::Undelivered { left: 1, .. }), "{kind}: {found:?}");
        }
        runtime.stop(STOP).await;
    }

    /// More messages than one look takes: all of them are waited for, page after page.
    async fn many_messages_are_waited_for(db) {
        const MANY: usize = 2_300;
        create_cells(db).await;
        let runtime = publishing(db).start().await.unwrap();
        let to = Recipient::new("publisher", "1").unwrap();
        let first = emit(db, "publisher", "1", "told").await;
        let events: Vec<_> = (1..MANY).map(|n| (to.clone(), Event::new(n.to_string()))).collect();
        for events in events.chunks(eventbox::limits::MAX_EMIT_EVENTS) {
            Engine::emit_all_on(&db.pool, events).await.unwrap();
        }
        eventually(SOON, async || db.count("eventbox_event").await == 0).await;
        let found = runtime.wait_published(&first, SHORT).await.unwrap();
        assert!(matches!(found, Published::Undelivered { left: 1_000, .. }), "{found:?}");
        let fake = Fake::ok();
        let emitter = host(db, &fake).await;
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
        let found = runtime.wait_published(&first, SOON).await.unwrap();
        assert!(matches!(found, Published::Delivered { .. }), "{found:?}");
        assert_eq!(db.count("eventbox_outbox").await, 0);
        assert!(fake.events().len() >= MANY, "{} messages have arrived", fake.events().len());
        runtime.stop(STOP).await;
        emitter.stop(STOP).await;
    }
}
