//! Connections that the library holds. Every wait on them has a bound, and an unfit connection never goes back to its
//! pool.
//!
//! Before sqlx gives a connection back to its pool, it asks whether the connection is still there. When the connection
//! is dead, that question waits until the operating system gives up, and keeps a place of the pool. So the library
//! gives its connections back by itself, within a bound.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, Pool};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::session::Session;
use crate::store::fault::{Fault, leaves_unfit};

/// Time that the library waits on Postgres for a connection of a pool, and for the answer to a statement of its own.
///
/// After this time the library closes the connection. The attempted work is transient, or unknown when it was a commit.
/// The steps of the user's code have [`IDLE_LIMIT`] and the deadline of their turn instead.
pub const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Time that a connection of Postgres may take to be rolled back, to be cleaned and to go back to its pool. After this
/// time the library closes the connection.
pub const RELEASE_WAIT: Duration = Duration::from_secs(2);

/// Time for which a step of the user's code may leave its connection idle on Postgres, before the library takes the
/// connection for dead.
///
/// When a step takes longer, the library asks the server for the session of the step. A step that computes or calls a
/// service for longer, while it holds the connection, fails as transient. Call services in `prepare_mutation`: the turn
/// gives the connection back when this method waits.
pub const IDLE_LIMIT: Duration = Duration::from_secs(8);

/// Interval at which the library asks for the session of a step that takes longer than [`IDLE_LIMIT`].
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Returns the error of a wait that reached its bound.
pub(super) fn no_answer() -> Fault {
    let text = format!("the database did not answer within {ANSWER_WAIT:?}, so the connection was closed");
    Fault(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
}

tokio::task_local! {
    /// The connection that the work of an [`answered`] released last. It waits for the outcome of its statement.
    static LET_GO: RefCell<Option<Box<dyn GiveBack>>>;
}

/// Waits for work that takes connections by [`hold`]. After [`ANSWER_WAIT`] it drops the work, which closes the
/// connection.
///
/// An error that leaves a connection unfit closes the connection that the work used last.
pub(crate) async fn answered<B: Session, T>(
    pool: &Pool<B>,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    // Boxed, because each of the futures around it would be as large again, and such work is nested.
    let work = Box::pin(work);
    let work = LET_GO.scope(RefCell::default(), async {
        let done = work.await;
        give_back_last(!done.as_ref().is_err_and(Fault::connection_is_unfit));
        done
    });
    match timeout(B::ANSWER_WAIT, work).await {
        Ok(done) => done,
        Err(_) => {
            sift(pool);
            Err(no_answer())
        }
    }
}

/// Waits for a step of the user's code that holds the connection with this session, as long as the server gets
/// statements from the session.
///
/// A statement may take its time, but an answer from a dead connection never comes.
pub(crate) async fn while_alive<B: Session, T>(
    pool: &Pool<B>,
    session_id: Option<i32>,
    step: impl Future<Output = T>,
) -> Result<T, Fault> {
    let Some(session_id) = session_id else { return Ok(step.await) };
    let mut step = pin!(step);
    let mut wait = IDLE_LIMIT;
    loop {
        match timeout(wait, &mut step).await {
            Ok(done) => return Ok(done),
            Err(_) if B::is_alive(pool, session_id).await => wait = LOOK_INTERVAL,
            Err(_) => {
                sift(pool);
                let text = format!(
                    "the connection died, or the code left it idle for {IDLE_LIMIT:?} \
                     (call services in prepare_mutation)"
                );
                return Err(Fault(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))));
            }
        }
    }
}

/// Gives back, or closes, the connection that this work released last.
pub(super) fn give_back_last(is_fit: bool) {
    // Outside an `answered` each connection goes back by itself.
    if let Ok(Some(last)) = LET_GO.try_with(RefCell::take) {
        last.give_back(is_fit);
    }
}

/// Does the same for a statement on a connection that the caller holds already. The caller drops the connection after
/// an error.
pub(crate) async fn in_time<B: Session, T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(B::ANSWER_WAIT, work).await.unwrap_or_else(|_| Err(no_answer()))
}

