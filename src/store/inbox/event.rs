//! `eventbox_event` and `eventbox_tombstone`: the events in the boxes, and the remembered names.

use sqlx::{Database, Executor, Row};
use uuid::Uuid;

use crate::store::BoxFuture;
use crate::store::bound::{Bound, Page, fill, weigh};
use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// An event to be inserted.
#[derive(Debug, Clone, Copy)]
pub struct EventRow<'a> {
    pub shard: i16,
    pub recipient: &'a str,
    pub id: Uuid,
    pub name: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    /// Stored form of the origin.
    pub origin: Option<&'a str>,
    pub value: &'a [u8],
    /// `None` for an event that is due at once.
    pub due: Option<DueRow>,
}

/// Time at which an event comes into its box, by the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueRow {
    AtUs(i64),
    InUs(i64),
}

impl EventRow<'_> {
    /// Returns the two columns of the due time: a time, and a wait.
    pub(in crate::store) fn due_columns(&self) -> (Option<i64>, Option<i64>) {
        match self.due {
            None => (None, None),
            Some(DueRow::AtUs(at)) => (Some(at), None),
            Some(DueRow::InUs(wait)) => (None, Some(wait)),
        }
    }

    /// Returns whether the emit is a plain insert into the box.
    pub(in crate::store) fn is_plain(&self) -> bool {
        self.name.is_none() && self.due.is_none()
    }
}

/// An event in its box.
#[derive(Debug)]
pub struct ListedRow {
    pub id: Uuid,
    pub name: Option<String>,
    pub traceparent: Option<String>,
    /// Stored form of the origin.
    pub origin: Option<String>,
    pub value: Vec<u8>,
}

/// Result of emitting an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Emitted {
    /// The event is in the eventbox now, or a timer.
    Added,
    /// The recipient has an event of that name already: in the eventbox, as a timer, or in quarantine. Nothing was
    /// changed; the first value and due time stay.
    Duplicate,
    /// An event of that name was consumed or cancelled within the tombstone delay. Nothing was changed.
    Tombstoned,
}

impl Emitted {
    /// Makes a result from its number in the statements.
    pub(in crate::store) fn from_code(code: i64) -> Self {
        match code {
            0 => Emitted::Added,
            1 => Emitted::Duplicate,
            _ => Emitted::Tombstoned,
        }
    }
}

/// Longest time that a named emit on a pool waits for a name that another open transaction holds. Then the emit fails
/// with contention, and has changed nothing.
///
/// On SQLite emits wait for the file and not for names, for at most the connection's busy timeout.
pub const NAME_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// When the disk has the commit of an emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before the emit returns.
    Immediate,
    /// With a later commit at the latest. Postgres writes its log in the order of commits, so the commit of the turn
    /// that consumes the events makes them durable too.
    Deferred,
}

