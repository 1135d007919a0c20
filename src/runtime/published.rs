//! Waits until the messages that an event caused were delivered.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;
use uuid::Uuid;

#[cfg(feature = "shards")]
use super::Resolver;
use crate::error::Result;
use crate::eventbox::{Receipt, Status};
use crate::outbox::{DeadLetterId, mark_of};
use crate::recipient::Recipient;
use crate::retry::endless_pauses;
use crate::store::{Backend, Fault, MarkedMessage, MarkedWanted, OutboxKey, answered, hold};

/// First and longest pause between two looks at the outbox.
const LOOKS: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(250));

/// A pause is at least this many times as long as the look before it.
const REST: u32 = 4;

/// Most messages of one look. The messages behind them follow when these are gone.
const PAGE: usize = 1_000;

/// The key before all messages.
#[cfg(feature = "shards")]
const START: OutboxKey = OutboxKey { shard: -1, id: Uuid::nil() };

/// Most dead letters that a [`Published`] names.
pub const MAX_NAMED_LETTERS: usize = 100;

/// What became of the messages that an event caused, as
/// [`Runtime::wait_published`](crate::runtime::Runtime::wait_published) returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Published {
    /// The event is consumed, and every message that it caused was acknowledged. Also when it caused none.
    Delivered {
        /// Turn of the recipient when the event was found gone, as in [`Status::Done`].
        turn: i64,
    },
    /// No message waits any more, and some became dead letters: they are not delivered until somebody replays them.
    DeadLettered {
        /// Turn of the recipient when the event was found gone.
        turn: i64,
        /// The dead letters, at most [`MAX_NAMED_LETTERS`]. They may include those of other events of the recipient.
        letters: Vec<DeadLetterId>,
    },
    /// The event is consumed, and at the deadline messages were still in the outbox.
    Undelivered {
        /// Turn of the recipient when the event was found gone.
        turn: i64,
        /// Number of these messages, up to 1,000.
        left: usize,
        /// The dead letters that were found beside them, at most [`MAX_NAMED_LETTERS`].
        letters: Vec<DeadLetterId>,
    },
    /// The event was not consumed by the deadline, or waits for an operator.
    NotProcessed(Status),
}

/// Messages to wait for: those of a recipient with ids greater than that of an event.
struct Sought<'a, B: Backend> {
    pool: &'a Pool<B>,
    of: &'a Recipient,
    since: Uuid,
}

/// Waits until the messages are gone that the recipient has written by now. The event of the receipt is consumed.
pub(super) async fn wait<B: Backend>(
    pool: &Pool<B>,
    receipt: &Receipt,
    turn: i64,
    until: Instant,
) -> Result<Published> {
    let since = receipt.id().map(|id| id.0).unwrap_or_default();
    let sought = Sought { pool, of: receipt.to(), since };
    let mut letters = Vec::new();
    let mut after = OutboxKey { shard: 0, id: Uuid::nil() };
    // A message keeps its key, so each page is waited for once, and later turns cannot prolong it.
    loop {
        let page = sought.look(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        let left = sought.wait_for(&page, after, until, &mut letters).await?;
        if left > 0 {
            return Ok(Published::Undelivered { turn, left, letters });
        }
        if page.len() < PAGE {
            break;
        }
        after = last.key;
    }
    Ok(match letters.is_empty() {
        true => Published::Delivered { turn },
        false => Published::DeadLettered { turn, letters },
    })
}

#[cfg(feature = "shards")]
impl<B: Backend> Resolver<B> {
    /// Returns whether each message that the event of a receipt caused was delivered. The event is consumed. `None`
    /// when the receipt has no id, because that would read the whole outbox.
    pub(crate) async fn is_published(&self, receipt: &Receipt) -> Result<Option<bool>> {
        let (Some(id), of) = (receipt.id(), receipt.to()) else { return Ok(None) };
        let sought = Sought { pool: &self.shared.pool, of, since: id.0 };
        Ok(Some(sought.look(START, 1).await?.is_empty()))
    }
}

impl<B: Backend> Sought<'_, B> {
    async fn look(&self, after: OutboxKey, limit: usize) -> Result<Vec<MarkedMessage>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let wanted = MarkedWanted { mark: mark_of(self.of), since: self.since, after, limit };
        let read = answered(self.pool, async { B::marked_messages(&mut *hold(self.pool).await?, wanted).await });
        read.await.map_err(|fault: Fault| fault.during(format!("look for undelivered messages of {}", self.of)))
    }

    /// Waits until the messages of a page have left the outbox. Returns how many had not when the time was over.
    async fn wait_for(
        &self,
        page: &[MarkedMessage],
        after: OutboxKey,
        until: Instant,
        letters: &mut Vec<DeadLetterId>,
    ) -> Result<usize> {
        let mut waited: BTreeSet<OutboxKey> = page.iter().map(|message| message.key).collect();
        take_dead(&mut waited, page, letters);
        let mut pauses = endless_pauses(LOOKS.0, LOOKS.1);
        let mut took = Duration::ZERO;
        while !waited.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(waited.len());
            }
            let pause = pauses.next().unwrap_or(LOOKS.1).max(took.saturating_mul(REST));
            tokio::time::sleep(pause.min(left)).await;
            let looked = Instant::now();
            let now = self.look(after, PAGE).await?;
            took = looked.elapsed();
            let is_there: BTreeSet<OutboxKey> = now.iter().map(|message| message.key).collect();
            // Messages of later turns may fill the page. What is behind it was not looked at.
            let end = now.last().filter(|_| now.len() >= PAGE).map(|last| last.key);
            waited.retain(|key| is_there.contains(key) || end.is_some_and(|end| *key > end));
            take_dead(&mut waited, &now, letters);
        }
        Ok(0)
    }
}

/// Moves dead letters from the messages that are waited for.
fn take_dead(waited: &mut BTreeSet<OutboxKey>, found: &[MarkedMessage], letters: &mut Vec<DeadLetterId>) {
    for message in found.iter().filter(|message| message.is_dead) {
        if waited.remove(&message.key) && letters.len() < MAX_NAMED_LETTERS {
            letters.push(DeadLetterId::of(message.key));
        }
    }
}
