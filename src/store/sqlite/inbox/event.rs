//! Events and names on SQLite.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::sqlite::SqliteArguments;
use sqlx::{Executor, Pool, Row, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::connect::group::GroupCommit;
use crate::store::fault::Fault;
use crate::store::inbox::event::{Durability, Emitted, EventDialect, EventRow};
use crate::store::sqlite::now_us;
use crate::store::sqlite::params::json::{Packed, hex, ids_json};
use crate::store::sqlite::params::values::{BySize, MAX_ROWS, hundred_rows, ten_rows};
use crate::store::sqlite::writer::emit_groups;
use crate::store::sqlite::writer::statement::{Statement, run_queued};
use crate::store::{BoxFuture, arguments_of};

const INSERT_EVENT: &str =
    "INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value) VALUES ($1, $2, $3, $4, $5, $6)";

/// Differs: no arrays, so the rows are parameters. For events without names and due times.
const INSERT_PLAIN: BySize = BySize {
    ten: concat!(
        "INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value)
         SELECT column1, column2, column3, column4, column5, column6 FROM (VALUES ",
        ten_rows!(),
        ") WHERE column3 IS NOT NULL"
    ),
    hundred: concat!(
        "INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value)
         SELECT column1, column2, column3, column4, column5, column6 FROM (VALUES ",
        hundred_rows!(),
        ") WHERE column3 IS NOT NULL"
    ),
    most: concat!(
        "INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value)
         SELECT column1, column2, column3, column4, column5, column6 FROM (VALUES ",
        hundred_rows!(),
        ",",
        hundred_rows!(),
        ",",
        hundred_rows!(),
        ",",
        hundred_rows!(),
        ",",
        hundred_rows!(),
        ") WHERE column3 IS NOT NULL"
    ),
};

/// The same for any number of rows: rows in JSON cost twice as much as parameters.
const INSERT_PLAIN_MANY: &str = "
INSERT INTO eventbox_event (shard, recipient, id, traceparent, origin, value)
SELECT value ->> '$[2][0]', value ->> '$[2][1]', unhex(value ->> '$[2][2]'), value ->> '$[2][3]', value ->> '$[2][4]',
       substr($2, value ->> 0, value ->> 1)
FROM json_each($1)";

/// Differs: a view's trigger writes both tables, because a CTE of SQLite cannot write. RETURNING gives rows only for
/// the added events. The second statement finds the results of the others, from the same two parameters. Both run on
/// one connection, whatever the executor is.
const INSERT_EVENTS: &str = concat!(
    "
INSERT INTO eventbox_named_emit (shard, recipient, id, name, traceparent, value, due_at_us, origin)
SELECT value ->> '$[2][0]', value ->> '$[2][1]', unhex(value ->> '$[2][2]'), value ->> '$[2][3]', value ->> '$[2][4]',
       substr($2, value ->> 0, value ->> 1), coalesce(value ->> '$[2][5]', ",
    now_us!(),
    " + (value ->> '$[2][6]')), value ->> '$[2][7]'
FROM json_each($1) RETURNING id, 0 AS noted;
SELECT unhex(r.value ->> '$[2][2]') AS id, CASE
    WHEN t.id = unhex(r.value ->> '$[2][2]') THEN 0
    WHEN EXISTS (SELECT 1 FROM eventbox_event e WHERE e.shard = t.shard AND e.recipient = t.recipient AND e.id = t.id)
      OR EXISTS (SELECT 1 FROM eventbox_timer m WHERE m.shard = t.shard AND m.recipient = t.recipient AND m.id = t.id)
      OR EXISTS (SELECT 1 FROM eventbox_dead_letter d WHERE d.shard = t.shard AND d.id = t.id)
    THEN 1 ELSE 2 END AS noted
FROM json_each($1) r JOIN eventbox_tombstone t
  ON t.shard = r.value ->> '$[2][0]' AND t.recipient = r.value ->> '$[2][1]' AND t.name = r.value ->> '$[2][3]'"
);

/// Differs: no arrays, so the ids come as JSON.
pub(crate) const DELETE_EVENTS: &str = "DELETE FROM eventbox_event WHERE shard = $1 AND recipient = $2
 AND id IN (SELECT unhex(value) FROM json_each($3))";

impl EventDialect for Sqlite {
    fn insert_event<'e, E>(executor: E, row: EventRow<'_>) -> BoxFuture<'e, Result<(), Fault>>
    where
        E: Executor<'e, Database = Self> + 'e,
    {
        let query = sqlx::query::<Self>(INSERT_EVENT).bind(row.shard).bind(row.recipient).bind(row.id);
        let arguments = arguments_of(query.bind(row.traceparent).bind(row.origin).bind(row.value));
        Box::pin(async move {
            sqlx::query_with::<Self, _>(INSERT_EVENT, arguments?).execute(executor).await?;
            Ok(())
        })
    }

    // Differs: events that arrive during a write commit together.
    async fn insert_on_pool(pool: &Pool<Self>, row: EventRow<'_>) -> Result<(), Fault> {
        emit_groups::insert(pool, row).await
    }

    fn insert_events<'e>(
        conn: &'e mut SqliteConnection,
        rows: &'e [EventRow<'e>],
    ) -> BoxFuture<'e, Result<Vec<Emitted>, Fault>> {
        let insert = Insert::of(rows);
        Box::pin(async move { insert?.run_on(conn).await })
    }

    // Differs: events that arrive during a write commit together, and each commit is durable.
    async fn insert_all_on_pool(
        pool: &Pool<Self>,
        rows: &[EventRow<'_>],
        _durability: Durability,
    ) -> Result<Vec<Emitted>, Fault> {
        run_queued(pool, Insert::of(rows)?).await
    }

    const ONE_WRITER: bool = true;

    // Differs: the transaction may be shared with other groups, and waits for the file for at most the connection's
    // busy timeout. It waits for no name, so named and unnamed events may share it.
    async fn insert_group(
        pool: &Pool<Self>,
        rows: &[EventRow<'_>],
        _lock_wait: Duration,
    ) -> Result<Vec<Emitted>, Fault> {
        let mut part = Self::begin_shared(pool).await?;
        match insert_mixed(&mut part, rows).await {
            Ok(noted) => Self::commit_shared(part).await.map(|()| noted),
            Err(fault) => {
                Self::roll_back_shared(part).await;
                Err(fault)
            }
        }
    }

    async fn delete_events(
        tx: &mut sqlx::SqliteConnection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> Result<u64, Fault> {
        let query = sqlx::query::<Self>(DELETE_EVENTS);
        Ok(query.bind(shard).bind(recipient).bind(ids_json(ids)?).execute(tx).await?.rows_affected())
    }
}

/// A statement that inserts events, and owns its parameters.
#[derive(Clone)]
struct Insert {
    sql: &'static str,
    arguments: SqliteArguments,
    /// The ids of events of which some may be left out; empty when all events are plain.
    ids: Vec<Uuid>,
    count: usize,
}

impl Insert {
    fn of(rows: &[EventRow<'_>]) -> Result<Self, Fault> {
        if rows.iter().all(EventRow::is_plain) {
            return Self::plain(rows);
        }
        let mut packed = Packed::with_capacity(rows.len());
        for row in rows {
            let (at_us, in_us) = row.due_columns();
            let (name, traceparent, origin) = (row.name, row.traceparent, row.origin);
            let columns = (row.shard, row.recipient, hex(row.id), name, traceparent, at_us, in_us, origin);
            packed.push(columns, row.value);
        }
        let (json, bytes) = packed.into_parameters()?;
        let arguments = arguments_of(sqlx::query::<Sqlite>(INSERT_EVENTS).bind(json).bind(bytes))?;
        let ids = rows.iter().map(|row| row.id).collect();
        Ok(Insert { sql: INSERT_EVENTS, arguments, ids, count: rows.len() })
    }

    fn plain(rows: &[EventRow<'_>]) -> Result<Self, Fault> {
        let sql = if rows.len() <= MAX_ROWS { INSERT_PLAIN.of(rows.len()) } else { INSERT_PLAIN_MANY };
        let query = sqlx::query::<Sqlite>(sql);
        let query = if sql == INSERT_PLAIN_MANY {
            let mut packed = Packed::with_capacity(rows.len());
            for row in rows {
                packed.push((row.shard, row.recipient, hex(row.id), row.traceparent, row.origin), row.value);
            }
            let (json, bytes) = packed.into_parameters()?;
            query.bind(json).bind(bytes)
        } else {
            rows.iter().fold(query, |query, row| {
                let query = query.bind(row.shard).bind(row.recipient).bind(row.id);
                query.bind(row.traceparent).bind(row.origin).bind(row.value)
            })
        };
        Ok(Insert { sql, arguments: arguments_of(query)?, ids: Vec::new(), count: rows.len() })
    }

    async fn run_on<'e, E: Executor<'e, Database = Sqlite>>(self, executor: E) -> Result<Vec<Emitted>, Fault> {
        let query = sqlx::query_with::<Sqlite, _>(self.sql, self.arguments);
        if self.ids.is_empty() {
            query.execute(executor).await?;
            return Ok(vec![Emitted::Added; self.count]);
        }
        let answers = query.fetch_all(executor).await?;
        let mut noted = HashMap::with_capacity(self.count);
        for answer in &answers {
            noted.entry(answer.try_get::<Uuid, _>(0)?).or_insert(Emitted::from_code(answer.try_get(1)?));
        }
        // A name that the first statement found and the second did not was pruned in between: it was a tombstone.
        Ok(self.ids.iter().map(|id| noted.get(id).copied().unwrap_or(Emitted::Tombstoned)).collect())
    }
}

impl Statement for Insert {
    type Answer = Vec<Emitted>;

    async fn run(self, conn: &mut SqliteConnection) -> Result<Vec<Emitted>, Fault> {
        self.run_on(conn).await
    }
}

/// Inserts plain events and other events, each sort in one statement.
async fn insert_mixed(tx: &mut SqliteConnection, rows: &[EventRow<'_>]) -> Result<Vec<Emitted>, Fault> {
    let (plain, other): (Vec<EventRow<'_>>, Vec<EventRow<'_>>) = rows.iter().partition(|row| row.is_plain());
    if !plain.is_empty() {
        insert_plain_events(tx, &plain).await?;
    }
    let others = if other.is_empty() { Vec::new() } else { Sqlite::insert_events(tx, &other).await? };
    let mut others = others.into_iter();
    let noted = |row: &EventRow<'_>| if row.is_plain() { Some(Emitted::Added) } else { others.next() };
    Ok(rows.iter().filter_map(noted).collect())
}

pub(in crate::store::sqlite) async fn insert_plain_events(
    tx: &mut SqliteConnection,
    rows: &[EventRow<'_>],
) -> Result<(), Fault> {
    for rows in rows.chunks(MAX_ROWS) {
        Insert::plain(rows)?.run_on(&mut *tx).await?;
    }
    Ok(())
}
