//! A round: one turn of many recipients at once, for reducers, whose decisions are data.
//!
//! One statement lists all recipients with their states, the reducers decide, and one transaction commits all of them.
//! A recipient that lost its race drops out and the others commit. The remaining cases (a reducer that fails, a lost
//! race, missing events) get turns of one recipient, which retry and search for poison.

mod commit;
mod decide;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sqlx::Pool;
use uuid::Uuid;

use self::commit::{Committed, commit};
use self::decide::{Decided, Verdict, decide_all};
pub(crate) use self::decide::{ErasedReducer, TypedReducer};
use super::decide::transition::PostProcess;
use super::event::EventId;
use super::metrics::{self, Phase};
use super::turn::{MAX_TURN_AGE, Turn};
use crate::error::Result;
use crate::recipient::Recipient;
use crate::store::{Backend, Bound, RoundFrom, RoundRow, answered, hold};

/// A recipient in a round, and the event after which it is listed. The nil id lists from the start.
pub(crate) struct RoundMember<B> {
    pub(crate) to: Recipient,
    pub(crate) after: EventId,
    /// State that an earlier round committed; `None` to read it.
    pub(crate) known: Option<KnownState>,
    pub(crate) reducer: Arc<dyn ErasedReducer<B>>,
}

impl<B> Clone for RoundMember<B> {
    fn clone(&self) -> Self {
        let RoundMember { to, after, known, reducer } = self;
        RoundMember { to: to.clone(), after: *after, known: known.clone(), reducer: Arc::clone(reducer) }
    }
}

/// State that a round committed. Use it only for a listing that begins after the answer to that commit.
///
/// The token identifies that commit, so no other commit of the recipient can be taken for it.
#[derive(Debug, Clone)]
pub(crate) struct KnownState {
    pub(crate) turn: i64,
    pub(crate) token: Uuid,
    pub(crate) state: Option<Bytes>,
}

/// Result of a round for one recipient.
#[derive(Debug)]
pub(crate) enum Done {
    /// The turn committed and left this state.
    Committed { turn: Box<Turn>, known: KnownState },
    /// The reducer decided nothing. `last` is the last event that was listed, if any, and `more` whether more events
    /// follow.
    Nothing { last: Option<EventId>, more: bool },
    /// Contention: the recipient needs its own turn.
    Lost,
    /// The reducer failed, or the recipient has stored failures: it needs its own turn.
    NeedsOwnTurn,
    /// The recipient is paused, or is backing off after a failure.
    Skipped,
    /// Other recipients used up the bytes of this round: the recipient waits for the next round.
    Deferred,
}

/// Most events that a round lists; its recipients share them.
const MAX_ROUND_EVENTS: u32 = 50_000;

/// A member's result so far, and the hooks of its decision.
struct Progress {
    done: Done,
    hooks: Vec<PostProcess>,
}

/// Bounds of a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_events: NonZeroU32,
    pub(crate) max_bytes: usize,
    /// Longest wait that is taken for the back-off of a failing recipient, in microseconds.
    pub(crate) longest_wait_us: i64,
    /// Whether the time of each phase is recorded by shard, too.
    pub(crate) by_shard: bool,
}

/// A recipient whose decision is ready.
struct Ready {
    index: usize,
    to: Recipient,
    turn: i64,
    /// Token of the commit that made that turn, when the turn comes from memory.
    token: Option<Uuid>,
    /// State that was decided on.
    before: Option<Bytes>,
    listed: usize,
    last: EventId,
    more_listed: bool,
    decided: Decided,
    /// First and last event, when all are removed and no late commit between them is expected.
    range: Option<(EventId, EventId)>,
}

