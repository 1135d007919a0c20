//! Connections of a pool for statements that commit by themselves.

use sqlx::pool::PoolConnection;
use sqlx::{Database, Pool};

use super::fault::{Fault, leaves_unfit};

/// A connection; an error of having one is of no statement, so nothing can have been committed.
pub(crate) async fn acquire<DB: Database>(pool: &Pool<DB>) -> Result<PoolConnection<DB>, Fault> {
    pool.acquire().await.map_err(Fault::before_any_statement)
}

/// The outcome of a statement; a connection that it left unfit does not go back to the pool.
pub(crate) fn closed_if_unfit<DB: Database, T>(
    conn: &mut PoolConnection<DB>,
    done: Result<T, Fault>,
) -> Result<T, Fault> {
    done.inspect_err(|fault| {
        if fault.connection_is_unfit() {
            conn.close_on_drop();
        }
    })
}

/// The same for an error that has a user's code in it.
pub(crate) fn closed_if_left_unfit<DB: Database>(
    conn: &mut PoolConnection<DB>,
    error: &(dyn std::error::Error + 'static),
) {
    if leaves_unfit(error) {
        conn.close_on_drop();
    }
}
