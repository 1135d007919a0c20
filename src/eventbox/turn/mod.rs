//! A turn: load, decide, commit.

pub(super) mod commit;
pub(super) mod decision;
pub(super) mod guard;
pub(super) mod options;
pub(super) mod poison;
pub(super) mod read_back;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use sqlx::Pool;
use uuid::Uuid;

use self::commit::{Commit, Failure, Outcome};
use self::decision::{Decision, settled_range};
use self::guard::Guard;
use self::options::TurnOptions;
use self::poison::{failed, failed_in_part, is_poison};
use super::decide::processor::{EVersion, Processor};
use super::decide::transition::{HookErrors, PostProcess};
use super::event::trace::Links;
use super::event::{Event, EventId};
use super::metrics::{self, Phase};
use crate::error::{Error, Misuse, Result};
use crate::outbox::Stored;
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, Held, hold_for_user, in_time};

/// Number of times [`process_batch`] retries after contention before it returns [`Error::Contention`].
pub const MAX_CONTENTION_RETRIES: usize = 3;

/// Longest time between loading a turn and beginning its transaction; after that the turn starts again.
///
/// Half of [`FORGET_AFTER`](crate::admin::FORGET_AFTER), so that a recipient cannot be forgotten, and its turns begin again, under a turn in flight.
pub const MAX_TURN_AGE: Duration = Duration::from_secs(30 * 60);

/// Pause before the first retry; it doubles, with jitter.
const CONTENTION_PAUSE: Duration = Duration::from_millis(2);

/// The name of a turn's span.
pub(super) const TURN_SPAN: &str = "eventbox.turn";

/// Result of a call of [`process_batch`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Turn {
    /// The number of the committed turn: 1, 2, 3 … without a gap. `None` when there was nothing to do.
    pub number: Option<i64>,
    /// Number of events that were consumed.
    pub consumed: usize,
    /// Number of events that were removed as garbage.
    pub garbage: usize,
    /// Number of events that went into quarantine because they made every batch fail (see [`Poison`](crate::Poison));
    /// such a turn does nothing else.
    pub quarantined: usize,
    /// Whether the box held more events than the batch took, or events that the turn left: process again. False when there was nothing to do;
    /// events of failed independent transitions do not count.
    pub more_remain: bool,
    /// Number of retries after contention.
    pub contention: usize,
    /// Independent transitions that failed alone.
    pub failures: Vec<Failure>,
    /// The hooks of the transitions, in order, for the caller to run.
    pub post_process: Vec<PostProcess>,
    /// The messages that were published, in order, for the caller to hand to
    /// `DurableEmitter::deliver`. Dropping them is harmless: a host sends them a little later.
    pub published: Vec<Stored>,
    /// The last event that was listed, unless events before it were passed over; without a turn, the last one that was left.
    #[cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only the runtime goes on behind it"))]
    pub(crate) last: Option<EventId>,
    /// Whether the turn left events in the box that it had listed.
    #[cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only the runtime passes over them"))]
    pub(crate) left_listed: bool,
    /// Whether the call skipped the recipient, because it is backing off after a failure.
    #[cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only the runtime leaves recipients alone"))]
    pub(crate) is_left_alone: bool,
}

