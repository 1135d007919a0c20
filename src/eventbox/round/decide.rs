//! Runs the reducers of a round in parallel, because a decision does not touch the database.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::LazyLock;

use bytes::Bytes;
use sqlx::Pool;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Done, Ready, RoundMember};
use crate::cloudevent::CloudEvent;
use crate::error::{BoxError, Error, Result};
use crate::eventbox::decide::reducer::{Next, Outcome, Reducer};
use crate::eventbox::decide::reducer_adapter::{ReducerAsProcessor, with_state_error};
use crate::eventbox::decide::state::StateCodec;
use crate::eventbox::decide::transition::PostProcess;
use crate::eventbox::event::{Event, EventId};
use crate::eventbox::turn::decision::{Batch, whole_range};
use crate::eventbox::turn::journal::Names;
use crate::eventbox::turn::options::TurnOptions;
use crate::eventbox::turn::{Turn, process_batch_with};
use crate::origin::SharedOrigin;
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture, RoundRow};

/// Fewest recipients for which another task saves time.
const MIN_CHUNK: usize = 32;

/// Number of threads; asking the system takes longer than a small round.
static THREADS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// A reducer with its types erased.
pub(crate) trait ErasedReducer<B: Backend>: Send + Sync {
    /// Decides about a batch. Returns the decision and its hooks; `None` for no turn.
    fn decide(
        &self,
        to: &Recipient,
        events: &[Event],
        stored: Option<&[u8]>,
    ) -> Result<Option<(Decided, Vec<PostProcess>)>>;

    /// Takes one recipient through its own turn.
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
    ) -> BoxFuture<'a, Result<Turn>>;
}

/// Holds a reducer and its codec's type.
pub(crate) struct TypedReducer<R, C> {
    reducer: R,
    codec: PhantomData<fn() -> C>,
}

impl<R, C> TypedReducer<R, C> {
    pub(crate) fn new(reducer: R) -> Self {
        TypedReducer { reducer, codec: PhantomData }
    }
}

impl<B, R, C> ErasedReducer<B> for TypedReducer<R, C>
where
    B: Backend,
    R: Reducer<C>,
    C: StateCodec<R::State>,
{
    fn decide(
        &self,
        to: &Recipient,
        events: &[Event],
        stored: Option<&[u8]>,
    ) -> Result<Option<(Decided, Vec<PostProcess>)>> {
        let failed = |source: BoxError| {
            with_state_error(Error::Processor { attempt: format!("prepare a mutation of {to}"), source })
        };
        let (state, outcome) =
            ReducerAsProcessor::<R, C>::new(&self.reducer).decide(to, events, stored).map_err(failed)?;
        if matches!(state, Next::Stay) && outcome.is_nothing() {
            return Ok(None);
        }
        Decided::check(to, events, state, outcome).map(Some)
    }

    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
    ) -> BoxFuture<'a, Result<Turn>> {
        Box::pin(async move {
            let reducing = ReducerAsProcessor::<R, C>::new(&self.reducer);
            process_batch_with(pool, to, &reducing, options).await.map_err(with_state_error)
        })
    }
}

/// A checked decision, ready to commit.
pub(crate) struct Decided {
    pub(super) state: Next<Vec<u8>>,
    pub(super) removed: Vec<Uuid>,
    pub(super) garbage: usize,
    pub(super) emitted: Vec<(Recipient, Event)>,
    pub(super) published: Vec<CloudEvent>,
    /// Merged origin of the removed events.
    pub(super) origin: Option<SharedOrigin>,
}

