//! Steps of a turn that can be rolled back alone.

use sqlx::Database;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// Savepoints around the independent steps of a turn.
///
/// The driver does not count these savepoints, so the user's code cannot end them with the driver's savepoints.
pub trait StepTable: Database {
    /// Begins a step.
    fn begin_step(tx: &mut Self::Connection) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Keeps the changes of the step.
    fn keep_step(tx: &mut Self::Connection) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Rolls the step back.
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
