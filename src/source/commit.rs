//! The transaction of a round: its events, and the move of the checkpoint.

use sqlx::Pool;

use crate::error::Result;
use crate::eventbox::{Emitted, Event, MAX_EMIT_BYTES, MAX_EMIT_EVENTS, emit_all_in, in_transaction};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, SOURCE_PREFIX, answered, begin_tx, hold, in_time};

/// A partition of a source, as the database knows it.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) partition: String,
}

impl Key {
    /// Returns the owner of the checkpoint. No peer has such an id.
    fn owner(&self) -> String {
        format!("{SOURCE_PREFIX}{}", self.name)
    }

    /// Returns the shard whose holder reads the partition.
    pub(super) fn shard(&self) -> Result<u8> {
        Ok(Recipient::new(self.owner(), self.partition.as_str())?.shard())
    }
}

/// Reads the checkpoint of a partition.
pub(super) async fn checkpoint<B: Backend>(pool: &Pool<B>, key: &Key) -> Result<Option<String>> {
    let owner = key.owner();
    let read = answered(pool, async { B::checkpoint(&mut *hold(pool).await?, &owner, &key.partition).await });
    read.await.map_err(|fault: Fault| {
        fault.during(format!("read the checkpoint of source {}, partition {}", key.name, key.partition))
    })
}

/// Moves the checkpoint and emits events, in one transaction. Returns the number of events that were there already, or
/// `None` when the checkpoint does not stand at `from`: then nothing was changed.
pub(super) async fn commit<B: Backend>(
    pool: &Pool<B>,
    key: &Key,
    from: Option<&str>,
    to: &str,
    events: &[(Recipient, Event)],
) -> Result<Option<usize>> {
    let attempt = format!("emit {} events of source {}, partition {}", events.len(), key.name, key.partition);
    let during = |fault: Fault| fault.during(&attempt);
    let owner = key.owner();
    in_transaction(async {
        let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await.map_err(during)?;
        // First, so that the loser of a race emits nothing.
        let moving = B::move_checkpoint(&mut tx, &owner, &key.partition, from, to);
        if !in_time::<B, _>(moving).await.map_err(during)? {
            return Ok(None);
        }
        let (mut rest, mut duplicates) = (events, 0);
        while !rest.is_empty() {
            let (part, later) = rest.split_at(part_of(rest));
            let answers = emit_all_in::<B>(&mut tx, part).await?;
            duplicates += answers.iter().filter(|answer| **answer != Emitted::Added).count();
            rest = later;
        }
        tx.commit().await.map_err(|fault| fault.during_commit(&attempt))?;
        Ok(Some(duplicates))
    })
    .await
}

/// Returns the number of events that one emit may have, at least one.
fn part_of(events: &[(Recipient, Event)]) -> usize {
    let mut bytes = 0_usize;
    let fits = events.iter().take(MAX_EMIT_EVENTS).take_while(|(_, event)| {
        bytes = bytes.saturating_add(event.value().len());
        bytes <= MAX_EMIT_BYTES
    });
    fits.count().max(1)
}
