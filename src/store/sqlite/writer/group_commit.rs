//! Group commit: the writers of a pool wait in a queue instead of at the file, and short transactions share a commit.
//!
//! The writer with the slot begins the transaction. When its part is done, it hands the transaction over to the next
//! writer of the queue, which adds its part behind a savepoint. The last writer commits for all. A part that fails is
//! rolled back to its savepoint, and the others commit. The file's own lock decides between processes. The queue only
//! saves waits for the file, which are polls, and commits, each of which is a sync of the file.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Pool, Sqlite, SqliteConnection};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queue::{Call, WriterSlot};
pub(super) use super::registry::{Writers, writers_of};
use crate::store::connect::connection::Held;
use crate::store::connect::group::{GroupCommit, Intact};
use crate::store::connect::schema::Schema;
use crate::store::connect::transaction::{Tx, begin};
use crate::store::fault::{Class, Fault, SharedFault};
use crate::store::sqlite::connect::watch::Watch;

/// The most parts of a transaction.
const MAX_PARTS: usize = 64;

/// Time for which an open transaction takes further parts.
const MAX_OPEN: Duration = Duration::from_millis(20);

/// The right to write to the file of a pool.
type Slot = WriterSlot<OpenTx>;

/// A transaction that was begun.
pub(super) struct OpenTx {
    // The fields are dropped in this order: the transaction is rolled back, then the callers are notified, and then the
    // next writer may begin.
    tx: Tx<Sqlite>,
    done: Done,
    watch: Option<Watch>,
    slot: Option<Slot>,
    /// Keeps the queue while a transaction is open.
    _writers: Arc<Writers>,
    began: Instant,
}

/// Callers whose parts are done. They wait for the commit.
#[derive(Default)]
struct Done {
    parts: Vec<oneshot::Sender<Result<(), SharedFault>>>,
    committing: bool,
}

/// A transaction, or a part of one.
pub struct SharedTx {
    open: OpenTx,
    position: Position,
}

/// The slot of the queue, for one statement that commits by itself.
pub struct SoleWriter {
    _slot: Slot,
    /// Keeps the queue while a statement runs.
    _writers: Arc<Writers>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Alone,
    First,
    /// A part behind a savepoint.
    Later,
}

impl Done {
    fn tell(&mut self, result: &Result<(), SharedFault>) {
        for part in self.parts.drain(..) {
            let _ = part.send(result.clone());
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let fault = match self.committing {
            true => Fault(sqlx::Error::WorkerCrashed).shared(),
            false => rolled_back(),
        };
        self.tell(&Err(fault));
    }
}

impl OpenTx {
    async fn begin(pool: &Pool<Sqlite>, writers: Arc<Writers>, slot: Option<Slot>) -> Result<Self, Fault> {
        let tx = begin(pool, Sqlite::BEGIN_WRITE, false).await?;
        Ok(OpenTx { tx, done: Done::default(), watch: None, slot, _writers: writers, began: Instant::now() })
    }

    /// Begins a transaction for the user's code.
    async fn begin_for_user(pool: &Pool<Sqlite>, writers: Arc<Writers>, slot: Option<Slot>) -> Result<Self, Fault> {
        let mut tx = begin(pool, Sqlite::BEGIN_WRITE, true).await?;
        let watch = Some(Watch::set(&mut tx).await?);
        Ok(OpenTx { tx, done: Done::default(), watch, slot, _writers: writers, began: Instant::now() })
    }

    fn intact(&self) -> Intact {
        let is_ended = self.watch.as_ref().is_some_and(Watch::is_ended);
        if is_ended || !self.tx.is_counted() { Intact::Ended } else { Intact::Whole }
    }

    /// Hands the transaction over to the next writer. Returns the transaction when no other writer can join.
    fn hand_over(mut self) -> Option<Self> {
        if self.done.parts.len() >= MAX_PARTS || self.began.elapsed() >= MAX_OPEN {
            return Some(self);
        }
        loop {
            let Some(next) = self.slot.as_ref().and_then(WriterSlot::next_to_join) else {
                return Some(self);
            };
            match next.send(Call::Join(self)) {
                Ok(()) => return None,
                Err(Call::Join(back)) => self = back,
                Err(Call::Write(_)) => return None,
            }
        }
    }

    /// Commits for all callers, in a separate task: a caller that gives up must not interrupt the commit of the others.
    async fn commit(self) -> Result<(), Fault> {
        match tokio::spawn(self.commit_here()).await {
            Ok(committed) => Ok(committed?),
            Err(_) => Err(Fault(sqlx::Error::WorkerCrashed)),
        }
    }

    async fn commit_here(mut self) -> Result<(), SharedFault> {
        self.done.committing = true;
        let committed = self.tx.commit().await.map_err(Fault::shared);
        self.done.tell(&committed);
        committed
    }
}

impl GroupCommit for Sqlite {
    type SharedTx = SharedTx;
    type SoleWriter = SoleWriter;

