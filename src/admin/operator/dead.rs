//! Repairs of dead letters: put them back, or delete them.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Done, Entry, Operator};
use crate::admin::view::dead::DeadFilter;
use crate::error::Result;
use crate::outbox::DeadLetterId;
use crate::recipient::Recipient;
use crate::store::{Backend, DeadHead, DeadWanted, Fault, OutboxKey, answered, begin_tx, hold};

/// Number of dead letters that a repair of many looks at together. The events of each recipient have a transaction of
/// their own, and so have the messages.
pub const DEAD_SLICE: u32 = 500;

/// What becomes of dead letters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Replayed,
    Deleted,
}

impl<B: Backend> Operator<B> {
    /// Puts dead letters back: events into their boxes, messages into the outbox, due at once. Events keep their ids
    /// and names, messages their idempotency keys. Calls `progress` with the number of moved ones after each
    /// transaction. A rehearsal counts.
    ///
    /// Dead letters that die meanwhile may stay.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn replay_dead(&self, filter: &DeadFilter, progress: impl FnMut(u64) + Send) -> Result<Done> {
        let entry = self.entry("replay", filter)?;
        self.settle(&entry, filter.wanted(), Fate::Replayed, progress).await
    }

    /// Deletes dead letters for good. Calls `progress` with the number of deleted ones after each transaction. A
    /// rehearsal counts.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn delete_dead(&self, filter: &DeadFilter, progress: impl FnMut(u64) + Send) -> Result<Done> {
        let entry = self.entry("delete", filter)?;
        self.settle(&entry, filter.wanted(), Fate::Deleted, progress).await
    }

    /// Puts one dead letter back, of either side.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn replay_one(&self, id: DeadLetterId) -> Result<Done> {
        let entry = self.entry("replay", format_args!("the dead letter {id}"))?;
        self.settle_one(&entry, id, Fate::Replayed).await
    }

    /// Deletes one dead letter for good, of either side.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn delete_one(&self, id: DeadLetterId) -> Result<Done> {
        let entry = self.entry("delete", format_args!("the dead letter {id}"))?;
        self.settle_one(&entry, id, Fate::Deleted).await
    }

    async fn settle_one(&self, entry: &Entry, id: DeadLetterId, fate: Fate) -> Result<Done> {
        let key = id.key();
        let before = OutboxKey { id: Uuid::from_u128(key.id.as_u128().saturating_sub(1)), ..key };
        let wanted = DeadWanted { shard: Some(key.shard), ..DeadWanted::default() };
        let read =
            answered(&self.pool, async { B::dead_heads(&mut *hold(&self.pool).await?, &wanted, before, 1).await });
        let mut found = read.await.map_err(|fault: Fault| fault.during(entry))?;
        found.retain(|head| head.key == key);
        let touched =
            if self.is_rehearsal { found.len() as u64 } else { self.slice(entry, &found, fate, &mut |_| ()).await? };
        Ok(self.done(touched))
    }

    async fn settle(
        &self,
        entry: &Entry,
        wanted: DeadWanted,
        fate: Fate,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<Done> {
        if self.is_rehearsal {
            let read =
                answered(&self.pool, async { B::count_dead(&mut *hold(&self.pool).await?, &wanted, i64::MAX).await });
            let counted = read.await.map_err(|fault: Fault| fault.during(entry))?;
            return Ok(self.done(counted.unsigned_abs()));
        }
        let (mut after, mut total) = (OutboxKey { shard: -1, id: Uuid::nil() }, 0);
        loop {
            let read = answered(&self.pool, async {
                B::dead_heads(&mut *hold(&self.pool).await?, &wanted, after, i64::from(DEAD_SLICE)).await
            });
            let found = read.await.map_err(|fault: Fault| fault.during(entry))?;
            let Some(last) = found.last() else { return Ok(self.done(total)) };
            after = last.key;
            total += self.slice(entry, &found, fate, &mut |more| progress(total + more)).await?;
        }
    }

    /// Settles these dead letters: the events of each recipient in one transaction, and the messages in one.
    async fn slice(
        &self,
        entry: &Entry,
        found: &[DeadHead],
        fate: Fate,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<u64> {
        let (mut events, mut messages): (BTreeMap<&str, Vec<Uuid>>, Vec<OutboxKey>) = Default::default();
        for head in found {
            match &head.recipient {
                Some(recipient) => events.entry(recipient).or_default().push(head.key.id),
                None => messages.push(head.key),
            }
        }
        let mut touched = 0;
        for (recipient, ids) in events {
            // Only a foreign statement can have written a recipient that is none. It stays.
            let Ok(of) = recipient.parse::<Recipient>() else { continue };
            let done = match fate {
                Fate::Replayed => self.replay_as(entry, &of, &ids).await?,
                Fate::Deleted => self.discard_as(entry, &of, &ids).await?,
            };
            touched += done.touched;
            progress(touched);
        }
        if !messages.is_empty() {
            touched += self.settle_messages(entry, &messages, fate).await?;
            progress(touched);
        }
        Ok(touched)
    }

    async fn settle_messages(&self, entry: &Entry, keys: &[OutboxKey], fate: Fate) -> Result<u64> {
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let touched = match fate {
                Fate::Replayed => B::replay_dead(&mut tx, keys).await?,
                Fate::Deleted => B::delete_dead(&mut tx, keys).await?,
            };
            self.record(&mut tx, entry, touched).await?;
            Ok((tx, touched))
        });
        let (tx, touched) = write.await.map_err(|fault: Fault| fault.during(entry))?;
        Ok(self.end(tx, entry, touched).await?.touched)
    }
}
