//! The five functions behind the service, which a service may wrap or override.

use tonic::{Request, Status, async_trait};

use crate::proto::consumer::{
    ApplyRequest, ApplyResponse, GetHintsRequest, GetHintsResponse, ListRequest, ListResponse, StatRequest,
    StatResponse, UnassignRequest, UnassignResponse,
};

/// The functions behind the calls of the shard API. [`Shards`](super::Shards) is the one of the library.
///
/// Implement it to wrap or to replace some of them: name the API to ask for the others in [`inner`](ShardApi::inner),
/// and override the rest. A request has the metadata of its call.
///
/// # Errors
///
/// A status of gRPC. What a client can expect in normal operation is a `status` of the response instead.
///
/// # Examples
///
/// ```
/// # use eventbox::shard_api::{ShardApi, ShardService, Shards};
/// use eventbox::proto::consumer::{ApplyRequest, ApplyResponse};
/// use tonic::{Request, Status};
///
/// /// Shows everything and changes no spec.
/// struct NoApply<A>(A);
///
/// #[tonic::async_trait]
/// impl<A: ShardApi> ShardApi for NoApply<A> {
///     fn inner(&self) -> &dyn ShardApi {
///         &self.0
///     }
///
///     async fn apply(&self, _: Request<ApplyRequest>) -> Result<ApplyResponse, Status> {
///         Err(Status::permission_denied("specs are changed by the deployment only"))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// let service = ShardService::new(NoApply(Shards::new(pool)));
/// # let _ = service;
/// # Ok(()) }
/// ```
#[async_trait]
pub trait ShardApi: Send + Sync + 'static {
    /// Returns the API that does what is not overridden. Not `self`, except where all functions are overridden.
    fn inner(&self) -> &dyn ShardApi;

    /// Returns how far recipients of a shard were processed, and waits for it.
    async fn stat(&self, request: Request<StatRequest>) -> Result<StatResponse, Status> {
        self.inner().stat(request).await
    }

    /// Lists shards with their specs and states.
    async fn list(&self, request: Request<ListRequest>) -> Result<ListResponse, Status> {
        self.inner().list(request).await
    }

    /// Changes the specs of shards.
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<ApplyResponse, Status> {
        self.inner().apply(request).await
    }

    /// Returns hints of a recovery log.
    async fn get_hints(&self, request: Request<GetHintsRequest>) -> Result<GetHintsResponse, Status> {
        self.inner().get_hints(request).await
    }

    /// Takes shards from their holders.
    async fn unassign(&self, request: Request<UnassignRequest>) -> Result<UnassignResponse, Status> {
        self.inner().unassign(request).await
    }
}
