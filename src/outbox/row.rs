//! A row of the outbox, made from a message.

use std::time::Duration;

use md5::{Digest, Md5};
use tokio::time::Instant;
use uuid::Uuid;

use crate::clock::{self, LONGEST, from_now};
use crate::cloudevent::CloudEvent;
use crate::origin::{self, SharedOrigin};
use crate::outbox::writer::current_id;
use crate::store::{OutboxKey, OutboxRow};

/// Time for which only the process that wrote a row sends it; the default of the emitter's `claim_ttl`.
pub const FIRST_CLAIM_TTL: Duration = Duration::from_secs(10);

/// Number of the claim that the insert makes.
pub(crate) const FIRST_CLAIM: i32 = 1;

/// Extension that names the sender, and its value.
const EMITTER: (&str, &str) = ("emitter", "DurableEmitter");

/// A message that was just written to the outbox.
///
/// Hand it to `DurableEmitter::deliver` after the commit, to send it from memory without reading the row. Dropping it
/// is harmless: another process sends the row when the first claim, which is the insert, has ended.
#[derive(Debug)]
#[must_use = "hand it to `DurableEmitter::deliver` after the commit, or let a host send it later"]
pub struct Stored {
    pub(crate) key: OutboxKey,
    pub(crate) event: CloudEvent,
    /// Origin of the events that caused the message.
    pub(crate) origin: Option<SharedOrigin>,
    /// Bytes of the event for the row; empty after the insert.
    pub(crate) payload: Vec<u8>,
    /// Number of the claim that the insert made.
    #[cfg_attr(not(feature = "emitter"), allow(dead_code, reason = "only delivery sends from memory"))]
    pub(crate) attempts: i32,
    /// End of the claim; counted from before the insert, so it is never later than the end in the database.
    #[cfg_attr(not(feature = "emitter"), allow(dead_code, reason = "only delivery sends from memory"))]
    pub(crate) claimed_until: Instant,
}

impl Stored {
    /// Returns the shard of the row, 0 to 255.
    #[must_use]
    pub fn shard(&self) -> i16 {
        self.key.shard
    }

    /// Returns the id of the row.
    #[must_use]
    pub fn id(&self) -> &Uuid {
        &self.key.id
    }

    /// Returns the message as it was stored, with its idempotency key.
    #[must_use]
    pub fn event(&self) -> &CloudEvent {
        &self.event
    }
}

/// Puts messages that are inserted together into one random shard, so that one insert touches one place of each index.
pub(crate) fn lay_together(stored: &mut [Stored]) {
    let shard = fastrand::u8(..).into();
    stored.iter_mut().for_each(|stored| stored.key.shard = shard);
}

/// Idempotency key of a message whose sender gave it none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdempotencyKey {
    /// A unique key: every message is another fact.
    #[default]
    Unique,
    /// The [`content_hash`](CloudEvent::content_hash): messages of equal content are one fact, and a receiver that
    /// deduplicates drops all but the first.
    ContentHash,
}

/// Prepares a row: the message with the sender's name and an idempotency key.
pub(crate) fn prepare(event: CloudEvent, claim_ttl: Duration, default_key: IdempotencyKey) -> Stored {
    prepare_as(current_id(), event, claim_ttl, default_key)
}

/// Prepares a row of this id.
pub(super) fn prepare_as(id: Uuid, mut event: CloudEvent, claim_ttl: Duration, default_key: IdempotencyKey) -> Stored {
    event.stamp(EMITTER.0, EMITTER.1.to_owned());
    event.default_key(|event| match default_key {
        IdempotencyKey::Unique => id.simple().to_string(),
        IdempotencyKey::ContentHash => event.content_hash(),
    });
    let key = OutboxKey { shard: shard_of(id).into(), id };
    let payload = event.encode();
    Stored { key, event, origin: origin::current(), payload, attempts: FIRST_CLAIM, claimed_until: from_now(claim_ttl) }
}

pub(crate) fn row(stored: &Stored) -> OutboxRow<'_> {
    OutboxRow {
        shard: stored.key.shard,
        id: stored.key.id,
        source: stored.event.source(),
        r#type: stored.event.event_type(),
        origin: stored.origin.as_ref().map(SharedOrigin::text),
        payload: &stored.payload,
    }
}

/// Returns the shard of a message, which is that of its id.
fn shard_of(id: Uuid) -> u8 {
    let [first, ..] = <[u8; 16]>::from(Md5::digest(id.as_bytes()));
    first
}

/// Returns a duration in the microseconds of the statements, cut so that a time can be added without overflow.
pub(crate) fn micros(duration: Duration) -> i64 {
    clock::micros(duration.min(LONGEST))
}
