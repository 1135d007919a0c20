//! The shard API on the tables of a database.

use std::fmt;
use std::num::NonZeroUsize;

use sqlx::Pool;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, async_trait};
use uuid::Uuid;

use super::api::ShardApi;
use super::channels::Channels;
use super::convert::{self, process};
use super::id::{shard_id, shard_number};
use super::select::Selector;
use super::stat::{MAX_WAITING_STATS, Places};
use crate::admin::{self, Member, Operator, ShardSelector, ShardView};
use crate::error::Error;
use crate::grpc::Caller;
use crate::proto::consumer::header::Etcd;
use crate::proto::consumer::process_spec::Id;
use crate::proto::consumer::{
    ApplyRequest, ApplyResponse, GetHintsRequest, GetHintsResponse, Header, ListRequest, ListResponse, Route,
    StatRequest, StatResponse, Status as Code, UnassignRequest, UnassignResponse,
};
use crate::runtime::{Resolver, Runtime};
use crate::store::Backend;

/// Name of the header with the name of the person who changes something. It counts when the credential of the call
/// names no one.
pub const WHO_HEADER: &str = "eventbox-who";

/// Name of the header with the reason of a change.
pub const WHY_HEADER: &str = "eventbox-why";

/// The name under which changes of an unnamed caller are recorded.
const UNNAMED: &str = "shard API";

/// The shard API on a database: the functions that [`ShardService`](super::ShardService) serves.
///
/// A process with a [`Runtime`] gives it ([`on`](Shards::on)), so that Stat waits for the work of that process. Without
/// one, Stat is always proxied to the holder of the shard, once.
///
/// Apply and Unassign are recorded as every other repair ([`admin::operations`]). The name is that of the credential:
/// the user of Basic authentication, or the public key of a signature. Otherwise it is the value of [`WHO_HEADER`]. The
/// reason is the value of [`WHY_HEADER`].
///
/// # Examples
///
/// See [`ShardService`](super::ShardService) and [`ShardApi`].
pub struct Shards<B: Backend> {
    pub(super) pool: Pool<B>,
    pub(super) local: Option<Local<B>>,
    pub(super) channels: Channels,
    pub(super) places: Places,
}

/// The runtime of this process.
pub(super) struct Local<B: Backend> {
    pub(super) worker: Uuid,
    pub(super) resolver: Resolver<B>,
}

impl<B: Backend> fmt::Debug for Shards<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").field("worker", &self.worker()).finish_non_exhaustive()
    }
}

impl<B: Backend> Shards<B> {
    /// Makes the API of a database.
    #[must_use]
    pub fn new(pool: Pool<B>) -> Self {
        Shards { pool, local: None, channels: Channels::default(), places: Places::new(MAX_WAITING_STATS) }
    }

    /// Answers Stat for the shards of this runtime. The API does not keep the runtime alive.
    #[must_use]
    pub fn on(mut self, runtime: &Runtime<B>) -> Self {
        self.local = Some(Local { worker: runtime.worker(), resolver: runtime.resolver() });
        self
    }

    /// Sets the TLS with which Stat is proxied to endpoints that begin with `https`.
    #[must_use]
    pub fn tls(mut self, tls: tonic::transport::ClientTlsConfig) -> Self {
        self.channels = Channels::new(Some(tls));
        self
    }

    /// Answers, sends on or waits for at most this many Stat calls at once, instead of [`MAX_WAITING_STATS`]. Another
    /// call is refused with RESOURCE_EXHAUSTED.
    ///
    /// A call that waits for a turn looks into the database every 100 ms, so a larger number costs connections.
    #[must_use]
    pub fn max_waiting_stats(mut self, limit: NonZeroUsize) -> Self {
        self.places = Places::new(limit.get());
        self
    }

    pub(super) fn worker(&self) -> Option<Uuid> {
        self.local.as_ref().map(|local| local.worker)
    }

    /// Returns the id of this process on the wire; empty without a runtime.
    pub(super) fn own_id(&self, members: &[Member]) -> Id {
        let Some(worker) = self.worker() else { return Id::default() };
        let zone = members.iter().find(|member| member.worker == worker).map(|member| member.zone.as_str());
        process(zone.unwrap_or_default(), worker)
    }

    pub(super) async fn members(&self) -> Result<Vec<Member>, Status> {
        admin::members(&self.pool).await.map_err(|error| refusal(&error))
    }

