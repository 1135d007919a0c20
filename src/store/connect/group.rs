//! Transactions of one process that may share a commit.

use std::ops::DerefMut;

use sqlx::Pool;

use super::connection::Held;
use super::session::Session;
use crate::store::fault::Fault;

/// What a transaction is after the user's code had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intact {
    /// The transaction that was begun, and it can commit.
    Whole,
    /// It was ended, by the user's code or by the engine: what follows would commit by itself.
    Ended,
    /// A statement in it has failed, so that it can only be rolled back.
    Failed,
}

/// Write transactions that take their turns, where an engine has one writer, and share commits.
///
/// Where an engine has many writers these are plain transactions. Dropped without a commit, nothing of it happens, and what shared it is told
/// that it was contention.
pub trait GroupCommit: Session {
    /// A transaction, or a part of one.
    type SharedTx: DerefMut<Target = Self::Connection> + Send;

    /// The leave to write at once.
    type SoleWriter: Send;

    /// Leave to write with a single statement that is a transaction by itself, if nobody is writing; others wait until it is dropped.
    ///
    /// Where an engine has many writers there is always leave.
    fn try_write_now(pool: &Pool<Self>) -> Option<Self::SoleWriter>;

    /// Begins what may share its transaction with others that are short: only statements of ours, without the user's code.
    fn begin_shared(pool: &Pool<Self>) -> impl Future<Output = Result<Self::SharedTx, Fault>> + Send;

    /// Begins what has its transaction for itself, because the user's code runs in it; on the connection at hand where an engine
    /// has many writers.
    fn begin_exclusive(
        pool: &Pool<Self>,
        at_hand: Option<Held<Self>>,
    ) -> impl Future<Output = Result<Self::SharedTx, Fault>> + Send;

    /// The number of the session of a transaction that was begun alone; see [`Session::session_id`].
    fn session_of(part: &mut Self::SharedTx) -> impl Future<Output = Result<Option<i32>, Fault>> + Send;

    /// What the transaction that was begun alone is now. Asked after the user's code, before anything else is done in it.
    fn check_intact(part: &mut Self::SharedTx) -> impl Future<Output = Result<Intact, Fault>> + Send;

    /// The same, and lets the transaction commit, which the user's code could not.
    fn check_to_commit(part: &mut Self::SharedTx) -> impl Future<Output = Result<Intact, Fault>> + Send;

    /// Lets the connection go with the transaction when the error says that it is unfit.
    fn close_if_left_unfit(part: &mut Self::SharedTx, error: &(dyn std::error::Error + 'static));

    /// Commits; returns when that is durable.
    ///
    /// A dropped future may or may not have committed.
    fn commit_shared(part: Self::SharedTx) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Takes back what this part did, and nothing else.
    fn roll_back_shared(part: Self::SharedTx) -> impl Future<Output = ()> + Send;
}
