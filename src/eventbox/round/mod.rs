//! A round: one turn of many recipients at once, for reducers, whose decisions are data.
//!
//! One statement lists all of them with their states, the reducers decide, and one transaction commits all of them: a recipient that lost
//! its race drops out and the others commit. What cannot be done together (a reducer that fails, a lost race, events that are missing) is
//! left to turns of one recipient, which know how to retry and how to find a culprit.

mod commit;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Instant;

use sqlx::Pool;
use uuid::Uuid;

use self::commit::{Committed, commit};
use super::decision::Batch;
use super::event::{Event, EventId};
use super::metrics::{self, Phase};
use super::options::TurnOptions;
use super::process::{MAX_TURN_AGE, Turn, process_batch_with};
use super::reducer::{Outcome, Reducer};
use super::reducing::{NewState, Reducing, with_state_error};
use super::state::StateCodec;
use super::transition::PostProcess;
#[cfg(feature = "emitter")]
use crate::cloudevent::CloudEvent;
use crate::error::{BoxError, Error, Result};
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture, Fault, RoundFrom, RoundRow};

/// A reducer without its types.
pub(crate) trait Rounds<B: Backend>: Send + Sync {
    /// What it decides about a batch, and the hooks of that; `None` for nothing.
    fn decide(
        &self,
        to: &Recipient,
        events: &[Event],
        stored: Option<&[u8]>,
    ) -> Result<Option<(Decided, Vec<PostProcess>)>>;

    /// One recipient through a turn of its own.
    fn turn<'a>(
        &'a self,
        pool: &'a Pool<B>,
        to: &'a Recipient,
        options: &'a TurnOptions,
    ) -> BoxFuture<'a, Result<Turn>>;
}

/// Holds a reducer and its codec's type.
pub(crate) struct Typed<R, C> {
    reducer: R,
    codec: std::marker::PhantomData<fn() -> C>,
}

impl<R, C> Typed<R, C> {
    pub(crate) fn new(reducer: R) -> Self {
        Typed { reducer, codec: std::marker::PhantomData }
    }
}

impl<B, R, C> Rounds<B> for Typed<R, C>
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
        let (state, outcome) = Reducing::<R, C>::new(&self.reducer).decide(to, events, stored).map_err(failed)?;
        if state.is_none() && outcome.is_nothing() {
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
            let reducing = Reducing::<R, C>::new(&self.reducer);
            process_batch_with(pool, to, &reducing, options).await.map_err(with_state_error)
        })
    }
}

/// A checked decision, as it is committed.
pub(crate) struct Decided {
    state: Option<NewState>,
    removed: Vec<Uuid>,
    garbage: usize,
    emitted: Vec<(Recipient, Event)>,
    #[cfg(feature = "emitter")]
    published: Vec<CloudEvent>,
}

impl Decided {
    /// The hooks are kept apart, because a hook must not be shared between threads and what is being committed is.
    fn check(
        to: &Recipient,
        listed: &[Event],
        state: Option<NewState>,
        outcome: Outcome<()>,
    ) -> Result<(Self, Vec<PostProcess>)> {
        let mut batch = Batch::new(to, listed);
        let mut removed = batch.remove(outcome.consumed)?;
        let garbage = batch.remove(outcome.garbage)?;
        removed.extend_from_slice(&garbage);
        let decided = Decided {
            state,
            removed,
            garbage: garbage.len(),
            emitted: outcome.emitted,
            #[cfg(feature = "emitter")]
            published: outcome.published,
        };
        Ok((decided, outcome.post_process))
    }
}

/// A recipient in a round, and the event behind which it is listed: a hint, the nil id lists from the start.
pub(crate) struct Part<'a, B> {
    pub(crate) to: &'a Recipient,
    pub(crate) after: EventId,
    pub(crate) reducer: &'a dyn Rounds<B>,
}

/// What a round did with one recipient.
#[derive(Debug)]
pub(crate) enum Done {
    /// Its turn committed. `last` is the last event that was listed.
    Committed { turn: Turn, last: EventId },
    /// There was nothing to decide; `more` behind `last`.
    Nothing { last: EventId, more: bool },
    /// Another writer came first, or holds what it needs: it is for a turn of its own.
    Lost,
    /// Its reducer failed: it is for a turn of its own.
    Alone,
    /// It is paused, or left alone after a failure.
    Hindered,
}

/// A recipient whose decision is ready.
struct Ready<'a> {
    place: usize,
    to: &'a Recipient,
    turn: i64,
    listed: usize,
    last: EventId,
    more_listed: bool,
    decided: Decided,
}

