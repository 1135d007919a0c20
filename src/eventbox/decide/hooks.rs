//! The trait that a user implements to wrap the transactions of a kind.

#![cfg_attr(not(feature = "runtime"), allow(dead_code, unreachable_pub, reason = "only a runtime has round hooks"))]

use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::BoxError;
use crate::recipient::Recipient;
use crate::store::Backend;

/// Number of the last round with hooks.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Wraps each transaction in which a Runtime commits turns of a kind: waits before it, writes at its end, and learns
/// its result.
///
/// [`RuntimeBuilder::round_hooks`](crate::runtime::RuntimeBuilder::round_hooks) registers the hooks of a kind of
/// processors or reducers. They are for what turns share:
///
/// * a semaphore that bounds heavy rounds: [`begin_round`](RoundHooks::begin_round) takes a permit, and
///   [`finish_round`](RoundHooks::finish_round) gives it back
/// * a cache that many turns write to, and that [`finalize`](RoundHooks::finalize) writes with one statement
///
/// The three methods run in this order, once for each attempt of a round. A turn of a single recipient is a round with
/// one recipient, with the same calls: also a turn that is tried again, and one that searches for a bad event.
///
/// | | begin_round | the code of the kind | finalize | finish_round |
/// | --- | --- | --- | --- | --- |
/// | the round commits | yes | yes | yes | [`Committed`](RoundResult::Committed) |
/// | the code decides nothing, or other writers came first | yes | yes | no | [`Nothing`](RoundResult::Nothing) |
/// | the code fails | yes | yes | no | [`Failed`](RoundResult::Failed) |
/// | `finalize` fails | yes | yes | yes | [`Failed`](RoundResult::Failed) |
/// | the task is cancelled or panics | yes | perhaps | perhaps | `Failed`, or [`Unknown`](RoundResult::Unknown) |
/// | `begin_round` fails, panics or is ended by a stop | yes | no | no | no call |
///
/// Each method does nothing when not overridden. Write the first two as plain `async fn`. Rounds of a kind may overlap,
/// so a cache must know which [recipient](Round::recipients) each entry is of. A recipient is in one round at a time.
///
/// A round that would write more than
/// [`max_event_bytes`](crate::runtime::RuntimeConfig::max_event_bytes) commits a part of its recipients, in one
/// transaction; the others wait for the next round.
///
/// Turns that [`process_batch`](crate::process_batch) and [`reduce_batch`](crate::reduce_batch) run have no hooks.
///
/// # Errors
///
/// No event is blamed for a failure of these methods, and none goes into quarantine, whatever the error is. The
/// recipients back off, at most five seconds. [`health`](crate::runtime::Runtime::health) has the text of the error.
///
/// # Examples
///
/// At most two rounds of a kind at the same time; see `examples/aggregate.rs` for a cache.
///
/// ```
/// use eventbox::runtime::{Round, RoundHooks, RoundResult};
/// use eventbox::{Backend, BoxError};
/// use tokio::sync::Semaphore;
///
/// struct AtMost(Semaphore);
///
/// impl<B: Backend> RoundHooks<B> for AtMost {
///     async fn begin_round(&self, _round: &Round) -> Result<(), BoxError> {
///         self.0.acquire().await?.forget();
///         Ok(())
///     }
///
///     fn finish_round(&self, _round: &Round, _result: &RoundResult) {
///         self.0.add_permits(1);
///     }
/// }
///
/// let hooks = AtMost(Semaphore::new(2));
/// # let _ = hooks;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no `RoundHooks` on `{B}`",
    note = "implement `begin_round` and `finalize` as `async fn`, and `finish_round` as `fn`, for this engine"
)]
pub trait RoundHooks<B: Backend>: Send + Sync {
    /// Waits until a round may begin.
    ///
    /// It runs before anything of the round is read, and holds no connection of the library. While it waits, the round
    /// keeps its place among [`rounds`](crate::runtime::RuntimeConfig::rounds), and a single turn among
    /// [`workers`](crate::runtime::RuntimeConfig::workers). The recipients are those that will be listed.
    ///
    /// # Units and limits
    ///
    /// [`turn_deadline`](crate::runtime::RuntimeConfig::turn_deadline) bounds the wait, and is then the error. A stop
    /// of the Runtime ends the wait at once, and is no error.
    ///
    /// # Errors
    ///
    /// Nothing of the round is read, and [`finish_round`](RoundHooks::finish_round) is not called. All recipients back
    /// off, and then are in rounds again. An [`Outage`](crate::Outage) names the pause.
    ///
    /// # Cancel safety
    ///
    /// A call may be dropped while it waits. What it takes must go back then, as a permit of a semaphore does.
    fn begin_round(&self, _round: &Round) -> impl Future<Output = Result<(), BoxError>> + Send {
        ready(Ok(()))
    }

