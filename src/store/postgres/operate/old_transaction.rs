//! Old transactions on Postgres.

use sqlx::postgres::PgRow;
use sqlx::{Pool, Postgres, Row};

use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::operate::old_transaction::{OldTransaction, OldTransactionDialect};

/// The server hides the transactions of other roles from a role without `pg_read_all_stats`. A vacuum is
/// left out, because another vacuum keeps no rows for it.
const OLD_TRANSACTIONS: &str = "SELECT sort, pid, name, application, state, age FROM (
    SELECT 'session' AS sort, pid, usename::text AS name, application_name AS application, state,
           (extract(epoch FROM clock_timestamp() - xact_start) * 1000000)::int8 AS age
      FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'
       AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
       AND xact_start <= clock_timestamp() - $1::float8 * interval '1 microsecond'
    UNION ALL
    SELECT 'prepared', NULL, gid, owner::text, NULL,
           (extract(epoch FROM clock_timestamp() - prepared) * 1000000)::int8
      FROM pg_prepared_xacts
     WHERE database = current_database() AND prepared <= clock_timestamp() - $1::float8 * interval '1 microsecond'
    UNION ALL
    SELECT 'slot', NULL, slot_name::text, NULL, NULL, age(xmin)::int8 FROM pg_replication_slots WHERE age(xmin) >= $2
    UNION ALL
    SELECT 'standby', pid, NULL, application_name, NULL, age(backend_xmin)::int8
      FROM pg_stat_replication WHERE age(backend_xmin) >= $2
) AS old ORDER BY sort, age DESC LIMIT $3";

impl OldTransactionDialect for Postgres {
    async fn old_transactions(
        pool: &Pool<Self>,
        older_than_us: i64,
        behind: i64,
        limit: i64,
    ) -> Result<Vec<OldTransaction>, Fault> {
        #[allow(clippy::cast_precision_loss, reason = "an age is far shorter than the precision")]
        let query = sqlx::query(OLD_TRANSACTIONS).bind(older_than_us as f64).bind(behind).bind(limit);
        let rows = answered(pool, async { Ok(query.fetch_all(&mut *hold(pool).await?).await?) }).await?;
        rows.iter().map(of_row).collect()
    }
}

fn of_row(row: &PgRow) -> Result<OldTransaction, Fault> {
    let pid = row.try_get::<Option<i32>, _>(1)?.unwrap_or_default();
    let text = |column: usize| Ok::<_, Fault>(row.try_get::<Option<String>, _>(column)?.unwrap_or_default());
    let (name, application, state, age) = (text(2)?, text(3)?, text(4)?, row.try_get(5)?);
    Ok(match row.try_get::<&str, _>(0)? {
        "session" => OldTransaction::Session { pid, role: name, application, state, age_us: age },
        "prepared" => OldTransaction::Prepared { gid: name, role: application, age_us: age },
        "slot" => OldTransaction::Slot { name, behind: age },
        _ => OldTransaction::Standby { pid, application, behind: age },
    })
}