/// Statements on events that differ between the engines.
pub trait EventDialect: Database {
    /// Inserts one event without a name that is due at once: one plain insert, which waits for no other transaction.
    ///
    /// The future is boxed, here and below, because an opaque future that names `E` cannot be awaited inside a boxed
    /// side effect.
    fn insert_event<'e, E>(executor: E, row: EventRow<'_>) -> BoxFuture<'e, Result<(), Fault>>
    where
        E: Executor<'e, Database = Self> + 'e;

    /// Does what [`insert_event`](EventDialect::insert_event) does, on a pool, where the insert may share its commit.
    fn insert_on_pool(pool: &sqlx::Pool<Self>, row: EventRow<'_>) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Inserts events in one statement, in the order given: sorted by (shard, recipient, name), no name twice in a
    /// recipient.
    ///
    /// Returns one value for each row, in that order. A row whose name is remembered is left out, and a row that is due
    /// later becomes a timer. A row whose own id is remembered under its name was added by an earlier attempt, and the
    /// result says so.
    ///
    /// On a cluster that cuts the tables, the rows of each shard are inserted by statements of their own, in one
    /// transaction. The future is boxed as that of [`insert_event`](EventDialect::insert_event).
    fn insert_events<'e>(
        conn: &'e mut Self::Connection,
        rows: &'e [EventRow<'e>],
    ) -> BoxFuture<'e, Result<Vec<Emitted>, Fault>>;

    /// Does what [`insert_events`](EventDialect::insert_events) does, on a pool, where the inserts may share their
    /// commit. Inserts all events or none.
    ///
    /// Waits for a name that another transaction holds for at most [`NAME_WAIT`], and never with most of the pool.
    ///
    /// Named events may be [`Durability::Deferred`], on one server of Postgres. Elsewhere they are durable at once.
    fn insert_all_on_pool(
        pool: &sqlx::Pool<Self>,
        rows: &[EventRow<'_>],
        durability: Durability,
    ) -> impl Future<Output = Result<Vec<Emitted>, Fault>> + Send;

    /// Whether one transaction at a time writes, so that emits wait for the file and never for a name.
    const ONE_WRITER: bool;

    /// Inserts events of a group as [`insert_events`](EventDialect::insert_events) does, in a transaction of its own.
    /// Waits for a lock of another transaction for at most `lock_wait`, where such a wait is possible.
    fn insert_group(
        pool: &sqlx::Pool<Self>,
        rows: &[EventRow<'_>],
        lock_wait: std::time::Duration,
    ) -> impl Future<Output = Result<Vec<Emitted>, Fault>> + Send;

    /// Deletes events of one recipient. Returns the number of deleted events.
    fn delete_events(
        tx: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        ids: &[Uuid],
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}

/// Statements on events that both engines accept.
pub trait EventTable: EventDialect {
    /// Returns the oldest events of a recipient behind `after` (the nil id is before all), oldest first.
    fn list_events(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
        after: Uuid,
        bound: Bound,
    ) -> impl Future<Output = Result<Page<ListedRow>, Fault>> + Send;

    /// Returns the number of events of a box, and its oldest event. Reads the whole box.
    fn measure_box(
        conn: &mut Self::Connection,
        shard: i16,
        recipient: &str,
    ) -> impl Future<Output = Result<(i64, Option<Uuid>), Fault>> + Send;

    /// Returns the recipients of a shard that have events, in key order, behind `after` (the empty text is before all).
    ///
    /// Skips from one recipient to the next along the primary key, so a full box costs no more than a box with a single
    /// event.
    fn list_recipients(
        conn: &mut Self::Connection,
        shard: i16,
        after: &str,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;
}

/// The statement of [`EventTable::list_events`]; its plan must use the primary key.
pub(crate) const LIST_EVENTS: &str = "SELECT id, name, traceparent, CASE WHEN octet_length(value) <= $5 THEN value END,
 CAST(octet_length(value) AS bigint), origin FROM eventbox_event
 WHERE shard = $1 AND recipient = $2 AND id > $3 ORDER BY id LIMIT $4 + 0";

/// The values of a list that did not come with their rows; its plan must use the primary key.
pub(crate) const LARGE_EVENTS: &str = "SELECT id, value FROM eventbox_event
 WHERE shard = $1 AND recipient = $2 AND id >= $3 AND id <= $4 AND octet_length(value) > $5 ORDER BY id LIMIT $6 + 0";

/// The query of [`LARGE_EVENTS`].
macro_rules! large_events {
    ($missing:ident, $shard:expr, $recipient:expr, $bound:expr) => {
        sqlx::query::<Engine>($crate::store::inbox::event::LARGE_EVENTS)
            .bind($shard)
            .bind($recipient)
            .bind($missing.first)
            .bind($missing.last)
            .bind($bound.small(1))
            .bind($missing.rows)
    };
}
pub(in crate::store) use large_events;

/// The statement of [`EventTable::list_recipients`]; its plan must use the primary key at both steps.
pub(crate) const LIST_RECIPIENTS: &str = "WITH RECURSIVE step (recipient, n) AS (
    SELECT (SELECT e.recipient FROM eventbox_event e
            WHERE e.shard = $1 AND e.recipient > $2 ORDER BY e.recipient LIMIT 1), 1
    UNION ALL
    SELECT (SELECT e.recipient FROM eventbox_event e
            WHERE e.shard = $1 AND e.recipient > step.recipient ORDER BY e.recipient LIMIT 1), n + 1
    FROM step WHERE step.recipient IS NOT NULL AND n < $3
) SELECT recipient FROM step WHERE recipient IS NOT NULL";

on_both_engines! {
    impl EventTable for Engine {
        async fn list_events(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
            after: Uuid,
            bound: Bound,
        ) -> Result<Page<ListedRow>, Fault> {
            let query = sqlx::query::<Engine>(LIST_EVENTS).bind(shard).bind(recipient).bind(after);
            let rows = query.bind(bound.rows()).bind(bound.small(1)).fetch(&mut *conn);
            let listed = weigh!(rows, 3, |row| ListedRow {
                id: row.try_get(0)?,
                name: row.try_get(1)?,
                traceparent: row.try_get(2)?,
                origin: row.try_get(5)?,
                value: Vec::new(),
            });
            Ok(fill!(listed, bound, conn, |missing| large_events!(missing, shard, recipient, bound)))
        }

        async fn measure_box(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            recipient: &str,
        ) -> Result<(i64, Option<Uuid>), Fault> {
            let query = sqlx::query::<Engine>(
                "SELECT (SELECT count(*) FROM eventbox_event WHERE shard = $1 AND recipient = $2),
                        (SELECT id FROM eventbox_event WHERE shard = $1 AND recipient = $2 ORDER BY id LIMIT 1)",
            );
            let row = query.bind(shard).bind(recipient).fetch_one(conn).await?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        }

        async fn list_recipients(
            conn: &mut <Self as Database>::Connection,
            shard: i16,
            after: &str,
            limit: i64,
        ) -> Result<Vec<String>, Fault> {
            let query = sqlx::query::<Engine>(LIST_RECIPIENTS).bind(shard).bind(after).bind(limit);
            let rows = query.fetch_all(conn).await?;
            rows.into_iter().map(|row| Ok(row.try_get(0)?)).collect()
        }
    }
}
