//! The gRPC service, to add to a server or to serve alone.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status, async_trait};

use super::api::ShardApi;
use crate::grpc::{Credential, Gate, Incoming, Listen, Listening, Running, ServeError, SizeRefusal, Tls};
use crate::proto::consumer::shard_server::{Shard, ShardServer};
use crate::proto::consumer::{
    ApplyRequest, ApplyResponse, GetHintsRequest, GetHintsResponse, ListRequest, ListResponse, StatRequest,
    StatResponse, UnassignRequest, UnassignResponse,
};
use crate::service::StopReport;

/// The service `consumer.Shard`: add it to a tonic server of your own, or [`serve`](ShardService::serve) it alone.
///
/// Without a credential every client may call it. Give credentials ([`accept`](ShardService::accept)) wherever others
/// reach the port, because Apply and Unassign change what processes do.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::proto::consumer::LabelSelector;
/// use eventbox::shard_api::{Credential, ShardClient, ShardService, Shards};
///
/// let service = ShardService::new(Shards::new(pool)).accept(Credential::basic("ana", "secret"));
/// let server = service.serve("127.0.0.1:0").await?;
/// let client = ShardClient::connect(format!("http://{}", server.local_addr())).await?.basic("ana", "secret")?;
/// assert_eq!(client.list(LabelSelector::default()).await?.len(), 256);
/// server.stop(std::time::Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "add it to a server, or call `serve`"]
pub struct ShardService {
    calls: Calls,
    credentials: Vec<Credential>,
    tls: Option<Tls>,
}

impl fmt::Debug for ShardService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardService").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl ShardService {
    /// Makes the service of an API.
    pub fn new(api: impl ShardApi) -> Self {
        ShardService { calls: Calls(Arc::new(api)), credentials: Vec::new(), tls: None }
    }

    /// Adds a credential. The service then answers only clients that send any of the added credentials.
    pub fn accept(mut self, credential: Credential) -> Self {
        self.credentials.push(credential);
        self
    }

    /// Serves TLS instead of plain text. Only for [`serve`](ShardService::serve).
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Listens, and serves in the background until the handle is stopped or dropped. Port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`ServeError`] when the server cannot listen, or cannot use the certificates or the key.
    ///
    /// # Cancel safety
    ///
    /// Safe: the server serves nothing before the method returns.
    pub async fn serve(self, listen: impl Into<Listen>) -> Result<ShardServerHandle, ServeError> {
        let (listener, local_addr) = listen.into().bind().await?;
        let (tasks, stopping, cut_all) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let tls = self.tls.clone();
        let add_service = move |mut server: Server| server.add_service(self.clone());
        let listening = Listening { add_service, tls, tasks: tasks.clone(), stopping: stopping.clone() };
        let served = listening.begin()?;
        tasks.spawn(listening.run(Incoming::new(listener, cut_all.clone()), served));
        tasks.close();
        Ok(ShardServerHandle(Running { local_addr, tasks, stopping, cut_all }))
    }
}

impl NamedService for ShardService {
    const NAME: &'static str = <ShardServer<Calls> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for ShardService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let gate = Gate::new(self.credentials.clone());
        let service = SizeRefusal(ShardServer::new(self.calls.clone()));
        let answer = InterceptedService::new(service, gate).call(request);
        Box::pin(async move { Ok(answer.await?.map(Body::new)) })
    }
}

/// A running server of the shard API alone.
///
/// Dropping the handle cuts all connections and ends the server. [`stop`](Self::stop) first answers the calls in
/// flight.
#[derive(Debug)]
pub struct ShardServerHandle(Running);

impl ShardServerHandle {
    /// Returns the address that the server listens on, with its actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// Stops listening, answers the calls in flight, and ends the server. After `limit` it cuts off the calls that are
    /// still open. The report is complete when the server cut off no call.
    ///
    /// # Cancel safety
    ///
    /// Safe: the server continues to stop, but cuts off no call after `limit`.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.0.stop(limit).await
    }
}

/// The API as the generated server calls it.
#[derive(Clone)]
struct Calls(Arc<dyn ShardApi>);

#[async_trait]
impl Shard for Calls {
    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        self.0.stat(request).await.map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        self.0.list(request).await.map(Response::new)
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        self.0.apply(request).await.map(Response::new)
    }

    async fn get_hints(&self, request: Request<GetHintsRequest>) -> Result<Response<GetHintsResponse>, Status> {
        self.0.get_hints(request).await.map(Response::new)
    }

    async fn unassign(&self, request: Request<UnassignRequest>) -> Result<Response<UnassignResponse>, Status> {
        self.0.unassign(request).await.map(Response::new)
    }
}
