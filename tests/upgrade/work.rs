//! A worker: a runtime and the delivery, as a service has them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::chip::Transport;
use eventbox::emitter::DurableEmitter;
use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishResponse, PublishResult};
use eventbox::proto::io::cloudevents::v1::CloudEvent as WireEvent;
use eventbox::runtime::{LeaseConfig, Runtime, RuntimeConfig};
use eventbox::{
    BoxError, CloudEvent, EVersion, Event, Mutation, Outcome, Processor, Recipient, Reducer, ReducerAsProcessor,
    Transition,
};
use sqlx::Pool;
use tonic::Status;

use crate::engine::Engine;
use crate::numbers::{self, HOP_STEP, HOPS, ROUNDS, ROWS, STEP, TURNS};
use crate::seen::Seen;
use crate::told_to_stop;

/// Time limit of each part of a stop.
const STOP: Duration = Duration::from_secs(20);

/// Term of a lease. It is short, because many workers are killed.
const LEASE: Duration = Duration::from_secs(3);

/// The line that a worker prints when it works.
const WORKS: &str = "works";

/// Reducer of [`ROUNDS`] and [`TURNS`]: it remembers each number, publishes a message of it, and emits some again.
struct Ledger;

impl Reducer for Ledger {
    type State = Seen;

    fn reduce(&self, to: &Recipient, events: &[Event], mut seen: Seen) -> Result<Outcome<Seen>, BoxError> {
        let taken = seen.take(events, STEP)?;
        let hop = |number: &u64| -> eventbox::Result<(Recipient, Event)> {
            Ok((Recipient::new(HOPS, to.key())?, Event::new(number.to_string())))
        };
        let hops = taken.iter().filter(|number| numbers::hops(**number)).map(hop);
        let hops = hops.collect::<eventbox::Result<Vec<_>>>()?;
        Ok(Outcome::to(seen).consuming(events).publishing(messages(&taken)?).emitting(hops))
    }
}

/// Reducer of [`HOPS`].
struct Hops;

impl Reducer for Hops {
    type State = Seen;

    fn reduce(&self, _: &Recipient, events: &[Event], mut seen: Seen) -> Result<Outcome<Seen>, BoxError> {
        seen.take(events, HOP_STEP)?;
        Ok(Outcome::to(seen).consuming(events))
    }
}

/// Processor of [`ROWS`].
struct Rows;

impl<E: Engine> Processor<E> for Rows {
    type State = Seen;

    async fn load_state(&self, conn: &mut E::Connection, to: &Recipient) -> Result<(Seen, EVersion), BoxError> {
        let (seen, eversion) = E::load(conn, to.key()).await?;
        Ok((seen, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        _: &Recipient,
        events: &[Event],
        seen: &Seen,
    ) -> Result<Mutation<E, Seen>, BoxError> {
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        let mut seen = seen.clone();
        let taken = seen.take(events, STEP)?;
        Ok(Transition::to(seen).consuming(events).publishing(messages(&taken)?).into())
    }

    async fn fetch_eversion(&self, tx: &mut E::Connection, to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(E::load(tx, to.key()).await?.1))
    }

    async fn save_state(
        &self,
        tx: &mut E::Connection,
        to: &Recipient,
        seen: &Seen,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        E::save(tx, to.key(), seen, eversion.0).await
    }
}

/// Builds a message for each number, with the number as its subject.
fn messages(taken: &[u64]) -> Result<Vec<CloudEvent>, BoxError> {
    let message = |number: &u64| CloudEvent::builder("upgrade", "applied").subject(number.to_string()).build();
    Ok(taken.iter().map(message).collect::<Result<Vec<_>, _>>()?)
}

/// The receiver of the messages: a file outside the database. A message is acknowledged when it is in the file.
/// A dot ends each.
struct Arrived(Mutex<File>);

impl Arrived {
    fn open(oracle: &Path) -> Result<Self, BoxError> {
        let path = oracle.join(format!("arrived-{}.txt", std::process::id()));
        Ok(Arrived(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)))
    }

    fn take(&self, events: &[WireEvent]) -> Result<PublishResponse, Status> {
        let lines: String = events.iter().map(|event| format!("{}.\n", subject_of(event))).collect();
        let mut file = self.0.lock().map_err(|_| Status::internal("a writer has panicked"))?;
        file.write_all(lines.as_bytes()).map_err(|error| Status::unavailable(error.to_string()))?;
        let result = |event: &WireEvent| PublishResult { event_id: event.id.clone(), error: None };
        Ok(PublishResponse { results: events.iter().map(result).collect() })
    }
}

/// Returns the digits of the subject of a message.
fn subject_of(event: &WireEvent) -> String {
    let subject = event.attributes.get("subject").and_then(|value| value.attr.as_ref());
    format!("{subject:?}").chars().filter(char::is_ascii_digit).collect()
}

#[async_trait]
impl Transport for Arrived {
    async fn publish_batch(&self, batch: &CloudEventBatch, _: Duration) -> Result<PublishResponse, Status> {
        self.take(&batch.events)
    }

    async fn publish(&self, event: &WireEvent, _: Duration) -> Result<PublishResponse, Status> {
        self.take(std::slice::from_ref(event))
    }
}

/// Works until it is told to stop.
pub(crate) async fn work<E: Engine>(pool: Pool<E>, name: &str, oracle: &Path) -> Result<(), BoxError> {
    let transport: Arc<dyn Transport> = Arc::new(Arrived::open(oracle)?);
    let emitter = DurableEmitter::builder(pool.clone(), transport);
    let emitter = emitter.configure(|config| config.retransmit_interval = Duration::from_secs(1)).start().await?;
    let mut leases = LeaseConfig::default();
    (leases.lease_ttl, leases.renew_interval, leases.check_interval) = (LEASE, LEASE / 3, LEASE / 10);
    let mut config = RuntimeConfig::default();
    (config.address, config.leases) = (name.to_owned(), Some(leases));
    let builder = Runtime::builder(pool).reducer(ROUNDS, Ledger).reducer(HOPS, Hops).processor(ROWS, Rows);
    let builder = builder.processor(TURNS, ReducerAsProcessor::<Ledger>::new(&Ledger));
    let runtime = builder.emitter(emitter.clone()).config(config).start().await?;
    println!("{WORKS}");
    told_to_stop().await;
    runtime.stop(STOP).await;
    emitter.stop(STOP).await;
    Ok(())
}
