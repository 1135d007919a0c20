//! Why the events of a recipient are not processed.

mod reason;
mod streams;
mod words;

pub(in crate::admin) use words::resume_command;

use std::time::{Duration, SystemTime};

use serde::Serialize;
use sqlx::Pool;

pub use self::reason::Reason;
use self::streams::is_stream;
use super::view::count::Count;
use super::view::destination::PausedDestination;
use super::view::members::{self, Member, ShardLease};
use super::view::peers::{self, StreamView};
use super::view::shards::{ShardSelector, ShardState, ShardView, list_shards};
use super::{Standing, standing, time_of};
use crate::clock::micros;
use crate::error::Result;
use crate::eventbox::EventId;
use crate::recipient::Recipient;
use crate::shard::LABEL_ID;
use crate::store::{Backend, DeadWanted, Fault, MessageGroup, NEXT, OldTransaction, TimerHead, answered, hold};

/// Age from which a transaction is named as the reason, as long as nothing else is.
const OLD_TRANSACTION: Duration = Duration::from_secs(5);

/// Age from which a wait is not the ordinary wait for a free worker.
const LONG_WAIT: Duration = Duration::from_secs(10);

/// Number of events, timers and messages that are counted.
const COUNTED: i64 = 10_000;

/// The answer of [`why`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Why {
    /// The recipient.
    #[serde(serialize_with = "super::view::text::text")]
    pub recipient: Recipient,
    /// The reason.
    #[serde(flatten)]
    pub reason: Reason,
    /// The reason as a sentence.
    pub sentence: String,
    /// What to do.
    pub advice: String,
}

/// What was read to find the reason.
struct Facts {
    now: SystemTime,
    standing: Standing,
    events: Count,
    oldest: Option<EventId>,
    timer: Option<TimerHead>,
    quarantined: u64,
    members: Vec<Member>,
    lease: Option<ShardLease>,
    shard: Option<ShardView>,
    stream: Option<StreamView>,
    old: Option<OldTransaction>,
    groups: Vec<MessageGroup>,
    struggling: i64,
    paused: Vec<PausedDestination>,
}

/// Returns why a recipient's events are not processed, as a reason, a sentence, and what to do.
///
/// Use it first when something is stuck. It looks at the database only, so it knows what the processes tell each other:
/// a runtime without leases is invisible to it.
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
/// use eventbox::admin::{self, Reason};
/// use eventbox::{Event, Recipient};
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// eventbox::emit(&pool, &aircraft, Event::new("departed")).await?;
/// admin::pause(&pool, &aircraft).await?;
/// let why = admin::why(&pool, &aircraft).await?;
/// assert_eq!(why.reason, Reason::Paused { is_kind: false });
/// assert_eq!(why.sentence, "aircraft/N14228 is paused by an operator; 1 event waits.");
/// assert_eq!(why.advice, "To go on: eventbox resume aircraft/N14228");
/// # Ok(()) }
/// ```
pub async fn why<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Why> {
    let facts = read(pool, of).await?;
    let reason = facts.reason(of);
    let (sentence, advice) = facts.words(of, &reason);
    Ok(Why { recipient: of.clone(), reason, sentence, advice })
}

