//! Single statements in the queue of the writers.

use sqlx::{Pool, Sqlite, SqliteConnection};

use super::group_commit::SharedTx;
use crate::store::connect::connection::hold;
use crate::store::connect::group::GroupCommit;
use crate::store::fault::Fault;

/// A statement that owns its parameters.
pub(crate) trait Statement: Clone + Send + 'static {
    /// Result of the statement.
    type Answer: Send + 'static;

    /// Returns whether the statement is a transaction by itself; several writes are not.
    fn is_atomic(&self) -> bool {
        true
    }

    fn run(self, conn: &mut SqliteConnection) -> impl Future<Output = Result<Self::Answer, Fault>> + Send;
}

/// Runs a statement on a pool. Returns when it is committed. Statements that arrive during a write commit together.
///
/// Runs each statement in a separate task: a caller that gives up must not interrupt the commit of the others.
pub(crate) async fn run_queued<S: Statement>(pool: &Pool<Sqlite>, statement: S) -> Result<S::Answer, Fault> {
    let pool = pool.clone();
    let done = tokio::spawn(async move {
        // A statement that is a transaction by itself is one call instead of three, and needs no journal for an undo by
        // itself.
        if statement.is_atomic()
            && let Some(_slot) = Sqlite::try_write_now(&pool)
        {
            return statement.run(&mut *hold(&pool).await?).await;
        }
        match run_in(Sqlite::begin_shared(&pool).await?, statement.clone()).await {
            // Another part may have caused the fault.
            Err(fault) if !fault.lost_the_answer() => {
                run_in(Sqlite::begin_exclusive(&pool, None).await?, statement).await
            }
            done => done,
        }
    });
    done.await.unwrap_or(Err(Fault(sqlx::Error::WorkerCrashed)))
}

async fn run_in<S: Statement>(mut part: SharedTx, statement: S) -> Result<S::Answer, Fault> {
    match statement.run(&mut part).await {
        Ok(answer) => Sqlite::commit_shared(part).await.map(|()| answer),
        Err(fault) => {
            Sqlite::roll_back_shared(part).await;
            Err(fault)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::group_commit::writers_of;
    use super::*;

    /// Writes two notes, the second of which may be refused.
    #[derive(Clone)]
    struct Two(&'static str, &'static str);

    impl Statement for Two {
        type Answer = ();

        fn is_atomic(&self) -> bool {
            false
        }

        async fn run(self, conn: &mut SqliteConnection) -> Result<(), Fault> {
            for note in [self.0, self.1] {
                sqlx::query("INSERT INTO note VALUES ($1)").bind(note).execute(&mut *conn).await?;
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn several_writes_are_all_or_none_and_fail_alone() {
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::connect_with(crate::sqlite_options(directory.path().join("s.sqlite3"))).await.unwrap();
        sqlx::query("CREATE TABLE note (text TEXT PRIMARY KEY)").execute(&pool).await.unwrap();
        run_queued(&pool, Two("a", "b")).await.unwrap();
        assert!(run_queued(&pool, Two("c", "a")).await.is_err(), "no statement was written");
        let writer = Sqlite::begin_exclusive(&pool, None).await.unwrap();
        let behind = [Two("d", "e"), Two("f", "b"), Two("g", "h")].map(|two| {
            let pool = pool.clone();
            tokio::spawn(async move { run_queued(&pool, two).await.is_ok() })
        });
        while writers_of(&pool).queue.waiting() < behind.len() {
            tokio::task::yield_now().await;
        }
        Sqlite::commit_shared(writer).await.unwrap();
        let mut done = Vec::new();
        for two in behind {
            done.push(two.await.unwrap());
        }
        assert_eq!(done, [true, false, true]);
        let notes: Vec<String> =
            sqlx::query_scalar("SELECT text FROM note ORDER BY text").fetch_all(&pool).await.unwrap();
        assert_eq!(notes, ["a", "b", "d", "e", "g", "h"]);
    }
}
