//! A turn: load, decide, commit.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use backon::BackoffBuilder;
use sqlx::Pool;
use uuid::Uuid;

use super::event::{Event, EventId};
use super::processor::{EVersion, Processor};
use super::transition::{Mutation, PostProcess, SideEffect};
#[cfg(feature = "emitter")]
use crate::cloudevent::{CloudEvent, turn_key};
#[cfg(feature = "emitter")]
use crate::emitter::{DEFAULT_HOLD, Stored, write_outbox};
use crate::error::{BoxError, Error, Misuse, Result};
use crate::recipient::Recipient;
use crate::store::{Backend, Class, Fault, Settled, class_of};

/// How often [`process_batch`] starts anew when another writer came first, before it returns the contention.
pub const MAX_CONTENTION_RETRIES: usize = 3;

/// The first pause before starting anew; it doubles, with jitter.
const CONTENTION_PAUSE: Duration = Duration::from_millis(2);

/// How long reading back an unknown commit waits for the old backend to end.
const SETTLE_LOCK_WAIT_MS: u32 = 10_000;

/// How often reading back is tried again when the database is not available.
const SETTLE_ATTEMPTS: usize = 8;

/// The first pause before reading back again; it doubles, with jitter, so that a database may be away for some seconds.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

/// What a call of [`process_batch`] did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Turn {
    /// The number of the committed turn: 1, 2, 3 … without a gap. `None` when there was nothing to do.
    pub number: Option<i64>,
    /// How many events were consumed.
    pub consumed: usize,
    /// How many events were removed as garbage.
    pub garbage: usize,
    /// Whether the box held more events than the batch took, or events that the turn left: process again. False when there was nothing to do.
    pub more_remain: bool,
    /// How often another writer came first before it worked.
    pub contention: usize,
    /// The hooks of the transitions, in order, for the caller to run.
    pub post_process: Vec<PostProcess>,
    /// The messages that were published, in order, for the caller to hand to
    /// [`DurableEmitter::deliver`](crate::emitter::DurableEmitter::deliver). Dropping them is harmless: a host sends them a little later.
    #[cfg(feature = "emitter")]
    pub published: Vec<Stored>,
}

/// Processes the oldest events of a recipient in one turn.
///
/// Reads the turn, loads the state and lists up to `max_events` of the oldest events, in this order; lets the processor decide; and
/// then, in one transaction, claims the next turn, checks the entity's version, removes the consumed events and the garbage, runs
/// the side effects in order and saves the state. Everything commits together or not at all, and each event is consumed by exactly one
/// committed turn, however many processes call this at once.
///
/// It takes one connection of the pool at a time, and none while the processor decides.
///
/// # What comes back
///
/// A [`Turn`]; its hooks have not run yet. When the processor decides nothing, it is given the next `max_events`, up to the end of the box; when
/// there is nothing to do in all of it, there was no transaction and [`Turn::number`] is `None`.
///
/// # Errors
///
/// Contention after [`MAX_CONTENTION_RETRIES`]; [`Error::Misuse`] when the decision consumes an event twice or one that it was not
/// given; [`Error::Processor`] with the processor's own error; transient and database errors. After any of them nothing was
/// changed. [`Error::Unknown`] when the connection was lost during the commit and reading back could not tell what happened: nothing
/// is lost and nothing will happen twice, but the hooks of that turn will not run.
///
/// # Cancel safety
///
/// Safe: a dropped future rolls back, or its turn has committed; then its hooks are lost.
///
/// # Examples
///
/// See the README.
#[tracing::instrument(level = "debug", skip_all, fields(kind = to.kind()))]
pub async fn process_batch<B, P>(pool: &Pool<B>, to: &Recipient, processor: &P, max_events: NonZeroU32) -> Result<Turn>
where
    B: Backend,
    P: Processor<B>,
{
    let mut pauses = backon::ExponentialBuilder::default()
        .with_min_delay(CONTENTION_PAUSE)
        .with_max_times(MAX_CONTENTION_RETRIES)
        .with_jitter()
        .build();
    let mut contention = 0;
    loop {
        match try_once(pool, to, processor, max_events).await {
            Err(error) if error.is_contention() => match pauses.next() {
                Some(pause) => {
                    contention += 1;
                    tracing::debug!(recipient = %to, contention, "another writer came first: starting anew");
                    tokio::time::sleep(pause).await;
                }
                None => return Err(error),
            },
            Err(error) => return Err(error),
            Ok(turn) => return Ok(Turn { contention, ..turn }),
        }
    }
}

