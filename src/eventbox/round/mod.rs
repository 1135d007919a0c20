//! A round: one turn of many recipients at once.
//!
//! One statement lists all recipients, their code decides, and one transaction commits all of them. A recipient that
//! lost its race drops out and the others commit. The remaining cases (code that fails, a lost race, missing events)
//! get turns of one recipient, which retry and search for poison.
//!
//! There are two ways to decide. The decisions of reducers are data, so their transaction has no code of the user. The
//! decisions of a processor bring code into the transaction.

mod at_once;
mod commit;
mod loading;
mod processors;
mod ready;
mod reducers;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;
use uuid::Uuid;

use self::commit::{Halt, Slice, commit};
pub(crate) use self::processors::{CodeLimits, ProcessorWay};
use self::ready::{Ended, Ready};
pub(crate) use self::reducers::{ErasedReducer, KnownState, ReducerWay, TypedReducer};
use super::event::{Event, EventId};
use super::metrics::{self, Phase};
use super::turn::hooked::Begun;
use super::turn::{MAX_TURN_AGE, Turn};
use crate::error::Result;
use crate::recipient::Recipient;
use crate::store::{Backend, Bound, RoundFrom, RoundRow, answered, hold};

/// A recipient in a round, and the event after which it is listed. The nil id lists from the start.
#[derive(Debug)]
pub(crate) struct RoundMember {
    pub(crate) to: Recipient,
    pub(crate) after: EventId,
    /// Whether the journal gets a row for each removed event.
    pub(crate) is_journaled: bool,
}

/// Result of a round for one recipient. `K` is what a turn leaves in memory for the next one.
#[derive(Debug)]
pub(crate) enum Done<K> {
    /// The turn committed.
    Committed { turn: Box<Turn>, left: Option<K> },
    /// Nothing was decided. `last` is the last event that was listed, if any, and `more` whether more events follow.
    Nothing { last: Option<EventId>, more: bool, left: Option<K> },
    /// Contention: the recipient needs its own turn.
    Lost,
    /// The code failed, or the recipient has stored failures: it needs its own turn.
    NeedsOwnTurn,
    /// The recipient is paused, or is backing off after a failure.
    Skipped,
    /// Others used up the bytes or the time of this round, or made it fail: the recipient waits for the next round.
    Deferred,
}

/// Results of a round, in the order of its members.
#[derive(Debug)]
pub(crate) struct Rounded<K> {
    pub(crate) done: Vec<Done<K>>,
    /// Longest time that its decisions, or one of its transactions, took.
    pub(crate) took: Duration,
    /// Whether a transaction was given up because of the code of a recipient.
    pub(crate) was_given_up: bool,
}

impl<K> Rounded<K> {
    /// Makes the result of a round that found no code for its members: each of them gets a turn of its own.
    pub(crate) fn none() -> Self {
        Rounded { done: Vec::new(), took: Duration::ZERO, was_given_up: false }
    }

    /// Changes what the turns have left in memory.
    pub(crate) fn map_left<T>(self, map: impl Fn(K) -> T) -> Rounded<T> {
        let mapped = |done| match done {
            Done::Committed { turn, left } => Done::Committed { turn, left: left.map(&map) },
            Done::Nothing { last, more, left } => Done::Nothing { last, more, left: left.map(&map) },
            Done::Lost => Done::Lost,
            Done::NeedsOwnTurn => Done::NeedsOwnTurn,
            Done::Skipped => Done::Skipped,
            Done::Deferred => Done::Deferred,
        };
        let Rounded { done, took, was_given_up } = self;
        Rounded { done: done.into_iter().map(mapped).collect(), took, was_given_up }
    }
}

/// Most events that a round of reducers lists; its recipients share them.
pub(crate) const MAX_ROUND_EVENTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(49_999);

/// Bounds of a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most events of a recipient.
    pub(crate) max_events: NonZeroU32,
    /// Most events of all recipients together, who share them.
    pub(crate) round_events: NonZeroU32,
    pub(crate) max_bytes: usize,
    /// Longest wait that is taken for the back-off of a failing recipient, in microseconds.
    pub(crate) longest_wait_us: i64,
    /// Whether the time of each phase is recorded by shard, too.
    pub(crate) by_shard: bool,
}

/// A recipient with events, for a decision.
pub(crate) struct Listed<K> {
    /// Index of the recipient among the members.
    index: usize,
    to: Recipient,
    turn: i64,
    /// State that the library keeps, unless it is known.
    state: Option<Vec<u8>>,
    /// What an earlier turn left in memory.
    known: Option<K>,
    events: Vec<Event>,
    more_listed: bool,
    is_journaled: bool,
}

/// Result of deciding about one recipient.
#[allow(clippy::large_enum_variant, reason = "a box would be one more allocation for each recipient of a round")]
pub(crate) enum Verdict<P, K> {
    /// A turn to commit.
    Ready(Ready, P),
    /// Nothing to commit.
    Done(Done<K>),
}