async fn read<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Facts> {
    let during = |fault: Fault| fault.during(format!("find out why {of} is not processed"));
    let (shard, recipient) = (i16::from(of.shard()), of.as_str());
    let wanted = DeadWanted {
        shard: Some(shard),
        is_event: Some(true),
        recipients: Some((recipient.to_owned(), format!("{recipient}{NEXT}"))),
        ..DeadWanted::default()
    };
    let read = answered(pool, async {
        let conn = &mut *hold(pool).await?;
        let now_us = B::database_time_us(conn).await?;
        let (events, oldest) = B::count_box(conn, shard, recipient, COUNTED + 1).await?;
        let timer = B::timer_heads(conn, shard, recipient, COUNTED, 1).await?.pop();
        let quarantined = B::count_dead(conn, &wanted, COUNTED).await?;
        let groups = if events == 0 { B::group_messages(conn, COUNTED, 1_000).await? } else { Vec::new() };
        let struggling = if events == 0 { B::count_struggling(conn, COUNTED + 1).await? } else { 0 };
        let paused = B::list_paused_destinations(conn).await?;
        Ok((now_us, events, oldest, timer, quarantined, groups, struggling, paused))
    });
    let (now_us, events, oldest, timer, quarantined, groups, struggling, paused) = read.await.map_err(during)?;
    let old = B::old_transactions(pool, micros(OLD_TRANSACTION), i64::MAX, 1).await.map_err(during)?.pop();
    // After the events: a turn that takes the last of them in between is known here.
    let standing = standing(pool, of).await?;
    let (members, leases) = members::read(pool).await?;
    let selector = ShardSelector::all().label(LABEL_ID, shard.to_string());
    Ok(Facts {
        now: time_of(now_us),
        standing,
        events: Count::up_to(COUNTED, events),
        oldest: oldest.map(EventId::from),
        timer,
        quarantined: quarantined.unsigned_abs(),
        members,
        lease: leases.into_iter().find(|lease| lease.shard == of.shard()),
        shard: list_shards(pool, &selector).await?.pop(),
        stream: peers::stream(pool, of).await?,
        old,
        groups,
        struggling,
        paused: paused.into_iter().map(PausedDestination::of).collect(),
    })
}

impl Facts {
    fn reason(&self, of: &Recipient) -> Reason {
        let due = self.timer.as_ref().map(|timer| time_of(timer.due_at_us));
        match (self.events.number, due) {
            (0, Some(due_at)) if due_at > self.now => Reason::TimerNotDue { due_at },
            (0, None) => self.idle(),
            // The holder of the shard decides nothing about the events of a stream.
            (1.., _) if is_stream(of) => self.of_stream(of),
            // A timer that is due waits for the same process that works on the events.
            _ => self.hindrance(of).unwrap_or_else(|| self.in_line(of)),
        }
    }

    fn idle(&self) -> Reason {
        match (self.outbox(), self.standing.updated_at) {
            (Some(reason), _) => reason,
            (None, Some(at)) if self.quarantined == 0 => Reason::Processed { turn: self.standing.turn, at },
            _ => Reason::NothingPending { quarantined: self.quarantined },
        }
    }

