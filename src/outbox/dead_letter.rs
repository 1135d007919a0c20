//! Messages that were given up: looking at them, sending them after all, forgetting them.

use std::time::{Duration, SystemTime};

use sqlx::Pool;
use uuid::Uuid;

use crate::cloudevent::{CloudEvent, CloudEventError};
use crate::error::Result;
use crate::store::{Backend, Bound, DeadRow, OutboxKey, answered, begin_tx, hold};

/// The most dead letters of one call.
pub const MAX_DEAD_LETTERS: u32 = 1_000;

/// The most bytes that the messages of one call of [`dead_letters`] have together; one is always listed.
pub const MAX_DEAD_LETTER_BYTES: usize = 32 << 20;

/// Names a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId {
    key: OutboxKey,
}

impl DeadLetterId {
    /// The shard, 0 to 255, and the id of the row in the outbox.
    #[must_use]
    pub fn new(shard: u8, id: Uuid) -> Self {
        DeadLetterId { key: OutboxKey { shard: shard.into(), id } }
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> i16 {
        self.key.shard
    }

    /// The id that the row had in the outbox.
    #[must_use]
    pub fn id(&self) -> &Uuid {
        &self.key.id
    }
}

/// A message that was given up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its name.
    pub id: DeadLetterId,
    /// Its domain.
    pub source: String,
    /// Its entity.
    pub event_type: String,
    /// Why, in one of a few words: the server's code, `TOO_LARGE`, `UNDECODABLE` or `EXPIRED`.
    pub code: String,
    /// Why, in the words of the server.
    pub reason: String,
    /// How often it was claimed to be sent.
    pub attempts: i32,
    /// When it was given up.
    pub dead_at: SystemTime,
    payload: Vec<u8>,
}

impl DeadLetter {
    /// The message, with its id and its idempotency key.
    ///
    /// # Errors
    ///
    /// [`CloudEventError::NotAnEvent`] when that is why it was given up.
    pub fn event(&self) -> std::result::Result<CloudEvent, CloudEventError> {
        CloudEvent::decode(&self.payload)
    }

    fn of(row: DeadRow) -> Self {
        let since = Duration::from_micros(u64::try_from(row.dead_at_us).unwrap_or(0));
        DeadLetter {
            id: DeadLetterId { key: row.key },
            source: row.source,
            event_type: row.r#type,
            code: row.code,
            reason: row.reason,
            attempts: row.attempts,
            dead_at: SystemTime::UNIX_EPOCH + since,
            payload: row.payload,
        }
    }
}

/// The dead letters in the order of their keys, after one or from the start; at most `limit` and [`MAX_DEAD_LETTERS`],
/// and no more than fit into [`MAX_DEAD_LETTER_BYTES`]. Go on behind the last one until the answer is empty.
///
/// # Errors
///
/// Transient and database errors.
pub async fn dead_letters<B: Backend>(
    pool: &Pool<B>,
    after: Option<DeadLetterId>,
    limit: u32,
) -> Result<Vec<DeadLetter>> {
    let after = after.map_or(OutboxKey { shard: -1, id: Uuid::nil() }, |after| after.key);
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        B::list_dead(conn, after, Bound::new(limit.min(MAX_DEAD_LETTERS).into(), MAX_DEAD_LETTER_BYTES)).await
    });
    let rows = read.await.map_err(|fault: crate::store::Fault| fault.during("list the dead letters"))?;
    Ok(rows.rows.into_iter().map(DeadLetter::of).collect())
}

/// Moves dead letters back to the outbox, due at once, with their ids and idempotency keys; answers how many were there.
///
/// Use it when the reason is mended. A receiver that deduplicates by the key drops what it has after all.
///
/// # Errors
///
/// Contention, transient and database errors; then none was moved.
///
/// # Cancel safety
///
/// Safe: all of them are moved or none.
pub async fn replay_dead_letters<B: Backend>(pool: &Pool<B>, ids: &[DeadLetterId]) -> Result<u64> {
    let write = answered(pool, async {
        let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
        let moved = B::replay_dead(&mut tx, &keys(ids)).await?;
        tx.commit().await?;
        Ok(moved)
    });
    write.await.map_err(|fault: crate::store::Fault| fault.during("replay dead letters"))
}

/// Forgets dead letters for ever; answers how many were there.
///
/// # Errors
///
/// Transient and database errors.
pub async fn delete_dead_letters<B: Backend>(pool: &Pool<B>, ids: &[DeadLetterId]) -> Result<u64> {
    let write = answered(pool, async { B::delete_dead(&mut *hold(pool).await?, &keys(ids)).await });
    write.await.map_err(|fault: crate::store::Fault| fault.during("delete dead letters"))
}

fn keys(ids: &[DeadLetterId]) -> Vec<OutboxKey> {
    let mut keys: Vec<_> = ids.iter().map(|id| id.key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
