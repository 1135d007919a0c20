//! Commits a turn in one transaction.

use sqlx::Pool;
use uuid::Uuid;

use super::decision::{Decision, Step};
use super::guard::Guard;
use super::journal::Names;
use super::read_back::read_back;
use crate::cloudevent::turn_key;
use crate::error::{BoxError, Error, Misuse, Result};
use crate::eventbox::decide::processor::{EVersion, Processor};
use crate::eventbox::decide::transition::{PostProcess, SideEffect};
use crate::eventbox::emit::wake_up::in_transaction;
use crate::eventbox::event::EventId;
use crate::origin::{self, SharedOrigin};
use crate::outbox::{Caused, FIRST_CLAIM_TTL, Stored, Writer, publish_all_in};
use crate::recipient::Recipient;
use crate::store::{Backend, Claimed, Class, Fault, Held, Intact, JournalOutcome, Removed, in_time};

/// Input of the transaction of a turn.
pub(super) struct Commit<'a, B: Backend, P> {
    pub(super) pool: &'a Pool<B>,
    pub(super) to: &'a Recipient,
    pub(super) processor: &'a P,
    pub(super) guard: &'a Guard<'a>,
    /// Turn that was read.
    pub(super) turn: i64,
    /// Version that was loaded.
    pub(super) eversion: EVersion,
    /// Whether failures of the recipient are stored; a turn without failures clears them.
    pub(super) failing: bool,
    /// First and last event, when all listed events are removed as a range.
    pub(super) range: Option<(EventId, EventId)>,
    /// Names of the listed events, when the turn notes what it removes in the journal.
    pub(super) journal: Option<&'a Names>,
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

/// Result of a committed turn.
pub(super) struct Outcome {
    pub(super) consumed: usize,
    pub(super) transitions: usize,
    pub(super) failures: Vec<Failure>,
    pub(super) post_process: Vec<PostProcess>,
    pub(super) published: Vec<Stored>,
}

/// A committed turn.
pub(super) struct Committed<S> {
    pub(super) outcome: Outcome,
    /// Token of the commit.
    pub(super) token: Uuid,
    /// State that was saved; `None` when no step had one.
    pub(super) saved: Option<S>,
}

