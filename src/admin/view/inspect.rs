//! One recipient in full.

use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use super::count::Count;
use super::members::{self, Member, ShardLease};
use super::peers::{self, StreamView};
use crate::admin::{Standing, events, standing, stored_state, time_of};
use crate::error::Result;
use crate::eventbox::EventId;
use crate::origin::{self, Origin};
use crate::outbox::DeadLetterId;
use crate::recipient::Recipient;
use crate::store::{Backend, DeadHead, DeadWanted, EventHead, Fault, NEXT, OutboxKey, answered, hold};

/// Largest number of events, timers, names and quarantined events of an inspection.
pub const MAX_INSPECTED: u32 = 1_000;

/// Largest number of bytes of a state that an inspection shows.
pub const MAX_SHOWN_STATE_BYTES: usize = 64 << 10;

/// Number of events, and of timers, that an inspection counts.
const COUNTED: i64 = 100_000;

/// Settings of [`inspect`].
///
/// # Examples
///
/// See [`inspect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InspectOptions {
    limit: u32,
    with_values: bool,
}

impl Default for InspectOptions {
    fn default() -> Self {
        InspectOptions { limit: 20, with_values: false }
    }
}

impl InspectOptions {
    /// Shows at most so many events, timers, names and quarantined events, at most [`MAX_INSPECTED`]. Default: 20.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// Reads the values of the events. Default: no, because a value may be private.
    #[must_use]
    pub fn with_values(mut self, with_values: bool) -> Self {
        self.with_values = with_values;
        self
    }
}

/// Result of [`inspect`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Detail {
    /// The recipient.
    #[serde(serialize_with = "super::text::text")]
    pub recipient: Recipient,
    /// Shard of the recipient, 0 to 255.
    pub shard: u8,
    /// Turn, pause and failures.
    pub standing: Standing,
    /// State that the library keeps. `None` when there is none, or when a processor keeps it.
    pub state: Option<StateView>,
    /// Events in the eventbox, counted up to 100,000.
    pub waiting: Count,
    /// Time of the emit of the oldest of them.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub oldest_at: Option<SystemTime>,
    /// First events of the eventbox, oldest first.
    pub events: Vec<EventView>,
    /// Timers, the first due first. Of more than 100,000, those of the first emits.
    pub timers: Vec<TimerView>,
    /// Events in quarantine, oldest first.
    pub quarantined: Vec<QuarantinedView>,
    /// Names that are remembered, in order.
    pub names: Vec<NameView>,
    /// Lease of the shard.
    pub lease: ShardLease,
    /// Member that holds the shard.
    pub holder: Option<Member>,
    /// The open stream of a peer whose eventbox this is. Its process works on it, whoever holds the shard.
    pub stream: Option<StreamView>,
}

/// A state that the library keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StateView {
    /// Size of the stored state.
    pub bytes: usize,
    /// The state as indented JSON, when it is JSON and not longer than [`MAX_SHOWN_STATE_BYTES`].
    pub json: Option<String>,
}

/// An event in an eventbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EventView {
    /// Id of the event.
    #[serde(serialize_with = "super::text::id")]
    pub id: EventId,
    /// Time of the emit.
    #[serde(serialize_with = "super::text::time")]
    pub emitted_at: SystemTime,
    /// Name of the event.
    pub name: Option<String>,
    /// Size of the value.
    pub bytes: u64,
    /// The value, when it was asked for.
    #[serde(serialize_with = "super::text::lossy_if_any", skip_serializing_if = "Option::is_none")]
    pub value: Option<Bytes>,
    /// Where the event came from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A timer of a recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TimerView {
    /// Id of the event.
    #[serde(serialize_with = "super::text::id")]
    pub id: EventId,
    /// Time at which the event comes into the eventbox, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub due_at: SystemTime,
    /// Name of the event.
    pub name: Option<String>,
    /// Size of the value.
    pub bytes: u64,
    /// Where the event came from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// An event in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QuarantinedView {
    /// Id of the event.
    #[serde(serialize_with = "super::text::id")]
    pub id: EventId,
    /// Its id among all dead letters.
    #[serde(serialize_with = "super::text::text")]
    pub dead_letter: DeadLetterId,
    /// Name of the event.
    pub name: Option<String>,
    /// Reason in one word.
    pub code: String,
    /// Reason in words.
    pub reason: String,
    /// Number of counted attempts to process the event.
    pub attempts: u32,
    /// Time at which the event was taken aside, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub quarantined_at: SystemTime,
    /// Size of the value.
    pub bytes: u64,
    /// Where the event came from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A name that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NameView {
    /// The name.
    pub name: String,
    /// Id of its event.
    #[serde(serialize_with = "super::text::id")]
    pub id: EventId,
    /// Time at which the pruner found that the event is gone. `None` when the event lives, or was not looked at since.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub gone_at: Option<SystemTime>,
}

