//! The work of one recipient inside the transaction of a turn or of a round, behind the claim of its turn: the check of
//! the version, the steps, and the new state.

use sqlx::Pool;
use uuid::Uuid;

use super::decision::{Step, emit_effect};
use super::guard::Guard;
use super::journal::Names;
use crate::error::{BoxError, Error, Misuse, Result};
use crate::eventbox::decide::erased::{AnyState, ErasedProcessor};
use crate::eventbox::decide::processor::EVersion;
use crate::eventbox::decide::transition::{PostProcess, SideEffect};
use crate::eventbox::event::{Event, EventId, trace};
use crate::origin::{self, SharedOrigin};
use crate::outbox::{Caused, Writer};
use crate::recipient::Recipient;
use crate::store::{Backend, Class, Fault, Intact, JournalOutcome, in_time};

/// A recipient whose turn is claimed in the open transaction.
pub(crate) struct Inside<'a, B: Backend> {
    pub(crate) pool: &'a Pool<B>,
    pub(crate) to: &'a Recipient,
    pub(crate) processor: &'a dyn ErasedProcessor<B>,
    pub(crate) guard: &'a Guard<'a>,
    /// Turn that was read.
    pub(crate) turn: i64,
    /// Version that was loaded.
    pub(crate) eversion: EVersion,
    /// Writer of the messages of the turn.
    pub(crate) writer: Writer,
    /// Names of the listed events, when the turn notes what it removes in the journal.
    pub(crate) journal: Option<&'a Names>,
    /// Whether the caller emits the events of the steps, together with those of other recipients.
    pub(crate) gathers_emits: bool,
}

/// An independent transition that failed and was rolled back, while its turn committed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Events that the transition would have consumed; they are still in the eventbox.
    pub events: Vec<EventId>,
    /// Cause of the failure.
    pub error: BoxError,
}

/// What the steps of a turn have done, and what they leave to the caller.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) transitions: usize,
    /// Events that independent steps have removed.
    pub(crate) consumed_alone: Vec<Uuid>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) post_process: Vec<PostProcess>,
    pub(crate) published: Vec<Caused>,
    /// Events to emit, if the caller gathers them.
    pub(crate) emitted: Vec<(Recipient, Event)>,
}

