//! One attempt of a turn: load, decide, commit; again when another writer came first.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use sqlx::Pool;
use uuid::Uuid;

use super::commit::{Commit, Outcome};
use super::decision::{Decision, whole_range};
use super::guard::Guard;
use super::options::TurnOptions;
use super::{MAX_CONTENTION_RETRIES, MAX_TURN_AGE, Turn};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::decide::processor::{EVersion, Processor};
use crate::eventbox::event::trace::Links;
use crate::eventbox::event::{Event, EventId};
use crate::eventbox::metrics::{self, Phase};
use crate::recipient::Recipient;
use crate::retry::pauses;
use crate::store::{Backend, Fault, Held, hold_for_user, in_time};

/// Pause before the first retry; it doubles, with jitter.
const CONTENTION_PAUSE: Duration = Duration::from_millis(2);

/// The batch of an attempt; the search for a poison event starts from it.
#[derive(Debug, Default)]
pub(super) struct Attempted {
    pub(super) turn: i64,
    /// Number of events that the processor was given.
    pub(super) events: u32,
    /// Oldest of these events.
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
    let mut pauses = pauses(CONTENTION_PAUSE, MAX_CONTENTION_RETRIES);
    let mut contention = 0;
    let mut links = Links::default();
    loop {
        let mut attempted = Attempted::default();
        match attempt(pool, to, processor, options, &mut attempted, &mut links).await {
            Err(error) if error.is_contention() => {
                metrics::contention(to.kind());
                let Some(pause) = pauses.next() else { return (Err(error), attempted) };
                contention += 1;
                tracing::debug!(recipient = %to, contention, "another writer came first: retrying");
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
    let (loaded, decision, at_hand) = loop {
        let began = Instant::now();
        let before = (after != options.after()).then_some(after);
        let (look, mut at_hand) = load(pool, to, processor, &guard, after, options).await?;
        let loaded = match look {
            Look::Loaded(loaded) => loaded,
            Look::Empty => return Ok(Turn { last: before, ..Turn::default() }),
            Look::LeftAlone => return Ok(Turn { is_left_alone: true, ..Turn::default() }),
        };
        let listed_at = Instant::now();
        metrics::spent(Phase::Listing, listed_at - began, options.shard_to_record(to));
        *attempted = loaded.attempted();
        links.add(&loaded.events);
        let prepared = processor.prepare_mutation(to, &loaded.events, &loaded.state);
        // Boxed, because each of the futures around it would be as large again.
        let prepared = Box::pin(guard.run("prepare a mutation", prepared));
        let mutation = at_once_or(prepared, || drop(at_hand.take())).await;
        metrics::spent(Phase::Preparing, listed_at.elapsed(), options.shard_to_record(to));
        let mutation = mutation?;
        let decision = Decision::check(to, &loaded.events, mutation)?;
        if !decision.is_empty() {
            break (loaded, decision, at_hand);
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
    let range = whole_range(&loaded.events, decision.removed_together());
    let commit = Commit { pool, to, processor, guard: &guard, turn, eversion, failing, range };
    let outcome = commit.run(at_hand, decision).await;
    metrics::spent(Phase::Committing, began.elapsed(), options.shard_to_record(to));
    let outcome = outcome?;
    consumed.retain(|id| !outcome.failures.iter().any(|failure| failure.events.contains(&EventId(*id))));
    metrics::consumed(to.kind(), consumed);
    metrics::committed(to.kind(), loaded.events.len(), outcome.transitions, outcome.consumed, garbage);
    // The next listing has the events that were left on earlier pages.
    let last = loaded.events.last().map(Event::id).filter(|_| after == options.after());
    Ok(Turn { last, ..finished(&loaded, garbage, outcome) })
}

/// Waits for the work; calls `pending` first, unless the work is done at once.
async fn at_once_or<T>(mut work: impl Future<Output = T> + Unpin, pending: impl FnOnce()) -> T {
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(Pin::new(&mut work).poll(context))).await {
        return done;
    }
    pending();
    work.await
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
        hook_errors: None,
        published: outcome.published,
        last: None,
        is_left_alone: false,
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

/// Reads the turn and the events, in one snapshot, and then the state.
///
/// The order matters. Any commit after the first read moves the turn. So a turn that still matches at the commit proves
/// that every listed event was live, and that the decision used the current state.
///
/// Returns the connection, too, if a commit may use it.
async fn load<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    guard: &Guard<'_>,
    after: EventId,
    options: &TurnOptions,
) -> Result<(Look<P::State>, Option<Held<B>>)>
where
    B: Backend,
    P: Processor<B>,
{
    let during = |fault: Fault| fault.during(format!("load {to}"));
    let mut conn = hold_for_user(pool).await.map_err(during)?;
    match load_on(&mut conn, pool, to, processor, guard, after, options).await {
        // An engine with one writer lets the commit wait in a queue, without a connection.
        Ok(Look::Loaded(loaded)) if !B::ONE_WRITER => {
            let is_unchanged = in_time::<B, _>(conn.is_unchanged()).await.map_err(during)?;
            Ok((Look::Loaded(loaded), is_unchanged.then_some(conn)))
        }
        Ok(look) => Ok((look, None)),
        Err(error) => {
            conn.close_if_left_unfit(&error);
            Err(error)
        }
    }
}

async fn load_on<B, P>(
    conn: &mut Held<B>,
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
    conn.note_session_id(opened.session_id);
    conn.lend();
    let load = processor.load_state(conn, to);
    let (state, eversion) = guard.run_on("load the state", pool, opened.session_id, load).await?;
    if in_time::<B, _>(conn.was_left_open()).await.map_err(during)? {
        return Err(Error::misuse(format!("load the state of {to}"), Misuse::LeftOpen));
    }
    let mut rows = opened.events;
    let more_listed = opened.is_cut || rows.len() > max_events;
    rows.truncate(max_events);
    let events = rows.into_iter().map(Event::listed).collect();
    Ok(Look::Loaded(Loaded { turn: opened.turn, state, eversion, events, more_listed, failing: opened.failing }))
}
