//! The processes that work on eventboxes, and the shards that they hold.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use sqlx::Pool;
use uuid::Uuid;

use crate::error::Result;
use crate::recipient::Recipient;
use crate::store::{
    self, Backend, BusyTurn, FailingRecipient, Fault, LeaseRow, MemberRow, ReportedBreaker, answered, hold,
};

/// A process that works on eventboxes: a started [`Runtime`](crate::runtime::Runtime) with leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Member {
    /// Id of the runtime.
    pub worker: Uuid,
    /// Address of the process, as the process says itself.
    pub address: String,
    /// Most shards that the process takes.
    pub shard_limit: u32,
    /// Whether the process is stopping.
    pub is_exiting: bool,
    /// Time since its last heartbeat, by the database's clock.
    #[serde(rename = "silent_seconds", serialize_with = "super::text::seconds")]
    pub silent_for: Duration,
    /// Kinds that the process registered. Empty when an older version of this library runs there.
    pub kinds: Vec<String>,
    /// Kinds that the process does not work on, because the outbox is over its quota.
    pub throttled: Vec<String>,
    /// Kinds of which the process tries one recipient at a time, because many of them fail alike.
    pub held: Vec<Held>,
    /// Kinds of which the process holds recipients because of their rates, at its last heartbeat.
    pub rated: Vec<RatedKind>,
    /// Turns of processors that have taken over a second, the longest first, at its last heartbeat: at most ten.
    pub busy: Vec<Busy>,
    /// Recipients whose last turns failed in the process, for whatever reason: at most ten.
    pub failing: Vec<Failing>,
    /// Breakers of the process's emitter that are not closed, at its last heartbeat: while one is open, nothing is sent
    /// to its endpoint. Only an emitter that was given to the runtime is known here.
    pub breakers: Vec<OpenBreaker>,
    /// Number of shards that the process holds.
    pub shards: u32,
    /// Zone that the process runs in: [`RuntimeConfig::zone`](crate::runtime::RuntimeConfig::zone).
    pub zone: String,
    /// Labels of the process: [`RuntimeConfig::labels`](crate::runtime::RuntimeConfig::labels).
    pub labels: BTreeMap<String, String>,
    /// URI at which other processes reach the process:
    /// [`RuntimeConfig::endpoint`](crate::runtime::RuntimeConfig::endpoint).
    pub endpoint: Option<String>,
}

/// A breaker that is not closed. Each emitter has one, for its endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpenBreaker {
    /// Endpoint, as the emitter's transport names it.
    pub endpoint: String,
    /// Whether the next request is a probe of the endpoint. Otherwise no request is made yet.
    pub is_half_open: bool,
    /// Time since the breaker was closed.
    #[serde(rename = "open_seconds", serialize_with = "super::text::seconds")]
    pub open_for: Duration,
    /// Last error of a request.
    pub last_error: Option<String>,
}

/// A turn that takes long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Busy {
    /// The recipient.
    #[serde(serialize_with = "super::text::text")]
    pub recipient: Recipient,
    /// Age of the turn.
    #[serde(rename = "seconds", serialize_with = "super::text::seconds")]
    pub since: Duration,
}

/// A kind that a process holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Held {
    /// The kind.
    pub kind: String,
    /// Error that its recipients fail with.
    pub error: String,
}

/// A kind of which a process holds recipients with events, because of the rates that the process keeps
/// ([`RuntimeBuilder::rates`](crate::runtime::RuntimeBuilder::rates)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RatedKind {
    /// The kind.
    pub kind: String,
    /// Number of held recipients.
    pub held: u64,
    /// Some of the held recipients: at most ten.
    pub recipients: Vec<HeldByRate>,
}

/// A recipient that a process holds because of the rates of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeldByRate {
    /// The recipient.
    #[serde(serialize_with = "super::text::text")]
    pub recipient: Recipient,
    /// Bound that holds it: `min_interval`, `max_concurrent` or `rate`.
    pub by: String,
    /// Time from the heartbeat to the end of the hold. `None` when that depends on other recipients.
    #[serde(rename = "left_seconds", serialize_with = "super::text::seconds_if_any")]
    pub left: Option<Duration>,
}

/// A recipient that fails in a process. The error may be no event's fault, such as a service that is away: then no
/// failure is stored for the recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Failing {
    /// The recipient.
    #[serde(serialize_with = "super::text::text")]
    pub recipient: Recipient,
    /// Last error.
    pub error: String,
}

/// A shard and its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ShardLease {
    /// The shard, 0 to 255.
    pub shard: u8,
    /// The member that holds the shard, also when its lease has expired. `None` when the shard is free.
    pub holder: Option<Uuid>,
    /// Number of changes of the holder.
    pub generation: i64,
    /// Time until the lease expires, by the database's clock. `None` when the shard is free or the lease has expired.
    #[serde(rename = "expires_in_seconds", serialize_with = "super::text::seconds_if_any")]
    pub expires_in: Option<Duration>,
    /// The member that an operator gave the shard to.
    pub pinned: Option<Uuid>,
}

