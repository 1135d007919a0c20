//! Repairs of shards: who works on them.

use std::time::Duration;

use uuid::Uuid;

use super::{Done, Operator};
use crate::admin::view::shards::is_living;
use crate::clock::micros;
use crate::error::{Error, Result};
use crate::store::{Backend, Fault, MemberRow, answered, begin_tx};

/// Term of the lease of a shard that an operator moved. The member renews it when it sees the shard.
pub const MOVED_LEASE_TTL: Duration = Duration::from_secs(10);

impl<B: Backend> Operator<B> {
    /// Frees a shard, also from a pin: the member that should have it takes it at its next check.
    ///
    /// The member that held the shard works on it until its next check. Two members on one shard are harmless.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn release_shard(&self, shard: u8) -> Result<Done> {
        self.give_shard("release", shard, None).await
    }

    /// Gives a shard to a member and pins it there: the member holds it while it lives. [`release_shard`] ends the pin.
    ///
    /// # Errors
    ///
    /// See [`Operator`]; [`Error::Setup`] when there is no such member, or when it takes no shards: it is stopping, has
    /// sent no heartbeat within the term of its leases, or runs no processors. Nothing was changed then.
    ///
    /// [`release_shard`]: Operator::release_shard
    pub async fn move_shard(&self, shard: u8, to: Uuid) -> Result<Done> {
        self.give_shard("move", shard, Some(to)).await
    }

    async fn give_shard(&self, action: &'static str, shard: u8, to: Option<Uuid>) -> Result<Done> {
        let entry = match to {
            Some(to) => self.entry(action, format_args!("shard {shard} to member {to}"))?,
            None => self.entry(action, format_args!("shard {shard}"))?,
        };
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let obstacle = match to {
                Some(to) => obstacle(B::list_members(&mut tx).await?.iter().find(|member| member.worker == to)),
                None => None,
            };
            if let Some(obstacle) = obstacle {
                return Ok((tx, Err(obstacle)));
            }
            let changed = B::move_lease(&mut tx, shard.into(), to, micros(MOVED_LEASE_TTL)).await?;
            self.record(&mut tx, &entry, changed.into()).await?;
            Ok((tx, Ok(changed.into())))
        });
        let (tx, moved) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        match moved {
            Ok(touched) => self.end(tx, &entry, touched).await,
            Err(obstacle) => {
                tx.rollback().await;
                Err(Error::setup(&entry, format_args!("{obstacle}: `eventbox members` lists the members")))
            }
        }
    }
}

/// Returns why a member would not work on a shard that it is given.
fn obstacle(member: Option<&MemberRow>) -> Option<&'static str> {
    match member {
        None => Some("there is no such member"),
        Some(member) if member.exiting => Some("the member is stopping, so it takes no shards"),
        Some(member) if member.shard_limit <= 0 => Some("the member runs no processors, so it takes no shards"),
        Some(member) if !is_living(member) => Some("the member has sent no heartbeat within the term of its leases"),
        Some(_) => None,
    }
}