    pub(super) async fn views(&self) -> Result<Vec<ShardView>, Status> {
        admin::list_shards(&self.pool, &ShardSelector::all()).await.map_err(|error| refusal(&error))
    }

    async fn header(&self) -> Result<Header, Status> {
        let revision = self.views().await?.iter().map(|view| view.mod_revision).max().unwrap_or_default();
        Ok(header(self.own_id(&self.members().await?), Route::default(), revision))
    }

    fn operator(&self, metadata: &MetadataMap, caller: Option<&Caller>) -> Result<Operator<B>, Status> {
        let named = caller.and_then(|Caller(name)| name.clone());
        let who = match named {
            Some(name) => Some(name),
            None => text_of(metadata, WHO_HEADER)?,
        };
        let operator = Operator::new(self.pool.clone(), who.as_deref().unwrap_or(UNNAMED));
        Ok(match text_of(metadata, WHY_HEADER)? {
            Some(why) => operator.because(why),
            None => operator,
        })
    }
}

pub(super) fn header(process_id: Id, route: Route, revision: i64) -> Header {
    Header { process_id: Some(process_id), route: Some(route), etcd: Some(Etcd { revision, ..Etcd::default() }) }
}

fn text_of(metadata: &MetadataMap, name: &str) -> Result<Option<String>, Status> {
    let wrong = |_| Status::invalid_argument(format!("the header {name} is not text of ASCII"));
    metadata.get(name).map(|value| value.to_str().map(str::to_owned).map_err(wrong)).transpose()
}

/// Returns an error of the library as a status of gRPC.
pub(super) fn refusal(error: &Error) -> Status {
    let text = error.to_string();
    match error {
        Error::Misuse { .. } => return Status::invalid_argument(text),
        Error::Unknown { .. } => return Status::unknown(text),
        _ => tracing::warn!(error = error as &dyn std::error::Error, "a call of the shard API failed"),
    }
    if error.is_transient() { Status::unavailable(text) } else { Status::internal(text) }
}

#[async_trait]
impl<B: Backend> ShardApi for Shards<B> {
    fn inner(&self) -> &dyn ShardApi {
        self
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<StatResponse, Status> {
        self.stat_at_holder(request).await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<ListResponse, Status> {
        let selector = Selector::of(request.into_inner().selector)?;
        let (views, members) = (self.views().await?, self.members().await?);
        let selected: Vec<&ShardView> = views.iter().filter(|view| selector.selects(view)).collect();
        let revision = selected.iter().map(|view| view.mod_revision).max().unwrap_or_default();
        Ok(ListResponse {
            status: Code::Ok.into(),
            header: Some(header(self.own_id(&members), Route::default(), revision)),
            shards: selected.into_iter().map(|view| convert::shard(view, &members)).collect(),
            ..ListResponse::default()
        })
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<ApplyResponse, Status> {
        let operator = self.operator(request.metadata(), request.extensions().get())?;
        let changes: Vec<_> = request.get_ref().changes.iter().map(convert::change).collect::<Result<_, Status>>()?;
        let status = match operator.apply_shards(&changes).await {
            Ok(_) => Code::Ok,
            Err(Error::RevisionConflict { .. }) => Code::RevisionConflict,
            Err(error) => return Err(refusal(&error)),
        };
        // The changes are committed: an error here would say that they are not.
        let header = self.header().await.ok();
        Ok(ApplyResponse { status: status.into(), header, ..ApplyResponse::default() })
    }

    async fn get_hints(&self, _: Request<GetHintsRequest>) -> Result<GetHintsResponse, Status> {
        Err(Status::unimplemented(
            "there are no hints: shards have no recovery logs, because events and states are rows of the database",
        ))
    }

    async fn unassign(&self, request: Request<UnassignRequest>) -> Result<UnassignResponse, Status> {
        let operator = self.operator(request.metadata(), request.extensions().get())?;
        let UnassignRequest { shards, only_failed, dry_run } = request.into_inner();
        let Some(numbers) = shards.iter().map(|id| shard_number(id)).collect::<Option<Vec<u8>>>() else {
            return Ok(UnassignResponse { status: Code::ShardNotFound.into(), shards: Vec::new() });
        };
        let unassigned = operator.rehearsing(dry_run).unassign(&numbers, only_failed).await;
        let unassigned = unassigned.map_err(|error| refusal(&error))?;
        let shards = unassigned.shards.into_iter().map(shard_id).collect();
        Ok(UnassignResponse { status: Code::Ok.into(), shards })
    }
}
