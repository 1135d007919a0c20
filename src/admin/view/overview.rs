//! The whole database at a glance, by kind.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde::Serialize;
use sqlx::Pool;

use super::count::Count;
use super::destination::PausedDestination;
use super::members::{self, Member};
use super::messages::MAX_GROUPED;
use crate::admin::time_of;
use crate::error::Result;
use crate::eventbox::{KindBacklog, Precision, backlog};
use crate::outbox::queue_stats;
use crate::store::{Backend, DeadWanted, Fault, KindCounts, Looked, answered, hold};

/// Largest number of kinds of an overview.
pub const MAX_KINDS: u32 = 200;

/// Largest number of timers, failing or paused recipients, and events in quarantine that an overview counts of a kind.
/// There may be more: then the count is [`Precision::AtLeast`](crate::Precision::AtLeast).
pub const MAX_KIND_COUNT: u32 = 10_000;

/// Result of [`overview`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Overview {
    /// The kinds, in the order of their names, at most [`MAX_KINDS`].
    pub kinds: Vec<KindOverview>,
    /// Whether all kinds are there.
    pub is_complete: bool,
    /// The outbox.
    pub outbox: OutboxOverview,
    /// The processes that work on eventboxes.
    pub members: Vec<Member>,
    /// Number of shards that no process holds a valid lease on.
    pub free_shards: u32,
    /// Database's time of the overview.
    #[serde(serialize_with = "super::text::time")]
    pub at: SystemTime,
}

/// A kind at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KindOverview {
    /// The kind.
    pub kind: String,
    /// Events in eventboxes.
    pub waiting: Count,
    /// Time of the emit of the oldest of them, as far as they were counted.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub oldest_at: Option<SystemTime>,
    /// Timers that are not due, or not moved yet.
    pub timers: Count,
    /// Time at which the first of the counted timers is due.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub next_due_at: Option<SystemTime>,
    /// Recipients whose last turns failed.
    pub failing: Count,
    /// Recipients that an operator paused.
    pub paused: Count,
    /// Events in quarantine.
    pub quarantined: Count,
    /// Whether the whole kind is paused.
    pub is_paused: bool,
    /// Number of members that registered the kind.
    pub workers: u32,
    /// Whether a member does not work on the kind, because the outbox is over its quota.
    pub is_throttled: bool,
    /// An error that its recipients fail with in a member, also one that is no event's fault and that `failing` does
    /// not count: that of a kind that is held, or of one recipient.
    pub trouble: Option<String>,
}

/// The outbox at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutboxOverview {
    /// Messages that are not delivered.
    pub waiting: Count,
    /// Time of the oldest of them.
    #[serde(serialize_with = "super::text::time_if_any")]
    pub oldest_at: Option<SystemTime>,
    /// Messages that were sent at least twice.
    pub struggling: Count,
    /// Messages that were given up.
    pub dead_letters: Count,
    /// Messages that wait for paused destinations, among the first [`MAX_GROUPED`](crate::admin::MAX_GROUPED).
    pub paused: Count,
    /// The paused destinations.
    pub paused_destinations: Vec<PausedDestination>,
}