    /// Returns what the messages of the outbox wait for, if that is not only their delivery.
    fn outbox(&self) -> Option<Reason> {
        let pause = |group: &MessageGroup| {
            self.paused.iter().rev().find(|paused| paused.destination.has(&group.source, &group.r#type))
        };
        let (held, free): (Vec<&MessageGroup>, Vec<_>) = self.groups.iter().partition(|group| pause(group).is_some());
        let count = |groups: &[&MessageGroup]| Count::up_to(COUNTED, groups.iter().map(|group| group.messages).sum());
        // A recipient without a turn has published nothing.
        let had_turn = self.standing.updated_at.is_some();
        if let Some((member, breaker)) = members::open_breakers(&self.members).next()
            && had_turn
            && !free.is_empty()
        {
            return Some(Reason::BreakerOpen {
                worker: member.worker,
                endpoint: breaker.endpoint.clone(),
                waiting: count(&free),
                last_error: breaker.last_error.clone(),
            });
        }
        let failing = free.iter().find(|group| group.most_attempts > 1 && group.last_error.is_some());
        if let Some(last_error) = failing.and_then(|group| group.last_error.clone()) {
            return Some(Reason::OutboxStuck { struggling: Count::up_to(COUNTED, self.struggling), last_error });
        }
        let paused = held.first().and_then(|group| pause(group)).filter(|_| had_turn)?;
        Some(Reason::DestinationPaused {
            destination: paused.destination.clone(),
            since: paused.paused_at,
            who: paused.who.clone(),
            waiting: count(&held),
        })
    }

    /// Returns what keeps every process from the recipient.
    fn hindrance(&self, of: &Recipient) -> Option<Reason> {
        let kind = of.kind().to_owned();
        // A timer of a stream is moved by whoever holds the shard.
        let knows = |member: &&Member| is_stream(of) || member.kinds.is_empty() || member.kinds.contains(&kind);
        if !self.members.is_empty() && !self.members.iter().any(|member| knows(&member)) {
            return Some(Reason::NotRegistered { kind, holder: None });
        }
        if let Some(reason) = self.stopped() {
            return Some(reason);
        }
        if let Some(reason) = self.shard_stands_still() {
            return Some(reason);
        }
        let shard = of.shard();
        let Some(worker) = self.lease.as_ref().and_then(|lease| lease.holder) else {
            return Some(Reason::NoHolder { shard });
        };
        let holder = self.members.iter().find(|member| member.worker == worker);
        if self.lease.as_ref().is_none_or(|lease| lease.expires_in.is_none()) {
            return Some(Reason::SilentHolder { shard, worker, silent_for: holder.map(|member| member.silent_for) });
        }
        let holder = holder?;
        if !knows(&holder) {
            return Some(Reason::NotRegistered { kind, holder: Some(worker) });
        }
        if holder.throttled.contains(&kind) {
            return Some(Reason::Throttled { kind, worker });
        }
        if let Some(busy) = holder.busy.iter().find(|busy| busy.recipient == *of) {
            return Some(Reason::BeingWorkedOn { worker, since: busy.since });
        }
        // A stored failure is an event's own, and its retry is due now.
        let failing = holder.failing.iter().find(|failing| failing.recipient == *of);
        if let Some(failing) = failing.filter(|_| self.standing.attempts == 0) {
            return Some(Reason::Failing { worker, error: failing.error.clone() });
        }
        if let Some(held) = holder.held.iter().find(|held| held.kind == kind) {
            return Some(Reason::Held { worker, error: held.error.clone() });
        }
        self.rate_of(of, holder)
    }

    /// Returns the rate that holds the recipient in its process.
    fn rate_of(&self, of: &Recipient, holder: &Member) -> Option<Reason> {
        let (worker, rated) = (holder.worker, holder.rated.iter().find(|rated| rated.kind == of.kind())?);
        if let Some(held) = rated.recipients.iter().find(|held| held.recipient == *of) {
            // The report is as old as the last heartbeat.
            let until = held.left.map(|left| self.now + left.saturating_sub(holder.silent_for));
            let is_over = until.is_some_and(|until| until <= self.now);
            return (!is_over).then(|| Reason::HeldByRate { worker, by: Some(held.by.clone()), until });
        }
        let names_all = rated.held <= rated.recipients.len() as u64;
        (!names_all).then_some(Reason::HeldByRate { worker, by: None, until: None })
    }

    /// Returns what stops the recipient in every process: a pause or a failure.
    fn stopped(&self) -> Option<Reason> {
        if self.standing.paused || self.standing.kind_paused {
            return Some(Reason::Paused { is_kind: self.standing.kind_paused });
        }
        let next_attempt_at = self.standing.next_attempt_at.filter(|at| *at > self.now)?;
        let error = self.standing.error.clone().unwrap_or_default();
        Some(Reason::BackingOff { attempts: self.standing.attempts, next_attempt_at, error })
    }

    /// Returns what keeps every process from the shard.
    fn shard_stands_still(&self) -> Option<Reason> {
        let view = self.shard.as_ref()?;
        if view.spec.is_disabled {
            return Some(Reason::ShardDisabled { shard: view.shard });
        }
        (view.state == ShardState::Failed).then(|| Reason::ShardFailed {
            shard: view.shard,
            attempts: view.attempts,
            next_attempt_at: view.next_attempt_in.map(|wait| self.now + wait),
            error: view.errors.join("; "),
        })
    }

    fn in_line(&self, of: &Recipient) -> Reason {
        let due = self.timer.as_ref().map(|timer| time_of(timer.due_at_us));
        let oldest_at = self.oldest_at().or(due).unwrap_or(self.now);
        let has_waited = self.now.duration_since(oldest_at).unwrap_or_default();
        if let Some(old) = self.old.as_ref().filter(|_| has_waited >= LONG_WAIT) {
            return Reason::OldTransaction { transaction: old.to_string() };
        }
        match self.lease.as_ref().and_then(|lease| lease.holder) {
            Some(worker) if has_waited >= LONG_WAIT => Reason::Overdue { worker, waiting: self.events, oldest_at },
            Some(worker) => Reason::InLine { worker, waiting: self.events, oldest_at },
            None => Reason::NoHolder { shard: of.shard() },
        }
    }
    fn oldest_at(&self) -> Option<SystemTime> {
        self.oldest.map(|id| id.emitted_at())
    }
}
