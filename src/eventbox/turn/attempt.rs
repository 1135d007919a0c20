//! One attempt of a turn: load, decide, commit; again when another writer came first.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use sqlx::Pool;
use uuid::Uuid;

use super::commit::{Commit, Committed, Outcome};
use super::decision::{Decision, whole_range};
use super::guard::Guard;
use super::hooked::Begun;
use super::inside::Inside;
use super::journal::Names;
use super::kept_state::Keeper;
use super::options::TurnOptions;
use super::{MAX_CONTENTION_RETRIES, MAX_TURN_AGE, Turn, Work};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::decide::erased::{AnyState, ErasedProcessor};
use crate::eventbox::decide::processor::EVersion;
use crate::eventbox::event::trace::Links;
use crate::eventbox::event::{Event, EventId};
use crate::eventbox::metrics::{self, Phase};
use crate::outbox::Writer;
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

/// Attempts a turn, and retries after contention up to [`MAX_CONTENTION_RETRIES`] times. An attempt that fails empties
/// the keeper, so that the next attempt loads the state.
pub(super) async fn attempt_with_retries<B: Backend>(
    work: Work<'_, B>,
    options: &TurnOptions,
    keeper: &mut Keeper,
) -> (Result<Turn>, Attempted) {
    let (to, mut pauses) = (work.to, pauses(CONTENTION_PAUSE, MAX_CONTENTION_RETRIES));
    let mut contention = 0;
    let mut links = Links::default();
    loop {
        let mut attempted = Attempted::default();
        let done = attempt(work, options, &mut attempted, &mut links, keeper).await;
        if done.is_err() {
            keeper.clear();
        }
        match done {
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

/// Attempts a turn, between the begin and the end of the hooks of its kind.
async fn attempt<B: Backend>(
    work: Work<'_, B>,
    options: &TurnOptions,
    attempted: &mut Attempted,
    links: &mut Links,
    keeper: &mut Keeper,
) -> Result<Turn> {
    let Some(hooks) = work.hooks else {
        return attempt_begun(work, options, attempted, links, keeper, None).await;
    };
    let begun = Begun::begin(hooks, vec![work.to.clone()], options.deadline_of_attempt()).await?;
    let Some(mut begun) = begun else {
        return Ok(Turn { is_left_alone: true, ..Turn::default() });
    };
    // Boxed, because only kinds with hooks have it.
    let done = Box::pin(attempt_begun(work, options, attempted, links, keeper, Some(&mut begun))).await;
    begun.end(done.as_ref().err());
    done
}

async fn attempt_begun<B: Backend>(
    work: Work<'_, B>,
    options: &TurnOptions,
    attempted: &mut Attempted,
    links: &mut Links,
    keeper: &mut Keeper,
    begun: Option<&mut Begun<'_, B>>,
) -> Result<Turn> {
    let Work { pool, to, processor, .. } = work;
    let guard = Guard::new(to, options.deadline_of_attempt());
    let loading = Loading { pool, to, processor, guard: &guard, options };
    let mut after = options.after();
    let (loaded, decision, at_hand) = loop {
        let began = Instant::now();
        let before = (after != options.after()).then_some(after);
        let (look, mut at_hand) = loading.load(after, keeper).await?;
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
        let (last, more_listed) = (loaded.events.last().map(Event::id), loaded.more_listed);
        let Loaded { turn, token, state, eversion, was_kept, .. } = loaded;
        // Without a commit nothing has compared the version of a kept state: the next turn loads it.
        if !was_kept {
            keeper.keep(|state| processor.kept_bytes(state), turn, token, state, eversion);
        }
        // Events that a processor leaves for later must not hide those behind them.
        match last {
            Some(last) if more_listed => after = last,
            last => return Ok(Turn { last: last.or(before), ..Turn::default() }),
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
    let range = whole_range(&loaded.events, decision.removed_together().len());
    let names = options.is_journaled().then(|| Names::of(&loaded.events));
    let journal = names.as_ref();
    let writer = Writer::new(to, loaded.events.last().map_or(Uuid::nil(), |event| event.id().0));
    let inside = Inside { pool, to, processor, guard: &guard, turn, eversion, writer, journal, gathers_emits: false };
    let commit = Commit { inside, failing, range };
    let committed = commit.run(at_hand, decision, begun).await;
    metrics::spent(Phase::Committing, began.elapsed(), options.shard_to_record(to));
    let Committed { outcome, token, saved } = committed?;
    consumed.retain(|id| !outcome.failures.iter().any(|failure| failure.events.contains(&EventId(*id))));
    metrics::consumed(to.kind(), consumed);
    metrics::committed(to.kind(), loaded.events.len(), outcome.transitions, outcome.consumed, garbage);
    // The next listing has the events that were left on earlier pages.
    let last = loaded.events.last().map(Event::id).filter(|_| after == options.after());
    let done = Turn { last, ..finished(&loaded, garbage, outcome) };
    let eversion = if saved.is_some() { eversion.next() } else { eversion };
    let state = saved.unwrap_or(loaded.state);
    keeper.keep(|state| processor.kept_bytes(state), turn + 1, Some(token), state, eversion);
    Ok(done)
}

/// Waits for the work; calls `pending` first, unless the work is done at once.
async fn at_once_or<T>(mut work: impl Future<Output = T> + Unpin, pending: impl FnOnce()) -> T {
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(Pin::new(&mut work).poll(context))).await {
        return done;
    }
    pending();
    work.await
}

fn finished(loaded: &Loaded, garbage: usize, outcome: Outcome) -> Turn {
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
enum Look {
    Loaded(Loaded),
    /// No event, for a processor that does not run without events.
    Empty,
    /// A recipient that is backing off after a failure.
    LeftAlone,
}

/// The input of a decision.
struct Loaded {
    turn: i64,
    /// Token of the commit that made that turn; `None` when the recipient never had one.
    token: Option<Uuid>,
    state: AnyState,
    eversion: EVersion,
    /// Whether the state was kept by an earlier turn, so that no code of the user has loaded it.
    was_kept: bool,
    events: Vec<Event>,
    more_listed: bool,
    /// Whether failures are noted for the recipient.
    failing: bool,
}

impl Loaded {
    fn attempted(&self) -> Attempted {
        Attempted {
            turn: self.turn,
            events: u32::try_from(self.events.len()).unwrap_or(u32::MAX),
            first: self.events.first().map(|event| event.id().0),
        }
    }
}

/// Input of the reads of an attempt.
struct Loading<'a, B: Backend> {
    pool: &'a Pool<B>,
    to: &'a Recipient,
    processor: &'a dyn ErasedProcessor<B>,
    guard: &'a Guard<'a>,
    options: &'a TurnOptions,
}

impl<B: Backend> Loading<'_, B> {
    /// Reads the turn and the events, in one snapshot, and then the state, unless the state of that turn was kept.
    ///
    /// The order matters. Any commit after the first read moves the turn. So a turn that still matches at the commit
    /// proves that every listed event was live, and that the decision used the current state.
    ///
    /// Returns the connection, too, if a commit may use it.
    async fn load(&self, after: EventId, keeper: &mut Keeper) -> Result<(Look, Option<Held<B>>)> {
        let mut conn = hold_for_user(self.pool).await.map_err(|fault| self.during(fault))?;
        match self.load_on(&mut conn, after, keeper).await {
            // An engine with one writer lets the commit wait in a queue, without a connection.
            Ok(Look::Loaded(loaded)) if !B::ONE_WRITER => {
                // With a kept state, no code of the user has had the connection.
                let is_unchanged = loaded.was_kept
                    || in_time::<B, _>(conn.is_unchanged()).await.map_err(|fault| self.during(fault))?;
                Ok((Look::Loaded(loaded), is_unchanged.then_some(conn)))
            }
            Ok(look) => Ok((look, None)),
            Err(error) => {
                conn.close_if_left_unfit(&error);
                Err(error)
            }
        }
    }

    async fn load_on(&self, conn: &mut Held<B>, after: EventId, keeper: &mut Keeper) -> Result<Look> {
        let (to, options) = (self.to, self.options);
        let max_events = options.max_events().get() as usize;
        let started = Instant::now();
        let opened =
            in_time::<B, _>(B::open_turn(conn, to.shard().into(), to.as_str(), after.0, options.bound())).await;
        metrics::listed(to.kind(), started.elapsed(), opened.as_ref().map(|opened| opened.events.as_slice()));
        let opened = opened.map_err(|fault| self.during(fault))?;
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
        if opened.events.is_empty() && (after != EventId::NIL || !self.processor.runs_without_events()) {
            return Ok(Look::Empty);
        }
        conn.note_session_id(opened.session_id);
        let kept = keeper.take_at(opened.turn, opened.token);
        let was_kept = kept.is_some();
        let (state, eversion) = match kept {
            Some(kept) => kept,
            None => self.load_state(conn, opened.session_id).await?,
        };
        let mut rows = opened.events;
        let more_listed = opened.is_cut || rows.len() > max_events;
        rows.truncate(max_events);
        let events = rows.into_iter().map(Event::listed).collect();
        let (turn, token, failing) = (opened.turn, opened.token, opened.failing);
        Ok(Look::Loaded(Loaded { turn, token, state, eversion, was_kept, events, more_listed, failing }))
    }

    /// Lets the user's code load the state.
    async fn load_state(&self, conn: &mut Held<B>, session_id: Option<i32>) -> Result<(AnyState, EVersion)> {
        conn.lend();
        let load = self.processor.load_state(conn, self.to);
        let loaded = self.guard.run_on("load the state", self.pool, session_id, load).await?;
        if in_time::<B, _>(conn.was_left_open()).await.map_err(|fault| self.during(fault))? {
            return Err(Error::misuse(format!("load the state of {}", self.to), Misuse::LeftOpen));
        }
        Ok(loaded)
    }

    fn during(&self, fault: Fault) -> Error {
        fault.during(format!("load {}", self.to))
    }
}