impl<B: Backend, P: Processor<B>> Commit<'_, B, P> {
    /// Commits all of the decision, or nothing; on the connection at hand, if there is one.
    pub(super) async fn run(
        &self,
        at_hand: Option<Held<B>>,
        decision: Decision<B, P::State>,
    ) -> Result<Committed<P::State>> {
        // Boxed, because the future holds the user's code: a large future fills the stack, and moving it costs time.
        in_transaction(Box::pin(self.commit(at_hand, decision))).await
    }

    async fn commit(&self, at_hand: Option<Held<B>>, decision: Decision<B, P::State>) -> Result<Committed<P::State>> {
        let token = Uuid::new_v4();
        let mut tx = B::begin_exclusive(self.pool, at_hand).await.map_err(|fault| self.during(fault))?;
        let writer = Writer::new(self.to, decision.removed());
        let applying = writer.within(self.apply(&mut tx, token, writer, decision));
        let (outcome, saved) = match self.guard.within(|| self.attempt(), applying).await {
            Ok(applied) => applied,
            Err(error) => return Err(self.cause(&mut tx, error).await),
        };
        self.require_whole(B::check_to_commit(&mut tx)).await?;
        match B::commit_shared(tx).await {
            Ok(()) => {}
            Err(fault) if fault.lost_the_answer() => read_back(self.pool, self.to, self.turn, token, fault).await?,
            Err(fault) => return Err(self.during(fault)),
        }
        Ok(Committed { outcome, token, saved })
    }

    /// Does everything before the commit. Returns the state that was saved, too.
    async fn apply(
        &self,
        tx: &mut B::SharedTx,
        token: Uuid,
        writer: Writer,
        mut decision: Decision<B, P::State>,
    ) -> Result<(Outcome, Option<P::State>)> {
        let shard = self.to.shard().into();
        let together = decision.steps.iter().filter(|step| !step.independent);
        let ids: Vec<Uuid> = together.flat_map(|step| &step.consumed).chain(&decision.garbage).copied().collect();
        let removed = match self.range {
            Some((first, last)) => Removed::Range { first: first.0, last: last.0, count: ids.len() },
            None => Removed::Ids(&ids),
        };
        let claimed = in_time::<B, _>(B::claim_turn(tx, shard, self.to.as_str(), self.turn, token, removed)).await;
        if claimed.map_err(|fault| self.during(fault))? != Claimed::Done {
            return Err(Error::contention(self.attempt()));
        }
        let consumed = ids.get(..ids.len() - decision.garbage.len()).unwrap_or_default();
        self.note(tx, consumed, &decision.garbage).await?;
        let session = self.session_of(tx).await?;
        let fetched = self.processor.fetch_eversion(tx, self.to);
        let eversion = self.guard.run_on("fetch the eversion", self.pool, session, fetched).await?;
        if eversion != self.eversion {
            let (now, loaded) = (eversion.0, self.eversion.0);
            return Err(Error::contention(format!("{} at eversion {now}, loaded {loaded}", self.attempt())));
        }
        self.require_whole(B::check_intact(tx)).await?;
        self.give_keys(&mut decision);
        let origin = decision.origin.take();
        let (mut outcome, target) = self.take_steps(tx, decision.steps, consumed.len(), writer).await?;
        if outcome.transitions == 0 && decision.garbage.is_empty() {
            let first = outcome
                .failures
                .drain(..)
                .next()
                .map_or_else(|| "nothing is left of it".into(), |failure| failure.error);
            return Err(Error::Processor { attempt: self.attempt(), source: first });
        }
        if let Some(state) = &target {
            let saved = self.processor.save_state(tx, self.to, state, self.eversion.next());
            let saved = origin::within(origin.as_ref(), saved);
            self.guard.run_on("save the state", self.pool, session, saved).await?;
        }
        if self.failing && outcome.failures.is_empty() {
            self.require_whole(B::check_intact(tx)).await?;
            let cleared = in_time::<B, _>(B::clear_failures(tx, shard, self.to.as_str())).await;
            cleared.map_err(|fault| self.during(fault))?;
        }
        Ok((outcome, target))
    }

    /// Runs the steps in order. Returns the last target among the steps that succeeded.
    async fn take_steps(
        &self,
        tx: &mut B::SharedTx,
        steps: Vec<Step<B, P::State>>,
        consumed: usize,
        writer: Writer,
    ) -> Result<(Outcome, Option<P::State>)> {
        let mut outcome =
            Outcome { consumed, transitions: 0, failures: Vec::new(), post_process: Vec::new(), published: Vec::new() };
        let mut target = None;
        let mut published = Vec::new();
        for mut step in steps {
            if step.independent {
                match self.take_alone(tx, &mut step).await? {
                    Ok(()) => outcome.consumed += step.consumed.len(),
                    Err(error) => {
                        let events = step.consumed.into_iter().map(EventId).collect();
                        outcome.failures.push(Failure { events, error });
                        continue;
                    }
                }
            } else if let Some(effect) = step.side_effect.take() {
                self.run_effect(tx, effect, step.origin.as_ref()).await?;
                self.require_whole(B::check_intact(tx)).await?;
            }
            outcome.transitions += 1;
            let origin = step.origin;
            let caused = |message| Caused { message, writer, origin: origin.clone() };
            published.extend(step.published.into_iter().map(caused));
            outcome.post_process.extend(step.post_process);
            target = step.target.or(target);
        }
        {
            let written = in_time::<B, _>(publish_all_in::<B>(tx, published, FIRST_CLAIM_TTL)).await;
            outcome.published = written.map_err(|fault| self.during(fault))?;
        }
        Ok((outcome, target))
    }

    /// Runs an independent step in a savepoint. The inner error is the step's own failure, and rolls back only this
    /// step.
    ///
    /// The events are removed after the effect, so that no use of savepoints in the user's code can keep one and undo
    /// the other.
    async fn take_alone(&self, tx: &mut B::SharedTx, step: &mut Step<B, P::State>) -> Result<Result<(), BoxError>> {
        self.step(B::begin_step(tx)).await?;
        if let Some(effect) = step.side_effect.take()
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
    async fn require_whole(&self, found: impl Future<Output = Result<Intact, Fault>>) -> Result<()> {
        match in_time::<B, _>(found).await.map_err(|fault| self.during(fault))? {
            Intact::Whole => Ok(()),
            Intact::Ended => Err(self.misuse(Misuse::EndedTransaction)),
            Intact::Failed => Err(self.misuse(Misuse::SwallowedError)),
        }
    }

    /// Returns the error of the user's code, or a misuse when that code has also ended the transaction.
    async fn cause(&self, tx: &mut B::SharedTx, error: Error) -> Error {
        B::close_if_left_unfit(tx, &error);
        if !matches!(error, Error::Processor { .. }) {
            return error;
        }
        match in_time::<B, _>(B::check_intact(tx)).await {
            Ok(Intact::Ended) => self.misuse(Misuse::EndedTransaction),
            _ => error,
        }
    }

    fn misuse(&self, misuse: Misuse) -> Error {
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
    async fn note(&self, tx: &mut B::Connection, consumed: &[Uuid], garbage: &[Uuid]) -> Result<()> {
        let Some(names) = self.journal else { return Ok(()) };
        let turn = self.turn + 1;
        let of_consumed = names.rows(self.to, turn, consumed, JournalOutcome::Consumed);
        let rows: Vec<_> = of_consumed.chain(names.rows(self.to, turn, garbage, JournalOutcome::Garbage)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        in_time::<B, _>(B::note_journal(tx, &rows)).await.map_err(|fault| self.during(fault))
    }

    /// Sets the missing idempotency keys of messages, made from their positions in the turn.
    fn give_keys(&self, decision: &mut Decision<B, P::State>) {
        let messages = decision.steps.iter_mut().flat_map(|step| &mut step.published);
        for (ordinal, message) in (0..).zip(messages) {
            message.default_key(|message| turn_key(self.to.as_str(), self.turn + 1, ordinal, message));
        }
    }

    fn attempt(&self) -> String {
        format!("commit turn {} of {}", self.turn + 1, self.to)
    }

    fn during(&self, fault: Fault) -> Error {
        fault.during(self.attempt())
    }
}