/// Verdicts with the indexes of their recipients.
type Verdicts<P, K> = Vec<(usize, Verdict<P, K>)>;

/// The way in which the recipients of a round are decided on, and what of it happens in the transaction.
pub(crate) trait Way<B: Backend>: Send + Sync {
    /// What a turn leaves in memory for the next one.
    type Left: Send + 'static;
    /// What a decision brings besides the data that the library writes.
    type Part: Send;
    /// Whether code of the user runs in the transaction, which then is shared with no other writer.
    const RUNS_CODE: bool;

    /// Decides. Returns a verdict for each index, in any order. Recipients without a verdict were in a task that
    /// failed.
    fn decide(
        &self,
        pool: &Pool<B>,
        listed: Vec<Listed<Self::Left>>,
    ) -> impl Future<Output = Verdicts<Self::Part, Self::Left>> + Send;

    /// Runs the code of the winners in the transaction that has claimed their turns, in the order of the recipients.
    fn run(
        &self,
        pool: &Pool<B>,
        tx: &mut B::SharedTx,
        slice: &mut Slice<Self::Part>,
        won: &[usize],
    ) -> impl Future<Output = Result<(), Halt>> + Send;

    /// Returns what a committed turn leaves. `token` is that of its commit.
    fn ended(&self, ready: &mut Ready, part: Self::Part, token: Uuid) -> Ended<Self::Left>;
}

/// Takes many different recipients through one turn of `max_events` or an equal share of `round_events` each. `known`
/// has what earlier turns left in memory; use it only for a round that begins after the answers to their commits.
///
/// The listed values have at most `max_bytes` together, and so have the states; the first event and the first state are
/// listed whatever their size. Each transaction writes at most `max_bytes`. The first transaction begins behind
/// `before_commit`. A round with hooks, which have begun, has one transaction, and the rest waits for the next round.
///
/// # Errors
///
/// When the database cannot list or commit: the errors of the infrastructure. Nothing was changed.
pub(crate) async fn round<B: Backend, W: Way<B>>(
    pool: &Pool<B>,
    members: &[RoundMember],
    known: Vec<Option<W::Left>>,
    way: &W,
    limits: Limits,
    before_commit: impl Future<Output = ()> + Send,
    mut begun: Option<&mut Begun<'_, B>>,
) -> Result<Rounded<W::Left>> {
    let started = Instant::now();
    let max_events = limits.max_events.min(share_of(limits.round_events, members.len()));
    let mut done: Vec<_> = std::iter::repeat_with(|| Done::NeedsOwnTurn).take(members.len()).collect();
    let shards = limits.by_shard.then(|| shards_of(members));
    let spent = |phase, since: Instant| {
        let shards = shards.as_ref().map(|shards| shards.iter().map(|(shard, its)| (*shard, *its)));
        metrics::spent(phase, since.elapsed(), shards);
    };
    let bound = Bound::new(i64::from(max_events.get()) + 1, limits.max_bytes);
    let rows = list(pool, members, &known, bound, limits.longest_wait_us).await;
    spent(Phase::Listing, started);
    let listed_at = Instant::now();
    let listed = screened(members, rows?, known, max_events, &mut done);
    let mut ready = Vec::with_capacity(listed.len());
    for (index, verdict) in way.decide(pool, listed).await {
        let its = match verdict {
            Verdict::Ready(decided, part) => {
                ready.push((decided, part));
                // Replaced when the commit succeeds.
                Done::Lost
            }
            Verdict::Done(its) => its,
        };
        note(&mut done, index, its);
    }
    let mut took = listed_at.elapsed();
    spent(Phase::Preparing, listed_at);
    ready.sort_by(|(a, _), (b, _)| (a.to.shard(), a.to.as_str()).cmp(&(b.to.shard(), b.to.as_str())));
    if !ready.is_empty() {
        before_commit.await;
    }
    if ready.is_empty() || started.elapsed() >= MAX_TURN_AGE {
        return Ok(rounded(members, done, took, false));
    }
    let (decided_at, mut was_given_up) = (Instant::now(), false);
    let mut committing = Ok(());
    for (place, slice) in slices(ready, limits.max_bytes, B::is_by_shard()).into_iter().enumerate() {
        if place > 0 && begun.is_some() {
            slice.ready.iter().for_each(|ready| note(&mut done, ready.index, Done::Deferred));
            continue;
        }
        let began = Instant::now();
        match commit(pool, way, slice, begun.as_deref_mut()).await {
            Ok(committed) => {
                was_given_up |= committed.was_given_up;
                committed.done.into_iter().for_each(|(index, its)| note(&mut done, index, its));
            }
            Err(error) => committing = committing.and(Err(error)),
        }
        took = took.max(began.elapsed());
    }
    spent(Phase::Committing, decided_at);
    // Turns that committed before an error must be reported; the other recipients are tried again.
    if !done.iter().any(|member| matches!(member, Done::Committed { .. })) {
        committing?;
    }
    Ok(rounded(members, done, took, was_given_up))
}