/// Returns what waits, fails, is paused and is in quarantine, by kind, with the outbox and the members.
///
/// Use it for a page or a command that says how the whole is. It costs about the same with any number of events: it
/// counts up to bounds, and each [`Count`] says how its number is known.
///
/// # What comes back
///
/// The kinds that have events, timers, failures or events in quarantine, that are paused, or that a member registered.
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
/// use eventbox::{Event, Recipient, admin};
///
/// eventbox::emit(&pool, &Recipient::new("aircraft", "N14228")?, Event::new("departed")).await?;
/// let overview = admin::overview(&pool).await?;
/// assert_eq!((overview.kinds[0].kind.as_str(), overview.kinds[0].waiting.number), ("aircraft", 1));
/// assert_eq!(overview.free_shards, 256); // no process works here
/// # Ok(()) }
/// ```
pub async fn overview<B: Backend>(pool: &Pool<B>) -> Result<Overview> {
    let during = |fault: Fault| fault.during("look at all kinds");
    let (members, shards) = members::read(pool).await?;
    let most = i64::from(MAX_KIND_COUNT);
    let found = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let paused: BTreeSet<String> = B::list_paused_kinds(conn).await?.into_iter().map(|(kind, _)| kind).collect();
        let mut kinds: BTreeSet<String> = B::list_kinds(conn, i64::from(MAX_KINDS) + 1).await?.into_iter().collect();
        kinds.extend(paused.iter().cloned());
        Ok((B::database_time_us(conn).await?, kinds, paused))
    });
    let (at_us, mut kinds, paused) = found.await.map_err(during)?;
    kinds.extend(members.iter().flat_map(|member| member.kinds.iter().cloned()));
    // A recipient without a slash or without a kind can only come from a foreign statement.
    kinds.retain(|kind| !kind.is_empty());
    let is_complete = kinds.len() <= MAX_KINDS as usize;
    let kinds: Vec<String> = kinds.into_iter().take(MAX_KINDS as usize).collect();
    let waiting = backlog(pool, &Vec::from_iter(kinds.iter().map(String::as_str))).await?;
    let counted = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let mut counts = Vec::with_capacity(kinds.len());
        for kind in &kinds {
            counts.push(B::count_kind(conn, kind, most + 1).await?);
        }
        let dead = DeadWanted { is_event: Some(false), ..DeadWanted::default() };
        let paused = B::list_paused_destinations(conn).await?;
        let looked = match paused.is_empty() {
            true => Looked { found: 0, at: 0 },
            false => B::count_paused_messages(conn, i64::from(MAX_GROUPED) + 1).await?,
        };
        let struggling = B::count_struggling(conn, most + 1).await?;
        Ok((counts, struggling, B::count_dead(conn, &dead, most + 1).await?, paused, looked))
    });
    let (counts, struggling, dead, paused_destinations, looked) = counted.await.map_err(during)?;
    let at = time_of(at_us);
    let queue = queue_stats(pool).await?;
    let depth = Count::up_to(i64::MAX - 1, queue.depth);
    let outbox = OutboxOverview {
        waiting: if queue.depth_is_at_least { Count { precision: Precision::AtLeast, ..depth } } else { depth },
        oldest_at: (queue.depth > 0).then(|| at.checked_sub(queue.oldest_pending_age)).flatten(),
        struggling: Count::up_to(most, struggling),
        dead_letters: Count::up_to(most, dead),
        paused: Count::looked(i64::from(MAX_GROUPED), looked),
        paused_destinations: paused_destinations.into_iter().map(PausedDestination::of).collect(),
    };
    let kinds = waiting.into_iter().zip(counts);
    let kinds = kinds.map(|(waiting, counts)| kind_overview(waiting, &counts, most, &paused, &members)).collect();
    let free = shards.iter().filter(|shard| shard.expires_in.is_none()).count();
    Ok(Overview { kinds, is_complete, outbox, members, free_shards: u32::try_from(free).unwrap_or(u32::MAX), at })
}

fn kind_overview(
    waiting: KindBacklog,
    counts: &KindCounts,
    most: i64,
    paused: &BTreeSet<String>,
    members: &[Member],
) -> KindOverview {
    let registered = members.iter().filter(|member| member.kinds.contains(&waiting.kind)).count();
    KindOverview {
        waiting: Count { number: waiting.events, precision: waiting.precision },
        oldest_at: waiting.oldest.map(|id| id.emitted_at()),
        timers: Count::up_to(most, counts.timers),
        next_due_at: counts.next_due_at_us.map(time_of),
        failing: Count::up_to(most, counts.failing),
        paused: Count::up_to(most, counts.paused),
        quarantined: Count::up_to(most, counts.quarantined),
        is_paused: paused.contains(&waiting.kind),
        workers: u32::try_from(registered).unwrap_or_default(),
        trouble: trouble(&waiting.kind, members),
        is_throttled: members.iter().any(|member| member.throttled.contains(&waiting.kind)),
        kind: waiting.kind,
    }
}

fn trouble(kind: &str, members: &[Member]) -> Option<String> {
    let held = members.iter().flat_map(|member| &member.held).find(|held| held.kind == kind);
    let failing = || members.iter().flat_map(|member| &member.failing).find(|failing| failing.recipient.kind() == kind);
    match held {
        Some(held) => Some(format!("held, many recipients fail alike: {}", held.error)),
        None => failing().map(|failing| format!("{}: {}", failing.recipient, failing.error)),
    }
}