/// Processes the oldest events of a recipient in one turn.
///
/// Reads the turn and lists up to `max_events` of the oldest events, and no more than fit into
/// [`DEFAULT_TURN_BYTES`](crate::DEFAULT_TURN_BYTES), and then loads the state; lets the processor decide; and
/// then, in one transaction, claims the next turn, removes the consumed events and the garbage, checks the entity's version, runs
/// the side effects in order and saves the state. Everything commits together or not at all, and each event is consumed by exactly one
/// committed turn, however many processes call this at once.
///
/// It takes one connection of the pool at a time, and none while the processor decides.
///
/// # What comes back
///
/// A [`Turn`]; its hooks have not run yet. When the processor decides nothing, it is given the next `max_events`, up to the end of the box; when
/// there is nothing to do in all of it, there was no transaction and [`Turn::number`] is `None`. For an empty box the processor is not called,
/// unless it [asks to be](Processor::runs_without_events).
///
/// # Errors
///
/// Contention after [`MAX_CONTENTION_RETRIES`]; [`Error::Misuse`](crate::Error::Misuse) when the decision consumes an event twice or one that it was not
/// given; [`Error::Processor`](crate::Error::Processor) with the processor's own error or panic; [`Error::Deadline`](crate::Error::Deadline) when it takes longer than
/// [`DEFAULT_TURN_DEADLINE`](crate::DEFAULT_TURN_DEADLINE); transient and database errors. After any of them nothing was
/// changed. [`Error::Unknown`](crate::Error::Unknown) when the connection was lost during the commit and reading back could not tell what happened: nothing
/// is lost and nothing will happen twice, but the hooks of that turn will not run.
///
/// # Cancel safety
///
/// Safe: a dropped future rolls back, or its turn has committed; then its hooks are lost.
///
/// # Examples
///
/// See the README.
///
/// # Tracing
///
/// The call is a span `eventbox.turn` at the level of debug, with the recipient's kind. With the feature `opentelemetry` it is linked to the spans in
/// which the events were emitted (128 at most), and what side effects emit belongs to it.
pub async fn process_batch<B, P>(pool: &Pool<B>, to: &Recipient, processor: &P, max_events: NonZeroU32) -> Result<Turn>
where
    B: Backend,
    P: Processor<B>,
{
    process_batch_with(pool, to, processor, &TurnOptions::new(max_events)).await
}

/// [`process_batch`] with other bounds than the defaults.
///
/// # Errors
///
/// As [`process_batch`].
///
/// # Cancel safety
///
/// As [`process_batch`].
#[tracing::instrument(name = TURN_SPAN, level = "debug", skip_all, fields(kind = to.kind()))]
pub async fn process_batch_with<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    options: &TurnOptions,
) -> Result<Turn>
where
    B: Backend,
    P: Processor<B>,
{
    let started = Instant::now();
    let (done, attempted) = attempt_with_retries(pool, to, processor, options).await;
    let done = match done {
        Err(error) if is_poison(&error) => failed(pool, to, processor, options, attempted, error).await,
        Ok(turn) if !turn.failures.is_empty() => Ok(failed_in_part(pool, to, options, turn).await),
        done => done,
    };
    metrics::processed(to.kind(), started.elapsed(), &done);
    done
}

/// The batch of an attempt; the search for a poison event starts from it.
#[derive(Debug, Default)]
pub(super) struct Attempted {
    pub(super) turn: i64,
    /// Number of events that the processor was given.
    pub(super) events: u32,
    /// The oldest of them.
    pub(super) first: Option<Uuid>,
}

/// Attempts a turn, and retries after contention up to [`MAX_CONTENTION_RETRIES`] times.
pub(super) async fn attempt_with_retries<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    options: &TurnOptions,
) -> (Result<Turn>, Attempted)
where
    B: Backend,
    P: Processor<B>,
{
    let pauses = backon::ExponentialBuilder::default().with_min_delay(CONTENTION_PAUSE).with_jitter();
    let mut pauses = pauses.with_max_times(MAX_CONTENTION_RETRIES).build();
    let mut contention = 0;
    let mut links = Links::default();
    loop {
        let mut attempted = Attempted::default();
        match attempt(pool, to, processor, options, &mut attempted, &mut links).await {
            Err(error) if error.is_contention() => {
                metrics::contention(to.kind());
                let Some(pause) = pauses.next() else { return (Err(error), attempted) };
                contention += 1;
                tracing::debug!(recipient = %to, contention, "another writer came first: starting anew");
                tokio::time::sleep(pause).await;
            }
            Err(error) => return (Err(error), attempted),
            Ok(turn) => return (Ok(Turn { contention, ..turn }), attempted),
        }
    }
}

