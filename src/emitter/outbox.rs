//! Putting messages into the outbox.

use std::time::Duration;

use md5::{Digest, Md5};
use sqlx::Database;
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::{LONGEST, from_now, noted};
use crate::cloudevent::CloudEvent;
use crate::error::Result;
use crate::store::{Backend, EmitExecutor, Fault, OutboxKey, OutboxRow};

/// How long a row that was just written is left to whoever wrote it, before a host sends it: [`Config::retransmit_after`] by default.
///
/// [`Config::retransmit_after`]: crate::emitter::Config::retransmit_after
pub const DEFAULT_HOLD: Duration = Duration::from_secs(10);

/// The claim that the insert is.
pub(super) const FIRST_CLAIM: i32 = 1;

/// The extension that says who sends, and its value.
const EMITTER: (&str, &str) = ("emitter", "DurableEmitter");

/// A message that was just written to the outbox: hand it to [`DurableEmitter::deliver`] after the commit, to send it from memory without
/// reading it back.
///
/// Dropping it is harmless: a host sends the row when the first claim, which is the insert, is over.
///
/// [`DurableEmitter::deliver`]: crate::emitter::DurableEmitter::deliver
#[derive(Debug)]
#[must_use = "hand it to `DurableEmitter::deliver` after the commit, or let a host send it later"]
pub struct Stored {
    pub(super) key: OutboxKey,
    pub(super) event: CloudEvent,
    /// The event as it goes into the row; empty as soon as it is there.
    pub(super) payload: Vec<u8>,
    /// The claim that the insert was.
    pub(super) attempts: i32,
    /// When somebody else may send it; counted from before the insert, so it is never later than the database thinks.
    pub(super) claimed_until: Instant,
}

impl Stored {
    /// The shard of the row, 0 to 255.
    #[must_use]
    pub fn shard(&self) -> i16 {
        self.key.shard
    }

    /// The id of the row.
    #[must_use]
    pub fn id(&self) -> &Uuid {
        &self.key.id
    }

    /// The message as it was stored, with its idempotency key.
    #[must_use]
    pub fn event(&self) -> &CloudEvent {
        &self.event
    }
}

/// What became of a row that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handover {
    /// It is sent from memory.
    Queued,
    /// A host sends the row: when there is room again, if the queue is full; when the claim of its insert is over, if the emitter is not running.
    LeftWaiting,
}

/// Puts a message into the outbox, alone or inside the caller's transaction, without a running emitter.
///
/// `&mut *tx` joins the caller's transaction: the message goes out exactly if that commits. It is delivered at least once, by
/// [`DurableEmitter::deliver`](crate::emitter::DurableEmitter::deliver) at once or by any host on this database after [`DEFAULT_HOLD`].
/// Without an idempotency key of its own it gets one that is unique to this call.
///
/// # Errors
///
/// Contention, transient or database errors; [`Error::Unknown`](crate::Error::Unknown) when the connection was lost and the message may be
/// there or not.
///
/// # Cancel safety
///
/// A dropped future may or may not have stored the message; in a transaction, roll back.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::{CloudEvent, emitter};
///
/// let mut tx = eventbox::begin(&pool).await?;
/// let event = CloudEvent::builder("flights", "flight.departed").payload("UA 1545").build()?;
/// let stored = emitter::emit_in(&mut *tx, event).await?;
/// tx.commit().await?;
/// // emitter.deliver(stored) sends it now; without that, a host sends it a little later.
/// # drop(stored);
/// # Ok(()) }
/// ```
pub async fn emit_in<'e, B, E>(executor: E, event: CloudEvent) -> Result<Stored>
where
    B: Backend,
    E: EmitExecutor<'e, Database = B>,
{
    let mut stored = prepare(event, DEFAULT_HOLD, IdempotencyKey::Unique);
    B::insert_outbox(executor, &row(&stored), micros(DEFAULT_HOLD))
        .await
        .map_err(|fault| fault.during_commit("store a message in the outbox"))?;
    stored.payload = Vec::new();
    Ok(stored)
}

/// Writes the messages of turns, in order; each has its key already.
pub(crate) async fn write_outbox<B: Backend>(
    tx: &mut <B as Database>::Connection,
    events: Vec<CloudEvent>,
    hold: Duration,
) -> Result<Vec<Stored>, Fault> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let mut stored: Vec<Stored> =
        events.into_iter().map(|event| prepare(event, hold, IdempotencyKey::Unique)).collect();
    lay_together(&mut stored);
    let rows: Vec<_> = stored.iter().map(row).collect();
    B::insert_outbox_in(tx, &rows, micros(hold)).await?;
    stored.iter_mut().for_each(|stored| stored.payload = Vec::new());
    Ok(stored)
}

/// Puts messages that are inserted together into one shard, any one: rows that come together lie together then, in one place of each index.
pub(super) fn lay_together(stored: &mut [Stored]) {
    let shard = fastrand::u8(..).into();
    stored.iter_mut().for_each(|stored| stored.key.shard = shard);
}

/// The idempotency key of a message whose sender gave it none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdempotencyKey {
    /// One of its own: every emit is another fact.
    #[default]
    Unique,
    /// The [`content_hash`](CloudEvent::content_hash): emits of equal content are one fact, and a receiver that deduplicates drops all but the
    /// first.
    ContentHash,
}

/// A row to be, with what the emitter adds to the message.
pub(super) fn prepare(mut event: CloudEvent, hold: Duration, default_key: IdempotencyKey) -> Stored {
    let id = noted(Uuid::now_v7());
    event.stamp(EMITTER.0, EMITTER.1.to_owned());
    event.default_key(|event| match default_key {
        IdempotencyKey::Unique => id.simple().to_string(),
        IdempotencyKey::ContentHash => event.content_hash(),
    });
    let key = OutboxKey { shard: shard_of(id).into(), id };
    let payload = event.encode();
    Stored { key, event, payload, attempts: FIRST_CLAIM, claimed_until: from_now(hold) }
}

pub(super) fn row(stored: &Stored) -> OutboxRow<'_> {
    OutboxRow {
        shard: stored.key.shard,
        id: stored.key.id,
        source: stored.event.source(),
        r#type: stored.event.event_type(),
        payload: &stored.payload,
    }
}

/// A message without a recipient lies in the shard of its id.
fn shard_of(id: Uuid) -> u8 {
    let [first, ..] = <[u8; 16]>::from(Md5::digest(id.as_bytes()));
    first
}

/// A duration as the statements take it; a time can be added to it without overflow.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.min(LONGEST).as_micros()).unwrap_or(i64::MAX)
}
