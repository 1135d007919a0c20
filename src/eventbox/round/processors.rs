//! Rounds of a processor: the user's code decides, and then works in the transaction, one recipient after the other.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use super::commit::{Halt, Slice, require_whole};
use super::loading::{Decided, require_count};
use super::ready::{Ended, Ready};
use super::{Listed, Way};
use crate::error::{BoxError, Error, Result};
use crate::eventbox::decide::erased::{AnyState, ErasedProcessor};
use crate::eventbox::decide::processor::EVersion;
use crate::eventbox::turn::decision::{Decision, Step};
use crate::eventbox::turn::guard::Guard;
use crate::eventbox::turn::inside::{Inside, Taken};
use crate::eventbox::turn::kept_state::KeptState;
use crate::origin::{self, SharedOrigin};
use crate::recipient::Recipient;
use crate::store::{Backend, in_time};

/// Bounds of the user's code in a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodeLimits {
    /// Longest time of one attempt of a turn.
    pub(crate) turn_deadline: Duration,
    /// Longest time that the recipients of a round wait for each other.
    pub(crate) patience: Duration,
    /// Most decisions that run at the same time.
    pub(crate) decisions_at_once: NonZeroUsize,
}

impl CodeLimits {
    /// Returns the longest time of the loads, of the decisions, and of the code in the transaction.
    pub(crate) fn longest(&self) -> Duration {
        self.turn_deadline.min(self.patience)
    }
}

/// The way of a processor.
pub(crate) struct ProcessorWay<B: Backend> {
    pub(super) processor: Arc<dyn ErasedProcessor<B>>,
    pub(super) limits: CodeLimits,
}

impl<B: Backend> Clone for ProcessorWay<B> {
    fn clone(&self) -> Self {
        ProcessorWay { processor: Arc::clone(&self.processor), limits: self.limits }
    }
}

impl<B: Backend> ProcessorWay<B> {
    pub(crate) fn new(processor: &Arc<dyn ErasedProcessor<B>>, limits: CodeLimits) -> Self {
        ProcessorWay { processor: Arc::clone(processor), limits }
    }

    /// Returns the state for the next turn, if the processor lets the library keep it.
    pub(super) fn keep(&self, turn: i64, token: Uuid, state: AnyState, eversion: EVersion) -> Option<KeptState> {
        KeptState::new(|state| self.processor.kept_bytes(state), turn, token, state, eversion)
    }
}

/// What a decision of a processor brings into the transaction.
pub(crate) struct Part<B: Backend> {
    steps: Vec<Step<B>>,
    origin: Option<SharedOrigin>,
    /// State that was decided on.
    state: AnyState,
    eversion: EVersion,
    /// State to save.
    target: Option<AnyState>,
    /// What the steps have done.
    taken: Taken,
    /// Span of the turn.
    span: tracing::Span,
}

impl<B: Backend> Part<B> {
    pub(super) fn new(decision: Decision<B>, state: AnyState, eversion: EVersion, span: tracing::Span) -> Self {
        let Decision { steps, origin, .. } = decision;
        Part { steps, origin, state, eversion, target: None, taken: Taken::default(), span }
    }

    /// Returns whether the code of a side effect runs for it.
    fn has_effect(&self) -> bool {
        self.steps.iter().any(Step::has_effect)
    }
}

/// The code of the winners of a round in its transaction.
struct Working<'a, B: Backend> {
    pool: &'a Pool<B>,
    processor: &'a dyn ErasedProcessor<B>,
    limit: Duration,
    began: Instant,
    /// Winners, as one call for all of them gets them.
    of: Vec<Recipient>,
    /// The versions of the winners, when one call reads them.
    versions: Option<Vec<EVersion>>,
    /// Whether the states are saved behind the last side effect, in one call if the processor has one for it.
    saves_later: bool,
}

impl<B: Backend> Way<B> for ProcessorWay<B> {
    type Left = KeptState;
    type Part = Part<B>;
    const RUNS_CODE: bool = true;

    async fn decide(&self, pool: &Pool<B>, listed: Vec<Listed<Self::Left>>) -> Vec<Decided<B>> {
        self.load_and_decide(pool, listed).await
    }

