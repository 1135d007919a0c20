//! A turn: attempts, then the isolation of an event that fails, then the hooks.

mod attempt;
mod commit;
pub(super) mod decision;
pub(super) mod guard;
pub(super) mod hooked;
pub(super) mod inside;
pub(super) mod journal;
pub(super) mod kept_state;
pub(super) mod options;
pub(super) mod poison;
pub(super) mod read_back;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use sqlx::Pool;

use self::attempt::attempt_with_retries;
use self::hooked::ErasedHooks;
use self::inside::Failure;
use self::kept_state::Keeper;
use self::options::TurnOptions;
use self::poison::{failed, failed_in_part, is_poison};
use super::decide::erased::ErasedProcessor;
use super::decide::processor::Processor;
use super::decide::transition::{HookErrors, PostProcess};
use super::event::EventId;
use super::metrics;
use crate::error::Result;
use crate::outbox::Stored;
use crate::recipient::Recipient;
use crate::store::Backend;

/// Number of times [`process_batch`] retries after contention before it returns
/// [`Error::Contention`](crate::Error::Contention).
pub const MAX_CONTENTION_RETRIES: usize = 3;

/// Longest time between loading a turn and beginning its transaction; after that the turn starts again.
///
/// Half of [`FORGET_AFTER`](crate::admin::FORGET_AFTER), so that a recipient cannot be forgotten, and its turns begin
/// again, under a turn in flight.
pub const MAX_TURN_AGE: Duration = Duration::from_secs(30 * 60);

/// The name of a turn's span.
pub(super) const TURN_SPAN: &str = "eventbox.turn";

/// Result of a call of [`process_batch`].
#[derive(Debug, Default)]
#[non_exhaustive]
#[must_use = "it says whether more events remain, and which hooks and transitions failed"]
pub struct Turn {
    /// The number of the committed turn: 1, 2, 3 … without a gap. `None` when there was nothing to do.
    pub number: Option<i64>,
    /// Number of events that were consumed.
    pub consumed: usize,
    /// Number of events that were removed as garbage.
    pub garbage: usize,
    /// Number of events that went into quarantine because they made every batch fail (see
    /// [`PoisonPolicy`](crate::PoisonPolicy)); such a turn does nothing else.
    pub quarantined: usize,
    /// Whether the eventbox held more events than the batch took, or events that the turn left: process again. False
    /// without a turn; events of failed independent transitions do not count.
    pub more_remain: bool,
    /// Number of retries after contention.
    pub contention: usize,
    /// Independent transitions that failed, while the turn committed.
    pub failures: Vec<Failure>,
    /// The errors of the hooks that failed after the commit; the turn stands.
    pub hook_errors: Option<HookErrors>,
    /// The hooks of the transitions, in order, when [`TurnOptions::return_hooks`] leaves them to the caller; else
    /// empty.
    pub post_process: Vec<PostProcess>,
    /// Published messages, in order, for the caller to hand to `DurableEmitter::deliver`. Dropping them is harmless: a
    /// delivery process claims them from the outbox later.
    pub published: Vec<Stored>,
    /// Last event that was listed; `None` when a turn skipped a page of events before it. Without a turn, the last
    /// event that stays.
    #[cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only the runtime goes on behind it"))]
    pub(crate) last: Option<EventId>,
    /// Whether the turn left listed events in the eventbox.
    #[cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only the runtime passes over them"))]
    pub(crate) left_listed: bool,
    /// Whether the call skipped the recipient, because it is backing off after a failure.
    #[cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only the runtime leaves recipients alone"))]
    pub(crate) is_left_alone: bool,
}

