//! The outbox on SQLite.

use sqlx::{Executor, Sqlite};

use super::now_us;
use super::packed::{Packed, hex};
use crate::store::fault::Fault;
use crate::store::outbox::{OutboxRow, OutboxTable};

impl OutboxTable for Sqlite {
    // Differs: no arrays.
    async fn insert_outbox<'e, E>(executor: E, rows: &[OutboxRow<'_>], hold_us: i64) -> Result<(), Fault>
    where
        E: Executor<'e, Database = Self>,
    {
        let mut packed = Packed::with_capacity(rows.len());
        for row in rows {
            packed.push((row.shard, hex(row.id), row.source, row.r#type), row.payload);
        }
        let (json, bytes) = packed.into_parameters()?;
        let query = sqlx::query(concat!(
            "INSERT INTO eventbox_outbox (shard, id, source, type, payload, next_attempt_at_us)
             SELECT value ->> '$[2][0]', unhex(value ->> '$[2][1]'), value ->> '$[2][2]', value ->> '$[2][3]',
                    substr($2, value ->> 0, value ->> 1), ",
            now_us!(),
            " + $3 FROM json_each($1)"
        ));
        query.bind(json).bind(bytes).bind(hold_us).execute(executor).await?;
        Ok(())
    }
}