impl ShardLease {
    pub(in crate::admin) fn of(row: &LeaseRow) -> Self {
        ShardLease {
            shard: u8::try_from(row.shard).unwrap_or_default(),
            holder: row.holder,
            generation: row.generation,
            expires_in: row.holder.and(duration_of(row.left_us)).filter(|left| !left.is_zero()),
            pinned: row.pinned,
        }
    }
}

impl Member {
    fn of(row: MemberRow, leases: &[LeaseRow]) -> Self {
        let shards = leases.iter().filter(|lease| lease.holder == Some(row.worker)).count();
        let report = row.report;
        Member {
            worker: row.worker,
            shard_limit: u32::try_from(row.shard_limit).unwrap_or_default(),
            is_exiting: row.exiting,
            silent_for: duration_of(row.silent_us).unwrap_or_default(),
            kinds: report.kinds,
            throttled: report.throttled,
            held: report.held.into_iter().map(|held| Held { kind: held.kind, error: held.error }).collect(),
            rated: report.rated.into_iter().map(rated).collect(),
            busy: report.busy.iter().filter_map(busy).collect(),
            failing: report.failing.into_iter().filter_map(failing).collect(),
            breakers: report.breakers.into_iter().map(breaker).collect(),
            shards: u32::try_from(shards).unwrap_or_default(),
            zone: row.zone,
            labels: row.labels,
            endpoint: row.endpoint,
            address: row.address,
        }
    }
}

fn busy(busy: &BusyTurn) -> Option<Busy> {
    Some(Busy { recipient: busy.recipient.parse().ok()?, since: duration_of(busy.age_us)? })
}

fn rated(rated: store::RatedKind) -> RatedKind {
    let held = |held: store::HeldRecipient| {
        let left = held.left_us.and_then(duration_of);
        Some(HeldByRate { recipient: held.recipient.parse().ok()?, by: held.by, left })
    };
    let recipients = rated.recipients.into_iter().filter_map(held).collect();
    RatedKind { kind: rated.kind, held: rated.held, recipients }
}

fn failing(failing: FailingRecipient) -> Option<Failing> {
    Some(Failing { recipient: failing.recipient.parse().ok()?, error: failing.error })
}

fn breaker(breaker: ReportedBreaker) -> OpenBreaker {
    OpenBreaker {
        endpoint: breaker.endpoint,
        is_half_open: breaker.is_half_open,
        open_for: duration_of(breaker.open_us).unwrap_or_default(),
        last_error: breaker.error,
    }
}

pub(super) fn duration_of(us: i64) -> Option<Duration> {
    u64::try_from(us).ok().map(Duration::from_micros)
}

/// Time without a heartbeat after which the breakers of a member say nothing any more.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// Returns the breakers of the members that live.
pub(in crate::admin) fn open_breakers(members: &[Member]) -> impl Iterator<Item = (&Member, &OpenBreaker)> {
    let living = members.iter().filter(|member| member.silent_for < HEARD_WITHIN);
    living.flat_map(|member| member.breakers.iter().map(move |breaker| (member, breaker)))
}

/// Lists the processes that work on eventboxes, in the order of their ids.
///
/// A member that has died stays in the list for twenty lease terms, with a growing `silent_for`. A runtime without
/// leases ([`RuntimeConfig::leases`](crate::runtime::RuntimeConfig::leases) is `None`) is not a member.
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
/// use eventbox::admin;
///
/// assert!(admin::members(&pool).await?.is_empty());
/// assert_eq!(admin::shards(&pool).await?.len(), 256);
/// # Ok(()) }
/// ```
pub async fn members<B: Backend>(pool: &Pool<B>) -> Result<Vec<Member>> {
    Ok(read(pool).await?.0)
}

/// Lists all 256 shards with their leases, in order.
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
/// See [`members`].
pub async fn shards<B: Backend>(pool: &Pool<B>) -> Result<Vec<ShardLease>> {
    Ok(read(pool).await?.1)
}

/// Returns members and shards.
pub(in crate::admin) async fn read<B: Backend>(pool: &Pool<B>) -> Result<(Vec<Member>, Vec<ShardLease>)> {
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        Ok((B::list_members(conn).await?, B::list_leases(conn).await?))
    });
    let (members, leases) = read.await.map_err(|fault: Fault| fault.during("list the members and shards"))?;
    let members = members.into_iter().map(|member| Member::of(member, &leases)).collect();
    Ok((members, leases.iter().map(ShardLease::of).collect()))
}
