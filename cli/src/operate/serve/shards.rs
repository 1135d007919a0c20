//! The shard API of `eventbox serve`.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use eventbox::proto::consumer::{
    ApplyRequest, ApplyResponse, StatRequest, StatResponse, UnassignRequest, UnassignResponse,
};
use eventbox::shard_api::{Credential, ShardApi, ShardServerHandle, ShardService, Shards};
use tonic::{Request, Status, async_trait};

use crate::operate::connect::{Database, on};
use crate::operate::print::note;

/// Refuses an address that others can reach, without a token.
pub(super) fn check(address: SocketAddr, token: Option<&str>) -> Result<()> {
    if token.is_some() || address.ip().is_loopback() {
        return Ok(());
    }
    bail!(
        "other machines can reach the shard API on {address}, and everybody could change shards: give --token, or listen \
         on a loopback address such as 127.0.0.1:8138"
    );
}

/// Serves the shard API at an address that was checked.
pub(super) async fn serve(
    database: &Database,
    address: SocketAddr,
    token: Option<&str>,
    is_read_only: bool,
) -> Result<ShardServerHandle> {
    let mut service = on!(database, pool => {
        let shards = Own(Shards::new(pool.clone()));
        if is_read_only { ShardService::new(ReadOnly(shards)) } else { ShardService::new(shards) }
    });
    if let Some(token) = token {
        service = service.accept(Credential::headers([("authorization", format!("Bearer {token}"))]));
    }
    let served = service.serve(address).await?;
    note(&format!("shard API on {}", served.local_addr()));
    Ok(served)
}

/// Keeps the token of this server: a Stat that is sent on goes to an address that the database names.
struct Own<A>(A);

#[async_trait]
impl<A: ShardApi> ShardApi for Own<A> {
    fn inner(&self) -> &dyn ShardApi {
        &self.0
    }

    async fn stat(&self, mut request: Request<StatRequest>) -> Result<StatResponse, Status> {
        request.metadata_mut().remove("authorization");
        self.0.stat(request).await
    }
}

/// Shows everything and changes nothing.
struct ReadOnly<A>(A);

#[async_trait]
impl<A: ShardApi> ShardApi for ReadOnly<A> {
    fn inner(&self) -> &dyn ShardApi {
        &self.0
    }

    async fn apply(&self, _: Request<ApplyRequest>) -> Result<ApplyResponse, Status> {
        Err(refused())
    }

    async fn unassign(&self, _: Request<UnassignRequest>) -> Result<UnassignResponse, Status> {
        Err(refused())
    }
}

fn refused() -> Status {
    Status::permission_denied("this server only shows: it was started with --read-only")
}