    async fn run(
        &self,
        pool: &Pool<B>,
        tx: &mut B::SharedTx,
        slice: &mut Slice<Self::Part>,
        won: &[usize],
    ) -> Result<(), Halt> {
        if won.is_empty() {
            return Ok(());
        }
        let of = winners(slice, won).map(|(_, ready, _)| ready.to.clone()).collect();
        let mut working = Working {
            pool,
            processor: &*self.processor,
            limit: self.limits.longest(),
            began: Instant::now(),
            of,
            versions: None,
            saves_later: false,
        };
        let has_effects = winners(slice, won).any(|(_, _, part)| part.has_effect());
        working.versions = working.fetch_versions(tx).await?;
        // A side effect may write what another recipient of the round has loaded. Unless the versions of all can be
        // compared once more behind the effects, each state is saved in its place.
        working.saves_later = working.versions.is_some() || !has_effects;
        for (place, at) in won.iter().copied().enumerate() {
            let (Some(ready), Some(part)) = (slice.ready.get_mut(at), slice.parts.get_mut(at)) else { continue };
            let span = part.span.clone();
            let worked = working.work_on(tx, place, ready, part).instrument(span).await;
            worked.map_err(|error| Halt::One(at, error))?;
        }
        if !working.saves_later {
            return Ok(());
        }
        if has_effects {
            let loaded = winners(slice, won).map(|(at, ready, part)| (at, &ready.to, part.eversion)).collect();
            working.compare_again(tx, loaded).await?;
        }
        let saving = winners(slice, won).filter_map(|(at, ready, part)| Saving::of(at, ready, part)).collect();
        working.save_all(tx, saving).await
    }

    fn ended(&self, ready: &mut Ready, part: Self::Part, token: Uuid) -> Ended<Self::Left> {
        let eversion = if part.target.is_some() { part.eversion.next() } else { part.eversion };
        let state = part.target.unwrap_or(part.state);
        Ended {
            left: self.keep(ready.turn + 1, token, state, eversion),
            transitions: part.taken.transitions,
            consumed_alone: part.taken.consumed_alone,
            failures: part.taken.failures,
            hooks: part.taken.post_process,
        }
    }
}

