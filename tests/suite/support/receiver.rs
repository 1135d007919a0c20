//! A scripted transport, the same behind a real gRPC server, and shorthands.
#![allow(clippy::needless_pass_by_value)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::CloudEvent;
use eventbox::chip::Transport;
use eventbox::emitter::{Config, DurableEmitter, DurableEmitterBuilder};
use eventbox::proto::chipingress::pb::chip_ingress_server::{ChipIngress, ChipIngressServer};
use eventbox::proto::chipingress::pb::{
    CloudEventBatch, EmptyRequest, PingResponse, PublishError, PublishResponse, PublishResult, RegisterSchemaRequest,
    RegisterSchemaResponse, StreamEventsRequest, StreamEventsResponse,
};
use eventbox::proto::io::cloudevents::v1::CloudEvent as Wire;
use eventbox::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use sqlx::Pool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{SOON, TestDb, TestEngine, eventually};

pub(crate) type Answer = Result<PublishResponse, Status>;
type Behaviour = Arc<dyn Fn(usize, &CloudEventBatch) -> Answer + Send + Sync>;

/// A transport with scripted responses, which remembers its requests.
pub(crate) struct Fake {
    behaviour: Mutex<Behaviour>,
    unary_fails: Mutex<Option<Code>>,
    batches: Mutex<Vec<CloudEventBatch>>,
    unary: Mutex<Vec<Wire>>,
    open: watch::Sender<bool>,
    /// Time that a response takes.
    pub(crate) delay: Mutex<Duration>,
    pub(crate) closed: AtomicUsize,
    pub(crate) hang_on_close: AtomicBool,
    pub(crate) refreshed: AtomicUsize,
    pub(crate) concurrent: AtomicUsize,
    pub(crate) most_concurrent: AtomicUsize,
}

impl Fake {
    pub(crate) fn new(behaviour: impl Fn(usize, &CloudEventBatch) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Fake {
            behaviour: Mutex::new(Arc::new(behaviour)),
            unary_fails: Mutex::new(None),
            batches: Mutex::default(),
            unary: Mutex::default(),
            open: watch::Sender::new(true),
            delay: Mutex::default(),
            closed: AtomicUsize::new(0),
            hang_on_close: AtomicBool::new(false),
            refreshed: AtomicUsize::new(0),
            concurrent: AtomicUsize::new(0),
            most_concurrent: AtomicUsize::new(0),
        })
    }

    pub(crate) fn ok() -> Arc<Self> {
        Fake::new(|_, batch| Ok(all_ok(batch)))
    }

    pub(crate) fn failing(code: Code) -> Arc<Self> {
        Fake::new(move |_, _| Err(Status::new(code, "scripted")))
    }

    pub(crate) fn become_ok(&self) {
        *self.behaviour.lock().unwrap() = Arc::new(|_, batch| Ok(all_ok(batch)));
    }

    pub(crate) fn fail_unary(&self, code: Code) {
        *self.unary_fails.lock().unwrap() = Some(code);
    }

    /// Takes over the responses of another fake.
    pub(crate) fn behave_as(&self, other: &Fake) {
        let behaviour = Arc::clone(&*other.behaviour.lock().unwrap());
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// Opens or closes the fake. While it is closed, calls hang.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub(crate) fn batches(&self) -> Vec<CloudEventBatch> {
        self.batches.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.batches.lock().unwrap().len()
    }

    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.batches().iter().map(|batch| batch.events.len()).collect()
    }

    /// Returns the events of all batch calls, in the order of the calls.
    pub(crate) fn events(&self) -> Vec<Wire> {
        self.batches().into_iter().flat_map(|batch| batch.events).collect()
    }

    pub(crate) fn unary(&self) -> Vec<Wire> {
        self.unary.lock().unwrap().clone()
    }

    async fn answer(&self, batch: &CloudEventBatch) -> Answer {
        let number = {
            let mut batches = self.batches.lock().unwrap();
            batches.push(batch.clone());
            batches.len() - 1
        };
        let now = self.concurrent.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_concurrent.fetch_max(now, Ordering::SeqCst);
        let behaviour = Arc::clone(&*self.behaviour.lock().unwrap());
        let _under_way = UnderWay(&self.concurrent);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        behaviour(number, batch)
    }
}

