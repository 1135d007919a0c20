//! Dead letters: lists, replays and deletes them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use sqlx::Pool;
use uuid::Uuid;

use crate::cloudevent::{CloudEvent, CloudEventError};
use crate::error::{Error, Misuse, Result};
use crate::origin::{self, Origin};
use crate::store::{Backend, Bound, DeadRow, OutboxKey, answered, begin_tx, hold};
use crate::text::shortened;

/// Most dead letters of one call.
pub const MAX_DEAD_LETTERS: u32 = 1_000;

/// Most bytes of all messages that one call of [`dead_letters`] lists. A call always lists one message.
pub const MAX_DEAD_LETTER_BYTES: usize = 32 << 20;

/// Identifies a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId {
    key: OutboxKey,
}

impl DeadLetterId {
    /// Names the dead letter that a row of the outbox became.
    #[cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only the runtime waits for rows"))]
    pub(crate) fn of(key: OutboxKey) -> Self {
        DeadLetterId { key }
    }

    /// Makes an id from the shard, 0 to 255, and the id that the row had in the outbox.
    #[must_use]
    pub fn new(shard: u8, id: Uuid) -> Self {
        DeadLetterId { key: OutboxKey { shard: shard.into(), id } }
    }

    /// Returns the shard, 0 to 255.
    #[must_use]
    pub fn shard(&self) -> i16 {
        self.key.shard
    }

    /// Returns the id that the row had in the outbox.
    #[must_use]
    pub fn id(&self) -> &Uuid {
        &self.key.id
    }

    pub(crate) fn of_key(key: OutboxKey) -> Self {
        DeadLetterId { key }
    }

    pub(crate) fn key(self) -> OutboxKey {
        self.key
    }
}

/// Text form: the shard, a hyphen and the UUID, `17-0190163d-8694-739b-aea5-966c26f8ad91`.
impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.key.shard, self.key.id)
    }
}

impl FromStr for DeadLetterId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('-').and_then(|(shard, id)| Some((shard.parse().ok()?, id.parse().ok()?)));
        match parts {
            Some((shard, id)) => Ok(DeadLetterId::new(shard, id)),
            None => {
                let attempt = format!("read the id of a dead letter, {}", shortened(text));
                Err(Error::misuse(attempt, Misuse::NotADeadLetterId { text: shortened(text).to_string() }))
            }
        }
    }
}

/// A message that is not sent any more.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Id of the dead letter.
    pub id: DeadLetterId,
    /// Source of the event, its domain.
    pub source: String,
    /// Type of the event, its entity.
    pub event_type: String,
    /// Code of the reason: the server's, `TOO_LARGE`, `ATTEMPTS_EXHAUSTED`, `UNDECODABLE` or `EXPIRED`.
    pub code: String,
    /// Reason, in the words of the server.
    pub reason: String,
    /// Number of claims of the row.
    pub attempts: i32,
    /// Time at which the message became a dead letter.
    pub dead_at: SystemTime,
    /// Where the events that caused the message came from outside.
    pub origin: Option<Origin>,
    payload: Vec<u8>,
}

impl DeadLetter {
    /// Returns the message, with its id and its idempotency key.
    ///
    /// # Errors
    ///
    /// [`CloudEventError::NotAnEvent`] when the row held no event, which is the code `UNDECODABLE`.
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
            origin: origin::read(row.origin),
            payload: row.payload,
        }
    }
}

/// Lists dead letters in the order of their keys, after one of them or from the start. Pass the id of the last one to
/// the next call, and stop at an empty result.
///
/// # Units and limits
///
/// A call lists at most `limit` and [`MAX_DEAD_LETTERS`] messages, and [`MAX_DEAD_LETTER_BYTES`] bytes.
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

/// Moves dead letters back to the outbox, due at once, with their ids and idempotency keys. Returns the number of moved
/// messages.
///
/// Call it after the reason is repaired. A receiver that deduplicates by the key drops a message that it already has.
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

/// Deletes dead letters. Returns the number of deleted ones.
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
