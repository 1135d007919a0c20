//! Transactions of the library, on connections that it holds.

use std::ops::{Deref, DerefMut};

#[cfg(feature = "postgres")]
use sqlx::{Connection, Transaction, pool::MaybePoolConnection};
use sqlx::{Pool, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use tokio::time::timeout;

use super::connection::{Held, give_back_last, hold, hold_for_user, no_answer, sift};
use super::session::Session;
use crate::store::fault::Fault;

/// Number of connections on which a transaction is tried when the pool gives unfit connections.
const BEGIN_ATTEMPTS: usize = 3;

/// A transaction of the library. Its drop without a commit rolls it back.
#[cfg_attr(not(feature = "postgres"), allow(unreachable_pub, reason = "Postgres names it in a public trait"))]
pub struct Tx<B: Session> {
    held: Held<B>,
}

/// Begins a transaction that writes from its first statement. `statement` begins it.
///
/// Runs in a separate task, so that a caller who gives up does not interrupt the `BEGIN`. A connection that does not
/// answer the `BEGIN` is closed.
pub(crate) async fn begin<B: Session>(
    pool: &Pool<B>,
    statement: &'static str,
    is_for_user: bool,
) -> Result<Tx<B>, Fault> {
    begin_on(pool, None, statement, is_for_user).await
}

/// Does the same, on a connection at hand if there is one.
pub(crate) async fn begin_on<B: Session>(
    pool: &Pool<B>,
    mut at_hand: Option<Held<B>>,
    statement: &'static str,
    is_for_user: bool,
) -> Result<Tx<B>, Fault> {
    // Before the task, which does not see the connection that this work released.
    give_back_last(true);
    let pool = pool.clone();
    let begun = tokio::spawn(async move {
        let mut begun = Err(no_answer());
        for _ in 0..BEGIN_ATTEMPTS {
            let held = match at_hand.take() {
                Some(held) => Ok(held),
                None if is_for_user => hold_for_user(&pool).await,
                None => hold(&pool).await,
            };
            begun = match held {
                Ok(held) => begin_here(&pool, held, statement).await,
                Err(fault) => Err(fault),
            };
            if !matches!(begun, Err(Fault(sqlx::Error::InvalidSavePointStatement | sqlx::Error::BeginFailed))) {
                break;
            }
        }
        begun
    });
    begun.await.unwrap_or(Err(Fault(sqlx::Error::WorkerCrashed)))
}

async fn begin_here<B: Session>(pool: &Pool<B>, mut held: Held<B>, statement: &'static str) -> Result<Tx<B>, Fault> {
    if held.depth() > 0 && !B::repair(&mut held.conn).await {
        held.is_fit = false;
        return Err(Fault(sqlx::Error::BeginFailed));
    }
    let begin = B::TransactionManager::begin(&mut held.conn, Some(statement.into_sql_str()));
    match timeout(B::ANSWER_WAIT, begin).await {
        Ok(Ok(())) => {
            held.has_transaction = true;
            if held.before.is_some() {
                held.lend();
            }
            Ok(Tx { held })
        }
        Ok(Err(error)) => {
            held.is_fit = B::begins_whole(&error);
            Err(Fault::before_any_statement(error))
        }
        Err(_) => {
            held.is_fit = false;
            sift(pool);
            Err(Fault::before_any_statement(no_answer().0))
        }
    }
}

/// Begins a transaction of sqlx, for the caller.
///
/// sqlx has no bound for a `BEGIN`, and its transaction cannot be closed from outside. So the library asks the
/// connection first whether it is alive, which has a bound.
#[cfg(feature = "postgres")]
pub(crate) async fn begin_for_caller<B: Session>(
    pool: &Pool<B>,
    statement: &'static str,
) -> Result<Transaction<'static, B>, Fault> {
    let pool = pool.clone();
    // In a separate task, so that a caller who gives up does not interrupt the `BEGIN`.
    let begun = tokio::spawn(async move {
        let acquired = timeout(B::ANSWER_WAIT, pool.acquire()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let mut conn = acquired.map_err(Fault::before_any_statement)?;
        if !matches!(timeout(B::ANSWER_WAIT, conn.ping()).await, Ok(Ok(()))) {
            // The drop closes the connection and frees its place in the pool.
            drop(conn.return_to_pool());
            sift(&pool);
            return Err(Fault::before_any_statement(no_answer().0));
        }
        let begun = Transaction::begin(MaybePoolConnection::PoolConnection(conn), Some(statement.into_sql_str()));
        begun.await.map_err(Fault::before_any_statement)
    });
    begun.await.unwrap_or(Err(Fault(sqlx::Error::WorkerCrashed)))
}

impl<B: Session> Tx<B> {
    /// Commits.
    ///
    /// A dropped future may or may not have committed.
    pub(crate) async fn commit(mut self) -> Result<(), Fault> {
        let held = &mut self.held;
        if held.depth() != 1 {
            held.is_fit = false;
            return Err(Fault(sqlx::Error::InvalidSavePointStatement));
        }
        match timeout(B::ANSWER_WAIT, B::TransactionManager::commit(&mut held.conn)).await {
            Ok(Ok(())) => {
                held.has_transaction = false;
                held.is_disturbed = false;
                Ok(())
            }
            Ok(Err(error)) => held.close_if_unfit(Err(Fault(error))),
            Err(_) => {
                held.is_fit = false;
                Err(no_answer())
            }
        }
    }

    /// Rolls back. A connection that cannot be rolled back is closed.
    pub(crate) async fn rollback(mut self) {
        let held = &mut self.held;
        for _ in 0..held.depth() {
            let rolled_back = timeout(B::RELEASE_WAIT, B::TransactionManager::rollback(&mut held.conn)).await;
            if !matches!(rolled_back, Ok(Ok(()))) {
                held.is_fit = matches!(rolled_back, Ok(Err(_))) && B::repair(&mut held.conn).await;
                break;
            }
        }
        held.has_transaction = false;
    }

    /// As [`Held::close_if_left_unfit`].
    pub(crate) fn close_if_left_unfit(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.held.close_if_left_unfit(error);
    }

    /// Returns the number of the session. Asks the server when the number is not known yet.
    pub(crate) async fn session_id(&mut self) -> Result<Option<i32>, Fault> {
        self.held.session_id().await
    }

    /// Returns whether the driver still counts exactly the transaction that was begun.
    pub(crate) fn is_counted(&self) -> bool {
        self.held.depth() == 1
    }
}

impl<B: Session> Deref for Tx<B> {
    type Target = B::Connection;

    fn deref(&self) -> &B::Connection {
        &self.held
    }
}

impl<B: Session> DerefMut for Tx<B> {
    fn deref_mut(&mut self) -> &mut B::Connection {
        &mut self.held
    }
}

impl<B: Session> std::fmt::Debug for Tx<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("is_counted", &self.is_counted()).finish_non_exhaustive()
    }
}
