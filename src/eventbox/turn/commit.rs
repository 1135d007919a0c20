//! Commits a turn in one transaction.

use uuid::Uuid;

use super::decision::{Decision, give_keys};
use super::hooked::{Begun, of_hook};
use super::inside::{Failure, Inside, Taken};
use super::read_back::read_back;
use crate::error::{Error, Misuse, Result};
use crate::eventbox::decide::erased::AnyState;
use crate::eventbox::decide::hooks::RoundResult;
use crate::eventbox::decide::transition::PostProcess;
use crate::eventbox::emit::wake_up::in_transaction;
use crate::eventbox::event::EventId;
use crate::outbox::{FIRST_CLAIM_TTL, Stored, publish_all_in};
use crate::store::{Backend, Claimed, Held, Intact, Removed, in_time};

/// Input of the transaction of a turn.
pub(super) struct Commit<'a, B: Backend> {
    pub(super) inside: Inside<'a, B>,
    /// Whether failures of the recipient are stored; a turn without failures clears them.
    pub(super) failing: bool,
    /// First and last event, when all listed events are removed as a range.
    pub(super) range: Option<(EventId, EventId)>,
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
pub(super) struct Committed {
    pub(super) outcome: Outcome,
    /// Token of the commit.
    pub(super) token: Uuid,
    /// State that was saved; `None` when no step had one.
    pub(super) saved: Option<AnyState>,
}

impl<B: Backend> Commit<'_, B> {
    /// Commits all of the decision, or nothing; on the connection at hand, if there is one.
    pub(super) async fn run(
        &self,
        at_hand: Option<Held<B>>,
        decision: Decision<B>,
        begun: Option<&mut Begun<'_, B>>,
    ) -> Result<Committed> {
        // Boxed, because the future holds the user's code: a large future fills the stack, and moving it costs time.
        in_transaction(Box::pin(self.commit(at_hand, decision, begun))).await
    }

    async fn commit(
        &self,
        at_hand: Option<Held<B>>,
        decision: Decision<B>,
        mut begun: Option<&mut Begun<'_, B>>,
    ) -> Result<Committed> {
        let (token, inside) = (Uuid::new_v4(), &self.inside);
        let mut tx = B::begin_exclusive(inside.pool, at_hand).await.map_err(|fault| inside.during(fault))?;
        let applying = inside.writer.within(self.apply(&mut tx, token, decision, begun.as_deref_mut()));
        let (outcome, saved) = match inside.guard.within(|| inside.attempt(), applying).await {
            Ok(applied) => applied,
            Err(error) => {
                let error = self.cause(&mut tx, error).await;
                let is_of_hook = begun.is_some_and(|begun| begun.is_in_finalize());
                return Err(if is_of_hook { of_hook(error) } else { error });
            }
        };
        let whole = inside.require_whole(B::check_to_commit(&mut tx)).await;
        match &mut begun {
            // The transaction was whole before its last code.
            Some(begun) => {
                whole.map_err(of_hook)?;
                begun.commits();
            }
            None => whole?,
        }
        match B::commit_shared(tx).await {
            Ok(()) => {}
            Err(fault) if fault.lost_the_answer() => {
                read_back(inside.pool, inside.to, inside.turn, token, fault).await?;
            }
            Err(fault) => return Err(inside.during(fault)),
        }
        if let Some(begun) = begun {
            begun.settle(RoundResult::Committed);
        }
        Ok(Committed { outcome, token, saved })
    }

    /// Does everything before the commit. Returns the state that was saved, too.
    async fn apply(
        &self,
        tx: &mut B::SharedTx,
        token: Uuid,
        mut decision: Decision<B>,
        begun: Option<&mut Begun<'_, B>>,
    ) -> Result<(Outcome, Option<AnyState>)> {
        let inside = &self.inside;
        let (shard, recipient) = (inside.to.shard().into(), inside.to.as_str());
        let ids = decision.removed_together();
        let removed = match self.range {
            Some((first, last)) => Removed::Range { first: first.0, last: last.0, count: ids.len() },
            None => Removed::Ids(&ids),
        };
        let claimed = in_time::<B, _>(B::claim_turn(tx, shard, recipient, inside.turn, token, removed)).await;
        if claimed.map_err(|fault| inside.during(fault))? != Claimed::Done {
            return Err(Error::contention(inside.attempt()));
        }
        let consumed = ids.get(..ids.len() - decision.garbage.len()).unwrap_or_default();
        inside.note(tx, consumed, &decision.garbage).await?;
        inside.require_version(tx).await?;
        inside.require_whole(B::check_intact(tx)).await?;
        give_keys(inside.to, inside.turn, decision.steps.iter_mut().flat_map(|step| &mut step.published));
        let (origin, garbage) = (decision.origin.take(), decision.garbage.len());
        let (mut taken, target) = inside.take_steps(tx, decision.steps).await?;
        inside.require_some(&mut taken, garbage)?;
        let published = std::mem::take(&mut taken.published);
        let written = in_time::<B, _>(publish_all_in::<B>(tx, published, FIRST_CLAIM_TTL)).await;
        let published = written.map_err(|fault| inside.during(fault))?;
        if let Some(state) = &target {
            inside.save(tx, state, origin.as_ref()).await?;
        }
        let clears = self.failing && taken.failures.is_empty();
        if clears || begun.is_some() {
            inside.require_whole(B::check_intact(tx)).await?;
        }
        if clears {
            let cleared = in_time::<B, _>(B::clear_failures(tx, shard, recipient)).await;
            cleared.map_err(|fault| inside.during(fault))?;
        }
        if let Some(begun) = begun {
            begun.finalize(inside.pool, tx, inside.guard, vec![inside.to.clone()]).await?;
        }
        Ok((Outcome::of(taken, consumed.len(), published), target))
    }

    /// Returns the error of the user's code, or a misuse when that code has also ended the transaction.
    async fn cause(&self, tx: &mut B::SharedTx, error: Error) -> Error {
        B::close_if_left_unfit(tx, &error);
        if !matches!(error, Error::Processor { .. }) {
            return error;
        }
        match in_time::<B, _>(B::check_intact(tx)).await {
            Ok(Intact::Ended) => self.inside.misuse(Misuse::EndedTransaction),
            _ => error,
        }
    }
}

impl Outcome {
    fn of(taken: Taken, consumed: usize, published: Vec<Stored>) -> Self {
        Outcome {
            consumed: consumed + taken.consumed_alone.len(),
            transitions: taken.transitions,
            failures: taken.failures,
            post_process: taken.post_process,
            published,
        }
    }
}