async fn attempt<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    options: &TurnOptions,
    attempted: &mut Attempted,
    links: &mut Links,
) -> Result<Turn>
where
    B: Backend,
    P: Processor<B>,
{
    let guard = Guard::new(to, options.deadline_of_attempt());
    let mut after = options.after();
    let (loaded, decision) = loop {
        let began = Instant::now();
        let before = (after != options.after()).then_some(after);
        let loaded = match load(pool, to, processor, &guard, after, options).await? {
            Look::Loaded(loaded) => loaded,
            Look::Empty => return Ok(Turn { last: before, ..Turn::default() }),
            Look::LeftAlone => return Ok(Turn { is_left_alone: true, ..Turn::default() }),
        };
        let listed_at = Instant::now();
        metrics::spent(Phase::Listing, listed_at - began, alone(to));
        *attempted = loaded.attempted();
        links.add(&loaded.events);
        let prepared = processor.prepare_mutation(to, &loaded.events, &loaded.state);
        let mutation = guard.run("prepare a mutation", prepared).await;
        metrics::spent(Phase::Preparing, listed_at.elapsed(), alone(to));
        let mutation = mutation?;
        let decision = Decision::check(to, &loaded.events, mutation)?;
        if !decision.is_empty() {
            break (loaded, decision);
        }
        // Events that a processor leaves for later must not hide those behind them.
        match loaded.events.last() {
            Some(last) if loaded.more_listed => after = last.id(),
            last => return Ok(Turn { last: last.map(Event::id).or(before), ..Turn::default() }),
        }
    };
    if guard.age() >= MAX_TURN_AGE {
        return Err(Error::contention(format!(
            "commit turn {} of {to}, which was loaded too long ago",
            loaded.turn + 1
        )));
    }
    let garbage = decision.garbage.len();
    let Loaded { turn, eversion, .. } = loaded;
    let failing = loaded.failing && !options.is_searching();
    let mut consumed: Vec<Uuid> = decision.steps.iter().flat_map(|step| &step.consumed).copied().collect();
    let began = Instant::now();
    let range = settled_range(&loaded.events, decision.removed_together());
    let commit = Commit { pool, to, processor, guard: &guard, turn, eversion, failing, range };
    let outcome = commit.run(decision).await;
    metrics::spent(Phase::Committing, began.elapsed(), alone(to));
    let outcome = outcome?;
    consumed.retain(|id| !outcome.failures.iter().any(|failure| failure.events.contains(&EventId(*id))));
    metrics::consumed(to.kind(), consumed);
    metrics::committed(to.kind(), loaded.events.len(), outcome.transitions, outcome.consumed, garbage);
    // What was left on the pages before is listed with what comes.
    let last = loaded.events.last().map(Event::id).filter(|_| after == options.after());
    Ok(Turn { last, ..finished(&loaded, garbage, outcome) })
}

/// The shard of a recipient that has a turn of its own.
fn alone(to: &Recipient) -> std::iter::Once<(u8, u32)> {
    std::iter::once((to.shard(), 1))
}

fn finished<S>(loaded: &Loaded<S>, garbage: usize, outcome: Outcome) -> Turn {
    let failed: usize = outcome.failures.iter().map(|failure| failure.events.len()).sum();
    Turn {
        number: Some(loaded.turn + 1),
        consumed: outcome.consumed,
        garbage,
        quarantined: 0,
        more_remain: loaded.more_listed || loaded.events.len() > outcome.consumed + garbage + failed,
        left_listed: loaded.events.len() > outcome.consumed + garbage,
        contention: 0,
        failures: outcome.failures,
        post_process: outcome.post_process,
        published: outcome.published,
        last: None,
        is_left_alone: false,
    }
}

