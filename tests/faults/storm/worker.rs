//! A worker process: a runtime and the delivery, as a service has them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::chip::Transport;
use eventbox::emitter::DurableEmitter;
use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishResponse, PublishResult};
use eventbox::proto::io::cloudevents::v1::CloudEvent as WireEvent;
use eventbox::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use eventbox::runtime::{LeaseConfig, Runtime, RuntimeConfig};
use eventbox::{
    BoxError, CloudEvent, EVersion, Event, Mutation, Outcome, Processor, Recipient, Reducer, ReducerAsProcessor,
    Transition,
};
use sqlx::{PgConnection, PgPool, Postgres};
use tonic::Status;

use super::super::report::Result;
use super::numbers::{ROUNDS, ROWS, TURNS};
use super::oracle::{Notes, arrival};
use super::process::{WORKS, told_to_stop};

/// Time limit of each part of a stop.
const STOP: Duration = Duration::from_secs(20);

/// Term of a lease. The boxes of a worker that dies wait for it, so it is well below the 15 s of the promise.
const LEASE: Duration = Duration::from_secs(6);

/// Longest time until a message whose answer was lost is sent again.
const RETRANSMIT: Duration = Duration::from_secs(1);

/// One in so many requests fails before the receiver has noted the messages, and one after it.
const REFUSED_EVERY: u32 = 40;
const UNANSWERED_EVERY: u32 = 60;

/// Adds the numbers of events to what a box has seen, and builds a message for each: its subject is the number and its
/// place, so that a message of a turn that did not happen is known.
fn take(events: &[Event], seen: &mut Vec<u64>) -> std::result::Result<Vec<CloudEvent>, BoxError> {
    let mut messages = Vec::new();
    for event in events {
        let number: u64 = std::str::from_utf8(event.value())?.parse()?;
        messages.push(CloudEvent::builder("faults", "applied").subject(format!("{number}@{}", seen.len())).build()?);
        seen.push(number);
    }
    Ok(messages)
}

/// Reducer of [`ROUNDS`] and [`TURNS`].
struct Ledger;

impl Reducer for Ledger {
    type State = Vec<u64>;

    fn reduce(
        &self,
        _: &Recipient,
        events: &[Event],
        mut seen: Vec<u64>,
    ) -> std::result::Result<Outcome<Vec<u64>>, BoxError> {
        let messages = take(events, &mut seen)?;
        Ok(Outcome::to(seen).consuming(events).publishing(messages))
    }
}

/// Creates the table of [`ROWS`].
pub(crate) async fn create_table(pool: &PgPool) -> Result<()> {
    let create = "CREATE TABLE faults_row (id text PRIMARY KEY, eversion bigint NOT NULL, seen text NOT NULL)";
    sqlx::query(create).execute(pool).await?;
    Ok(())
}

/// Returns what a box of [`ROWS`] has seen, and its version.
async fn load(conn: &mut PgConnection, key: &str) -> std::result::Result<(Vec<u64>, i64), BoxError> {
    let query = sqlx::query_as::<_, (String, i64)>("SELECT seen, eversion FROM faults_row WHERE id = $1").bind(key);
    Ok(match query.fetch_optional(conn).await? {
        Some((seen, eversion)) => (serde_json::from_str(&seen)?, eversion),
        None => (Vec::new(), 0),
    })
}

/// Processor of [`ROWS`].
struct Rows;

impl Processor<Postgres> for Rows {
    type State = Vec<u64>;

    async fn load_state(
        &self,
        conn: &mut PgConnection,
        to: &Recipient,
    ) -> std::result::Result<(Vec<u64>, EVersion), BoxError> {
        let (seen, eversion) = load(conn, to.key()).await?;
        Ok((seen, EVersion(eversion)))
    }

    async fn prepare_mutation(
        &self,
        _: &Recipient,
        events: &[Event],
        seen: &Vec<u64>,
    ) -> std::result::Result<Mutation<Postgres, Vec<u64>>, BoxError> {
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        let mut seen = seen.clone();
        let messages = take(events, &mut seen)?;
        Ok(Transition::to(seen).consuming(events).publishing(messages).into())
    }

    async fn fetch_eversion(&self, tx: &mut PgConnection, to: &Recipient) -> std::result::Result<EVersion, BoxError> {
        Ok(EVersion(load(tx, to.key()).await?.1))
    }

