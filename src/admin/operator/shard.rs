//! Repairs of shards: who works on them.

use std::time::Duration;

use uuid::Uuid;

use super::{Done, Operator};
use crate::clock::micros;
use crate::error::{Error, Result};
use crate::store::{Backend, Fault, answered, begin_tx};

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
    /// See [`Operator`]; [`Error::Setup`] when there is no such member.
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
            let is_there = match to {
                Some(to) => B::list_members(&mut tx).await?.iter().any(|member| member.worker == to && !member.exiting),
                None => true,
            };
            let changed = is_there && B::move_lease(&mut tx, shard.into(), to, micros(MOVED_LEASE_TTL)).await?;
            self.record(&mut tx, &entry, changed.into()).await?;
            Ok((tx, is_there, changed.into()))
        });
        let (tx, is_there, touched) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        let done = self.end(tx, &entry, touched).await?;
        match is_there {
            true => Ok(done),
            false => {
                Err(Error::setup(&entry, "there is no such member, or it is stopping: `eventbox members` lists them"))
            }
        }
    }
}
