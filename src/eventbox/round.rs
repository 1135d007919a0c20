//! A round: one turn of many recipients at once, for reducers, whose decisions are data.
//!
//! One statement lists all of them with their states, the reducers decide, and one transaction commits all of them: a recipient that lost
//! its race drops out and the others commit. What cannot be done together (a reducer that fails, a lost race, events that are missing) is
//! left to turns of one recipient, which know how to retry and how to find a culprit.

use std::num::NonZeroU32;
use std::time::Instant;

use sqlx::Pool;
use uuid::Uuid;

use super::decision::Batch;
use super::emit::{MAX_EMIT_EVENTS, emit_slice_in};
use super::event::{Event, EventId};
use super::metrics;
use super::process::{MAX_TURN_AGE, Turn, TurnOptions, process_batch_with};
use super::reducer::{Outcome, Reducer};
use super::reducing::{NewState, Reducing, with_state_error};
use super::settle::settle;
use super::state::StateCodec;
use super::transition::PostProcess;
#[cfg(feature = "emitter")]
use crate::cloudevent::{CloudEvent, turn_key};
#[cfg(feature = "emitter")]
use crate::emitter::{DEFAULT_HOLD, Stored, write_outbox};
use crate::error::{BoxError, Error, Result};
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture, Fault, RoundFrom, RoundRow, RoundWrite};

/// How long a round waits for the locks of somebody else's transaction before it is left to turns of one recipient, milliseconds.
const LOCK_WAIT_MS: u32 = 200;

