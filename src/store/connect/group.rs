//! Transactions of one process that may share a commit.

use std::ops::DerefMut;

use sqlx::Pool;

use super::connection::Held;
use super::session::Session;
use crate::store::fault::Fault;

/// State of a transaction after the user's code had its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intact {
    /// The transaction is open, and can commit.
    Whole,
    /// The user's code or the engine ended the transaction. Further statements would commit by themselves.
    Ended,
    /// A statement of the transaction failed, so that the transaction can only be rolled back.
    Failed,
}

/// Write transactions. Where an engine has one writer, they wait in a queue and share commits.
///
/// Where an engine has many writers, these are plain transactions. A part that is dropped without a commit has no
/// effect, and the parts that shared its transaction get an error of contention.
pub trait GroupCommit: Session {
    /// A transaction, or a part of one.
    type SharedTx: DerefMut<Target = Self::Connection> + Send;

    /// Permission to write one statement without the queue.
    type SoleWriter: Send;

    /// Returns the permission to write one statement that is a transaction by itself, if no other transaction is
    /// writing. Other writers wait until the permission is dropped.
    ///
    /// Where an engine has many writers the permission is always there.
    fn try_write_now(pool: &Pool<Self>) -> Option<Self::SoleWriter>;

    /// Begins a part that may share its transaction with other short parts: only statements of the library, without the
    /// user's code.
    fn begin_shared(pool: &Pool<Self>) -> impl Future<Output = Result<Self::SharedTx, Fault>> + Send;

    /// Begins a part that has its transaction for itself, because the user's code runs in it.
    ///
    /// An engine with many writers uses the connection at hand.
    fn begin_exclusive(
        pool: &Pool<Self>,
        at_hand: Option<Held<Self>>,
    ) -> impl Future<Output = Result<Self::SharedTx, Fault>> + Send;

    /// Returns the number of the session of a part; `None` where there is no server.
    fn session_of(_part: &mut Self::SharedTx) -> impl Future<Output = Result<Option<i32>, Fault>> + Send {
        std::future::ready(Ok(None))
    }

    /// Returns the state of an exclusive transaction. Called after the user's code, before any other statement.
    fn check_intact(part: &mut Self::SharedTx) -> impl Future<Output = Result<Intact, Fault>> + Send;

    /// Does what [`check_intact`](GroupCommit::check_intact) does, and then permits the commit. The user's code has no
    /// such permission.
    fn check_to_commit(part: &mut Self::SharedTx) -> impl Future<Output = Result<Intact, Fault>> + Send;

    /// Closes the connection with the transaction when the error leaves the connection unfit.
    fn close_if_left_unfit(part: &mut Self::SharedTx, error: &(dyn std::error::Error + 'static));

    /// Commits. Returns when the commit is durable.
    ///
    /// A dropped future may or may not have committed.
    fn commit_shared(part: Self::SharedTx) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Rolls back this part, and no other part.
    fn roll_back_shared(part: Self::SharedTx) -> impl Future<Output = ()> + Send;
}