/// Returns everything about one recipient, which need not exist: turn, state, events, timers, names, quarantine, and
/// which process works on it.
///
/// # Units and limits
///
/// See [`InspectOptions`]. The values of events together have at most
/// [`MAX_LISTED_BYTES`](crate::admin::MAX_LISTED_BYTES); events behind them are shown without their values.
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
/// use eventbox::admin::{self, InspectOptions};
/// use eventbox::{Event, Recipient};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// eventbox::emit(&pool, &aircraft, Event::new("departed").named("flight-7")).await?;
/// let detail = admin::inspect(&pool, &aircraft, &InspectOptions::default()).await?;
/// assert_eq!((detail.waiting.number, detail.events[0].bytes, &detail.events[0].value), (1, 8, &None));
/// assert_eq!(detail.names[0].name, "flight-7");
/// # Ok(()) }
/// ```
pub async fn inspect<B: Backend>(pool: &Pool<B>, of: &Recipient, options: &InspectOptions) -> Result<Detail> {
    let during = |fault: Fault| fault.during(format!("inspect {of}"));
    let (shard, recipient) = (i16::from(of.shard()), of.as_str());
    let limit = options.limit.min(MAX_INSPECTED);
    let rows = i64::from(limit);
    let wanted = DeadWanted {
        shard: Some(shard),
        is_event: Some(true),
        recipients: Some((recipient.to_owned(), format!("{recipient}{NEXT}"))),
        ..DeadWanted::default()
    };
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let (counted, oldest) = B::count_box(conn, shard, recipient, COUNTED + 1).await?;
        let heads = B::event_heads(conn, shard, recipient, Uuid::nil(), rows).await?;
        let timers = B::timer_heads(conn, shard, recipient, COUNTED, rows).await?;
        let dead = B::dead_heads(conn, &wanted, OutboxKey { shard, id: Uuid::nil() }, rows).await?;
        let names = B::list_names(conn, shard, recipient, "", rows).await?;
        Ok((counted, oldest, heads, timers, dead, names))
    });
    let (counted, oldest, heads, timers, dead, names) = read.await.map_err(during)?;
    let stored = stored_state(pool, of).await?;
    let mut shown: Vec<EventView> = heads.into_iter().map(event_view).collect();
    if options.with_values {
        let values = events(pool, of, None, limit).await?;
        for event in &mut shown {
            let listed = values.binary_search_by_key(&event.id, |listed| listed.id());
            let value = listed.ok().and_then(|at| values.get(at)).map(|listed| Bytes::copy_from_slice(listed.value()));
            event.value = value;
        }
    }
    let (members, shards) = members::read(pool).await?;
    let lease = shards.into_iter().find(|lease| lease.shard == of.shard());
    let lease =
        lease.unwrap_or(ShardLease { shard: of.shard(), holder: None, generation: 0, expires_in: None, pinned: None });
    Ok(Detail {
        recipient: of.clone(),
        shard: of.shard(),
        standing: standing(pool, of).await?,
        state: stored.state.map(|state| state_view(&state)),
        waiting: Count::up_to(COUNTED, counted),
        oldest_at: oldest.map(|id| EventId::from(id).emitted_at()),
        events: shown,
        timers: timers
            .into_iter()
            .map(|timer| TimerView {
                id: timer.event.id.into(),
                due_at: time_of(timer.due_at_us),
                name: timer.event.name,
                bytes: timer.event.bytes.unsigned_abs(),
                origin: origin::read(timer.event.origin),
            })
            .collect(),
        quarantined: dead.into_iter().map(quarantined_view).collect(),
        names: names
            .into_iter()
            .map(|row| NameView { name: row.name, id: row.id.into(), gone_at: row.gone_at_us.map(time_of) })
            .collect(),
        holder: members.into_iter().find(|member| Some(member.worker) == lease.holder),
        stream: peers::stream(pool, of).await?,
        lease,
    })
}

fn event_view(head: EventHead) -> EventView {
    let id = EventId::from(head.id);
    EventView {
        id,
        emitted_at: id.emitted_at(),
        name: head.name,
        bytes: head.bytes.unsigned_abs(),
        value: None,
        origin: origin::read(head.origin),
    }
}

fn quarantined_view(head: DeadHead) -> QuarantinedView {
    QuarantinedView {
        id: head.key.id.into(),
        dead_letter: DeadLetterId::of_key(head.key),
        name: head.name,
        code: head.code,
        reason: head.reason,
        attempts: u32::try_from(head.attempts).unwrap_or_default(),
        quarantined_at: time_of(head.dead_at_us),
        bytes: head.bytes.unsigned_abs(),
        origin: origin::read(head.origin),
    }
}

fn state_view(state: &[u8]) -> StateView {
    let json = (state.len() <= MAX_SHOWN_STATE_BYTES).then(|| serde_json::from_slice::<serde_json::Value>(state));
    let json = json.and_then(|parsed| serde_json::to_string_pretty(&parsed.ok()?).ok());
    StateView { bytes: state.len(), json }
}