/// A call without a response so far; the drop lowers the counter.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Transport for Fake {
    async fn publish_batch(&self, batch: &CloudEventBatch, _timeout: Duration) -> Answer {
        self.answer(batch).await
    }

    async fn publish(&self, event: &Wire, _timeout: Duration) -> Answer {
        self.unary.lock().unwrap().push(event.clone());
        match *self.unary_fails.lock().unwrap() {
            Some(code) => Err(Status::new(code, "scripted")),
            None => Ok(PublishResponse { results: vec![ok(event)] }),
        }
    }

    async fn refresh_credentials(&self) {
        self.refreshed.fetch_add(1, Ordering::SeqCst);
    }

    async fn close(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
        if self.hang_on_close.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

pub(crate) fn ok(event: &Wire) -> PublishResult {
    PublishResult { event_id: event.id.clone(), error: None }
}

pub(crate) fn refused(event: &Wire, code: i32, reason: &str) -> PublishResult {
    let error = Some(PublishError { error_code: code, reason: reason.to_owned() });
    PublishResult { event_id: event.id.clone(), error }
}

pub(crate) fn all_ok(batch: &CloudEventBatch) -> PublishResponse {
    PublishResponse { results: batch.events.iter().map(ok).collect() }
}

/// A gRPC server that returns the responses of a fake.
pub(crate) struct GrpcServer {
    pub(crate) fake: Arc<Fake>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    pub(crate) seen: Arc<Mutex<Vec<tonic::metadata::MetadataMap>>>,
}

#[derive(Clone)]
struct Service {
    fake: Arc<Fake>,
    seen: Arc<Mutex<Vec<tonic::metadata::MetadataMap>>>,
}

#[tonic::async_trait]
impl ChipIngress for Service {
    type StreamEventsStream = tokio_stream::Empty<Result<StreamEventsResponse, Status>>;

    async fn publish(&self, request: Request<Wire>) -> Result<Response<PublishResponse>, Status> {
        self.seen.lock().unwrap().push(request.metadata().clone());
        Transport::publish(&*self.fake, request.get_ref(), Duration::ZERO).await.map(Response::new)
    }

    async fn publish_batch(&self, request: Request<CloudEventBatch>) -> Result<Response<PublishResponse>, Status> {
        self.seen.lock().unwrap().push(request.metadata().clone());
        self.fake.answer(request.get_ref()).await.map(Response::new)
    }

    async fn ping(&self, request: Request<EmptyRequest>) -> Result<Response<PingResponse>, Status> {
        self.seen.lock().unwrap().push(request.metadata().clone());
        Ok(Response::new(PingResponse { message: "pong".to_owned() }))
    }

    async fn stream_events(
        &self,
        _: Request<tonic::Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn register_schema(
        &self,
        request: Request<RegisterSchemaRequest>,
    ) -> Result<Response<RegisterSchemaResponse>, Status> {
        let registered = request.into_inner().schemas.into_iter().enumerate().map(|(index, schema)| {
            let version = i32::try_from(index).unwrap() + 1;
            eventbox::proto::chip_common::RegisteredSchema { subject: schema.subject, version }
        });
        let registered: Vec<_> = registered.collect();
        if registered.iter().any(|schema| schema.subject == "bad") {
            return Err(Status::invalid_argument("bad subject"));
        }
        Ok(Response::new(RegisterSchemaResponse { registered }))
    }
}

impl GrpcServer {
    pub(crate) async fn start(fake: Arc<Fake>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let seen = Arc::default();
        let service = ChipIngressServer::new(Service { fake: Arc::clone(&fake), seen: Arc::clone(&seen) })
            .max_decoding_message_size(16 << 20);
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        GrpcServer { fake, address, stop, task, seen }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Builds an event that its payload identifies.
pub(crate) fn event(payload: impl ToString) -> CloudEvent {
    of("flights", "flight.departed", payload)
}

pub(crate) fn of(source: &str, event_type: &str, payload: impl ToString) -> CloudEvent {
    CloudEvent::builder(source, event_type).payload(payload.to_string().into_bytes()).build().unwrap()
}

pub(crate) fn text(event: &Wire, name: &str) -> Option<String> {
    match event.attributes.get(name)?.attr.as_ref()? {
        Attr::CeString(text) => Some(text.clone()),
        _ => None,
    }
}

pub(crate) fn payload(event: &Wire) -> String {
    let event = CloudEvent::from_wire(event.clone()).unwrap();
    String::from_utf8(event.payload().to_vec()).unwrap()
}

/// Sets short intervals, so that a test is quick.
pub(crate) fn quick(config: &mut Config) {
    config.retransmit_interval = Duration::from_millis(10);
    config.claim_ttl = Duration::from_millis(5_500);
    config.backoff.initial = Duration::from_millis(10);
    config.backoff.max = Duration::from_millis(50);
    config.delete_flush_interval = Duration::from_millis(5);
    config.batch.batch_interval = Duration::from_millis(5);
    config.batch.breaker = None;
}

pub(crate) fn builder<B: eventbox::Backend>(pool: &Pool<B>, fake: &Arc<Fake>) -> DurableEmitterBuilder<B> {
    let transport: Arc<dyn Transport> = Arc::clone(fake) as _;
    DurableEmitter::builder(pool.clone(), transport).configure(quick)
}

pub(crate) async fn started<B: eventbox::Backend>(
    pool: &Pool<B>,
    fake: &Arc<Fake>,
    change: impl FnOnce(&mut Config),
) -> DurableEmitter<B> {
    builder(pool, fake).configure(change).start().await.unwrap()
}

pub(crate) const STOP: Duration = Duration::from_secs(20);

/// `publish_in` for tests that are generic over the engine, and its row.
pub(crate) trait Emits: TestEngine {
    async fn publish_in(tx: &mut Self::Connection, event: CloudEvent) -> eventbox::outbox::Stored;

    /// Makes a stored row due, and no other: a row in flight that becomes due may be sent twice.
    async fn make_due(tx: &mut Self::Connection, stored: &eventbox::outbox::Stored);
}

const MAKE_DUE: &str = "UPDATE eventbox_outbox SET next_attempt_at_us = 0 WHERE id = $1";

macro_rules! emits {
    ($engine:ty) => {
        impl Emits for $engine {
            async fn publish_in(tx: &mut Self::Connection, event: CloudEvent) -> eventbox::outbox::Stored {
                eventbox::outbox::publish_in(tx, event).await.unwrap()
            }

            async fn make_due(tx: &mut Self::Connection, stored: &eventbox::outbox::Stored) {
                let made = sqlx::query(MAKE_DUE).bind(*stored.id()).execute(tx).await.unwrap();
                assert_eq!(made.rows_affected(), 1);
            }
        }
    };
}

emits!(sqlx::Postgres);
emits!(sqlx::Sqlite);

pub(crate) const OUTBOX: &str = "eventbox_outbox";
pub(crate) const DEAD: &str = "eventbox_dead_letter";

/// Waits until the outbox is empty.
pub(crate) async fn emptied<B: TestEngine>(db: &TestDb<B>) {
    eventually(SOON, async || db.count(OUTBOX).await == 0).await;
}

/// Stores a row as another process would have left it: due at once.
pub(crate) async fn leave<B: Emits>(db: &TestDb<B>, event: CloudEvent) {
    let mut tx = eventbox::begin(&db.pool).await.unwrap();
    let stored = B::publish_in(&mut tx, event).await;
    B::make_due(&mut tx, &stored).await;
    tx.commit().await.unwrap();
}

/// Stores a row as another process would have left it, within its first claim.
pub(crate) async fn leave_in<B: Emits>(db: &TestDb<B>, event: CloudEvent) -> eventbox::outbox::Stored {
    let mut tx = eventbox::begin(&db.pool).await.unwrap();
    let stored = B::publish_in(&mut tx, event).await;
    tx.commit().await.unwrap();
    stored
}