impl<B: Backend> Working<'_, B> {
    fn attempt(&self) -> String {
        format!("commit a round of {} recipients", self.of.len())
    }

    async fn session_of(&self, tx: &mut B::SharedTx) -> Result<Option<i32>> {
        in_time::<B, _>(B::session_of(tx)).await.map_err(|fault| fault.during(self.attempt()))
    }

    /// Runs one call of the user's code for all winners.
    async fn call<T>(
        &self,
        step: &str,
        session: Option<i32>,
        call: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, Halt> {
        let Some(first) = self.of.first() else { return Err(Halt::Code(Error::contention(self.attempt()))) };
        let guard = Guard::since(first, self.limit, self.began);
        guard.run_on(step, self.pool, session, call).await.map_err(Halt::Code)
    }

    /// Lets the user's code read the versions of all winners in one call; `None` when it reads them one by one.
    async fn fetch_versions(&self, tx: &mut B::SharedTx) -> Result<Option<Vec<EVersion>>, Halt> {
        let session = self.session_of(tx).await?;
        let fetched = self.processor.fetch_eversions(tx, &self.of);
        let fetched = self.call("fetch the eversions", session, fetched).await?;
        if let Some(versions) = &fetched {
            require_whole::<B>(&self.attempt(), B::check_intact(tx)).await?;
            require_count("fetch_eversions", versions, self.of.len()).map_err(Halt::Code)?;
        }
        Ok(fetched)
    }

    /// Checks the version of a winner and runs its steps, and saves its state, unless that comes later.
    async fn work_on(&self, tx: &mut B::SharedTx, place: usize, ready: &mut Ready, part: &mut Part<B>) -> Result<()> {
        let guard = Guard::since(&ready.to, self.limit, self.began);
        let inside = self.inside(&guard, ready, part.eversion);
        let steps = std::mem::take(&mut part.steps);
        match self.versions.as_ref().and_then(|versions| versions.get(place)) {
            Some(now) => inside.require_loaded(*now)?,
            None => {
                inside.require_version(tx).await?;
                // The next statement writes; else the reads of all are checked together.
                if !self.saves_later || steps.iter().any(|step| step.independent) {
                    inside.require_whole(B::check_intact(tx)).await?;
                }
            }
        }
        let (mut taken, target) = inside.writer.within(inside.take_steps(tx, steps)).await?;
        inside.require_some(&mut taken, ready.garbage)?;
        if let Some(state) = target.as_ref().filter(|_| !self.saves_later) {
            inside.writer.within(inside.save(tx, state, part.origin.as_ref())).await?;
        }
        (ready.emitted, ready.published) = (std::mem::take(&mut taken.emitted), std::mem::take(&mut taken.published));
        (part.taken, part.target) = (taken, target);
        Ok(())
    }

    fn inside<'i>(&'i self, guard: &'i Guard<'i>, ready: &'i Ready, eversion: EVersion) -> Inside<'i, B> {
        Inside {
            pool: self.pool,
            to: &ready.to,
            processor: self.processor,
            guard,
            turn: ready.turn,
            eversion,
            writer: ready.writer(),
            journal: ready.journal.as_ref(),
            gathers_emits: true,
        }
    }

    /// Compares the versions once more behind the side effects, which may have written entities of other recipients.
    async fn compare_again(
        &self,
        tx: &mut B::SharedTx,
        loaded: Vec<(usize, &Recipient, EVersion)>,
    ) -> Result<(), Halt> {
        let Some(versions) = self.fetch_versions(tx).await? else {
            return Err(Halt::Code(Error::contention(self.attempt())));
        };
        for ((at, to, loaded), now) in loaded.into_iter().zip(versions) {
            if now != loaded {
                let (now, loaded) = (now.0, loaded.0);
                let attempt = format!("save the state of {to} at eversion {now}, loaded {loaded}");
                return Err(Halt::One(at, Error::contention(attempt)));
            }
        }
        Ok(())
    }

    /// Saves states, in one call if the processor has one for it.
    async fn save_all(&self, tx: &mut B::SharedTx, saving: Vec<Saving<'_>>) -> Result<(), Halt> {
        if saving.is_empty() {
            return Ok(());
        }
        if self.versions.is_none() {
            // The code that read the versions may have ended the transaction.
            require_whole::<B>(&self.attempt(), B::check_intact(tx)).await?;
        }
        let states: Vec<_> = saving.iter().map(|its| (&its.ready.to, its.state, its.eversion.next())).collect();
        let origin = SharedOrigin::merged(saving.iter().filter_map(|its| its.origin));
        let session = self.session_of(tx).await?;
        let saved = origin::within(origin.as_ref(), self.processor.save_states(tx, &states));
        if self.call("save the states", session, saved).await? {
            return Ok(());
        }
        for its in saving {
            let guard = Guard::since(&its.ready.to, self.limit, self.began);
            let inside = self.inside(&guard, its.ready, its.eversion);
            let saved = inside.writer.within(inside.save(tx, its.state, its.origin)).await;
            saved.map_err(|error| Halt::One(its.at, error))?;
            let whole = inside.require_whole(B::check_intact(tx)).await;
            whole.map_err(|error| Halt::One(its.at, error))?;
        }
        Ok(())
    }
}

/// Returns the recipients that won, with their indexes.
fn winners<'s, P>(slice: &'s Slice<P>, won: &'s [usize]) -> impl Iterator<Item = (usize, &'s Ready, &'s P)> {
    won.iter().filter_map(|at| Some((*at, slice.ready.get(*at)?, slice.parts.get(*at)?)))
}

/// A state to save behind all side effects.
struct Saving<'a> {
    at: usize,
    ready: &'a Ready,
    state: &'a AnyState,
    /// Version that was loaded.
    eversion: EVersion,
    origin: Option<&'a SharedOrigin>,
}

impl<'a> Saving<'a> {
    fn of<B: Backend>(at: usize, ready: &'a Ready, part: &'a Part<B>) -> Option<Self> {
        let state = part.target.as_ref()?;
        Some(Saving { at, ready, state, eversion: part.eversion, origin: part.origin.as_ref() })
    }
}
