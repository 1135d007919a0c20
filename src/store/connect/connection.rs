//! Connections and transactions of the library's own: every wait on them has a bound, and one that may be unfit never
//! goes back to its pool.
//!
//! A connection of sqlx that goes back to its pool is asked first whether it is still there. When it is dead, that
//! question waits until the operating system gives up, and keeps a place of the pool. So the library gives back by
//! itself, within a bound, what it takes from a pool.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection, Pool, SqlSafeStr};
#[cfg(feature = "postgres")]
use sqlx::{Transaction, pool::MaybePoolConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::session::Session;
use crate::store::fault::{Fault, leaves_unfit};

/// Time that the library waits on Postgres for a connection of a pool, and for the answer to a statement of its own.
///
/// After it the library closes the connection. What was attempted is transient, or unknown when it was a commit. The
/// statements of the user's code are bounded by the deadline of their turn instead.
pub const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Time that a connection of Postgres may take to be rolled back, to be cleaned and to go back to its pool; after it
/// the library closes the connection.
pub const RELEASE_WAIT: Duration = Duration::from_secs(2);

/// Time for which a step of the user's code may leave its connection idle on Postgres, before the library takes the
/// connection for dead.
///
/// The library looks after steps that take longer than this. A step that computes or calls a service for longer, while
/// it holds the connection, fails as transient. Do that in `prepare_mutation`, which holds no connection.
pub const IDLE_LIMIT: Duration = Duration::from_secs(8);

/// Interval at which the library asks for the session of a step that takes longer than [`IDLE_LIMIT`].
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Number of times that a transaction is begun on another connection when the pool gave an unfit connection.
const BEGIN_ATTEMPTS: usize = 3;

/// Returns the error of a wait that reached its bound.
fn no_answer() -> Fault {
    let text = format!("the database did not answer within {ANSWER_WAIT:?}, so the connection was closed");
    Fault(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
}

tokio::task_local! {
    /// The connection that the work of an [`answered`] let go of last: its fate waits for the outcome of its statement.
    static LET_GO: RefCell<Option<Box<dyn GiveBack>>>;
}

/// Waits for work that takes connections by [`hold`]; after [`ANSWER_WAIT`] it drops the work, which closes its
/// connection.
///
/// An error that leaves a connection unfit closes the connection that the work used last.
pub(crate) async fn answered<B: Session, T>(
    pool: &Pool<B>,
    work: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    // Boxed, because each of the futures around it would be as large again, and one such work is part of another.
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

/// Waits for a step of the user's code that holds the connection with this session, as long as the server hears of it.
///
/// A statement may take its time, but the answer from a dead connection never comes.
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
                let text = format!("the connection died, or the code left it idle for {IDLE_LIMIT:?}");
                return Err(Fault(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))));
            }
        }
    }
}

/// Gives back, or closes, the connection that this work let go of last.
fn give_back_last(is_fit: bool) {
    // Outside an `answered` each connection goes back by itself.
    if let Ok(Some(last)) = LET_GO.try_with(RefCell::take) {
        last.give_back(is_fit);
    }
}

/// Does the same for a statement on a connection that is held already, which the caller drops after an error.
pub(crate) async fn in_time<B: Session, T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(B::ANSWER_WAIT, work).await.unwrap_or_else(|_| Err(no_answer()))
}

/// Asks the idle connections of a pool whether they are still there, and closes those that do not answer.
///
/// A connection that is dead is seldom alone, and each of the others would cost a whole wait.
fn sift<B: Session>(pool: &Pool<B>) {
    for _ in 0..pool.num_idle() {
        let Some(mut conn) = pool.try_acquire() else { return };
        tokio::spawn(timeout(B::RELEASE_WAIT, conn.return_to_pool()));
    }
}

/// A connection of a pool, held by the library.
#[cfg_attr(not(feature = "postgres"), allow(unreachable_pub, reason = "Postgres names it in a public trait"))]
pub struct Held<B: Session> {
    conn: OwnedMutexGuard<PoolConnection<B>>,
    /// The same connection, for the task that gives it back.
    slot: Arc<Mutex<PoolConnection<B>>>,
    since: Instant,
    is_fit: bool,
    has_transaction: bool,
    /// Whether the user's code had it, so that it is not known what is open now.
    is_disturbed: bool,
    /// State of the session before the user's code used it.
    before: Option<B::Before>,
    /// Number of the session, when it is known.
    session_id: Option<i32>,
}

