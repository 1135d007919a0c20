//! The outbox on Postgres.

use sqlx::{Executor, Postgres};

use super::now_us;
use crate::store::fault::Fault;
use crate::store::outbox::{OutboxRow, OutboxTable};

impl OutboxTable for Postgres {
    async fn insert_outbox<'e, E>(executor: E, rows: &[OutboxRow<'_>], hold_us: i64) -> Result<(), Fault>
    where
        E: Executor<'e, Database = Self>,
    {
        let query = sqlx::query(concat!(
            "INSERT INTO eventbox_outbox (shard, id, source, type, payload, next_attempt_at_us)
             SELECT shard, id, source, type, payload, ",
            now_us!(),
            " + $6 FROM unnest($1::int2[], $2::uuid[], $3::text[], $4::text[], $5::bytea[]) AS u (shard, id, source, type, payload)"
        ));
        let query = query
            .bind(rows.iter().map(|row| row.shard).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.source).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.r#type).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.payload).collect::<Vec<_>>())
            .bind(hold_us);
        query.execute(executor).await?;
        Ok(())
    }
}
