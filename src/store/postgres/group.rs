//! Postgres groups the commits of its connections itself.

use sqlx::{Pool, Postgres, Transaction};

use crate::store::fault::Fault;
use crate::store::group::GroupCommit;
use crate::store::schema::Schema;

impl GroupCommit for Postgres {
    type Grouped = Transaction<'static, Postgres>;
    type Lead = ();

    fn lead_at_once(_pool: &Pool<Self>) -> Option<Self::Lead> {
        Some(())
    }

    async fn begin_grouped(pool: &Pool<Self>) -> Result<Self::Grouped, Fault> {
        Self::begin_write(pool).await
    }

    async fn begin_alone(pool: &Pool<Self>) -> Result<Self::Grouped, Fault> {
        Self::begin_write(pool).await
    }

    async fn commit_grouped(part: Self::Grouped) -> Result<(), Fault> {
        Ok(part.commit().await?)
    }

    async fn roll_back_grouped(part: Self::Grouped) {
        // What cannot be rolled back is rolled back when its connection goes.
        let _ = part.rollback().await;
    }
}