async fn try_once<B, P>(pool: &Pool<B>, to: &Recipient, processor: &P, max_events: NonZeroU32) -> Result<Turn>
where
    B: Backend,
    P: Processor<B>,
{
    let mut after = EventId::NIL;
    let (loaded, decision) = loop {
        let loaded = load(pool, to, processor, after, max_events).await?;
        let decided = processor.prepare_mutation(to, &loaded.events, &loaded.state).await;
        let mutation = decided.map_err(|error| failed(to, "prepare a mutation", error))?;
        let decision = Decision::check(to, &loaded.events, mutation)?;
        if !decision.is_empty() {
            break (loaded, decision);
        }
        // Events that a processor leaves for later must not hide those behind them.
        match loaded.events.last() {
            Some(last) if loaded.more_listed => after = last.id(),
            _ => return Ok(Turn::nothing()),
        }
    };
    let left = loaded.events.len() - decision.removed.len();
    let turn = Turn {
        number: Some(loaded.turn + 1),
        consumed: decision.removed.len() - decision.garbage,
        garbage: decision.garbage,
        more_remain: loaded.more_listed || left > 0,
        ..Turn::nothing()
    };
    let outcome = commit(pool, to, processor, &loaded, decision).await?;
    Ok(Turn {
        post_process: outcome.post_process,
        #[cfg(feature = "emitter")]
        published: outcome.published,
        ..turn
    })
}

impl Turn {
    fn nothing() -> Self {
        Turn {
            number: None,
            consumed: 0,
            garbage: 0,
            more_remain: false,
            contention: 0,
            post_process: Vec::new(),
            #[cfg(feature = "emitter")]
            published: Vec::new(),
        }
    }
}

/// What a turn is decided on.
struct Loaded<S> {
    turn: i64,
    state: S,
    eversion: EVersion,
    events: Vec<Event>,
    more_listed: bool,
}

/// Reads the turn, then the state, then the events. The order matters: any commit after the first read moves the turn, so a turn that still
/// matches at the commit proves that every listed event was live and that the state is the one that was decided on.
async fn load<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    after: EventId,
    max_events: NonZeroU32,
) -> Result<Loaded<P::State>>
where
    B: Backend,
    P: Processor<B>,
{
    let shard = to.shard().into();
    let during = |fault: Fault| fault.during(format!("load {to}"));
    let mut conn = pool.acquire().await.map_err(|error| during(error.into()))?;
    let turn = B::read_turn(&mut conn, shard, to.as_str()).await.map_err(during)?;
    let (state, eversion) =
        processor.load_state(&mut conn, to).await.map_err(|error| failed(to, "load the state", error))?;
    let limit = i64::from(max_events.get()) + 1;
    let mut rows = B::list_events(&mut conn, shard, to.as_str(), after.0, limit).await.map_err(during)?;
    let more_listed = rows.len() > max_events.get() as usize;
    rows.truncate(max_events.get() as usize);
    Ok(Loaded { turn, state, eversion, events: rows.into_iter().map(Event::listed).collect(), more_listed })
}

/// A mutation that was checked against the batch it was made for.
struct Decision<B: Backend, S> {
    removed: Vec<Uuid>,
    garbage: usize,
    side_effects: Vec<SideEffect<B>>,
    #[cfg(feature = "emitter")]
    published: Vec<CloudEvent>,
    target: Option<S>,
    post_process: Vec<PostProcess>,
}

/// What a committed turn leaves to its caller.
struct Outcome {
    post_process: Vec<PostProcess>,
    #[cfg(feature = "emitter")]
    published: Vec<Stored>,
}

impl<B: Backend, S> Decision<B, S> {
    fn check(to: &Recipient, listed: &[Event], mutation: Mutation<B, S>) -> Result<Self> {
        let misuse = |misuse| Error::misuse(format!("apply the decision for {to}"), misuse);
        let Mutation { transitions, garbage } = mutation;
        let mut decision = Decision {
            removed: Vec::new(),
            garbage: garbage.len(),
            side_effects: Vec::new(),
            #[cfg(feature = "emitter")]
            published: Vec::new(),
            target: None,
            post_process: Vec::new(),
        };
        let listed: HashSet<EventId> = listed.iter().map(Event::id).collect();
        let mut removed = HashSet::new();
        let mut remove = |id: EventId| {
            if !listed.contains(&id) {
                return Err(misuse(Misuse::NotListed { id: id.to_string() }));
            }
            if !removed.insert(id) {
                return Err(misuse(Misuse::ConsumedTwice { id: id.to_string() }));
            }
            Ok(id.0)
        };
        for transition in transitions.into_iter().filter(|transition| !transition.is_no_op()) {
            for id in transition.consumed {
                decision.removed.push(remove(id)?);
            }
            decision.target = transition.target.or(decision.target);
            decision.side_effects.extend(transition.side_effect);
            #[cfg(feature = "emitter")]
            decision.published.extend(transition.published);
            decision.post_process.extend(transition.post_process);
        }
        for id in garbage {
            decision.removed.push(remove(id)?);
        }
        Ok(decision)
    }

    fn is_empty(&self) -> bool {
        #[cfg(feature = "emitter")]
        if !self.published.is_empty() {
            return false;
        }
        self.removed.is_empty() && self.side_effects.is_empty() && self.target.is_none() && self.post_process.is_empty()
    }
}

