//! The session of a connection: settings and locks besides the transaction, and how the library restores them.

use std::time::Duration;

use sqlx::{Database, Pool};

use crate::store::fault::Fault;

/// The session of a connection. It outlives a transaction and goes back to the pool.
pub trait Session: Database {
    /// Time that the library waits for the answer to a statement of its own.
    const ANSWER_WAIT: Duration;

    /// Time that a connection may take to go back to its pool.
    const RELEASE_WAIT: Duration;

    /// State of a session before the user's code used it.
    type Before: Send + 'static;

    /// Notes the state of the session before the user's code uses it.
    fn note_session(
        pool: &Pool<Self>,
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<Self::Before, Fault>> + Send;

    /// Returns whether the session is in the noted state.
    fn is_unchanged(
        conn: &mut Self::Connection,
        before: &Self::Before,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Restores the noted state of the session, outside a transaction. Returns false when the connection must be closed
    /// instead.
    fn restore_session(
        conn: &mut Self::Connection,
        before: Self::Before,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns whether no transaction is open, whatever the driver counts.
    fn is_outside_transaction(conn: &mut Self::Connection) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns the number by which other sessions find this session on the server; `None` where there is no server.
    fn session_id(conn: &mut Self::Connection) -> impl Future<Output = Result<Option<i32>, Fault>> + Send;

    /// Asks the server, over a connection of its own, whether the session still gets statements from its client.
    ///
    /// Returns false when the server cannot be reached, does not know the session, or has waited for its next statement
    /// for [`IDLE_LIMIT`](super::connection::IDLE_LIMIT). Returns true when the server refuses to answer.
    fn is_alive(pool: &Pool<Self>, session_id: i32) -> impl Future<Output = bool> + Send;

    /// Ends any open transaction, and makes the driver count none. Returns false when the connection must be closed
    /// instead.
    fn repair(conn: &mut Self::Connection) -> impl Future<Output = bool> + Send;

    /// Returns whether a connection on which a `BEGIN` failed in this way has no transaction, and may be used again.
    fn begins_whole(error: &sqlx::Error) -> bool;
}
