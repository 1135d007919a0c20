//! A round or a turn whose hooks have begun, so that the hooks learn its end in every case.

#![cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only a runtime has round hooks"))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::Pool;
use tokio::time::timeout;

use super::guard::Guard;
use crate::error::{BoxError, Error, Result};
use crate::eventbox::decide::hooks::{Round, RoundResult};
use crate::eventbox::decide::transition::panic_text;
use crate::recipient::Recipient;
use crate::store::{Backend, BoxFuture, in_time};
use crate::text::Chain;

/// The round hooks of a kind with their type erased.
pub(crate) trait ErasedHooks<B: Backend>: Send + Sync {
    /// Returns false when the wait was ended, so that nothing has begun.
    fn begin<'a>(&'a self, round: &'a Round) -> BoxFuture<'a, Result<bool, BoxError>>;

    fn finalize<'a>(&'a self, tx: &'a mut B::Connection, round: &'a Round) -> BoxFuture<'a, Result<(), BoxError>>;

    fn finish(&self, round: &Round, result: &RoundResult);
}

/// A round that has begun. Its drop reports the end that nothing else has reported.
pub(crate) struct Begun<'h, B: Backend> {
    hooks: &'h dyn ErasedHooks<B>,
    /// The round as it began.
    round: Round,
    /// The round as its transaction has it.
    inside: Option<Round>,
    /// Longest time of the last code in the transaction of a round.
    limit: Duration,
    stage: Stage,
}

enum Stage {
    Working,
    /// The answer to the commit is awaited.
    Committing,
    Settled(RoundResult),
    Reported,
}

impl<'h, B: Backend> Begun<'h, B> {
    /// Lets the hooks begin a round of these recipients; `None` when the runtime stops.
    pub(crate) async fn begin(
        hooks: &'h dyn ErasedHooks<B>,
        recipients: Vec<Recipient>,
        limit: Duration,
    ) -> Result<Option<Self>> {
        let round = Round::next(recipients);
        let beginning = AssertUnwindSafe(hooks.begin(&round)).catch_unwind();
        let begun = timeout(limit, beginning).await;
        let failed = match begun {
            // No wait stands between the end of the call and the value that reports its end.
            Ok(Ok(Ok(true))) => return Ok(Some(Begun { hooks, round, inside: None, limit, stage: Stage::Working })),
            Ok(Ok(Ok(false))) => return Ok(None),
            Ok(Ok(Err(error))) => error,
            Ok(Err(panic)) => panic_text(&*panic).into(),
            Err(_) => not_done(limit),
        };
        let (recipients, kind) = (round.recipients.len(), &round.kind);
        let attempt = format!("begin a round of {recipients} recipients of the kind {kind}");
        Err(Error::RoundHook { attempt, source: failed })
    }

    /// Sets the longest time of the last code in the transaction of a round.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the last code in the transaction of a round. There is none when no recipient has won.
    pub(crate) async fn finalize_round(
        &mut self,
        pool: &Pool<B>,
        tx: &mut B::SharedTx,
        of: Vec<Recipient>,
    ) -> Result<()> {
        let Some(first) = of.first().cloned() else { return Ok(()) };
        let guard = Guard::new(&first, self.limit);
        self.finalize(pool, tx, &guard, of).await
    }

    /// Runs the last code in the transaction, whose turns are those of these recipients.
    pub(crate) async fn finalize(
        &mut self,
        pool: &Pool<B>,
        tx: &mut B::SharedTx,
        guard: &Guard<'_>,
        of: Vec<Recipient>,
    ) -> Result<()> {
        let session = in_time::<B, _>(B::session_of(tx)).await.map_err(|fault| fault.during("finalize a round"))?;
        let round = self.inside.insert(self.round.of(of));
        let finalizing = self.hooks.finalize(tx, round);
        guard.run_on("finalize the round", pool, session, finalizing).await.map_err(of_hook)
    }

    /// Returns whether the last code in the transaction has begun, so that an error is its own.
    pub(super) fn is_in_finalize(&self) -> bool {
        self.inside.is_some()
    }

    /// Notes that the commit begins.
    pub(crate) fn commits(&mut self) {
        self.stage = Stage::Committing;
    }

    /// Notes the result of the transaction.
    pub(crate) fn settle(&mut self, result: RoundResult) {
        self.stage = Stage::Settled(result);
    }

    /// Notes that the transaction did not commit.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.settle(result_of(error));
    }

    /// Reports the end: the error, or else the noted result.
    pub(crate) fn end(mut self, error: Option<&Error>) {
        let noted = std::mem::replace(&mut self.stage, Stage::Reported);
        let result = match (error, noted) {
            (Some(error), _) => result_of(error),
            (None, Stage::Settled(result)) => result,
            (None, _) => RoundResult::Nothing,
        };
        self.report(&result);
    }

    fn report(&self, result: &RoundResult) {
        let round = match (result, &self.inside) {
            (RoundResult::Committed | RoundResult::Unknown(_), Some(inside)) => inside,
            _ => &self.round,
        };
        let told = catch_unwind(AssertUnwindSafe(|| self.hooks.finish(round, result)));
        if let Err(panic) = told {
            tracing::error!(kind = round.kind, error = panic_text(&*panic), "finish_round failed");
        }
    }
}

impl<B: Backend> Drop for Begun<'_, B> {
    fn drop(&mut self) {
        let early = || "the task of the round ended early".to_owned();
        let result = match std::mem::replace(&mut self.stage, Stage::Reported) {
            Stage::Working => RoundResult::Failed(early()),
            Stage::Committing => RoundResult::Unknown(early()),
            Stage::Settled(result) => result,
            Stage::Reported => return,
        };
        self.report(&result);
    }
}

/// Makes a failure of the user's code one of a hook, for which no event is blamed.
pub(crate) fn of_hook(error: Error) -> Error {
    match error {
        Error::Processor { attempt, source } => Error::RoundHook { attempt, source },
        Error::Deadline { attempt, limit } => Error::RoundHook { attempt, source: not_done(limit) },
        Error::Misuse { attempt, misuse } => Error::RoundHook { attempt, source: misuse.into() },
        other => other,
    }
}

fn not_done(limit: Duration) -> BoxError {
    format!("not done within {limit:?}").into()
}

fn result_of(error: &Error) -> RoundResult {
    let text = Chain(error).to_string();
    if matches!(error, Error::Unknown { .. }) { RoundResult::Unknown(text) } else { RoundResult::Failed(text) }
}