impl Turn {
    /// Runs all hooks in order, also behind one that fails.
    ///
    /// # Errors
    ///
    /// The errors of those that failed, joined into one; the turn stands nevertheless. A panic of a hook is such an error.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has run some of them; the one that was running is dropped in the middle, and the others can still be run.
    ///
    /// # Examples
    ///
    /// See the guide `docs/turn.md`.
    pub async fn run_hooks(&mut self) -> Result<(), HookErrors> {
        let mut errors = Vec::new();
        for hook in self.post_process.drain(..) {
            errors.extend(hook.run().await.err());
        }
        if errors.is_empty() { Ok(()) } else { Err(HookErrors(errors)) }
    }
}

/// Result of loading a recipient.
enum Look<S> {
    Loaded(Loaded<S>),
    /// No event, for a processor that does not run without events.
    Empty,
    /// A recipient that is backing off after a failure.
    LeftAlone,
}

/// The input of a decision.
struct Loaded<S> {
    turn: i64,
    state: S,
    eversion: EVersion,
    events: Vec<Event>,
    more_listed: bool,
    /// Whether failures are noted for the recipient.
    failing: bool,
}

impl<S> Loaded<S> {
    fn attempted(&self) -> Attempted {
        Attempted {
            turn: self.turn,
            events: u32::try_from(self.events.len()).unwrap_or(u32::MAX),
            first: self.events.first().map(|event| event.id().0),
        }
    }
}

/// Reads the turn and the events, in one snapshot, and then the state. The order matters: any commit after the first read moves the turn, so a turn
/// that still matches at the commit proves that every listed event was live and that the state is the one that was decided on.
async fn load<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    guard: &Guard<'_>,
    after: EventId,
    options: &TurnOptions,
) -> Result<Look<P::State>>
where
    B: Backend,
    P: Processor<B>,
{
    let during = |fault: Fault| fault.during(format!("load {to}"));
    let mut conn = hold_for_user(pool).await.map_err(during)?;
    let loaded = load_on(&mut conn, to, processor, guard, after, options).await;
    loaded.inspect_err(|error| conn.close_if_left_unfit(error))
}

async fn load_on<B, P>(
    conn: &mut Held<B>,
    to: &Recipient,
    processor: &P,
    guard: &Guard<'_>,
    after: EventId,
    options: &TurnOptions,
) -> Result<Look<P::State>>
where
    B: Backend,
    P: Processor<B>,
{
    let during = |fault: Fault| fault.during(format!("load {to}"));
    let max_events = options.max_events().get() as usize;
    let started = Instant::now();
    let opened = in_time::<B, _>(B::open_turn(conn, to.shard().into(), to.as_str(), after.0, options.bound())).await;
    metrics::listed(to.kind(), started.elapsed(), opened.as_ref().map(|opened| opened.events.as_slice()));
    let opened = opened.map_err(during)?;
    if opened.paused {
        return Err(Error::Paused { attempt: format!("process {to}") });
    }
    if options.leaves_alone(opened.wait_us) {
        return Ok(Look::LeftAlone);
    }
    if opened.is_cut && opened.events.is_empty() {
        return Err(Error::contention(format!("list the events of {to}, which another writer removed meanwhile")));
    }
    // Behind an event there may be none while the box holds some.
    if opened.events.is_empty() && (after != EventId::NIL || !processor.runs_without_events()) {
        return Ok(Look::Empty);
    }
    let (state, eversion) = guard.run("load the state", processor.load_state(conn, to)).await?;
    if in_time::<B, _>(conn.was_left_open()).await.map_err(during)? {
        return Err(Error::misuse(format!("load the state of {to}"), Misuse::LeftOpen));
    }
    let mut rows = opened.events;
    let more_listed = opened.is_cut || rows.len() > max_events;
    rows.truncate(max_events);
    let events = rows.into_iter().map(Event::listed).collect();
    Ok(Look::Loaded(Loaded { turn: opened.turn, state, eversion, events, more_listed, failing: opened.failing }))
}