    /// Writes what the turns of the round share, in their transaction: called once, behind all side effects, saves,
    /// emits and messages, directly before the commit.
    ///
    /// The recipients are those whose turns commit with this transaction. The rules of a
    /// [`SideEffect`](crate::SideEffect) hold: `tx` may run any statement and emit events, and must not end the
    /// transaction. A finalize that ends it is [`Misuse`](crate::Misuse), and nothing of the round is applied.
    ///
    /// A round of a reducer needs no `BEGIN` without hooks. With hooks it has a transaction.
    ///
    /// # Units and limits
    ///
    /// In a round it may take [`processor_round_time`](crate::runtime::RuntimeConfig::processor_round_time) times
    /// [`ROUND_PATIENCE`](crate::runtime::ROUND_PATIENCE), and a statement waits at most 200 ms for a lock on Postgres.
    /// A single turn has what its code has left of [`turn_deadline`](crate::runtime::RuntimeConfig::turn_deadline).
    ///
    /// # Errors
    ///
    /// The transaction is rolled back. Each recipient of a round then gets a turn of its own, with a finalize of its
    /// own. Where that fails, the turn fails: contention is retried at once, and after another error the recipient
    /// backs off. Refuse bad data in the decision: an error here blocks the recipient until the cause is repaired.
    ///
    /// # Cancel safety
    ///
    /// A call may be dropped in the middle; then the transaction is rolled back.
    fn finalize(&self, _tx: &mut B::Connection, _round: &Round) -> impl Future<Output = Result<(), BoxError>> + Send {
        ready(Ok(()))
    }

    /// Learns the result of a round: called exactly once for each [`begin_round`](RoundHooks::begin_round) that
    /// succeeded, also when the round is cancelled or panics.
    ///
    /// It comes when the database has answered the commit, and before the post-process hooks of the turns. After a lost
    /// answer it comes when the commit has been read back. Do not block: it may run in a drop. A panic in it is logged.
    ///
    /// The recipients are those of the commit after [`Committed`](RoundResult::Committed) and
    /// [`Unknown`](RoundResult::Unknown), else those of `begin_round`.
    fn finish_round(&self, _round: &Round, _result: &RoundResult) {}
}

/// A round of one kind: recipients whose turns commit in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Round {
    /// Number of the round, the same in all three calls and different from every other round of this process.
    pub number: u64,
    /// Kind of the recipients.
    pub kind: String,
    /// Recipients of the round, none twice: see the methods of [`RoundHooks`].
    pub recipients: Vec<Recipient>,
}

impl Round {
    /// Makes the next round of these recipients, which have one kind.
    pub(crate) fn next(recipients: Vec<Recipient>) -> Self {
        let kind = recipients.first().map(Recipient::kind).unwrap_or_default().to_owned();
        Round { number: LAST.fetch_add(1, Ordering::Relaxed) + 1, kind, recipients }
    }

    /// Returns the same round with the recipients of its transaction.
    pub(crate) fn of(&self, recipients: Vec<Recipient>) -> Self {
        Round { number: self.number, kind: self.kind.clone(), recipients }
    }
}

/// Result of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoundResult {
    /// The transaction committed.
    Committed,
    /// There was nothing to commit: no event was left, the code decided nothing, or other writers came first.
    Nothing,
    /// The transaction was rolled back, or did not begin. The text is that of the error with its causes.
    Failed(String),
    /// The answer to the commit was lost, or the task ended while it waited for the answer. The events of the round are
    /// consumed, or still there. The text says why.
    Unknown(String),
}
