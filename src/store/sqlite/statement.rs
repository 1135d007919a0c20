//! Single statements in the line of the writers.

use sqlx::{Pool, Sqlite, SqliteConnection};

use super::group::writers_of;
use crate::store::fault::Fault;
use crate::store::group::GroupCommit;

/// A statement, or several, that owns what it needs.
pub(super) trait Statement: Clone + Send + 'static {
    /// What it answers.
    type Answer: Send + 'static;

    fn run(self, conn: &mut SqliteConnection) -> impl Future<Output = Result<Self::Answer, Fault>> + Send;
}

/// Runs a statement on a pool; returns when it is committed. Those that come while somebody writes commit together.
///
/// Each is a task of its own: whoever gives up must not take the others' commit with it.
pub(super) async fn run_in_line<S: Statement>(pool: &Pool<Sqlite>, statement: S) -> Result<S::Answer, Fault> {
    let pool = pool.clone();
    let done = tokio::spawn(async move {
        // Alone a statement is its own transaction, which is one call instead of three and needs no journal to undo it by itself.
        if let Some(_lead) = writers_of(&pool).line.lead_at_once() {
            return run_alone(&pool, statement).await;
        }
        match run_in_group(&pool, statement.clone()).await {
            // Perhaps it was another part's fault.
            Err(fault) if !fault.lost_the_answer() => run_alone(&pool, statement).await,
            done => done,
        }
    });
    done.await.unwrap_or(Err(Fault(sqlx::Error::WorkerCrashed)))
}

async fn run_alone<S: Statement>(pool: &Pool<Sqlite>, statement: S) -> Result<S::Answer, Fault> {
    statement.run(&mut *pool.acquire().await?).await
}

async fn run_in_group<S: Statement>(pool: &Pool<Sqlite>, statement: S) -> Result<S::Answer, Fault> {
    let mut part = Sqlite::begin_grouped(pool).await?;
    match statement.run(&mut part).await {
        Ok(answer) => Sqlite::commit_grouped(part).await.map(|()| answer),
        Err(fault) => {
            Sqlite::roll_back_grouped(part).await;
            Err(fault)
        }
    }
}