/// Asks the idle connections of a pool for an answer, and closes those that do not answer.
///
/// A dead connection is seldom alone, and each other dead connection would cost a whole wait.
pub(super) fn sift<B: Session>(pool: &Pool<B>) {
    for _ in 0..pool.num_idle() {
        let Some(mut conn) = pool.try_acquire() else { return };
        tokio::spawn(timeout(B::RELEASE_WAIT, conn.return_to_pool()));
    }
}

/// A connection of a pool, held by the library.
#[cfg_attr(not(feature = "postgres"), allow(unreachable_pub, reason = "Postgres names it in a public trait"))]
pub struct Held<B: Session> {
    pub(super) conn: OwnedMutexGuard<PoolConnection<B>>,
    /// The same connection, for the task that gives it back.
    slot: Arc<Mutex<PoolConnection<B>>>,
    since: Instant,
    pub(super) is_fit: bool,
    pub(super) has_transaction: bool,
    /// Whether the user's code had the connection, so that its state is not known.
    pub(super) is_disturbed: bool,
    /// State of the session before the user's code used it.
    pub(super) before: Option<B::Before>,
    /// Whether the session is unchanged since the user's code used it, so that nothing has to be restored.
    is_restored: bool,
    /// Number of the session, when it is known.
    pub(super) session_id: Option<i32>,
}

/// Takes a connection of a pool, within a bound.
pub(crate) async fn hold<B: Session>(pool: &Pool<B>) -> Result<Held<B>, Fault> {
    // The statement before it succeeded, and the pool may have one connection only.
    give_back_last(true);
    match timeout(B::ANSWER_WAIT, pool.acquire()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
        Ok(conn) => {
            let slot = Arc::new(Mutex::new(conn));
            let conn = Arc::clone(&slot).lock_owned().await;
            Ok(Held {
                conn,
                slot,
                since: Instant::now(),
                is_fit: true,
                has_transaction: false,
                is_disturbed: false,
                before: None,
                is_restored: false,
                session_id: None,
            })
        }
        Err(error) => {
            if matches!(error, sqlx::Error::PoolTimedOut) {
                sift(pool);
            }
            Err(Fault::before_any_statement(error))
        }
    }
}

/// Takes a connection that the user's code may use. Changes of the session by that code do not outlive the hold.
pub(crate) async fn hold_for_user<B: Session>(pool: &Pool<B>) -> Result<Held<B>, Fault> {
    let mut held = hold(pool).await?;
    held.before = Some(in_time::<B, _>(B::note_session(pool, &mut held.conn)).await?);
    held.is_restored = true;
    Ok(held)
}

impl<B: Session> Held<B> {
    /// Returns whether the user's code has left a transaction open. The transaction is then rolled back.
    pub(crate) async fn was_left_open(&mut self) -> Result<bool, Fault> {
        let is_open = self.conn.is_in_transaction() || !B::is_outside_transaction(&mut self.conn).await?;
        self.is_disturbed = is_open;
        Ok(is_open)
    }

    /// Notes that the user's code gets the connection now.
    pub(crate) fn lend(&mut self) {
        (self.is_disturbed, self.is_restored) = (true, false);
    }

    /// Returns whether the session is in the state from before the user's code used it.
    pub(crate) async fn is_unchanged(&mut self) -> Result<bool, Fault> {
        self.is_restored = match &self.before {
            Some(before) => B::is_unchanged(&mut self.conn, before).await?,
            None => true,
        };
        Ok(self.is_restored)
    }

    /// Returns the number of the session. Asks the server when the number is not known yet.
    pub(crate) async fn session_id(&mut self) -> Result<Option<i32>, Fault> {
        if self.session_id.is_none() {
            self.session_id = B::session_id(&mut self.conn).await?;
        }
        Ok(self.session_id)
    }

    /// Notes the number of the session.
    pub(crate) fn note_session_id(&mut self, session_id: Option<i32>) {
        self.session_id = session_id;
    }

    /// Closes the connection instead of giving it back.
    pub(crate) fn close(mut self) {
        self.is_fit = false;
    }

    /// Returns the outcome of a statement. A connection that the statement left unfit does not go back to the pool.
    pub(crate) fn close_if_unfit<T>(&mut self, done: Result<T, Fault>) -> Result<T, Fault> {
        done.inspect_err(|fault| self.is_fit &= !fault.connection_is_unfit())
    }

