//! A service under load, as a user would write it, and the counts that judge it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventbox::chip::Transport;
use eventbox::emitter::DurableEmitter;
use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishResponse, PublishResult};
use eventbox::proto::io::cloudevents::v1::CloudEvent as WireEvent;
use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{Backend, BoxError, CloudEvent, Event, Outcome, Receipt, Recipient, Reducer, ReducerAsProcessor, state};
use sqlx::{Pool, Postgres, Sqlite};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::report::{Report, Result};

/// Number of boxes.
const BOXES: u64 = 24;

/// Number of tasks that emit.
const SENDERS: usize = 6;

/// Longest time for the service to finish its backlog after the last fault.
const FINISH: Duration = Duration::from_secs(150);

/// Longest wait for the service to recover.
const GIVE_UP: Duration = Duration::from_secs(120);

/// An engine, with an emit on a pool, so that the service needs no generic executor.
pub(crate) trait Engine: Backend {
    fn put(pool: &Pool<Self>, to: &Recipient, event: Event) -> impl Future<Output = eventbox::Result<Receipt>> + Send;
}

impl Engine for Postgres {
    async fn put(pool: &Pool<Self>, to: &Recipient, event: Event) -> eventbox::Result<Receipt> {
        eventbox::emit(pool, to, event).await
    }
}

impl Engine for Sqlite {
    async fn put(pool: &Pool<Self>, to: &Recipient, event: Event) -> eventbox::Result<Receipt> {
        eventbox::emit(pool, to, event).await
    }
}

/// A reducer that remembers every event and publishes a message about it.
struct Ledger;

impl Reducer for Ledger {
    type State = Vec<u64>;

    fn reduce(&self, _: &Recipient, events: &[Event], mut seen: Vec<u64>) -> Result2<Outcome<Vec<u64>>> {
        let mut told = Vec::new();
        for event in events {
            let number = std::str::from_utf8(event.value())?.parse()?;
            seen.push(number);
            told.push(CloudEvent::builder("faults", "applied").subject(number.to_string()).build()?);
        }
        Ok(Outcome::to(seen).consuming(events).publishing(told))
    }
}

type Result2<T> = std::result::Result<T, BoxError>;

/// The receiver, which counts the messages that arrive.
#[derive(Default)]
struct Arrived(Mutex<HashMap<u64, u32>>);

impl Arrived {
    fn take(&self, event: &WireEvent) -> PublishResult {
        let subject = event.attributes.get("subject").and_then(|value| value.attr.as_ref());
        let text = format!("{subject:?}");
        let number: String = text.chars().filter(char::is_ascii_digit).collect();
        *self.0.lock().unwrap().entry(number.parse().expect("a number as subject")).or_default() += 1;
        PublishResult { event_id: event.id.clone(), error: None }
    }
}

#[async_trait]
impl Transport for Arrived {
    async fn publish_batch(
        &self,
        batch: &CloudEventBatch,
        _: Duration,
    ) -> std::result::Result<PublishResponse, Status> {
        Ok(PublishResponse { results: batch.events.iter().map(|event| self.take(event)).collect() })
    }

    async fn publish(&self, event: &WireEvent, _: Duration) -> std::result::Result<PublishResponse, Status> {
        Ok(PublishResponse { results: vec![self.take(event)] })
    }
}

/// Shared state of the senders.
#[derive(Default)]
struct Sent {
    next: AtomicU64,
    over: AtomicBool,
    acknowledged: Mutex<HashSet<u64>>,
    errors: Mutex<HashMap<String, u32>>,
}

pub(crate) struct Service<B: Engine> {
    pub(crate) pool: Pool<B>,
    runtime: Runtime<B>,
    emitter: DurableEmitter<B>,
    sent: Arc<Sent>,
    arrived: Arc<Arrived>,
    senders: JoinSet<()>,
}

/// Returns the box of an event. Half of the boxes are processed in rounds, and half in turns of their own.
fn box_of(number: u64) -> Recipient {
    let kind = if number.is_multiple_of(2) { "rounds" } else { "turns" };
    Recipient::new(kind, (number % BOXES).to_string()).unwrap()
}

impl<B: Engine> Service<B> {
    /// Migrates, starts the workers and the delivery, and starts the senders.
    pub(crate) async fn start(pool: Pool<B>) -> Result<Self> {
        eventbox::migrate(&pool).await?;
        let arrived = Arc::new(Arrived::default());
        let transport: Arc<dyn Transport> = Arc::<Arrived>::clone(&arrived);
        let emitter = DurableEmitter::builder(pool.clone(), transport);
        let emitter = emitter.configure(|config| config.retransmit_interval = Duration::from_secs(1)).start().await?;
        let builder = Runtime::builder(pool.clone()).reducer("rounds", Ledger);
        let builder = builder.processor("turns", ReducerAsProcessor::<Ledger>::new(&Ledger)).emitter(emitter.clone());
        let runtime = builder.config(RuntimeConfig::default()).start().await?;
        let (sent, mut senders) = (Arc::new(Sent::default()), JoinSet::new());
        for _ in 0..SENDERS {
            senders.spawn(send(pool.clone(), Arc::clone(&sent)));
        }
        Ok(Service { pool, runtime, emitter, sent, arrived, senders })
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.sent.acknowledged.lock().unwrap().len()
    }

