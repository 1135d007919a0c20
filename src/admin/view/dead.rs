//! Dead letters of both sides: events in quarantine, and messages that were given up.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use super::count::Count;
use crate::admin::time_of;
use crate::clock::micros;
use crate::error::Result;
use crate::origin::{self, Origin};
use crate::outbox::DeadLetterId;
use crate::recipient::Recipient;
use crate::store::{Backend, DeadHead, DeadWanted, Fault, NEXT, OutboxKey, answered, hold};

/// Largest number of dead letters of one listing.
pub const MAX_DEAD: u32 = 1_000;

/// Largest number of dead letters that are counted. There may be more.
pub const MAX_COUNTED_DEAD: u32 = 1_000_000;

/// A side of the dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Side {
    /// Events in quarantine.
    Events,
    /// Messages of the outbox that were given up.
    Messages,
}

/// Which dead letters.
///
/// # Examples
///
/// ```
/// use eventbox::admin::{DeadFilter, Side};
///
/// let poison = DeadFilter::new().side(Side::Events).code("POISON").kind("aircraft");
/// assert_eq!(poison.to_string(), "events with code=POISON kind=aircraft");
/// assert_eq!(DeadFilter::new().to_string(), "all dead letters");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    side: Option<Side>,
    code: Option<String>,
    kind: Option<String>,
    recipient: Option<Recipient>,
    source: Option<String>,
    event_type: Option<String>,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
}

impl DeadFilter {
    /// Makes a filter that all dead letters pass.
    #[must_use]
    pub fn new() -> Self {
        DeadFilter::default()
    }

    /// Passes only events, or only messages.
    #[must_use]
    pub fn side(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    /// Passes only dead letters with this code.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Passes only events of recipients of this kind.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Passes only events of this recipient.
    #[must_use]
    pub fn recipient(mut self, recipient: &Recipient) -> Self {
        self.recipient = Some(recipient.clone());
        self
    }

    /// Passes only messages with this source.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Passes only messages with this type.
    #[must_use]
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_type = Some(event_type.into());
        self
    }

    /// Passes only dead letters that died at this time or later, by the database's clock.
    #[must_use]
    pub fn since(mut self, at: SystemTime) -> Self {
        self.since = Some(at);
        self
    }

    /// Passes only dead letters that died before this time, by the database's clock.
    #[must_use]
    pub fn until(mut self, at: SystemTime) -> Self {
        self.until = Some(at);
        self
    }

    pub(in crate::admin) fn wanted(&self) -> DeadWanted {
        let us = |at: SystemTime| micros(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO));
        let recipients = match (&self.recipient, &self.kind) {
            (Some(recipient), _) => Some((recipient.to_string(), format!("{recipient}{NEXT}"))),
            // `0` is the character behind the slash.
            (None, Some(kind)) => Some((format!("{kind}/"), format!("{kind}0"))),
            (None, None) => None,
        };
        DeadWanted {
            shard: self.recipient.as_ref().map(|recipient| recipient.shard().into()),
            is_event: self.side.map(|side| side == Side::Events),
            code: self.code.clone(),
            recipients,
            source: self.source.clone(),
            r#type: self.event_type.clone(),
            since_us: self.since.map(us),
            until_us: self.until.map(us),
        }
    }
}

impl fmt::Display for DeadFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.side {
            None => "dead letters",
            Some(Side::Events) => "events",
            Some(Side::Messages) => "messages",
        };
        let time = |at: Option<SystemTime>| at.map(|at| humantime::format_rfc3339_seconds(at).to_string());
        let parts = [
            ("code", &self.code),
            ("kind", &self.kind),
            ("recipient", &self.recipient.as_ref().map(Recipient::to_string)),
            ("source", &self.source),
            ("type", &self.event_type),
            ("since", &time(self.since)),
            ("until", &time(self.until)),
        ];
        write_filter(f, what, parts)
    }
}

/// Writes `all messages`, or `messages with source=flights`.
pub(super) fn write_filter<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    parts: [(&str, &Option<String>); N],
) -> fmt::Result {
    let mut given = parts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).peekable();
    if given.peek().is_none() {
        return write!(f, "all {what}");
    }
    write!(f, "{what} with")?;
    given.try_for_each(|(name, value)| write!(f, " {name}={value}"))
}