/// A reducer without its types.
pub(crate) trait Rounds<B: Backend>: Send + Sync {
    /// What it decides about a batch; `None` for nothing.
    fn decide(&self, to: &Recipient, events: &[Event], stored: Option<&[u8]>) -> Result<Option<Decided>>;

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
    fn decide(&self, to: &Recipient, events: &[Event], stored: Option<&[u8]>) -> Result<Option<Decided>> {
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
    hooks: Vec<PostProcess>,
}

impl Decided {
    fn check(to: &Recipient, listed: &[Event], state: Option<NewState>, outcome: Outcome<()>) -> Result<Self> {
        let mut batch = Batch::new(to, listed);
        let mut removed = batch.remove(outcome.consumed)?;
        let garbage = batch.remove(outcome.garbage)?;
        removed.extend_from_slice(&garbage);
        Ok(Decided {
            state,
            removed,
            garbage: garbage.len(),
            emitted: outcome.emitted,
            #[cfg(feature = "emitter")]
            published: outcome.published,
            hooks: outcome.post_process,
        })
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
    /// It is for a turn of its own: it lost its race, or its reducer failed.
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
    state: Option<NewState>,
    removed: Vec<Uuid>,
    garbage: usize,
    emitted: Vec<(Recipient, Event)>,
    #[cfg(feature = "emitter")]
    published: Vec<CloudEvent>,
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
    // Kept apart, because a hook must not be shared between threads and what is being committed is.
    let mut hooks: Vec<Vec<PostProcess>> = std::iter::repeat_with(Vec::new).take(parts.len()).collect();
    for row in list(pool, parts, max_events).await? {
        let place = row.place;
        let (Some(part), Some(done), Some(hooks)) = (parts.get(place), done.get_mut(place), hooks.get_mut(place))
        else {
            continue;
        };
        match decide(part, row, max_events) {
            Ok((decided, its_hooks)) => {
                ready.push(decided);
                *hooks = its_hooks;
            }
            Err(settled) => *done = *settled,
        }
    }
    ready.sort_by(|a, b| (a.to.shard(), a.to.as_str()).cmp(&(b.to.shard(), b.to.as_str())));
    if ready.is_empty() || started.elapsed() >= MAX_TURN_AGE {
        return Ok(done);
    }
    for Committed { place, last, mut turn } in commit(pool, ready).await? {
        if let (Some(done), Some(hooks)) = (done.get_mut(place), hooks.get_mut(place)) {
            turn.post_process = std::mem::take(hooks);
            *done = Done::Committed { turn, last };
        }
    }
    Ok(done)
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
    let events: Vec<Event> = row.events.into_iter().map(Event::listed).collect();
    let last = events.last().map_or(EventId::NIL, Event::id);
    match part.reducer.decide(part.to, &events, row.state.as_deref()) {
        Ok(Some(decided)) => {
            let ready = Ready {
                place: row.place,
                to: part.to,
                turn: row.turn,
                listed: events.len(),
                last,
                more_listed,
                state: decided.state,
                removed: decided.removed,
                garbage: decided.garbage,
                emitted: decided.emitted,
                #[cfg(feature = "emitter")]
                published: decided.published,
            };
            Ok((ready, decided.hooks))
        }
        Ok(None) => Err(Box::new(Done::Nothing { last, more: more_listed })),
        Err(error) => {
            tracing::debug!(recipient = %part.to, %error, "a part of a round failed: it gets a turn of its own");
            Err(Box::new(Done::Alone))
        }
    }
}

/// What the transaction of a round did.
enum Written {
    /// These won their races, and with them what was published, in the order of the winners.
    Committed(Vec<usize>, Vec<Sent>),
    /// Events of a winner were not there: nothing was committed.
    Shortfall,
    /// The answer was lost; if it was committed, these won.
    Unknown(Vec<usize>),
}

#[cfg(feature = "emitter")]
type Sent = Vec<Stored>;
#[cfg(not(feature = "emitter"))]
type Sent = ();

/// Commits what is ready; answers those that won their races, with what is left to do after the commit.
async fn commit<B: Backend>(pool: &Pool<B>, mut ready: Vec<Ready<'_>>) -> Result<Vec<Committed>> {
    let attempt = format!("commit a round of {} recipients", ready.len());
    let token = Uuid::new_v4();
    let sends = ready.iter().any(Ready::sends);
    let written = match sends || !B::ROUND_IS_TRANSACTION {
        true => write_with_sends(pool, &mut ready, token).await,
        false => write_alone(pool, &ready, token).await,
    };
    let (won, mut sent) = match written {
        Ok(Written::Committed(won, sent)) => (won, sent),
        Ok(Written::Shortfall) => return Ok(Vec::new()),
        // What was published is not pushed from memory, because it was not told apart; a host sends it a little later.
        Ok(Written::Unknown(candidates)) => (settled(pool, &ready, candidates, token).await, Vec::new()),
        // Somebody holds a recipient or a name for long: each recipient goes alone, so that he delays his own only.
        Err(Error::Contention { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    tracing::trace!(attempt, won = won.len(), "a round is committed");
    sent.resize_with(won.len(), Sent::default);
    let mut ready: Vec<Option<Ready<'_>>> = ready.into_iter().map(Some).collect();
    let winners = won.into_iter().zip(sent);
    Ok(winners.filter_map(|(at, sent)| Some(ready.get_mut(at)?.take()?.committed(sent))).collect())
}

/// A turn that committed, and whose it is.
struct Committed {
    place: usize,
    last: EventId,
    turn: Turn,
}

impl Ready<'_> {
    fn sends(&self) -> bool {
        #[cfg(feature = "emitter")]
        if !self.published.is_empty() {
            return true;
        }
        !self.emitted.is_empty()
    }

    fn write(&self) -> RoundWrite<'_> {
        RoundWrite {
            shard: self.to.shard().into(),
            recipient: self.to.as_str(),
            turn: self.turn,
            state: self.state.as_ref().map(Option::as_deref),
            removed: &self.removed,
        }
    }

    #[cfg_attr(not(feature = "emitter"), allow(unused_variables))]
    fn committed(self, sent: Sent) -> Committed {
        let (removed, garbage) = (self.removed.len(), self.garbage);
        metrics::committed(self.to.kind(), self.listed, 1, removed - garbage, garbage);
        let turn = Turn {
            number: Some(self.turn + 1),
            consumed: removed - garbage,
            garbage,
            more_remain: self.more_listed || self.listed > removed,
            #[cfg(feature = "emitter")]
            published: sent,
            ..Turn::default()
        };
        Committed { place: self.place, last: self.last, turn }
    }
}

/// The one statement, which is the transaction.
async fn write_alone<B: Backend>(pool: &Pool<B>, ready: &[Ready<'_>], token: Uuid) -> Result<Written> {
    let during = |fault: Fault| fault.during(format!("commit a round of {} recipients", ready.len()));
    let writes: Vec<_> = ready.iter().map(Ready::write).collect();
    let mut conn = pool.acquire().await.map_err(|error| during(error.into()))?;
    match B::write_round(&mut conn, &writes, token, LOCK_WAIT_MS).await {
        Ok(Some(won)) => Ok(Written::Committed(won, Vec::new())),
        Ok(None) => Ok(Written::Shortfall),
        Err(fault) if fault.lost_the_answer() => Ok(Written::Unknown((0..ready.len()).collect())),
        Err(fault) => Err(during(fault)),
    }
}

/// The statement, and what the winners emit and publish, in one transaction.
async fn write_with_sends<B: Backend>(pool: &Pool<B>, ready: &mut [Ready<'_>], token: Uuid) -> Result<Written> {
    let attempt = format!("commit a round of {} recipients", ready.len());
    let during = |fault: Fault| fault.during(&attempt);
    let mut tx = B::begin_write(pool).await.map_err(during)?;
    let writes: Vec<_> = ready.iter().map(Ready::write).collect();
    let Some(won) = B::write_round(&mut tx, &writes, token, LOCK_WAIT_MS).await.map_err(during)? else {
        return Ok(Written::Shortfall);
    };
    let mut emitted = Vec::new();
    for at in &won {
        emitted.extend(ready.get_mut(*at).map(|ready| std::mem::take(&mut ready.emitted)).unwrap_or_default());
    }
    for slice in emitted.chunks(MAX_EMIT_EVENTS) {
        emit_slice_in::<B>(&mut tx, slice).await?;
    }
    let sent = publish::<B>(&mut tx, ready, &won).await.map_err(during)?;
    match tx.commit().await.map_err(Fault::from) {
        Ok(()) => Ok(Written::Committed(won, sent)),
        Err(fault) if fault.lost_the_answer() => Ok(Written::Unknown(won)),
        Err(fault) => Err(during(fault)),
    }
}

/// Writes what the winners publish, with the keys that their places in their turns make.
#[cfg(feature = "emitter")]
async fn publish<B: Backend>(
    tx: &mut B::Connection,
    ready: &mut [Ready<'_>],
    won: &[usize],
) -> Result<Vec<Sent>, Fault> {
    let (mut messages, mut counts) = (Vec::new(), Vec::with_capacity(won.len()));
    for at in won {
        let Some(ready) = ready.get_mut(*at) else { continue };
        let published = std::mem::take(&mut ready.published);
        counts.push(published.len());
        for (ordinal, mut message) in (0..).zip(published) {
            message.default_key(|message| turn_key(ready.to.as_str(), ready.turn + 1, ordinal, message));
            messages.push((ready.to.shard(), message));
        }
    }
    let mut stored = write_outbox::<B>(tx, messages, DEFAULT_HOLD).await?.into_iter();
    Ok(counts.into_iter().map(|count| stored.by_ref().take(count).collect()).collect())
}

#[cfg(not(feature = "emitter"))]
async fn publish<B: Backend>(
    _tx: &mut B::Connection,
    _ready: &mut [Ready<'_>],
    _won: &[usize],
) -> Result<Vec<Sent>, Fault> {
    Ok(Vec::new())
}

/// Those of the candidates whose turn this round made, read back one by one.
async fn settled<B: Backend>(pool: &Pool<B>, ready: &[Ready<'_>], candidates: Vec<usize>, token: Uuid) -> Vec<usize> {
    let mut won = Vec::new();
    for at in candidates {
        let Some(part) = ready.get(at) else { continue };
        let lost = Fault(sqlx::Error::Protocol("the answer to the commit of a round was lost".to_owned()));
        match settle(pool, part.to, part.turn, token, lost).await {
            Ok(()) => won.push(at),
            Err(error) => tracing::debug!(recipient = %part.to, %error, "not known to be of this round"),
        }
    }
    won
}
