//! Measured emits on SQLite.

use sqlx::sqlite::SqliteArguments;
use sqlx::{Executor, Pool, Row, Sqlite, SqliteConnection};

use crate::store::fault::Fault;
use crate::store::inbox::depth::{DepthBound, DepthDialect, Measured, oldest, waiting};
use crate::store::inbox::event::EventRow;
use crate::store::sqlite::now_us;
use crate::store::sqlite::writer::statement::{Statement, run_queued};
use crate::store::{BoxFuture, arguments_of};

/// Differs: a view's trigger writes the tables, because a CTE of SQLite cannot write. The first statement returns a row
/// when it has inserted the event. The second statement always returns one: the measure, and what became of an event
/// that was not inserted. An event without a remembered name was refused, whatever the box has by then: nothing was
/// inserted, and the caller may try again.
const INSERT_MEASURED: &str = concat!(
    "
INSERT INTO eventbox_named_emit (shard, recipient, id, name, traceparent, origin, value, due_at_us)
SELECT $1, $2, $3, $4, $5, $6, $7, coalesce($8, ",
    now_us!(),
    " + $9)
WHERE $8 IS NOT NULL OR $9 IS NOT NULL OR ",
    waiting!(),
    " < $11
RETURNING 0 AS noted, 0 AS waiting, NULL AS oldest;
SELECT CASE
    WHEN t.id = $3 THEN 0
    WHEN EXISTS (SELECT 1 FROM eventbox_event e WHERE e.shard = t.shard AND e.recipient = t.recipient AND e.id = t.id)
      OR EXISTS (SELECT 1 FROM eventbox_timer m WHERE m.shard = t.shard AND m.recipient = t.recipient AND m.id = t.id)
      OR EXISTS (SELECT 1 FROM eventbox_dead_letter d WHERE d.shard = t.shard AND d.id = t.id)
    THEN 1 WHEN t.id IS NOT NULL THEN 2 ELSE 3 END AS noted, ",
    waiting!(),
    " AS waiting, ",
    oldest!(),
    " AS oldest
FROM (SELECT 1) LEFT JOIN eventbox_tombstone t ON t.shard = $1 AND t.recipient = $2 AND t.name = $4"
);

impl DepthDialect for Sqlite {
    fn insert_measured<'e>(
        conn: &'e mut SqliteConnection,
        row: EventRow<'e>,
        bound: DepthBound,
    ) -> BoxFuture<'e, Result<Measured, Fault>> {
        let insert = Insert::of(row, bound);
        Box::pin(async move { insert?.run_on(conn).await })
    }

    // Differs: events that arrive during a write commit together.
    async fn insert_measured_on_pool(
        pool: &Pool<Self>,
        row: EventRow<'_>,
        bound: DepthBound,
    ) -> Result<Measured, Fault> {
        run_queued(pool, Insert::of(row, bound)?).await
    }
}

/// The statement with its parameters.
#[derive(Clone)]
struct Insert(SqliteArguments);

impl Insert {
    fn of(row: EventRow<'_>, bound: DepthBound) -> Result<Self, Fault> {
        let (at_us, in_us) = row.due_columns();
        let query = sqlx::query::<Sqlite>(INSERT_MEASURED).bind(row.shard).bind(row.recipient).bind(row.id);
        let query = query.bind(row.name).bind(row.traceparent).bind(row.origin).bind(row.value).bind(at_us).bind(in_us);
        Ok(Insert(arguments_of(query.bind(bound.count_up_to).bind(bound.max_waiting))?))
    }

    async fn run_on<'e, E: Executor<'e, Database = Sqlite>>(self, executor: E) -> Result<Measured, Fault> {
        let answers = sqlx::query_with::<Sqlite, _>(INSERT_MEASURED, self.0).fetch_all(executor).await?;
        let measure = answers.last().ok_or(sqlx::Error::RowNotFound)?;
        let code = if answers.len() > 1 { 0 } else { measure.try_get(0)? };
        Ok(Measured::of_code(code, measure.try_get(1)?, measure.try_get(2)?))
    }
}

impl Statement for Insert {
    type Answer = Measured;

    async fn run(self, conn: &mut SqliteConnection) -> Result<Measured, Fault> {
        self.run_on(conn).await
    }
}
