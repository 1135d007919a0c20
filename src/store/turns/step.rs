//! Steps of a turn that can be taken back alone.

use sqlx::Database;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// Savepoints around the independent steps of a turn.
///
/// They are not counted by the driver: what the user's code does to the driver's savepoints cannot meet these.
pub trait StepTable: Database {
    /// Begins a step.
    fn begin_step(tx: &mut Self::Connection) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Keeps what the step did.
    fn keep_step(tx: &mut Self::Connection) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Takes back what the step did.
    fn undo_step(tx: &mut Self::Connection) -> impl Future<Output = Result<(), Fault>> + Send;
}

on_both_engines! {
    const BEGIN: &str = "SAVEPOINT eventbox_step";
    const KEEP: &str = "RELEASE SAVEPOINT eventbox_step";
    const UNDO: &str = "ROLLBACK TO SAVEPOINT eventbox_step; RELEASE SAVEPOINT eventbox_step";

    impl StepTable for Engine {
        async fn begin_step(tx: &mut <Self as Database>::Connection) -> Result<(), Fault> {
            sqlx::raw_sql(BEGIN).execute(tx).await?;
            Ok(())
        }

        async fn keep_step(tx: &mut <Self as Database>::Connection) -> Result<(), Fault> {
            sqlx::raw_sql(KEEP).execute(tx).await?;
            Ok(())
        }

        async fn undo_step(tx: &mut <Self as Database>::Connection) -> Result<(), Fault> {
            sqlx::raw_sql(UNDO).execute(tx).await?;
            Ok(())
        }
    }
}
