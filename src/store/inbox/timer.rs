//! `eventbox_timer`: events that are due later, and their moves into their boxes.

use sqlx::{Database, Executor, Row};
use uuid::Uuid;

use super::event::ListedRow;
use crate::store::bound::{Bound, Heavy, Page, fill, weigh};
use crate::store::connect::connection::{answered, hold};
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;
use crate::store::{BoxFuture, arguments_of};

/// An event that is not due yet.
#[derive(Debug)]
pub struct TimerRow {
    pub due_at_us: i64,
    pub event: ListedRow,
}

impl Heavy for TimerRow {
    fn id(&self) -> Uuid {
        self.event.id
    }

    fn value_mut(&mut self) -> &mut Vec<u8> {
        &mut self.event.value
    }
}

/// Result of a move, for a shard that has timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MovedShard {
    pub shard: i16,
    pub moved: i64,
    /// Time until the next timer is due. 0 when the move stopped at its limit. `None` when the move saw no other timer.
    pub next_in_us: Option<i64>,
}

/// Statements on timers that differ between the engines.
pub trait TimerDialect: Database {
    /// Moves due timers into their boxes with their ids, in a transaction of its own. In each shard it takes the first
    /// timers by (due, id). The shard whose first timer is due longest comes first. Each shard with due timers gets an
    /// equal part of `limit`, and at least one.
    ///
    /// A timer is due by `now_us`, or by the database's clock when `now_us` is `None`.
    ///
    /// Returns the shards that have timers.
    fn move_timers(
        pool: &sqlx::Pool<Self>,
        shards: &[i16],
        limit: i64,
        now_us: Option<i64>,
    ) -> impl Future<Output = Result<Vec<MovedShard>, Fault>> + Send;

    /// Deletes timers of one recipient by id. Returns the number of deleted timers. Waits for a move that takes one of
    /// them.
    fn delete_timers(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// Statements on timers that both engines accept.
pub trait TimerTable: TimerDialect {
    /// Deletes the timer of a name. Returns false when there is none any more. Waits for a move that takes the timer.
    ///
    /// The future is boxed for the same reason as in `insert_event`.
    fn cancel_timer<'e, E>(executor: E, shard: i16, recipient: &str, name: &str) -> BoxFuture<'e, Result<bool, Fault>>
    where
        E: Executor<'e, Database = Self> + 'e;

    /// Does what [`TimerTable::cancel_timer`] does, on a connection of its own.
    fn cancel_timer_on_pool(
        pool: &sqlx::Pool<Self>,
        shard: i16,
        recipient: &str,
        name: &str,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns the timers of a recipient behind `after` (the nil id is before all), in the order of their emits.
    fn list_timers(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        after: Uuid,
        bound: Bound,
    ) -> impl Future<Output = Result<Page<TimerRow>, Fault>> + Send;

    /// Returns the newest timer of a recipient.
    fn newest_timer(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<Option<Uuid>, Fault>> + Send;

    /// Deletes the oldest timers of a recipient, up to a given timer. Returns the number of deleted timers.
    fn purge_timers(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        until: Uuid,
        limit: i64,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// The statement of [`TimerTable::cancel_timer`]. The tombstone of the name has the id, so the cost does not depend on
/// the number of timers of the recipient.
pub(crate) const CANCEL_TIMER: &str = "DELETE FROM eventbox_timer WHERE shard = $1 AND recipient = $2 AND id = (
    SELECT t.id FROM eventbox_tombstone t WHERE t.shard = $1 AND t.recipient = $2 AND t.name = $3
)";

/// The statement of [`TimerTable::list_timers`].
pub(crate) const LIST_TIMERS: &str = "SELECT due_at_us, id, name, traceparent,
 CASE WHEN octet_length(value) <= $5 THEN value END, CAST(octet_length(value) AS bigint), origin FROM eventbox_timer
 WHERE shard = $1 AND recipient = $2 AND id > $3 ORDER BY id LIMIT $4 + 0";

/// The values of a list that did not come with their rows.
pub(crate) const LARGE_TIMERS: &str = "SELECT id, value FROM eventbox_timer
 WHERE shard = $1 AND recipient = $2 AND id >= $3 AND id <= $4 AND octet_length(value) > $5 ORDER BY id LIMIT $6 + 0";

on_both_engines! {
    impl TimerTable for Engine {
        fn cancel_timer<'e, E>(
            executor: E,
            shard: i16,
            recipient: &str,
            name: &str
        ) -> BoxFuture<'e, Result<bool, Fault>>
        where
            E: Executor<'e, Database = Self> + 'e,
        {
            let arguments = arguments_of(sqlx::query::<Self>(CANCEL_TIMER).bind(shard).bind(recipient).bind(name));
            Box::pin(async move {
                let done = sqlx::query_with::<Self, _>(CANCEL_TIMER, arguments?).execute(executor).await?;
                Ok(done.rows_affected() > 0)
            })
        }

        async fn cancel_timer_on_pool(
            pool: &sqlx::Pool<Self>,
            shard: i16,
            recipient: &str,
            name: &str,
        ) -> Result<bool, Fault> {
            let cancelling = async {
                let mut conn = hold(pool).await?;
                let done = Self::cancel_timer(&mut *conn, shard, recipient, name).await;
                conn.close_if_unfit(done)
            };
            answered(pool, cancelling).await
        }

        async fn list_timers(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            after: Uuid,
            bound: Bound,
        ) -> Result<Page<TimerRow>, Fault> {
            let query = sqlx::query::<Engine>(LIST_TIMERS).bind(shard).bind(recipient).bind(after);
            let rows = query.bind(bound.rows()).bind(bound.small(1)).fetch(&mut *conn);
            let listed = weigh!(rows, 4, |row| TimerRow {
                due_at_us: row.try_get(0)?,
                event: ListedRow {
                    id: row.try_get(1)?,
                    name: row.try_get(2)?,
                    traceparent: row.try_get(3)?,
                    origin: row.try_get(6)?,
                    value: Vec::new(),
                },
            });
            Ok(fill!(listed, bound, conn, |missing| {
                let query = sqlx::query::<Engine>(LARGE_TIMERS).bind(shard).bind(recipient);
                query.bind(missing.first).bind(missing.last).bind(bound.small(1)).bind(missing.rows)
            }))
        }

        async fn newest_timer(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<Option<Uuid>, Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT id FROM eventbox_timer WHERE shard = $1 AND recipient = $2 ORDER BY id DESC LIMIT 1",
            );
            let row = query.bind(shard).bind(recipient).fetch_optional(conn).await?;
            row.map(|row| Ok(row.try_get(0)?)).transpose()
        }

        async fn purge_timers(
            tx: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            until: Uuid,
            limit: i64,
        ) -> Result<u64, Fault> {
            let query = sqlx::query::<Engine>(
                // The end of the slice is one value, looked up once. Without statistics, a planner would compare each
                // row with each value of a list.
                "DELETE FROM eventbox_timer WHERE shard = $1 AND recipient = $2 AND id <= (
                     SELECT s.id FROM (
                         SELECT e.id FROM eventbox_timer e
                         WHERE e.shard = $1 AND e.recipient = $2 AND e.id <= $3 ORDER BY e.id LIMIT $4 + 0
                     ) s ORDER BY s.id DESC LIMIT 1
                 )",
            );
            Ok(query.bind(shard).bind(recipient).bind(until).bind(limit).execute(tx).await?.rows_affected())
        }
    }
}