    pub(crate) fn delivered(&self) -> usize {
        self.arrived.0.lock().unwrap().len()
    }

    /// Waits until `events` more events are acknowledged.
    pub(crate) async fn works_for(&self, events: usize) {
        let (began, before) = (Instant::now(), self.acknowledged());
        while self.acknowledged() < before + events && began.elapsed() < GIVE_UP {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Emits a new event to every box. Returns the seconds until all of them are applied.
    pub(crate) async fn back_at_work(&self) -> f64 {
        let began = Instant::now();
        let fresh: Vec<u64> = (0..BOXES).map(|_| self.sent.next.fetch_add(1, Ordering::Relaxed)).collect();
        let all = fresh.iter().map(|number| async move {
            let to = box_of(*number);
            put::<B>(&self.pool, &self.sent, *number).await;
            while began.elapsed() < GIVE_UP {
                let read = timeout(Duration::from_secs(3), state::<Vec<u64>>(&self.pool, &to)).await;
                if let Ok(Ok(Some(at))) = read
                    && at.state.is_some_and(|seen| seen.contains(number))
                {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        futures_util::future::join_all(all).await;
        began.elapsed().as_secs_f64()
    }

    /// Ends the load, lets the service finish, and counts the events and messages.
    pub(crate) async fn audit(mut self, report: &mut Report) {
        self.sent.over.store(true, Ordering::Relaxed);
        while self.senders.join_next().await.is_some() {}
        let acknowledged = self.sent.acknowledged.lock().unwrap().clone();
        let (began, mut applied) = (Instant::now(), Vec::new());
        while began.elapsed() < FINISH {
            if let Some(now) = self.applied().await {
                applied = now;
                let (seen, arrived): (HashSet<u64>, _) =
                    (applied.iter().copied().collect(), self.arrived.0.lock().unwrap().clone());
                if acknowledged.is_subset(&seen) && seen.iter().all(|number| arrived.contains_key(number)) {
                    break;
                }
            }
            sleep(Duration::from_millis(200)).await;
        }
        report.note(format!("finished in {:.1} s after the load", began.elapsed().as_secs_f64()));
        let stopped = self.runtime.stop(Duration::from_secs(20)).await;
        self.emitter.stop(Duration::from_secs(20)).await;
        if let Some(last) = self.applied().await {
            applied = last;
        }
        let seen: HashSet<u64> = applied.iter().copied().collect();
        let arrived = self.arrived.0.lock().unwrap().clone();
        let errors = self.sent.errors.lock().unwrap().clone();
        report.note(format!("emits that failed and were tried again: {errors:?}; stopped: {stopped:?}"));
        report.acknowledged += acknowledged.len();
        report.applied += seen.len();
        report.lost += acknowledged.difference(&seen).count();
        report.twice += applied.len() - seen.len();
        report.delivered += arrived.len();
        report.of_no_turn += arrived.keys().filter(|number| !seen.contains(number)).count();
        report.undelivered += seen.iter().filter(|number| !arrived.contains_key(number)).count();
        report.judge();
        self.pool.close().await;
    }

    /// Returns all events in the states, in no order, or `None` if a state could not be read.
    async fn applied(&self) -> Option<Vec<u64>> {
        let mut all = Vec::new();
        for number in 0..BOXES {
            let read = timeout(Duration::from_secs(5), state::<Vec<u64>>(&self.pool, &box_of(number))).await;
            all.extend(read.ok()?.ok()?.and_then(|at| at.state).unwrap_or_default());
        }
        Some(all)
    }
}

async fn send<B: Engine>(pool: Pool<B>, sent: Arc<Sent>) {
    while !sent.over.load(Ordering::Relaxed) {
        let number = sent.next.fetch_add(1, Ordering::Relaxed);
        put::<B>(&pool, &sent, number).await;
        sleep(Duration::from_millis(3)).await;
    }
}

/// Emits an event under its name, and retries until it is acknowledged or the load is over.
async fn put<B: Engine>(pool: &Pool<B>, sent: &Sent, number: u64) {
    let began = Instant::now();
    while began.elapsed() < GIVE_UP {
        let event = Event::new(number.to_string()).named(number.to_string());
        match B::put(pool, &box_of(number), event).await {
            Ok(_) => {
                sent.acknowledged.lock().unwrap().insert(number);
                return;
            }
            Err(error) => {
                let text = format!("{error:?}");
                let kind = text.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
                *sent.errors.lock().unwrap().entry(kind).or_default() += 1;
            }
        }
        if sent.over.load(Ordering::Relaxed) {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
