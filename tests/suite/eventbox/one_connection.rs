//! A turn loads and commits on one connection of Postgres when its decision is there at once.

use std::num::NonZeroU32;

use ::eventbox::{
    BoxError, EVersion, Event, Mutation, Processor, Recipient, SideEffect, Transition, emit, process_batch,
};
use sqlx::{PgConnection, PgPool, Postgres};

use crate::support::{TestDb, with_database};

/// Notes the sessions of its load and of its commit, and the setting that the commit sees.
struct Noting {
    pool: PgPool,
    /// Statement of the load.
    load: &'static str,
    /// Whether the decision needs a connection of the pool.
    asks: bool,
}

const NOTE: &str = "INSERT INTO note SELECT $1, pg_backend_pid(), current_setting('synchronous_commit')";

impl Processor<Postgres> for Noting {
    type State = ();

    async fn load_state(&self, conn: &mut PgConnection, _to: &Recipient) -> Result<((), EVersion), BoxError> {
        sqlx::query(NOTE).bind("load").execute(&mut *conn).await?;
        sqlx::raw_sql(self.load).execute(conn).await?;
        Ok(((), EVersion(0)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        (): &(),
    ) -> Result<Mutation<Postgres, ()>, BoxError> {
        if self.asks {
            sqlx::raw_sql("SELECT 1").execute(&self.pool).await?;
        }
        let effect = SideEffect::new(|tx| {
            Box::pin(async move {
                sqlx::query(NOTE).bind("commit").execute(tx).await?;
                Ok(())
            })
        });
        Ok(Transition::to(()).consuming(events).side_effect(effect).into())
    }

    async fn fetch_eversion(&self, _tx: &mut PgConnection, _to: &Recipient) -> Result<EVersion, BoxError> {
        Ok(EVersion(0))
    }

    async fn save_state(&self, _tx: &mut PgConnection, _to: &Recipient, (): &(), _: EVersion) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Runs one turn on a pool. Returns the number of its sessions, and of its commits that see another setting.
async fn sessions(db: &TestDb<Postgres>, connections: u32, load: &'static str, asks: bool) -> (i64, i64) {
    let to = Recipient::new("tally", "1").unwrap();
    db.run("DROP TABLE IF EXISTS note; CREATE TABLE note (place text, pid int, setting text)").await;
    emit(&db.pool, &to, Event::new("x")).await.unwrap();
    let noting = Noting { pool: db.open(connections), load, asks };
    let turn = process_batch(&noting.pool, &to, &noting, NonZeroU32::MIN).await.unwrap();
    assert_eq!((turn.consumed, turn.contention), (1, 0), "{load}");
    let sessions = db.number("SELECT count(DISTINCT pid) FROM note").await;
    (sessions, db.number("SELECT count(*) FROM note WHERE place = 'commit' AND setting <> 'on'").await)
}

#[tokio::test]
async fn a_decision_at_once_commits_on_the_connection_of_its_load() {
    with_database("one_connection", async |db: &TestDb<Postgres>| {
        assert_eq!(sessions(db, 4, "SELECT 1", false).await, (1, 0));
    })
    .await;
}

/// With one connection in the pool, a decision that asks for it would wait for ever for a turn that keeps it.
#[tokio::test]
async fn a_decision_that_waits_gets_the_connection_of_its_turn() {
    with_database("a_waiting_decision", async |db: &TestDb<Postgres>| {
        assert_eq!(sessions(db, 1, "SELECT 1", true).await.1, 0);
    })
    .await;
}

/// A setting of the load must not reach the commit: this one would acknowledge what a crash loses.
#[tokio::test]
async fn a_setting_of_the_load_does_not_reach_the_commit() {
    with_database("a_setting_of_the_load", async |db: &TestDb<Postgres>| {
        for asks in [false, true] {
            assert_eq!(sessions(db, 1, "SET synchronous_commit = off", asks).await, (2, 0), "asks: {asks}");
        }
    })
    .await;
}