    fn try_write_now(pool: &Pool<Self>) -> Option<Self::SoleWriter> {
        let writers = writers_of(pool);
        writers.queue.try_write_now().map(|slot| SoleWriter { _slot: slot, _writers: writers })
    }

    async fn begin_shared(pool: &Pool<Self>) -> Result<Self::SharedTx, Fault> {
        let writers = writers_of(pool);
        let slot = match writers.queue.wait(true).await {
            Some(Call::Join(mut open)) => {
                sqlx::query("SAVEPOINT eventbox_part").execute(&mut *open.tx).await?;
                return Ok(SharedTx { open, position: Position::Later });
            }
            Some(Call::Write(slot)) => Some(slot),
            None => None,
        };
        Ok(SharedTx { open: OpenTx::begin(pool, writers, slot).await?, position: Position::First })
    }

    async fn begin_exclusive(pool: &Pool<Self>, at_hand: Option<Held<Self>>) -> Result<Self::SharedTx, Fault> {
        drop(at_hand); // In the queue it would be missing for reads.
        let writers = writers_of(pool);
        let slot = match writers.queue.wait(false).await {
            Some(Call::Write(slot)) => Some(slot),
            Some(Call::Join(_)) | None => None,
        };
        Ok(SharedTx { open: OpenTx::begin_for_user(pool, writers, slot).await?, position: Position::Alone })
    }

    async fn check_intact(part: &mut Self::SharedTx) -> Result<Intact, Fault> {
        Ok(part.open.intact())
    }

    async fn check_to_commit(part: &mut Self::SharedTx) -> Result<Intact, Fault> {
        Self::check_intact(part).await
    }

    fn close_if_left_unfit(part: &mut Self::SharedTx, error: &(dyn std::error::Error + 'static)) {
        part.open.tx.close_if_left_unfit(error);
    }

    async fn commit_shared(part: Self::SharedTx) -> Result<(), Fault> {
        let SharedTx { mut open, position } = part;
        match position {
            Position::Alone => {
                open.watch.iter().for_each(Watch::allow_commit);
                return Ok(open.commit_here().await?);
            }
            Position::First => {}
            Position::Later => {
                sqlx::query("RELEASE eventbox_part").execute(&mut *open.tx).await?;
            }
        }
        let (done, committed) = oneshot::channel();
        open.done.parts.push(done);
        if let Some(open) = open.hand_over() {
            let is_alone = open.done.parts.len() == 1;
            return if is_alone { Ok(open.commit_here().await?) } else { open.commit().await };
        }
        match committed.await {
            Ok(committed) => Ok(committed?),
            Err(_) => Err(Fault(sqlx::Error::WorkerCrashed)),
        }
    }

    async fn roll_back_shared(part: Self::SharedTx) {
        let SharedTx { mut open, position } = part;
        if position != Position::Later {
            open.tx.rollback().await;
            return;
        }
        // Without a savepoint the engine has rolled back the whole transaction by itself. The drop of the transaction
        // then notifies the others.
        let undone = sqlx::raw_sql("ROLLBACK TO eventbox_part; RELEASE eventbox_part").execute(&mut *open.tx).await;
        if undone.is_ok()
            && let Some(open) = open.hand_over()
        {
            // The commit itself notifies the others.
            let _ = open.commit().await;
        }
    }
}

fn rolled_back() -> SharedFault {
    SharedFault::new(Class::Contention, "another part of its transaction was given up, and the transaction with it")
}

impl Deref for SharedTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.open.tx
    }
}

impl DerefMut for SharedTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.open.tx
    }
}