/// Processes the oldest events of a recipient in one turn.
///
/// Reads the turn and lists up to `max_events` of the oldest events, and no more than fit into
/// [`DEFAULT_TURN_BYTES`](crate::limits::DEFAULT_TURN_BYTES), and then loads the state; lets the processor decide; and
/// then, in one transaction, claims the next turn, removes the consumed events and the garbage, checks the entity's
/// version, runs the side effects in order and saves the state. Everything commits together or not at all, and each
/// event is consumed by exactly one committed turn, however many processes call this at once.
///
/// The call takes one connection of the pool at a time, and none while the processor decides.
///
/// # What comes back
///
/// A [`Turn`], after its hooks have run; [`Turn::hook_errors`] has the errors of those that failed. When the processor
/// decides nothing, it is given the next `max_events`, up to the end of the box. When there is nothing to do in all of
/// it, there was no transaction and [`Turn::number`] is `None`. For an empty box the processor is not called, unless it
/// [asks to be](Processor::runs_without_events).
///
/// # Errors
///
/// Contention after [`MAX_CONTENTION_RETRIES`]; [`Error::Misuse`](crate::Error::Misuse) when the decision consumes an
/// event twice or one that it was not given; [`Error::Processor`](crate::Error::Processor) with the processor's own
/// error or panic; [`Error::Deadline`](crate::Error::Deadline) when it takes longer than
/// [`DEFAULT_TURN_DEADLINE`](crate::limits::DEFAULT_TURN_DEADLINE); transient and database errors. After any of them
/// nothing was changed. [`Error::Unknown`](crate::Error::Unknown) when the connection was lost during the commit and
/// reading back could not tell what happened: nothing is lost and nothing will happen twice, but the hooks of that turn
/// will not run.
///
/// # Cancel safety
///
/// Safe: a dropped future rolls back, or its turn has committed; then the hooks that have not run are lost.
///
/// # Examples
///
/// See the README.
///
/// # Tracing
///
/// The call is a span `eventbox.turn` at the level of debug, with the recipient's kind. With the feature
/// `opentelemetry` it is linked to the spans in which the events were emitted (128 at most), and what side effects emit
/// belongs to it.
pub async fn process_batch<B, P>(pool: &Pool<B>, to: &Recipient, processor: &P, max_events: NonZeroU32) -> Result<Turn>
where
    B: Backend,
    P: Processor<B>,
{
    process_batch_with(pool, to, processor, &TurnOptions::new(max_events)).await
}

/// Does what [`process_batch`] does, with other bounds than the defaults.
///
/// # Errors
///
/// As [`process_batch`].
///
/// # Cancel safety
///
/// As [`process_batch`].
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
    process_batch_keeping(Work { pool, to, processor, hooks: None }, options, &mut Keeper::off()).await
}

/// A recipient, and the code for its turns.
pub(crate) struct Work<'a, B: Backend> {
    pub(crate) pool: &'a Pool<B>,
    pub(crate) to: &'a Recipient,
    pub(crate) processor: &'a dyn ErasedProcessor<B>,
    /// What wraps each transaction of the kind.
    pub(crate) hooks: Option<&'a dyn ErasedHooks<B>>,
}

impl<B: Backend> Clone for Work<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Work<'_, B> {}

/// Does what [`process_batch_with`] does, with the state that an earlier turn left in the keeper, if it is current.
/// Leaves the state for the next turn there; after an error the keeper is empty.
#[tracing::instrument(name = TURN_SPAN, level = "debug", skip_all, fields(kind = work.to.kind()))]
pub(crate) async fn process_batch_keeping<B: Backend>(
    work: Work<'_, B>,
    options: &TurnOptions,
    keeper: &mut Keeper,
) -> Result<Turn> {
    let (started, Work { pool, to, .. }) = (Instant::now(), work);
    let (done, attempted) = attempt_with_retries(work, options, keeper).await;
    let done = match done {
        Err(error) if is_poison(&error) => failed(work, options, attempted, error).await,
        Ok(turn) if !turn.failures.is_empty() => Ok(failed_in_part(pool, to, options, turn).await),
        done => done,
    };
    metrics::processed(to.kind(), started.elapsed(), &done);
    let mut turn = done?;
    if !options.returns_hooks() {
        run_hooks_of(to, options, &mut turn).await;
    }
    Ok(turn)
}

/// Runs the hooks of a committed turn within their deadline.
async fn run_hooks_of(to: &Recipient, options: &TurnOptions, turn: &mut Turn) {
    if turn.post_process.is_empty() {
        return;
    }
    let limit = options.deadline_of_hooks();
    turn.hook_errors = match tokio::time::timeout(limit, turn.run_hooks()).await {
        Ok(done) => done.err(),
        Err(_) => {
            turn.post_process.clear();
            Some(HookErrors(vec![format!("not done within {limit:?}: the hooks behind it did not run").into()]))
        }
    };
    if let Some(errors) = &turn.hook_errors {
        tracing::warn!(recipient = %to, %errors, "hooks failed; the turn stands");
    }
}

impl Turn {
    /// Runs all hooks in order, also after a hook that fails.
    ///
    /// # Errors
    ///
    /// The errors of all failed hooks, joined into one. A panic of a hook is such an error. The turn stays committed.
    ///
    /// # Cancel safety
    ///
    /// A dropped future has run some of the hooks. It stops the running hook in the middle; the remaining hooks can
    /// still be run.
    ///
    /// # Examples
    ///
    /// See the guide `docs/turn.md`.
    pub async fn run_hooks(&mut self) -> Result<(), HookErrors> {
        let mut errors = Vec::new();
        while !self.post_process.is_empty() {
            // Taken before it runs: a dropped future leaves the others to be run.
            errors.extend(self.post_process.remove(0).run().await.err());
        }
        if errors.is_empty() { Ok(()) } else { Err(HookErrors(errors)) }
    }
}
