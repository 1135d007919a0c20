//! Locks on Postgres.

use sqlx::{Pool, Postgres};

use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::operate::blocked::BlockedDialect;

/// Whether a session waits that long for a lock. A wait that began in the future began before the clock of the server
/// went back: it may be that long.
const WAITS_FOR_A_LOCK: &str = "SELECT EXISTS (
    SELECT 1 FROM pg_stat_activity
     WHERE datname = current_database() AND usename = current_user AND state = 'active' AND wait_event_type = 'Lock'
       AND query_start NOT BETWEEN clock_timestamp() - $1::float8 * interval '1 microsecond' AND clock_timestamp()
)";

impl BlockedDialect for Postgres {
    async fn waits_for_a_lock(pool: &Pool<Self>, for_us: i64) -> Result<bool, Fault> {
        #[allow(clippy::cast_precision_loss, reason = "a deadline is far shorter than the precision")]
        let query = sqlx::query_scalar(WAITS_FOR_A_LOCK).bind(for_us as f64);
        answered(pool, async { Ok(query.fetch_one(&mut *hold(pool).await?).await?) }).await
    }
}