impl fmt::Debug for SharedTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTx").field("parts_done", &self.open.done.parts.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    struct Fixture {
        _directory: tempfile::TempDir,
        pool: Pool<Sqlite>,
    }

    async fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::connect_with(crate::sqlite_options(directory.path().join("g.sqlite3"))).await.unwrap();
        sqlx::query("CREATE TABLE note (who TEXT PRIMARY KEY)").execute(&pool).await.unwrap();
        Fixture { _directory: directory, pool }
    }

    impl Fixture {
        async fn notes(&self) -> Vec<String> {
            notes(&mut self.pool.acquire().await.unwrap()).await
        }

        /// Begins a part in a task. Returns when that task is number `place` of the queue.
        async fn in_line(&self, may_join: bool, place: usize) -> tokio::task::JoinHandle<Result<SharedTx, Fault>> {
            let pool = self.pool.clone();
            let begin = async move {
                match may_join {
                    true => Sqlite::begin_shared(&pool).await,
                    false => Sqlite::begin_exclusive(&pool, None).await,
                }
            };
            let task = tokio::spawn(begin);
            while writers_of(&self.pool).queue.waiting() < place {
                tokio::task::yield_now().await;
            }
            task
        }
    }

    async fn notes(conn: &mut SqliteConnection) -> Vec<String> {
        sqlx::query_scalar("SELECT who FROM note ORDER BY who").fetch_all(conn).await.unwrap()
    }

    async fn note(part: &mut SharedTx, who: &'static str) {
        sqlx::query("INSERT INTO note VALUES ($1)").bind(who).execute(&mut **part).await.unwrap();
    }

    #[tokio::test]
    async fn transactions_in_line_share_the_commit() {
        let db = fixture().await;
        let mut first = Sqlite::begin_shared(&db.pool).await.unwrap();
        let second = db.in_line(true, 1).await;
        note(&mut first, "first").await;
        let mut committing = pin!(Sqlite::commit_shared(first));
        let mut second = tokio::select! {
            _ = &mut committing => panic!("it does not commit without the second"),
            second = second => second.unwrap().unwrap(),
        };
        assert_eq!(notes(&mut second).await, ["first"], "it is the same transaction");
        assert!(db.notes().await.is_empty(), "nothing is committed yet");
        note(&mut second, "second").await;
        Sqlite::commit_shared(second).await.unwrap();
        committing.await.unwrap();
        assert_eq!(db.notes().await, ["first", "second"]);
    }

    #[tokio::test]
    async fn a_part_that_is_rolled_back_takes_nothing_with_it() {
        let db = fixture().await;
        let mut first = Sqlite::begin_shared(&db.pool).await.unwrap();
        let second = db.in_line(true, 1).await;
        let third = db.in_line(true, 2).await;
        note(&mut first, "first").await;
        let first = tokio::spawn(Sqlite::commit_shared(first));
        let mut second = second.await.unwrap().unwrap();
        note(&mut second, "second").await;
        let second = tokio::spawn(Sqlite::roll_back_shared(second));
        let mut third = third.await.unwrap().unwrap();
        note(&mut third, "third").await;
        Sqlite::commit_shared(third).await.unwrap();
        first.await.unwrap().unwrap();
        second.await.unwrap();
        assert_eq!(db.notes().await, ["first", "third"]);
    }

    #[tokio::test]
    async fn the_others_commit_when_the_last_one_is_rolled_back() {
        let db = fixture().await;
        let mut first = Sqlite::begin_shared(&db.pool).await.unwrap();
        let second = db.in_line(true, 1).await;
        note(&mut first, "first").await;
        let first = tokio::spawn(Sqlite::commit_shared(first));
        let mut second = second.await.unwrap().unwrap();
        note(&mut second, "second").await;
        Sqlite::roll_back_shared(second).await;
        first.await.unwrap().unwrap();
        assert_eq!(db.notes().await, ["first"]);
    }

    #[tokio::test]
    async fn a_part_that_is_dropped_is_contention_for_the_others() {
        let db = fixture().await;
        let mut first = Sqlite::begin_shared(&db.pool).await.unwrap();
        let second = db.in_line(true, 1).await;
        let next = db.in_line(false, 2).await;
        note(&mut first, "first").await;
        let first = tokio::spawn(Sqlite::commit_shared(first));
        drop(second.await.unwrap().unwrap());
        let fault = first.await.unwrap().unwrap_err();
        assert_eq!((fault.class(), fault.lost_the_answer()), (Class::Contention, false));
        drop(next.await.unwrap().unwrap());
        assert!(db.notes().await.is_empty());
    }

    #[tokio::test]
    async fn an_unshared_transaction_neither_joins_nor_is_joined() {
        let db = fixture().await;
        let mut first = Sqlite::begin_shared(&db.pool).await.unwrap();
        let alone = db.in_line(false, 1).await;
        let behind = db.in_line(true, 2).await;
        note(&mut first, "first").await;
        Sqlite::commit_shared(first).await.unwrap();
        assert_eq!(db.notes().await, ["first"]);
        let mut alone = alone.await.unwrap().unwrap();
        note(&mut alone, "alone").await;
        Sqlite::commit_shared(alone).await.unwrap();
        assert_eq!(db.notes().await, ["alone", "first"]);
        drop(behind.await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn a_waiter_that_gave_up_is_passed_over() {
        let db = fixture().await;
        for may_join in [true, false] {
            let first = Sqlite::begin_shared(&db.pool).await.unwrap();
            let gone = db.in_line(may_join, 1).await;
            gone.abort();
            assert!(gone.await.is_err());
            let next = db.in_line(may_join, 2).await;
            let first = tokio::spawn(Sqlite::commit_shared(first));
            Sqlite::commit_shared(next.await.unwrap().unwrap()).await.unwrap();
            first.await.unwrap().unwrap();
        }
        assert!(matches!(writers_of(&db.pool).queue.wait(true).await, Some(Call::Write(_))), "no writer has the slot");
    }
}