/// A dead letter without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadView {
    /// Id of the dead letter.
    #[serde(serialize_with = "super::text::text")]
    pub id: DeadLetterId,
    /// Recipient of an event in quarantine. `None` for a message.
    #[serde(serialize_with = "super::text::text_if_any")]
    pub recipient: Option<Recipient>,
    /// Name of an event.
    pub name: Option<String>,
    /// Source of a message.
    pub source: Option<String>,
    /// Type of a message.
    pub event_type: Option<String>,
    /// Reason in one word.
    pub code: String,
    /// Reason in words.
    pub reason: String,
    /// Number of attempts.
    pub attempts: u32,
    /// Time at which it died, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub dead_at: SystemTime,
    /// Size of the event's value, or of the encoded message.
    pub bytes: u64,
    /// Where the event came from outside, or the events that caused the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

impl DeadView {
    fn of(head: DeadHead) -> Self {
        DeadView {
            id: DeadLetterId::of_key(head.key),
            recipient: head.recipient.and_then(|recipient| recipient.parse().ok()),
            name: head.name,
            source: head.source,
            event_type: head.r#type,
            code: head.code,
            reason: head.reason,
            attempts: u32::try_from(head.attempts).unwrap_or_default(),
            dead_at: time_of(head.dead_at_us),
            bytes: head.bytes.unsigned_abs(),
            origin: origin::read(head.origin),
        }
    }
}

/// Lists dead letters of both sides, in the order of their ids. Pass the last id to the next call.
///
/// # Units and limits
///
/// At most `limit` dead letters, and at most [`MAX_DEAD`].
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
/// use eventbox::admin::{self, DeadFilter, Side};
/// use eventbox::{Event, Recipient};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// let event = eventbox::emit(&pool, &aircraft, Event::new("no JSON")).await?;
/// let id = event.id().ok_or("it was added")?;
/// admin::quarantine(&pool, &aircraft, &[id], "no flight number").await?;
///
/// let filter = DeadFilter::new().side(Side::Events).kind("aircraft");
/// let dead = admin::dead(&pool, &filter, None, 10).await?;
/// assert_eq!((dead[0].code.as_str(), dead[0].reason.as_str()), ("QUARANTINED", "no flight number"));
/// assert_eq!(admin::dead_value(&pool, dead[0].id).await?.as_deref(), Some(&b"no JSON"[..]));
/// # Ok(()) }
/// ```
pub async fn dead<B: Backend>(
    pool: &Pool<B>,
    filter: &DeadFilter,
    after: Option<DeadLetterId>,
    limit: u32,
) -> Result<Vec<DeadView>> {
    let after = after.map_or(OutboxKey { shard: -1, id: Uuid::nil() }, |after| after.key());
    let (wanted, limit) = (filter.wanted(), i64::from(limit.min(MAX_DEAD)));
    let read = answered(pool, async { B::dead_heads(&mut *hold(pool).await?, &wanted, after, limit).await });
    let rows = read.await.map_err(|fault: Fault| fault.during(format!("list {filter}")))?;
    Ok(rows.into_iter().map(DeadView::of).collect())
}

/// Counts dead letters, up to [`MAX_COUNTED_DEAD`].
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
/// See [`Count`].
pub async fn count_dead<B: Backend>(pool: &Pool<B>, filter: &DeadFilter) -> Result<Count> {
    let (wanted, most) = (filter.wanted(), i64::from(MAX_COUNTED_DEAD));
    let read = answered(pool, async { B::count_dead(&mut *hold(pool).await?, &wanted, most + 1).await });
    let counted = read.await.map_err(|fault: Fault| fault.during(format!("count {filter}")))?;
    Ok(Count::up_to(most, counted))
}

/// Returns the value of an event in quarantine, or an encoded message that was given up. `None` when there is no such
/// dead letter.
///
/// [`CloudEvent::decode`](crate::CloudEvent::decode) decodes a message.
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
/// See [`dead`].
pub async fn dead_value<B: Backend>(pool: &Pool<B>, id: DeadLetterId) -> Result<Option<Bytes>> {
    let read = answered(pool, async { B::dead_payload(&mut *hold(pool).await?, id.key()).await });
    let payload = read.await.map_err(|fault: Fault| fault.during(format!("read the dead letter {id}")))?;
    Ok(payload.map(Bytes::from))
}