    async fn save_state(
        &self,
        tx: &mut PgConnection,
        to: &Recipient,
        seen: &Vec<u64>,
        eversion: EVersion,
    ) -> std::result::Result<(), BoxError> {
        let write = "INSERT INTO faults_row (id, eversion, seen) VALUES ($1, $2, $3)
                     ON CONFLICT (id) DO UPDATE SET eversion = excluded.eversion, seen = excluded.seen";
        let query = sqlx::query(write).bind(to.key()).bind(eversion.0).bind(serde_json::to_string(seen)?);
        query.execute(tx).await?;
        Ok(())
    }
}

/// The receiver of the messages. A message is acknowledged when it is in the file, and now and then a request fails.
struct Receiver {
    notes: Mutex<Notes>,
    random: Mutex<fastrand::Rng>,
}

impl Receiver {
    fn one_in(&self, many: u32) -> std::result::Result<bool, Status> {
        let mut random = self.random.lock().map_err(|_| Status::internal("another request has panicked"))?;
        Ok(random.u32(..many) == 0)
    }

    fn take(&self, events: &[WireEvent]) -> std::result::Result<PublishResponse, Status> {
        if self.one_in(REFUSED_EVERY)? {
            return Err(Status::unavailable("the receiver fails now and then"));
        }
        let lines: String = events.iter().map(|event| arrival(subject_of(event))).collect();
        let mut notes = self.notes.lock().map_err(|_| Status::internal("another request has panicked"))?;
        notes.add(&lines).map_err(|error| Status::unavailable(error.to_string()))?;
        if self.one_in(UNANSWERED_EVERY)? {
            return Err(Status::unavailable("the answer is lost now and then"));
        }
        let result = |event: &WireEvent| PublishResult { event_id: event.id.clone(), error: None };
        Ok(PublishResponse { results: events.iter().map(result).collect() })
    }
}

fn subject_of(event: &WireEvent) -> &str {
    match event.attributes.get("subject").and_then(|value| value.attr.as_ref()) {
        Some(Attr::CeString(subject)) => subject,
        _ => "a message without a subject",
    }
}

#[async_trait]
impl Transport for Receiver {
    async fn publish_batch(
        &self,
        batch: &CloudEventBatch,
        _: Duration,
    ) -> std::result::Result<PublishResponse, Status> {
        self.take(&batch.events)
    }

    async fn publish(&self, event: &WireEvent, _: Duration) -> std::result::Result<PublishResponse, Status> {
        self.take(std::slice::from_ref(event))
    }
}

/// Works until it is told to stop.
pub(crate) async fn work(pool: PgPool, name: &str, seed: u64, folder: &Path) -> Result<()> {
    let random = Mutex::new(fastrand::Rng::with_seed(seed));
    let receiver = Receiver { notes: Mutex::new(Notes::of_receiver(folder)?), random };
    let emitter = DurableEmitter::builder(pool.clone(), Arc::new(receiver) as Arc<dyn Transport>);
    let emitter = emitter.configure(|config| config.retransmit_interval = RETRANSMIT).start().await?;
    let mut leases = LeaseConfig::default();
    (leases.lease_ttl, leases.renew_interval, leases.check_interval) = (LEASE, LEASE / 3, LEASE / 10);
    let mut config = RuntimeConfig::default();
    (config.address, config.leases) = (name.to_owned(), Some(leases));
    let builder = Runtime::builder(pool).reducer(ROUNDS, Ledger).processor(ROWS, Rows);
    let builder = builder.processor(TURNS, ReducerAsProcessor::<Ledger>::new(&Ledger));
    let runtime = builder.emitter(emitter.clone()).config(config).start().await?;
    println!("{WORKS}");
    told_to_stop().await;
    runtime.stop(STOP).await;
    emitter.stop(STOP).await;
    Ok(())
}

/// Returns the boxes of [`ROWS`], each with what it has seen.
pub(crate) async fn rows(pool: &PgPool) -> Result<Vec<(String, Vec<u64>)>> {
    let rows = sqlx::query_as::<_, (String, String)>("SELECT id, seen FROM faults_row").fetch_all(pool).await?;
    rows.into_iter().map(|(key, seen)| Ok((key, serde_json::from_str(&seen)?))).collect()
}

/// Returns what a box has seen.
pub(crate) async fn seen(pool: &PgPool, kind: &str, key: &str) -> Result<Vec<u64>> {
    if kind == ROWS {
        return Ok(load(&mut *pool.acquire().await?, key).await?.0);
    }
    let at = eventbox::state::<Vec<u64>>(pool, &Recipient::new(kind, key)?).await?;
    Ok(at.and_then(|at| at.state).unwrap_or_default())
}