/// The one transaction of a turn.
async fn commit<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    loaded: &Loaded<P::State>,
    decision: Decision<B, P::State>,
) -> Result<Outcome>
where
    B: Backend,
    P: Processor<B>,
{
    let shard = to.shard().into();
    let attempt = || format!("commit turn {} of {to}", loaded.turn + 1);
    let during = |fault: Fault| fault.during(attempt());
    let token = Uuid::new_v4();

    let mut tx = B::begin_write(pool).await.map_err(during)?;
    if !B::advance_turn(&mut tx, shard, to.as_str(), loaded.turn, token).await.map_err(during)? {
        return Err(Error::contention(attempt()));
    }
    let eversion =
        processor.fetch_eversion(&mut tx, to).await.map_err(|error| failed(to, "fetch the eversion", error))?;
    if eversion != loaded.eversion {
        return Err(Error::contention(format!(
            "{} at eversion {}, loaded {}",
            attempt(),
            eversion.0,
            loaded.eversion.0
        )));
    }
    if !decision.removed.is_empty() {
        let removed = B::delete_events(&mut tx, shard, to.as_str(), &decision.removed).await.map_err(during)?;
        if removed != decision.removed.len() as u64 {
            return Err(Error::contention(attempt()));
        }
    }
    for effect in decision.side_effects {
        effect.run(&mut tx).await.map_err(|error| failed(to, "run a side effect", error))?;
    }
    #[cfg(feature = "emitter")]
    let published = {
        let keyed = with_keys(to, loaded.turn + 1, decision.published);
        write_outbox::<B>(&mut tx, to.shard(), keyed, DEFAULT_HOLD).await.map_err(during)?
    };
    if let Some(state) = &decision.target {
        let saved = processor.save_state(&mut tx, to, state, loaded.eversion.next()).await;
        saved.map_err(|error| failed(to, "save the state", error))?;
    }
    match tx.commit().await.map_err(Fault::from) {
        Ok(()) => {}
        Err(fault) if fault.lost_the_answer() => settle(pool, to, loaded.turn, token, fault).await?,
        Err(fault) => return Err(during(fault)),
    }
    Ok(Outcome {
        post_process: decision.post_process,
        #[cfg(feature = "emitter")]
        published,
    })
}

/// Gives each message that has no idempotency key the one that its place in the turn makes.
#[cfg(feature = "emitter")]
fn with_keys(to: &Recipient, turn: i64, mut messages: Vec<CloudEvent>) -> Vec<CloudEvent> {
    for (ordinal, message) in (0..).zip(&mut messages) {
        message.default_key(|message| turn_key(to.as_str(), turn, ordinal, message));
    }
    messages
}

/// Finds out whose commit it was after a lost answer: `Ok` when ours happened.
async fn settle<B: Backend>(pool: &Pool<B>, to: &Recipient, turn: i64, token: Uuid, lost: Fault) -> Result<()> {
    let attempt = || format!("commit turn {} of {to}", turn + 1);
    let mut pauses = backon::ExponentialBuilder::default()
        .with_min_delay(SETTLE_PAUSE)
        .with_max_times(SETTLE_ATTEMPTS)
        .with_jitter()
        .build();
    let settled = loop {
        match (read_back(pool, to, token).await, pauses.next()) {
            (Ok(settled), _) => break settled,
            (Err(fault), Some(pause)) if fault.class() != Class::Permanent => {
                tracing::debug!(recipient = %to, error = %fault.0, "reading back a commit: trying again");
                tokio::time::sleep(pause).await;
            }
            (Err(_), _) => return Err(Error::Unknown { attempt: attempt(), source: lost.0.into() }),
        }
    };
    match settled {
        Settled { ours: true, .. } => Ok(()),
        // A turn that only our attempt or a competing one can have made: not ours means that ours was rolled back.
        Settled { turn: now, .. } if now <= turn + 1 => Err(Error::contention(attempt())),
        Settled { .. } => Err(Error::Unknown { attempt: attempt(), source: lost.0.into() }),
    }
}

async fn read_back<B: Backend>(pool: &Pool<B>, to: &Recipient, token: Uuid) -> Result<Settled, Fault> {
    let mut tx = B::begin_write(pool).await?;
    B::limit_lock_wait(&mut tx, SETTLE_LOCK_WAIT_MS).await?;
    let settled = B::settle_turn(&mut tx, to.shard().into(), to.as_str(), token).await?;
    tx.rollback().await?;
    Ok(settled)
}

/// The error of a user's step, in the class of its cause: a deadlock in a side effect is contention.
fn failed(to: &Recipient, step: &str, source: BoxError) -> Error {
    let attempt = format!("{step} of {to}");
    match class_of(&source) {
        Class::Contention => Error::Contention { attempt, source: Some(source) },
        Class::Transient => Error::Transient { attempt, source },
        Class::Permanent => Error::Processor { attempt, source },
    }
}
