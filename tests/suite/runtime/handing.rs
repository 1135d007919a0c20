//! A runtime hands the messages of a committed turn to its emitter, from memory.

use std::sync::Arc;
use std::time::Duration;

use eventbox::emitter::DurableEmitter;
use eventbox::runtime::Runtime;
use eventbox::{BoxError, CloudEvent, Event, Outcome, Recipient, Reducer, Transition};

use super::{STOP, config, emit, emit_all};
use crate::support::receiver::{Fake, payload, started};
use crate::support::{CellEngine, Cells, SOON, TestDb, create_cells, eventually, on_every_engine};

/// Time for which no process claims a row of the outbox: every message that arrives, arrives from memory.
const LONG: Duration = Duration::from_secs(3_600);

fn message(of: &Recipient, event: &Event) -> Result<CloudEvent, BoxError> {
    let text = format!("{of}:{}", String::from_utf8_lossy(event.value()));
    Ok(CloudEvent::builder("tests", "told").payload(text.into_bytes()).build()?)
}

/// Publishes every event.
struct Publisher;

impl Reducer for Publisher {
    type State = u64;

    fn reduce(&self, to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let messages = events.iter().map(|event| message(to, event)).collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::to(count + 1).consuming(events).publishing(messages))
    }
}

fn publishing<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|to, events, population| {
        let messages = events.iter().map(|event| message(to, event)).collect::<Result<Vec<_>, _>>()?;
        Ok(Transition::to(population + 1).consuming(events).publishing(messages).into())
    })
}

async fn from_memory_alone<B: CellEngine>(db: &TestDb<B>, fake: &Arc<Fake>) -> DurableEmitter<B> {
    started(&db.open(4), fake, |config| {
        (config.claim_ttl, config.retransmit_interval) = (LONG, LONG);
    })
    .await
}

on_every_engine! {
    /// The messages of rounds of many recipients, of a round of one, and of turns go to the emitter right after their
    /// commit.
    async fn messages_are_handed_to_the_emitter(db) {
        create_cells(db).await;
        let fake = Fake::ok();
        let emitter = from_memory_alone(db, &fake).await;
        let runtime = Runtime::builder(db.open(5)).reducer("publisher", Publisher).processor("cell", publishing());
        let runtime = runtime.emitter(emitter.clone()).config(config()).start().await.unwrap();
        let mut wanted = Vec::new();
        for kind in ["publisher", "cell"] {
            for keys in [0..1, 1..8] {
                let all: Vec<_> = keys.map(|key| Recipient::new(kind, key.to_string()).unwrap()).collect();
                let events = all.iter().flat_map(|to| ["a", "b"].map(|value| (to.clone(), Event::new(value))));
                emit_all(db, &events.collect::<Vec<_>>()).await;
                wanted.extend(all.iter().flat_map(|to| ["a", "b"].map(|value| format!("{to}:{value}"))));
                eventually(SOON, async || fake.events().len() >= wanted.len()).await;
            }
        }
        eventually(SOON, async || db.count("eventbox_outbox").await == 0).await;
        let mut arrived: Vec<_> = fake.events().iter().map(payload).collect();
        arrived.sort();
        wanted.sort();
        assert_eq!(arrived, wanted, "each of them once");
        runtime.stop(STOP).await;
        emitter.stop(STOP).await;
    }

    /// A runtime without an emitter leaves the messages in the outbox, for a host that claims them.
    async fn without_an_emitter_a_host_sends_them(db) {
        let to = Recipient::new("publisher", "1").unwrap();
        let runtime =
            Runtime::builder(db.open(4)).reducer("publisher", Publisher).config(config()).start().await.unwrap();
        emit(db, &to, ["a"]).await;
        eventually(SOON, async || db.count("eventbox_outbox").await == 1).await;
        runtime.stop(STOP).await;
        let fake = Fake::ok();
        let emitter = started(&db.open(4), &fake, |_| {}).await;
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
        eventually(SOON, async || fake.events().iter().map(payload).eq(["publisher/1:a"])).await;
        emitter.stop(STOP).await;
    }
}