/// Takes many different recipients through one turn of `max_events` or an equal share of [`MAX_ROUND_EVENTS`] each.
/// Returns the results in the order of `members`.
///
/// The listed values have at most `max_bytes` together, and so have the states; the first event and the first state are
/// listed whatever their size. Each transaction writes at most `max_bytes`.
///
/// # Errors
///
/// When the database cannot list or commit: the errors of the infrastructure. Nothing was changed.
pub(crate) async fn round<B: Backend>(pool: &Pool<B>, members: &[RoundMember<B>], limits: Limits) -> Result<Vec<Done>> {
    let Limits { max_events, max_bytes, longest_wait_us, by_shard } = limits;
    let started = Instant::now();
    let max_events = max_events.min(share_of(members.len()));
    let begun = || Progress { done: Done::NeedsOwnTurn, hooks: Vec::new() };
    let mut progress: Vec<Progress> = std::iter::repeat_with(begun).take(members.len()).collect();
    let mut ready = Vec::with_capacity(members.len());
    let shards = by_shard.then(|| shards_of(members));
    let spent = |phase, since: Instant| {
        let shards = shards.as_ref().map(|shards| shards.iter().map(|(shard, its)| (*shard, *its)));
        metrics::spent(phase, since.elapsed(), shards);
    };
    let bound = Bound::new(i64::from(max_events.get()) + 1, max_bytes);
    let rows = list(pool, members, bound, longest_wait_us).await;
    spent(Phase::Listing, started);
    let listed_at = Instant::now();
    for (index, verdict) in decide_all(members, rows?, max_events).await {
        let Some(member) = progress.get_mut(index) else { continue };
        match verdict {
            Verdict::Ready(decided, hooks) => {
                // Replaced when the commit succeeds.
                *member = Progress { done: Done::Lost, hooks };
                ready.push(decided);
            }
            Verdict::Done(done) => member.done = done,
        }
    }
    spent(Phase::Preparing, listed_at);
    ready.sort_by(|a, b| (a.to.shard(), a.to.as_str()).cmp(&(b.to.shard(), b.to.as_str())));
    if ready.is_empty() || started.elapsed() >= MAX_TURN_AGE {
        return Ok(results(members, progress));
    }
    let decided_at = Instant::now();
    let mut committing = Ok(());
    for slice in slices(ready, max_bytes) {
        match commit(pool, slice).await {
            Ok(committed) => note(committed, &mut progress),
            Err(error) => committing = committing.and(Err(error)),
        }
    }
    spent(Phase::Committing, decided_at);
    // Turns that committed before an error must be reported; the other recipients are tried again.
    if !progress.iter().any(|member| matches!(member.done, Done::Committed { .. })) {
        committing?;
    }
    Ok(results(members, progress))
}

/// Returns the results of the members, and counts the lost races.
fn results<B>(members: &[RoundMember<B>], progress: Vec<Progress>) -> Vec<Done> {
    for (member, _) in members.iter().zip(&progress).filter(|(_, progress)| matches!(progress.done, Done::Lost)) {
        metrics::contention(member.to.kind());
    }
    progress.into_iter().map(|member| member.done).collect()
}

/// Returns the share of each recipient.
fn share_of(recipients: usize) -> NonZeroU32 {
    let recipients = u32::try_from(recipients).unwrap_or(u32::MAX).max(1);
    NonZeroU32::new(MAX_ROUND_EVENTS / recipients).unwrap_or(NonZeroU32::MIN)
}

/// Counts the members of each shard.
fn shards_of<B>(members: &[RoundMember<B>]) -> BTreeMap<u8, u32> {
    let mut shards = BTreeMap::new();
    for member in members {
        *shards.entry(member.to.shard()).or_default() += 1;
    }
    shards
}

/// Stores the committed turns, with their hooks.
fn note(committed: Vec<Committed>, progress: &mut [Progress]) {
    for Committed { index, known, mut turn } in committed {
        let Some(member) = progress.get_mut(index) else { continue };
        turn.post_process = std::mem::take(&mut member.hooks);
        member.done = Done::Committed { turn: Box::new(turn), known };
    }
}

/// Groups members that commit together: each group writes at most `max_bytes`, or is a single recipient.
fn slices(ready: Vec<Ready>, max_bytes: usize) -> Vec<Vec<Ready>> {
    let mut slices: Vec<Vec<Ready>> = Vec::new();
    let mut left = 0;
    for ready in ready {
        let bytes = ready.written_bytes();
        match slices.last_mut() {
            Some(slice) if bytes <= left => {
                left -= bytes;
                slice.push(ready);
            }
            _ => {
                left = max_bytes.saturating_sub(bytes);
                slices.push(vec![ready]);
            }
        }
    }
    slices
}

async fn list<B: Backend>(
    pool: &Pool<B>,
    members: &[RoundMember<B>],
    bound: Bound,
    longest_wait_us: i64,
) -> Result<Vec<RoundRow>> {
    let attempt = || format!("list a round of {} recipients", members.len());
    let from: Vec<_> = members
        .iter()
        .map(|member| RoundFrom {
            shard: member.to.shard().into(),
            recipient: member.to.as_str(),
            after: member.after.0,
            is_known: member.known.is_some(),
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
        let shares = [0, 1, 3, 500, 50_000, 50_001].map(|recipients| share_of(recipients).get());
        assert_eq!(shares, [50_000, 50_000, 16_666, 100, 1, 1]);
    }
}