impl<B: Backend> Inside<'_, B> {
    /// Lets the user's code read the version. Returns contention unless it is the loaded one.
    ///
    /// The caller checks the transaction before its next statement.
    pub(crate) async fn require_version(&self, tx: &mut B::SharedTx) -> Result<()> {
        let session = self.session_of(tx).await?;
        let fetched = self.processor.fetch_eversion(tx, self.to);
        let now = self.guard.run_on("fetch the eversion", self.pool, session, fetched).await?;
        self.require_loaded(now)
    }

    /// Returns contention unless this is the loaded version.
    pub(crate) fn require_loaded(&self, now: EVersion) -> Result<()> {
        if now == self.eversion {
            return Ok(());
        }
        let loaded = self.eversion.0;
        Err(Error::contention(format!("{} at eversion {}, loaded {loaded}", self.attempt(), now.0)))
    }

    /// Runs the steps in order. Returns the last target among the steps that succeeded, too.
    pub(crate) async fn take_steps(
        &self,
        tx: &mut B::SharedTx,
        steps: Vec<Step<B>>,
    ) -> Result<(Taken, Option<AnyState>)> {
        let (mut taken, mut target) = (Taken::default(), None);
        let mut emitters_left = steps.iter().filter(|step| step.may_emit_in_place()).count();
        for mut step in steps {
            emitters_left -= usize::from(step.may_emit_in_place());
            if step.independent {
                match self.take_alone(tx, &mut step).await? {
                    Ok(()) => taken.consumed_alone.append(&mut step.consumed),
                    Err(error) => {
                        let events = step.consumed.into_iter().map(EventId).collect();
                        taken.failures.push(Failure { events, error });
                        continue;
                    }
                }
            } else {
                // A later step may emit in its place, and the order of emits is the order of steps.
                if self.gathers_emits && emitters_left == 0 {
                    self.gather(&mut step, &mut taken);
                }
                if let Some(effect) = effect_of(&mut step)? {
                    self.run_effect(tx, effect, step.origin.as_ref()).await?;
                    self.require_whole(B::check_intact(tx)).await?;
                }
            }
            taken.transitions += 1;
            let origin = step.origin;
            let caused = |message| Caused { message, writer: self.writer, origin: origin.clone() };
            taken.published.extend(step.published.into_iter().map(caused));
            taken.post_process.extend(step.post_process);
            target = step.target.or(target);
        }
        Ok((taken, target))
    }

    /// Leaves the emits of a step to the caller, with the origin and the trace of the step.
    fn gather(&self, step: &mut Step<B>, taken: &mut Taken) {
        let (origin, trace) = (step.origin.as_ref(), trace::current());
        let marked = |(to, event): (Recipient, Event)| match &trace {
            Some(trace) if event.traceparent().is_none() => (to, event.or_origin(origin).traced(trace)),
            _ => (to, event.or_origin(origin)),
        };
        taken.emitted.extend(std::mem::take(&mut step.emitted).into_iter().map(marked));
    }

    /// Returns the error of a failed step, when nothing is left to commit.
    pub(crate) fn require_some(&self, taken: &mut Taken, garbage: usize) -> Result<()> {
        if taken.transitions > 0 || garbage > 0 {
            return Ok(());
        }
        let first = taken.failures.drain(..).next();
        let source = first.map_or_else(|| "nothing is left of it".into(), |failure| failure.error);
        Err(Error::Processor { attempt: self.attempt(), source })
    }

    /// Lets the user's code save the state, with the next version.
    pub(crate) async fn save(
        &self,
        tx: &mut B::SharedTx,
        state: &AnyState,
        origin: Option<&SharedOrigin>,
    ) -> Result<()> {
        let session = self.session_of(tx).await?;
        let saved = self.processor.save_state(tx, self.to, state, self.eversion.next());
        let saved = origin::within(origin, saved);
        self.guard.run_on("save the state", self.pool, session, saved).await
    }

    /// Runs an independent step in a savepoint. The inner error is the step's own failure, and rolls back only this
    /// step.
    ///
    /// The events are removed after the effect, so that no use of savepoints in the user's code can keep one and undo
    /// the other.
    async fn take_alone(&self, tx: &mut B::SharedTx, step: &mut Step<B>) -> Result<Result<(), BoxError>> {
        self.step(B::begin_step(tx)).await?;
        if let Some(effect) = effect_of(step)?
            && let Err(error) = self.run_alone(tx, effect, step.origin.as_ref()).await?
        {
            self.step(B::undo_step(tx)).await?;
            return Ok(Err(error));
        }
        self.remove(tx, &step.consumed).await?;
        self.note(tx, &step.consumed, &[]).await?;
        self.step(B::keep_step(tx)).await?;
        Ok(Ok(()))
    }

    /// Runs the effect of an independent step. The inner error is the effect's own failure.
    async fn run_alone(
        &self,
        tx: &mut B::SharedTx,
        effect: SideEffect<B>,
        origin: Option<&SharedOrigin>,
    ) -> Result<Result<(), BoxError>> {
        let done = self.run_effect(tx, effect, origin).await;
        let source = match done {
            Ok(()) => None,
            Err(Error::Processor { source, .. }) => Some(source),
            Err(error) => return Err(error),
        };
        match (in_time::<B, _>(B::check_intact(tx)).await.map_err(|fault| self.during(fault))?, source) {
            (Intact::Ended, _) => Err(self.misuse(Misuse::EndedTransaction)),
            (_, Some(source)) => Ok(Err(source)),
            (Intact::Failed, None) => Ok(Err(self.misuse(Misuse::SwallowedError).into())),
            (Intact::Whole, None) => Ok(Ok(())),
        }
    }

    /// Runs an effect. Its emits and messages get the origin, if they have none.
    async fn run_effect(
        &self,
        tx: &mut B::SharedTx,
        effect: SideEffect<B>,
        origin: Option<&SharedOrigin>,
    ) -> Result<()> {
        let session = self.session_of(tx).await?;
        let running = origin::within(origin, effect.run(tx));
        self.guard.run_on("run a side effect", self.pool, session, running).await
    }

    async fn session_of(&self, tx: &mut B::SharedTx) -> Result<Option<i32>> {
        in_time::<B, _>(B::session_of(tx)).await.map_err(|fault| self.during(fault))
    }

    /// Runs a savepoint statement of the library. A permanent error means that the user's code ended the transaction.
    async fn step(&self, statement: impl Future<Output = Result<(), Fault>>) -> Result<()> {
        in_time::<B, _>(statement).await.map_err(|fault| match fault.class() {
            Class::Permanent => self.misuse(Misuse::EndedTransaction),
            _ => self.during(fault),
        })
    }

    /// Returns an error when the transaction was ended, was replaced by another, or cannot commit.
    pub(crate) async fn require_whole(&self, found: impl Future<Output = Result<Intact, Fault>>) -> Result<()> {
        match in_time::<B, _>(found).await.map_err(|fault| self.during(fault))? {
            Intact::Whole => Ok(()),
            Intact::Ended => Err(self.misuse(Misuse::EndedTransaction)),
            Intact::Failed => Err(self.misuse(Misuse::SwallowedError)),
        }
    }

    pub(crate) fn misuse(&self, misuse: Misuse) -> Error {
        Error::misuse(self.attempt(), misuse)
    }

    /// Deletes events. Returns contention unless all of them were there.
    async fn remove(&self, tx: &mut B::Connection, ids: &[Uuid]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let removed = in_time::<B, _>(B::delete_events(tx, self.to.shard().into(), self.to.as_str(), ids)).await;
        if removed.map_err(|fault| self.during(fault))? != ids.len() as u64 {
            return Err(Error::contention(self.attempt()));
        }
        Ok(())
    }

    /// Writes rows of the journal for events that the turn has just removed, unless the turn keeps no journal.
    pub(crate) async fn note(&self, tx: &mut B::Connection, consumed: &[Uuid], garbage: &[Uuid]) -> Result<()> {
        let Some(names) = self.journal else { return Ok(()) };
        let turn = self.turn + 1;
        let of_consumed = names.rows(self.to, turn, consumed, JournalOutcome::Consumed);
        let rows: Vec<_> = of_consumed.chain(names.rows(self.to, turn, garbage, JournalOutcome::Garbage)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        in_time::<B, _>(B::note_journal(tx, &rows)).await.map_err(|fault| self.during(fault))
    }

    pub(crate) fn attempt(&self) -> String {
        format!("commit turn {} of {}", self.turn + 1, self.to)
    }

    pub(crate) fn during(&self, fault: Fault) -> Error {
        fault.during(self.attempt())
    }
}

/// Takes the side effect of a step, and then its emits, as one effect.
fn effect_of<B: Backend>(step: &mut Step<B>) -> Result<Option<SideEffect<B>>> {
    let emits = emit_effect(std::mem::take(&mut step.emitted))?;
    Ok(match (step.side_effect.take(), emits) {
        (effect, None) | (None, effect) => effect,
        (effect, emits) => SideEffect::chain([effect, emits]),
    })
}
