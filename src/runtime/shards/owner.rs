//! The process that works on a recipient.

use uuid::Uuid;

use crate::clock::micros;
use crate::error::Result;
use crate::recipient::Recipient;
use crate::runtime::handle::Runtime;
use crate::store::{Backend, Fault, answered, hold};

/// The process that works on a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardOwner {
    /// Shard of the recipient, 0 to 255.
    pub shard: u8,
    /// Process that holds the shard; `None` when no process holds it now, or when leases are switched off.
    pub worker: Option<Uuid>,
    /// Address of that process, as it says itself
    /// ([`RuntimeConfig::address`](crate::runtime::RuntimeConfig::address)).
    pub address: Option<String>,
    /// Whether that process is this runtime.
    pub is_here: bool,
}

impl<B: Backend> Runtime<B> {
    /// Returns the process that works on a recipient, to send it a request.
    ///
    /// The result may be outdated when it arrives; the process that gets the request can resolve again.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    pub async fn resolve(&self, recipient: &Recipient) -> Result<ShardOwner> {
        let during = |fault: Fault| fault.during(format!("resolve {recipient}"));
        let shard = recipient.shard();
        let (pool, leases) = (&self.shared().pool, self.shared().config.leases);
        let ttl_us = leases.map_or(i64::MAX, |leases| micros(leases.lease_ttl));
        let read = answered(pool, async {
            let mut conn = hold(pool).await?;
            Ok((B::list_leases(&mut conn).await?, B::list_members(&mut conn).await?))
        });
        let (leases, members) = read.await.map_err(during)?;
        let held = leases.into_iter().find(|lease| lease.shard == i16::from(shard) && lease.is_valid(ttl_us));
        let worker = held.and_then(|lease| lease.holder);
        let member = members.into_iter().find(|member| Some(member.worker) == worker);
        Ok(ShardOwner {
            shard,
            worker,
            address: member.map(|member| member.address),
            is_here: worker == Some(self.worker()),
        })
    }
}
