//! The options of a server, and its start.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::SqlitePool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use super::call::Calls;
use super::error::IngressError;
use super::faults::{FaultSwitch, Faults};
use super::handle::IngressHandle;
use super::log::{IngressLog, open_file};
use super::publish::{Keeper, Publisher, Rules};
use super::service::Service;
use super::sink::Sink;
use super::store;
use super::writer::Writer;
use crate::grpc::{Credential, Gate, Incoming, Listen, Listening, Running, SizeRefusal, Tls};
use crate::proto::chipingress::pb::chip_ingress_server::ChipIngressServer;

/// The default size of the largest request that the server accepts: 16 MiB, in bytes.
pub const DEFAULT_MAX_REQUEST_BYTES: usize = 16 << 20;

/// A Chip Ingress server for development, tests and rehearsals; start with [`Ingress::builder`].
#[derive(Debug)]
pub struct Ingress;

impl Ingress {
    /// Returns the options of a server with a store in memory and without TLS.
    ///
    /// The server accepts every client and every valid event, unless further options are set.
    pub fn builder() -> IngressBuilder {
        IngressBuilder {
            store: StoreAt::Memory,
            sink: None,
            max_request_bytes: DEFAULT_MAX_REQUEST_BYTES,
            credentials: Vec::new(),
            tls: None,
            rules: Rules::default(),
            faults: Faults::none(),
        }
    }
}

/// The options of a server.
#[must_use = "a server runs only after `serve`"]
pub struct IngressBuilder {
    store: StoreAt,
    sink: Option<Arc<dyn Sink>>,
    max_request_bytes: usize,
    credentials: Vec<Credential>,
    tls: Option<Tls>,
    rules: Rules,
    faults: Faults,
}

#[derive(Debug)]
enum StoreAt {
    Memory,
    File(PathBuf),
    Pool(SqlitePool),
}

impl IngressBuilder {
    /// Keeps the events in this file, and creates the file when it is missing.
    ///
    /// A server on the file of an earlier server continues with the events in that file.
    pub fn store_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.store = StoreAt::File(path.into());
        self
    }

    /// Keeps the events in tables named `ingress_…` of this database, next to its other tables.
    ///
    /// Open the pool with [`sqlite_options`](crate::sqlite_options). Otherwise a power loss may destroy acknowledged
    /// events.
    pub fn store_pool(mut self, pool: SqlitePool) -> Self {
        self.store = StoreAt::Pool(pool);
        self
    }

    /// Gives accepted events to this sink instead of the server's log, which then stays empty.
    ///
    /// The server keeps nothing else than registered schemas. It refuses to register them (UNIMPLEMENTED) when it has
    /// no [`store_file`](Self::store_file) or [`store_pool`](Self::store_pool), because it would forget them.
    pub fn sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Sets the size of the largest request that the server accepts, in bytes.
    ///
    /// The server refuses a larger request with RESOURCE_EXHAUSTED.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Adds a credential. The server then accepts only clients that send any of the added credentials.
    pub fn accept(mut self, credential: Credential) -> Self {
        self.credentials.push(credential);
        self
    }

    /// Serves TLS instead of plaintext.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Refuses events without a registered schema for their [`schema_subject`](super::schema_subject): SCHEMA_MISSING.
    pub fn require_schemas(mut self) -> Self {
        self.rules.require_schemas = true;
        self
    }

    /// Refuses events whose source is not in this list: DOMAIN_MISCONFIGURATION.
    pub fn domains<S: Into<String>>(mut self, sources: impl IntoIterator<Item = S>) -> Self {
        self.rules.domains = Some(sources.into_iter().map(Into::into).collect());
        self
    }

    /// Starts the server with these faults. The [handle](IngressHandle::faults) changes them later.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Opens the store, listens, and serves in the background until the handle is stopped or dropped.
    ///
    /// # Errors
    ///
    /// - [`IngressError::Listen`] when the server cannot listen on the address;
    /// - [`IngressError::Store`] when the server cannot open or write the store;
    /// - [`IngressError::Tls`] and [`IngressError::TlsFile`] when it cannot use the certificates or the key.
    ///
    /// # Cancel safety
    ///
    /// Safe: the server serves nothing before the method returns.
    pub async fn serve(self, listen: impl Into<Listen>) -> Result<IngressHandle, IngressError> {
        let registers = self.sink.is_none() || !matches!(self.store, StoreAt::Memory);
        let (pool, shared) = match self.store {
            StoreAt::Memory => (open_file(":memory:".as_ref()).await?, false),
            StoreAt::File(path) => (open_file(&path).await?, false),
            StoreAt::Pool(pool) => (pool, true),
        };
        store::create(&pool).await?;
        let (listener, local_addr) = listen.into().bind().await?;

        let tasks = TaskTracker::new();
        let stopping = CancellationToken::new();
        let cut_all = CancellationToken::new();
        let keeper = match self.sink {
            Some(sink) => Keeper::Sink(sink),
            None => {
                let (writer, writing) = Writer::new(pool.clone(), shared);
                tasks.spawn(writing);
                Keeper::Log(writer)
            }
        };
        let faults = FaultSwitch::new(self.faults);
        let calls = Calls {
            publisher: Publisher::new(keeper, pool.clone(), self.rules, faults.clone()),
            faults: faults.clone(),
            stopping: stopping.clone(),
        };
        let service = Service { calls, pool: pool.clone(), registers, tasks: tasks.clone() };
        let service = ChipIngressServer::new(service).max_decoding_message_size(self.max_request_bytes);
        let service = SizeRefusal(service);
        let service = InterceptedService::new(service, Gate::new(self.credentials));
        let add_service = move |mut server: Server| server.add_service(service.clone());
        let (tasks_of, stopping_of) = (tasks.clone(), stopping.clone());
        let listening = Listening { add_service, tls: self.tls, tasks: tasks_of, stopping: stopping_of };
        let served = listening.begin()?;
        tasks.spawn(listening.run(Incoming::new(listener, cut_all.clone()), served));
        tasks.close();
        let running = Running { local_addr, tasks, stopping, cut_all };
        Ok(IngressHandle::new(running, IngressLog::on(pool), faults))
    }
}

impl std::fmt::Debug for IngressBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IngressBuilder").field("store", &self.store).finish_non_exhaustive()
    }
}