fn note<K>(done: &mut [Done<K>], index: usize, its: Done<K>) {
    if let Some(member) = done.get_mut(index) {
        *member = its;
    }
}

/// Returns the results of the members, and counts the lost races.
fn rounded<K>(members: &[RoundMember], done: Vec<Done<K>>, took: Duration, was_given_up: bool) -> Rounded<K> {
    for (member, _) in members.iter().zip(&done).filter(|(_, done)| matches!(done, Done::Lost)) {
        metrics::contention(member.to.kind());
    }
    Rounded { done, took, was_given_up }
}

/// Returns the recipients on which code decides, and notes the results of the others.
fn screened<K>(
    members: &[RoundMember],
    rows: Vec<RoundRow>,
    mut known: Vec<Option<K>>,
    max_events: NonZeroU32,
    done: &mut [Done<K>],
) -> Vec<Listed<K>> {
    let mut listed = Vec::with_capacity(rows.len());
    for row in rows {
        let (index, Some(member)) = (row.place, members.get(row.place)) else { continue };
        match screen(member, row, known.get_mut(index).and_then(Option::take), max_events) {
            Ok(its) => listed.push(its),
            Err(its) => note(done, index, its),
        }
    }
    listed
}

fn screen<K>(
    member: &RoundMember,
    mut row: RoundRow,
    known: Option<K>,
    max_events: NonZeroU32,
) -> Result<Listed<K>, Done<K>> {
    if row.hindered {
        return Err(Done::Skipped);
    }
    let more_listed = row.is_cut || row.events.len() > max_events.get() as usize;
    row.events.truncate(max_events.get() as usize);
    if row.is_cut && row.events.is_empty() {
        return Err(Done::Deferred);
    }
    // Another process has consumed the events since they were found; no code is called for an empty eventbox.
    if row.events.is_empty() {
        return Err(Done::Nothing { last: None, more: false, left: known });
    }
    if row.failing {
        return Err(Done::NeedsOwnTurn);
    }
    Ok(Listed {
        index: row.place,
        to: member.to.clone(),
        turn: row.turn,
        state: row.state,
        known,
        events: row.events.into_iter().map(Event::listed).collect(),
        more_listed,
        is_journaled: member.is_journaled,
    })
}

/// Returns the share of each recipient.
fn share_of(events: NonZeroU32, recipients: usize) -> NonZeroU32 {
    let recipients = u32::try_from(recipients).unwrap_or(u32::MAX).max(1);
    NonZeroU32::new(events.get() / recipients).unwrap_or(NonZeroU32::MIN)
}

/// Counts the members of each shard.
fn shards_of(members: &[RoundMember]) -> BTreeMap<u8, u32> {
    let mut shards = BTreeMap::new();
    for member in members {
        *shards.entry(member.to.shard()).or_default() += 1;
    }
    shards
}

/// Groups members that commit together: each group writes at most `max_bytes`, or is a single recipient. With
/// `is_by_shard`, a group has one shard.
fn slices<P>(ready: Vec<(Ready, P)>, max_bytes: usize, is_by_shard: bool) -> Vec<Slice<P>> {
    let mut slices: Vec<Slice<P>> = Vec::new();
    let mut left = 0;
    for (ready, part) in ready {
        let bytes = ready.bytes;
        match slices.last_mut() {
            Some(slice) if bytes <= left && !(is_by_shard && slice.shard() != Some(ready.to.shard())) => {
                left -= bytes;
                slice.push(ready, part);
            }
            _ => {
                left = max_bytes.saturating_sub(bytes);
                slices.push(Slice::of(ready, part));
            }
        }
    }
    slices
}

async fn list<B: Backend, K>(
    pool: &Pool<B>,
    members: &[RoundMember],
    known: &[Option<K>],
    bound: Bound,
    longest_wait_us: i64,
) -> Result<Vec<RoundRow>> {
    let attempt = || format!("list a round of {} recipients", members.len());
    let from: Vec<_> = members
        .iter()
        .zip(known)
        .map(|(member, known)| RoundFrom {
            shard: member.to.shard().into(),
            recipient: member.to.as_str(),
            after: member.after.0,
            is_known: known.is_some(),
        })
        .collect();
    let listed = answered(pool, async { B::list_round(&mut *hold(pool).await?, &from, bound, longest_wait_us).await });
    listed.await.map_err(|fault| fault.during(attempt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_of_a_round_share_its_events() {
        let shares = [0, 1, 3, 500, 50_000, 50_001].map(|recipients| share_of(MAX_ROUND_EVENTS, recipients).get());
        assert_eq!(shares, [50_000, 50_000, 16_666, 100, 1, 1]);
    }
}