    /// Does the same for an error that may contain an error of the user's code.
    pub(crate) fn close_if_left_unfit(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.is_fit &= !leaves_unfit(error);
    }

    pub(super) fn depth(&self) -> usize {
        B::TransactionManager::get_transaction_depth(&self.conn)
    }

    /// Returns whether the connection may go back. After a statement of the library that took too long it may not.
    fn is_fit(&self) -> bool {
        self.is_fit && (self.before.is_some() || self.since.elapsed() < B::ANSWER_WAIT / 2)
    }
}

impl<B: Session> Deref for Held<B> {
    type Target = B::Connection;

    fn deref(&self) -> &B::Connection {
        &self.conn
    }
}

impl<B: Session> DerefMut for Held<B> {
    fn deref_mut(&mut self) -> &mut B::Connection {
        &mut self.conn
    }
}

impl<B: Session> Drop for Held<B> {
    fn drop(&mut self) {
        if !self.is_fit() {
            // The drop closes the connection and frees its place in the pool.
            drop(self.conn.return_to_pool());
            return;
        }
        if self.has_transaction {
            for _ in 0..self.depth() {
                B::TransactionManager::start_rollback(&mut self.conn);
            }
        }
        let returning = Box::new(Returning::<B> {
            slot: Some(Arc::clone(&self.slot)),
            is_clean: !self.has_transaction && !self.is_disturbed && (self.before.is_none() || self.is_restored),
            is_disturbed: self.is_disturbed,
            before: self.before.take(),
        });
        let mut returning: Option<Box<dyn GiveBack>> = Some(returning);
        let earlier = LET_GO.try_with(|last| last.replace(returning.take()));
        for done in earlier.ok().flatten().into_iter().chain(returning) {
            done.give_back(true);
        }
    }
}

/// A connection on its way back to its pool. Its drop closes it.
trait GiveBack: Send {
    /// Gives the connection back, or closes an unfit one.
    fn give_back(self: Box<Self>, is_fit: bool);
}

struct Returning<B: Session> {
    slot: Option<Arc<Mutex<PoolConnection<B>>>>,
    /// Whether nothing has to be rolled back or restored.
    is_clean: bool,
    is_disturbed: bool,
    before: Option<B::Before>,
}

impl<B: Session> GiveBack for Returning<B> {
    fn give_back(mut self: Box<Self>, is_fit: bool) {
        let (true, Ok(runtime)) = (is_fit, Handle::try_current()) else { return };
        let Some(slot) = self.slot.take() else { return };
        let (before, is_disturbed, is_clean) = (self.before.take(), self.is_disturbed, self.is_clean);
        runtime.spawn(async move {
            let mut conn = slot.lock_owned().await;
            let cleaning = async { is_clean || clean::<B>(&mut conn, before, is_disturbed).await };
            let is_clean = timeout(B::RELEASE_WAIT, cleaning).await.unwrap_or(false);
            let returning = conn.return_to_pool();
            if is_clean {
                // A connection that is not back in time is closed.
                let _ = timeout(B::RELEASE_WAIT, returning).await;
            }
        });
    }
}

impl<B: Session> Drop for Returning<B> {
    fn drop(&mut self) {
        // No other task has the connection, because its holder is gone.
        if let Some(mut conn) = self.slot.take().and_then(|slot| slot.try_lock_owned().ok()) {
            drop(conn.return_to_pool());
        }
    }
}

/// Restores a connection to its earlier state. Returns false when this is not possible.
async fn clean<B: Session>(conn: &mut B::Connection, before: Option<B::Before>, is_disturbed: bool) -> bool {
    // The answer to any statement comes after the rollback that was queued.
    if before.is_none() && conn.ping().await.is_err() {
        return false;
    }
    let is_open = conn.is_in_transaction() || (is_disturbed && !B::is_outside_transaction(conn).await.unwrap_or(false));
    if is_open && !B::repair(conn).await {
        return false;
    }
    match before {
        Some(before) => B::restore_session(conn, before).await.unwrap_or(false),
        None => true,
    }
}