/// Takes many recipients through one turn each, none twice; answers what became of each, in the order of `parts`.
///
/// # Errors
///
/// When the database cannot list or commit: the errors of the infrastructure. Nothing was changed then.
pub(crate) async fn round<B: Backend>(
    pool: &Pool<B>,
    parts: &[Part<'_, B>],
    max_events: NonZeroU32,
) -> Result<Vec<Done>> {
    let started = Instant::now();
    let mut done: Vec<Done> = std::iter::repeat_with(|| Done::Alone).take(parts.len()).collect();
    let mut ready = Vec::with_capacity(parts.len());
    let mut hooks: Vec<Vec<PostProcess>> = std::iter::repeat_with(Vec::new).take(parts.len()).collect();
    let shards = shards_of(parts);
    let spent = |phase, since: Instant| {
        metrics::spent(phase, since.elapsed(), shards.iter().map(|(shard, its)| (*shard, *its)));
    };
    let rows = list(pool, parts, max_events).await;
    spent(Phase::Listing, started);
    let listed_at = Instant::now();
    for row in rows? {
        let place = row.place;
        let (Some(part), Some(done), Some(hooks)) = (parts.get(place), done.get_mut(place), hooks.get_mut(place))
        else {
            continue;
        };
        match decide(part, row, max_events) {
            Ok((decided, its_hooks)) => {
                // Until the commit says otherwise.
                *done = Done::Lost;
                ready.push(decided);
                *hooks = its_hooks;
            }
            Err(settled) => *done = *settled,
        }
    }
    spent(Phase::Preparing, listed_at);
    ready.sort_by(|a, b| (a.to.shard(), a.to.as_str()).cmp(&(b.to.shard(), b.to.as_str())));
    if ready.is_empty() || started.elapsed() >= MAX_TURN_AGE {
        return Ok(done);
    }
    let decided_at = Instant::now();
    let committed = commit(pool, ready).await;
    spent(Phase::Committing, decided_at);
    for Committed { place, last, mut turn } in committed? {
        if let (Some(done), Some(hooks)) = (done.get_mut(place), hooks.get_mut(place)) {
            turn.post_process = std::mem::take(hooks);
            *done = Done::Committed { turn, last };
        }
    }
    for (part, _) in parts.iter().zip(&done).filter(|(_, done)| matches!(done, Done::Lost)) {
        metrics::contention(part.to.kind());
    }
    Ok(done)
}

/// How many parts there are of each shard.
fn shards_of<B>(parts: &[Part<'_, B>]) -> BTreeMap<u8, u32> {
    let mut shards = BTreeMap::new();
    for part in parts {
        *shards.entry(part.to.shard()).or_default() += 1;
    }
    shards
}

async fn list<B: Backend>(pool: &Pool<B>, parts: &[Part<'_, B>], max_events: NonZeroU32) -> Result<Vec<RoundRow>> {
    let attempt = || format!("list a round of {} recipients", parts.len());
    let from: Vec<_> = parts
        .iter()
        .map(|part| RoundFrom { shard: part.to.shard().into(), recipient: part.to.as_str(), after: part.after.0 })
        .collect();
    let mut conn = pool.acquire().await.map_err(|error| Fault::from(error).during(attempt()))?;
    B::list_round(&mut conn, &from, i64::from(max_events.get()) + 1).await.map_err(|fault| fault.during(attempt()))
}

fn decide<'a, B: Backend>(
    part: &Part<'a, B>,
    mut row: RoundRow,
    max_events: NonZeroU32,
) -> Result<(Ready<'a>, Vec<PostProcess>), Box<Done>> {
    if row.hindered {
        return Err(Box::new(Done::Hindered));
    }
    metrics::seen(part.to.kind(), &row.events);
    let more_listed = row.events.len() > max_events.get() as usize;
    row.events.truncate(max_events.get() as usize);
    // Somebody has processed them since they were found; a box that is empty is nothing to decide about.
    if row.events.is_empty() {
        return Err(Box::new(Done::Nothing { last: EventId::NIL, more: false }));
    }
    let events: Vec<Event> = row.events.into_iter().map(Event::listed).collect();
    let last = events.last().map_or(EventId::NIL, Event::id);
    match part.reducer.decide(part.to, &events, row.state.as_deref()) {
        Ok(Some((decided, hooks))) => {
            let (place, to, turn, listed) = (row.place, part.to, row.turn, events.len());
            Ok((Ready { place, to, turn, listed, last, more_listed, decided }, hooks))
        }
        Ok(None) => Err(Box::new(Done::Nothing { last, more: more_listed })),
        Err(error) => {
            tracing::debug!(recipient = %part.to, %error, "a part of a round failed: it gets a turn of its own");
            Err(Box::new(Done::Alone))
        }
    }
}