/// Takes a connection of a pool, within a bound.
pub(crate) async fn hold<B: Session>(pool: &Pool<B>) -> Result<Held<B>, Fault> {
    // The statement before it worked, and the pool may have one connection only.
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

/// Takes a connection that the user's code may use: what that does to the session does not outlive the hold.
pub(crate) async fn hold_for_user<B: Session>(pool: &Pool<B>) -> Result<Held<B>, Fault> {
    let mut held = hold(pool).await?;
    held.before = Some(in_time::<B, _>(B::note_session(pool, &mut held.conn)).await?);
    held.is_disturbed = true;
    Ok(held)
}

impl<B: Session> Held<B> {
    /// Returns whether the user's code has left a transaction open, which is rolled back then.
    pub(crate) async fn was_left_open(&mut self) -> Result<bool, Fault> {
        let is_open = self.conn.is_in_transaction() || !B::is_outside_transaction(&mut self.conn).await?;
        self.is_disturbed = is_open;
        Ok(is_open)
    }

    /// Whether the session is still what it was before the user's code used it.
    pub(crate) async fn is_unchanged(&mut self) -> Result<bool, Fault> {
        match &self.before {
            Some(before) => B::is_unchanged(&mut self.conn, before).await,
            None => Ok(true),
        }
    }

    /// Notes the number of the session.
    pub(crate) fn note_session_id(&mut self, session_id: Option<i32>) {
        self.session_id = session_id;
    }

    /// Closes the connection instead of giving it back.
    pub(crate) fn close(mut self) {
        self.is_fit = false;
    }

    /// Returns the outcome of a statement; a connection that it left unfit does not go back to the pool.
    pub(crate) fn close_if_unfit<T>(&mut self, done: Result<T, Fault>) -> Result<T, Fault> {
        done.inspect_err(|fault| self.is_fit &= !fault.connection_is_unfit())
    }

    /// Does the same for an error that may have an error of the user's code in it.
    pub(crate) fn close_if_left_unfit(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.is_fit &= !leaves_unfit(error);
    }

    fn depth(&self) -> usize {
        B::TransactionManager::get_transaction_depth(&self.conn)
    }

    /// Returns whether nothing is known against it. Statements of the library that took too long were given up.
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
            // Dropped, this closes the connection and frees its place in the pool.
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
            is_clean: !self.has_transaction && self.before.is_none(),
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

/// A connection that is on its way back to its pool. Dropped it is closed.
trait GiveBack: Send {
    /// Gives it back, or closes it when it is not fit.
    fn give_back(self: Box<Self>, is_fit: bool);
}

struct Returning<B: Session> {
    slot: Option<Arc<Mutex<PoolConnection<B>>>>,
    /// Whether nothing of it has to be rolled back or restored.
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
                // One that is not done in time is closed.
                let _ = timeout(B::RELEASE_WAIT, returning).await;
            }
        });
    }
}

impl<B: Session> Drop for Returning<B> {
    fn drop(&mut self) {
        // No other task has it, because its holder is gone.
        if let Some(mut conn) = self.slot.take().and_then(|slot| slot.try_lock_owned().ok()) {
            drop(conn.return_to_pool());
        }
    }
}

/// Makes a connection what it was before; false when that cannot be done.
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

/// A transaction of the library. Dropped without a commit it is rolled back.
#[cfg_attr(not(feature = "postgres"), allow(unreachable_pub, reason = "Postgres names it in a public trait"))]
pub struct Tx<B: Session> {
    held: Held<B>,
}

/// Begins a transaction that writes from its first statement. `statement` is what begins it.
///
/// In a task of its own, so that a caller who gives up does not cut the `BEGIN`; a connection that does not answer it
/// is closed.
pub(crate) async fn begin<B: Session>(
    pool: &Pool<B>,
    statement: &'static str,
    is_for_user: bool,
) -> Result<Tx<B>, Fault> {
    begin_on(pool, None, statement, is_for_user).await
}

/// The same, on a connection that is held already if there is one.
pub(crate) async fn begin_on<B: Session>(
    pool: &Pool<B>,
    mut at_hand: Option<Held<B>>,
    statement: &'static str,
    is_for_user: bool,
) -> Result<Tx<B>, Fault> {
    // Before the task, which does not see what this work let go of.
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

/// Begins a transaction of sqlx, which is the caller's.
///
/// sqlx has no bound for a `BEGIN`, and its transaction cannot be closed from outside. So the library asks the connection
/// first whether it is alive, which has a bound.
#[cfg(feature = "postgres")]
pub(crate) async fn begin_for_caller<B: Session>(
    pool: &Pool<B>,
    statement: &'static str,
) -> Result<Transaction<'static, B>, Fault> {
    let pool = pool.clone();
    // In a task of its own, so that a caller who gives up does not cut the `BEGIN`.
    let begun = tokio::spawn(async move {
        let acquired = timeout(B::ANSWER_WAIT, pool.acquire()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        let mut conn = acquired.map_err(Fault::before_any_statement)?;
        if !matches!(timeout(B::ANSWER_WAIT, conn.ping()).await, Ok(Ok(()))) {
            // Dropped, this closes the connection and frees its place in the pool.
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

    /// Rolls back; what cannot be rolled back is closed.
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

    /// Returns the number of the session, which it asks for when it is not known yet.
    pub(crate) async fn session_id(&mut self) -> Result<Option<i32>, Fault> {
        if self.held.session_id.is_none() {
            self.held.session_id = B::session_id(&mut self.held.conn).await?;
        }
        Ok(self.held.session_id)
    }

    /// Returns whether the driver still counts the one transaction that was begun.
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