impl Decided {
    /// Returns the hooks separately: a hook must not be shared between threads, and a decision being committed is.
    fn check(
        to: &Recipient,
        listed: &[Event],
        state: Next<Vec<u8>>,
        outcome: Outcome<()>,
    ) -> Result<(Self, Vec<PostProcess>)> {
        let mut batch = Batch::new(to, listed);
        let mut removed = batch.remove(outcome.consumed)?;
        let garbage = batch.remove(outcome.garbage)?;
        removed.extend_from_slice(&garbage);
        let published = batch.publish(outcome.published)?;
        let origin = batch.origin_of(removed.iter());
        let emitted = match &origin {
            None => outcome.emitted,
            of => outcome.emitted.into_iter().map(|(to, event)| (to, event.or_origin(of.as_ref()))).collect(),
        };
        let decided = Decided { state, removed, garbage: garbage.len(), emitted, published, origin };
        Ok((decided, outcome.post_process))
    }
}

/// Result of deciding about one recipient.
#[allow(clippy::large_enum_variant, reason = "a box would be one more allocation for each recipient of a round")]
pub(super) enum Verdict {
    /// A turn to commit, and its hooks.
    Ready(Ready, Vec<PostProcess>),
    /// Nothing to commit.
    Done(Done),
}

/// Decides about all rows, on all threads. Returns a verdict for each index, in any order.
///
/// Recipients without a verdict were in a task that failed.
pub(super) async fn decide_all<B: Backend>(
    members: &[RoundMember<B>],
    rows: Vec<RoundRow>,
    max_events: NonZeroU32,
) -> Vec<(usize, Verdict)> {
    let count = rows.len();
    let mut rows = rows.into_iter().filter_map(|row| Some((members.get(row.place)?.clone(), row)));
    let decided = move |(member, row): (RoundMember<B>, RoundRow)| (row.place, decide(&member, row, max_events));
    if members.len() <= MIN_CHUNK {
        return rows.map(decided).collect();
    }
    let chunk = count.div_ceil(*THREADS).max(MIN_CHUNK);
    let mut tasks = JoinSet::new();
    loop {
        let its: Vec<_> = rows.by_ref().take(chunk).collect();
        if its.is_empty() {
            break;
        }
        tasks.spawn(async move { its.into_iter().map(decided).collect::<Vec<_>>() });
    }
    let mut verdicts = Vec::with_capacity(members.len());
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(its) => verdicts.extend(its),
            Err(failed) => {
                tracing::error!(error = %failed, "a task of a round failed: its recipients get their own turns");
            }
        }
    }
    verdicts
}

fn decide<B: Backend>(member: &RoundMember<B>, mut row: RoundRow, max_events: NonZeroU32) -> Verdict {
    if row.hindered {
        return Verdict::Done(Done::Skipped);
    }
    let more_listed = row.is_cut || row.events.len() > max_events.get() as usize;
    row.events.truncate(max_events.get() as usize);
    if row.is_cut && row.events.is_empty() {
        return Verdict::Done(Done::Deferred);
    }
    // Another process has consumed the events since they were found; a reducer is not called for an empty eventbox.
    if row.events.is_empty() {
        return Verdict::Done(Done::Nothing { last: None, more: false });
    }
    if row.failing {
        return Verdict::Done(Done::NeedsOwnTurn);
    }
    let events: Vec<Event> = row.events.into_iter().map(Event::listed).collect();
    let last = events.last().map_or(EventId::NIL, Event::id);
    let (turn, token, before) = match &member.known {
        Some(known) => (known.turn, Some(known.token), known.state.clone()),
        None => (row.turn, None, row.state.map(Bytes::from)),
    };
    match member.reducer.decide(&member.to, &events, before.as_deref()) {
        Ok(Some((decided, hooks))) => {
            let (index, to, listed) = (row.place, member.to.clone(), events.len());
            let range = whole_range(&events, decided.removed.len());
            let journal = member.is_journaled.then(|| Names::of(&events));
            let ready = Ready { index, to, turn, token, before, listed, last, more_listed, decided, range, journal };
            Verdict::Ready(ready, hooks)
        }
        Ok(None) => Verdict::Done(Done::Nothing { last: Some(last), more: more_listed }),
        Err(error) => {
            tracing::debug!(recipient = %member.to, %error, "a member of a round failed: it gets its own turn");
            Verdict::Done(Done::NeedsOwnTurn)
        }
    }
}
