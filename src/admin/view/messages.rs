//! Messages of the outbox that are not delivered.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use super::count::Count;
use super::destination::PausedDestination;
use crate::admin::time_of;
use crate::error::Result;
use crate::origin::{self, Origin};
use crate::outbox::DeadLetterId;
use crate::store::{Backend, Fault, MessageGroup, MessageHead, MessagesWanted, OutboxKey, answered, hold};

/// Largest number of groups of messages.
pub const MAX_GROUPS: u32 = 200;

/// Number of messages that [`message_groups`] looks at.
pub const MAX_GROUPED: u32 = 100_000;

/// Largest number of messages of one listing.
pub const MAX_MESSAGES: u32 = 1_000;

/// Messages of one source and type that ended with the same code last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutboxGroup {
    /// Source of the messages.
    pub source: String,
    /// Type of the messages.
    pub event_type: String,
    /// Code of their last error. `None` when they were never refused.
    pub last_code: Option<String>,
    /// Number of messages.
    pub messages: Count,
    /// Time of the oldest message.
    #[serde(serialize_with = "super::text::time")]
    pub oldest_at: SystemTime,
    /// Time at which the first of them is sent again, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub next_attempt_at: SystemTime,
    /// Largest number of attempts of one of them.
    pub most_attempts: u32,
    /// Last error of one of them.
    pub last_error: Option<String>,
    /// The pause for which they wait, the narrowest if there are several.
    pub paused: Option<PausedDestination>,
}

/// Result of [`message_groups`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutboxGroups {
    /// The groups, the largest first, at most [`MAX_GROUPS`].
    pub groups: Vec<OutboxGroup>,
    /// Whether all messages were looked at. Otherwise the numbers are those of [`MAX_GROUPED`] messages.
    pub is_complete: bool,
    /// All paused destinations, also those without messages.
    pub paused: Vec<PausedDestination>,
}

/// Groups the messages that are not delivered by source, type and last error code.
///
/// # Errors
///
/// Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::admin::{self, MessageFilter};
/// use eventbox::{CloudEvent, outbox};
///
/// let event = CloudEvent::builder("flights", "flight.departed").payload("UA 1545").build()?;
/// outbox::publish_in(&pool, event).await?;
/// let found = admin::message_groups(&pool).await?;
/// assert_eq!((found.groups[0].source.as_str(), found.groups[0].messages.number), ("flights", 1));
/// let messages = admin::messages(&pool, &MessageFilter::new().source("flights"), None, 10).await?;
/// assert_eq!(messages[0].attempts, 1);
/// # Ok(()) }
/// ```
pub async fn message_groups<B: Backend>(pool: &Pool<B>) -> Result<OutboxGroups> {
    let most = i64::from(MAX_GROUPED);
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let paused = B::list_paused_destinations(conn).await?;
        Ok((B::group_messages(conn, most + 1, i64::from(MAX_GROUPS)).await?, paused))
    });
    let (groups, paused) = read.await.map_err(|fault: Fault| fault.during("group the messages of the outbox"))?;
    let total: i64 = groups.iter().map(|group| group.messages).sum();
    let is_complete = total <= most;
    let paused: Vec<_> = paused.into_iter().map(PausedDestination::of).collect();
    let groups = groups.into_iter().map(|group| group_of(group, is_complete, &paused)).collect();
    Ok(OutboxGroups { groups, is_complete, paused })
}

fn group_of(group: MessageGroup, is_complete: bool, paused: &[PausedDestination]) -> OutboxGroup {
    let pause = paused.iter().rev().find(|paused| paused.destination.has(&group.source, &group.r#type));
    let limit = if is_complete { i64::MAX } else { group.messages.saturating_sub(1) };
    OutboxGroup {
        paused: pause.cloned(),
        source: group.source,
        event_type: group.r#type,
        last_code: group.last_code,
        messages: Count::up_to(limit, group.messages),
        oldest_at: time_of(group.oldest_at_us),
        next_attempt_at: time_of(group.next_attempt_at_us),
        most_attempts: u32::try_from(group.most_attempts).unwrap_or_default(),
        last_error: group.last_error,
    }
}

/// Which messages of the outbox.
///
/// # Examples
///
/// See [`message_groups`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageFilter(MessagesWanted);

impl MessageFilter {
    /// Makes a filter that all messages pass that are not delivered.
    #[must_use]
    pub fn new() -> Self {
        MessageFilter::default()
    }

    /// Passes only messages with this source.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Passes only messages with this type.
    #[must_use]
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.0.r#type = Some(event_type.into());
        self
    }

    /// Passes only messages whose last error has this code.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.0.code = Some(code.into());
        self
    }

    pub(in crate::admin) fn wanted(&self) -> &MessagesWanted {
        &self.0
    }
}

/// Shown in the record of operations: `all messages`, or `messages with source=flights code=Unavailable`.
impl fmt::Display for MessageFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("source", &self.0.source), ("type", &self.0.r#type), ("code", &self.0.code)];
        super::dead::write_filter(f, "messages", parts)
    }
}

/// A message that is not delivered, without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MessageView {
    /// Id of the message. When the message is given up, its dead letter has the same id.
    #[serde(serialize_with = "super::text::text")]
    pub id: DeadLetterId,
    /// Source of the message.
    pub source: String,
    /// Type of the message.
    pub event_type: String,
    /// Number of attempts.
    pub attempts: u32,
    /// Time at which the message was written, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub created_at: SystemTime,
    /// Time at which the message is sent again, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub next_attempt_at: SystemTime,
    /// Code of the last error.
    pub last_code: Option<String>,
    /// Last error.
    pub last_error: Option<String>,
    /// Size of the encoded message.
    pub bytes: u64,
    /// Where the events that caused the message came from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Lists messages that are not delivered, in the order of their ids. Pass the last id to the next call.
///
/// # Units and limits
///
/// At most `limit` messages, and at most [`MAX_MESSAGES`].
///
/// # Errors
///
/// Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// See [`message_groups`].
pub async fn messages<B: Backend>(
    pool: &Pool<B>,
    filter: &MessageFilter,
    after: Option<DeadLetterId>,
    limit: u32,
) -> Result<Vec<MessageView>> {
    let after = after.map_or(OutboxKey { shard: -1, id: Uuid::nil() }, |after| after.key());
    let limit = i64::from(limit.min(MAX_MESSAGES));
    let read = answered(pool, async { B::message_heads(&mut *hold(pool).await?, filter.wanted(), after, limit).await });
    let rows = read.await.map_err(|fault: Fault| fault.during("list the messages of the outbox"))?;
    Ok(rows.into_iter().map(view_of).collect())
}

fn view_of(head: MessageHead) -> MessageView {
    MessageView {
        id: DeadLetterId::of_key(head.key),
        source: head.source,
        event_type: head.r#type,
        attempts: u32::try_from(head.attempts).unwrap_or_default(),
        created_at: time_of(head.created_at_us),
        next_attempt_at: time_of(head.next_attempt_at_us),
        last_code: head.last_code,
        last_error: head.last_error,
        bytes: head.bytes.unsigned_abs(),
        origin: origin::read(head.origin),
    }
}
