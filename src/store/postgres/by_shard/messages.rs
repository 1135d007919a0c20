//! Messages that go into the outbox, and messages that carry a mark, below one shard.

use sqlx::{Executor, PgConnection, Pool, Postgres};

use super::of_shards;
use crate::store::connect::connection::{answered, hold};
use crate::store::connect::schema::Schema;
use crate::store::connect::transaction::begin;
use crate::store::fault::Fault;
use crate::store::outgoing::marked::{MarkedMessage, MarkedWanted, marked};
use crate::store::outgoing::outbox::OutboxRow;
use crate::store::postgres::now_us;
use crate::store::{BoxFuture, arguments_of};

const INSERT_MESSAGE: &str = concat!(
    "INSERT INTO eventbox_outbox (shard, id, source, type, origin, payload, created_at_us, next_attempt_at_us)
VALUES ($1, $2, $3, $4, $5, $6, ",
    now_us!(),
    ", ",
    now_us!(),
    " + $7)"
);

const INSERT_MESSAGES: &str = concat!(
    "INSERT INTO eventbox_outbox (shard, id, source, type, origin, payload, created_at_us, next_attempt_at_us)
SELECT a.shard, u.id, u.source, u.type, u.origin, u.payload, ",
    now_us!(),
    ", ",
    now_us!(),
    " + $7 FROM eventbox_anchor a
CROSS JOIN unnest((SELECT $2::uuid[]), $3::text[], $4::text[], $5::text[], $6::bytea[])
    AS u (id, source, type, origin, payload)
WHERE a.shard = $1"
);

/// Messages of the shard behind the id `$2` that carry the mark `$3`.
const MARKED: &str = "SELECT m.shard, m.id, m.is_dead FROM (
    (SELECT o.shard, o.id, false AS is_dead FROM eventbox_outbox o
     WHERE o.shard = $1 AND o.id > $2 AND o.delivered_at_us IS NULL AND substr(uuid_send(o.id), 13) = $3
     ORDER BY o.id LIMIT $4)
    UNION ALL
    (SELECT d.shard, d.id, true FROM eventbox_dead_letter d
     WHERE d.shard = $1 AND d.id > $2 AND d.recipient IS NULL AND substr(uuid_send(d.id), 13) = $3
     ORDER BY d.id LIMIT $4)
) m ORDER BY m.id LIMIT $4";

/// Inserts a message, in one statement.
pub(in crate::store::postgres) fn insert<'e, E>(
    executor: E,
    row: &OutboxRow<'_>,
    claim_ttl_us: i64,
) -> BoxFuture<'e, Result<(), Fault>>
where
    E: Executor<'e, Database = Postgres> + 'e,
{
    let query = sqlx::query::<Postgres>(INSERT_MESSAGE).bind(row.shard).bind(row.id).bind(row.source).bind(row.r#type);
    let arguments = arguments_of(query.bind(row.origin).bind(row.payload).bind(claim_ttl_us));
    Box::pin(async move {
        sqlx::query_with::<Postgres, _>(INSERT_MESSAGE, arguments?).execute(executor).await?;
        Ok(())
    })
}

/// Inserts messages in a transaction.
pub(in crate::store::postgres) async fn insert_all(
    tx: &mut PgConnection,
    rows: &[OutboxRow<'_>],
    claim_ttl_us: i64,
) -> Result<(), Fault> {
    for (shard, part) in of_shards(rows, |row| row.shard) {
        let query = sqlx::query(INSERT_MESSAGES)
            .bind(shard)
            .bind(part.iter().map(|(_, row)| row.id).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.source).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.r#type).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.origin).collect::<Vec<_>>())
            .bind(part.iter().map(|(_, row)| row.payload).collect::<Vec<_>>())
            .bind(claim_ttl_us);
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Inserts messages on a pool, all of them or none.
pub(in crate::store::postgres) async fn insert_on_pool(
    pool: &Pool<Postgres>,
    rows: &[OutboxRow<'_>],
    claim_ttl_us: i64,
) -> Result<(), Fault> {
    let storing = async {
        if let [row] = rows {
            let mut conn = hold(pool).await?;
            let done = insert(&mut *conn, row, claim_ttl_us).await;
            return conn.close_if_unfit(done);
        }
        let mut tx = begin(pool, Postgres::BEGIN_WRITE, false).await?;
        insert_all(&mut tx, rows, claim_ttl_us).await?;
        tx.commit().await
    };
    answered(pool, storing).await
}

/// Returns marked messages, shard by shard. Those of each shard are of one snapshot.
pub(in crate::store::postgres) async fn marked_messages(
    conn: &mut PgConnection,
    wanted: MarkedWanted,
) -> Result<Vec<MarkedMessage>, Fault> {
    let mut found = Vec::new();
    for shard in wanted.after.shard..=255 {
        let left = wanted.limit.saturating_sub_unsigned(found.len() as u64);
        if left <= 0 {
            break;
        }
        let after = if shard == wanted.after.shard { wanted.after.id.max(wanted.since) } else { wanted.since };
        let query = sqlx::query(MARKED).bind(shard).bind(after).bind(wanted.mark.to_be_bytes().to_vec());
        found.extend(marked(&query.bind(left).fetch_all(&mut *conn).await?)?);
    }
    Ok(found)
}
