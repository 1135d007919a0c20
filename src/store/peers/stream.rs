//! `eventbox_stream`: the open streams of peers, and the process that has each connection.

use sqlx::{Database, Row};
use uuid::Uuid;

use crate::store::fault::Fault;
use crate::store::macros::on_both_engines;

/// An open stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRow {
    pub peer: String,
    pub stream: String,
    /// Process that has the connection.
    pub worker: Uuid,
    /// Facts of the stream, as a JSON object.
    pub facts: String,
    pub started_at_us: i64,
    /// Whether that process has sent a heartbeat in time.
    pub is_alive: bool,
}

/// A stream that opens.
#[derive(Debug, Clone, Copy)]
pub struct OpeningStream<'a> {
    pub peer: &'a str,
    pub stream: &'a str,
    pub worker: Uuid,
    pub facts: &'a str,
    /// Silence after which a process counts as dead, in microseconds.
    pub silent_us: i64,
}

/// Open streams of one peer, each number at most the limit of the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCounts {
    pub open: i64,
    /// Those whose process has sent no heartbeat in time.
    pub silent: i64,
    /// Start of the first of the counted streams.
    pub first_started_at_us: Option<i64>,
}

/// Statements on open streams.
pub trait StreamTable: Database {
    /// Notes an open stream, in a transaction. False when another living process has it.
    fn open_stream(
        tx: &mut Self::Connection,
        stream: OpeningStream<'_>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Removes the row of a stream, if this process has it.
    fn close_stream(
        conn: &mut Self::Connection,
        peer: &str,
        stream: &str,
        worker: Uuid,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns the streams of a peer behind `after`, by stream.
    fn list_streams(
        conn: &mut Self::Connection,
        peer: &str,
        after: &str,
        limit: i64,
        silent_us: i64,
    ) -> impl Future<Output = Result<Vec<StreamRow>, Fault>> + Send;

    /// Returns one stream, if it is open.
    fn stream(
        conn: &mut Self::Connection,
        peer: &str,
        stream: &str,
        silent_us: i64,
    ) -> impl Future<Output = Result<Option<StreamRow>, Fault>> + Send;

    /// Returns streams of a peer whose process has died.
    fn list_lost_streams(
        conn: &mut Self::Connection,
        peer: &str,
        limit: i64,
        silent_us: i64,
    ) -> impl Future<Output = Result<Vec<StreamRow>, Fault>> + Send;

    /// Returns the first peer behind `after` that has an open stream.
    fn next_peer(
        conn: &mut Self::Connection,
        after: &str,
    ) -> impl Future<Output = Result<Option<String>, Fault>> + Send;

    /// Counts the open streams of a peer, up to a limit.
    fn count_streams(
        conn: &mut Self::Connection,
        peer: &str,
        limit: i64,
        silent_us: i64,
    ) -> impl Future<Output = Result<StreamCounts, Fault>> + Send;
}

on_both_engines! {
    /// Its plan must use the primary key.
    pub(crate) const LIST_STREAMS: &str = concat!(
        "SELECT s.peer, s.stream, s.worker, s.facts, s.started_at_us, m.heartbeat_at_us, ", now_us!(), "
         FROM eventbox_stream s LEFT JOIN eventbox_member m ON m.worker = s.worker
         WHERE s.peer = $1 AND s.stream > $2 ORDER BY s.stream LIMIT $3 + 0"
    );

    /// Its plan must use the primary key.
    pub(crate) const NEXT_PEER: &str = "SELECT peer FROM eventbox_stream WHERE peer > $1 ORDER BY peer LIMIT 1";

    /// Its plan must use the primary key.
    pub(crate) const COUNT_STREAMS: &str = concat!(
        "SELECT count(*), count(CASE WHEN heard_at_us <= ", now_us!(), " - $3 THEN 1 END), min(started_at_us)
         FROM (SELECT s.started_at_us,
                   CASE WHEN m.heartbeat_at_us > s.started_at_us THEN m.heartbeat_at_us ELSE s.started_at_us END
                       AS heard_at_us
               FROM eventbox_stream s LEFT JOIN eventbox_member m ON m.worker = s.worker
               WHERE s.peer = $1 ORDER BY s.stream LIMIT $2 + 0) streams"
    );

    /// The first statement of [`open_stream`](StreamTable::open_stream), for a stream that no other process has.
    pub(crate) const NOTE_STREAM: &str = concat!(
        "INSERT INTO eventbox_stream AS s (peer, stream, worker, facts, started_at_us)
         VALUES ($1, $2, $3, $4, ", now_us!(), ")
         ON CONFLICT (peer, stream) DO UPDATE SET worker = excluded.worker, facts = excluded.facts,
             started_at_us = excluded.started_at_us
         WHERE s.worker = excluded.worker"
    );

    /// The second one, for a stream of a process that has died. A statement of its own, because Citus accepts no
    /// subquery in an INSERT with values.
    pub(crate) const TAKE_STREAM: &str = concat!(
        "UPDATE eventbox_stream SET worker = $3, facts = $4, started_at_us = ", now_us!(), "
         WHERE peer = $1 AND stream = $2 AND started_at_us <= ", now_us!(), " - $5 AND NOT EXISTS (
             SELECT 1 FROM eventbox_member m
             WHERE m.worker = eventbox_stream.worker AND m.heartbeat_at_us > ", now_us!(), " - $5)"
    );

    /// Reads a row of the columns of [`list_streams`](StreamTable::list_streams), with the time of the last heartbeat
    /// of the process and the current time behind them.
    fn row_of(row: &<Engine as Database>::Row, silent_us: i64) -> Result<StreamRow, sqlx::Error> {
        let (started_at_us, now_us): (i64, i64) = (row.try_get(4)?, row.try_get(6)?);
        let heard_at_us: Option<i64> = row.try_get(5)?;
        let is_recent = |at_us: i64| at_us > now_us.saturating_sub(silent_us);
        Ok(StreamRow {
            peer: row.try_get(0)?,
            stream: row.try_get(1)?,
            worker: row.try_get(2)?,
            facts: row.try_get(3)?,
            started_at_us,
            // A process may have opened the stream before its first heartbeat.
            is_alive: is_recent(started_at_us) || heard_at_us.is_some_and(is_recent),
        })
    }

    impl StreamTable for Engine {
        async fn open_stream(
            tx: &mut <Self as Database>::Connection,
            stream: OpeningStream<'_>,
        ) -> Result<bool, Fault> {
            let binds = |sql: &'static str| {
                let query = sqlx::query::<Engine>(sql).bind(stream.peer).bind(stream.stream);
                query.bind(stream.worker).bind(stream.facts)
            };
            if binds(NOTE_STREAM).execute(&mut *tx).await?.rows_affected() == 1 {
                return Ok(true);
            }
            let taken = binds(TAKE_STREAM).bind(stream.silent_us).execute(tx).await?;
            Ok(taken.rows_affected() == 1)
        }

        async fn close_stream(
            conn: &mut <Self as Database>::Connection,
            peer: &str,
            stream: &str,
            worker: Uuid,
        ) -> Result<bool, Fault> {
            let query = sqlx::query::<Engine>(
                "DELETE FROM eventbox_stream WHERE peer = $1 AND stream = $2 AND worker = $3",
            );
            Ok(query.bind(peer).bind(stream).bind(worker).execute(conn).await?.rows_affected() == 1)
        }

        async fn list_streams(
            conn: &mut <Self as Database>::Connection,
            peer: &str,
            after: &str,
            limit: i64,
            silent_us: i64,
        ) -> Result<Vec<StreamRow>, Fault> {
            let query = sqlx::query::<Engine>(LIST_STREAMS);
            let rows = query.bind(peer).bind(after).bind(limit).fetch_all(conn).await?;
            Ok(rows.iter().map(|row| row_of(row, silent_us)).collect::<Result<_, _>>()?)
        }

        async fn stream(
            conn: &mut <Self as Database>::Connection,
            peer: &str,
            stream: &str,
            silent_us: i64,
        ) -> Result<Option<StreamRow>, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT s.peer, s.stream, s.worker, s.facts, s.started_at_us, m.heartbeat_at_us, ", now_us!(), "
                 FROM eventbox_stream s LEFT JOIN eventbox_member m ON m.worker = s.worker
                 WHERE s.peer = $1 AND s.stream = $2"
            ));
            let row = query.bind(peer).bind(stream).fetch_optional(conn).await?;
            Ok(row.as_ref().map(|row| row_of(row, silent_us)).transpose()?)
        }

        async fn list_lost_streams(
            conn: &mut <Self as Database>::Connection,
            peer: &str,
            limit: i64,
            silent_us: i64,
        ) -> Result<Vec<StreamRow>, Fault> {
            let query = sqlx::query::<Engine>(concat!(
                "SELECT s.peer, s.stream, s.worker, s.facts, s.started_at_us, m.heartbeat_at_us, ", now_us!(), "
                 FROM eventbox_stream s LEFT JOIN eventbox_member m ON m.worker = s.worker
                 WHERE s.peer = $1 AND s.started_at_us <= ", now_us!(), " - $3
                   AND coalesce(m.heartbeat_at_us, 0) <= ", now_us!(), " - $3
                 ORDER BY s.stream LIMIT $2 + 0"
            ));
            let rows = query.bind(peer).bind(limit).bind(silent_us).fetch_all(conn).await?;
            Ok(rows.iter().map(|row| row_of(row, silent_us)).collect::<Result<_, _>>()?)
        }

        async fn next_peer(conn: &mut <Self as Database>::Connection, after: &str) -> Result<Option<String>, Fault> {
            Ok(sqlx::query_scalar::<Engine, String>(NEXT_PEER).bind(after).fetch_optional(conn).await?)
        }

        async fn count_streams(
            conn: &mut <Self as Database>::Connection,
            peer: &str,
            limit: i64,
            silent_us: i64,
        ) -> Result<StreamCounts, Fault> {
            let query = sqlx::query::<Engine>(COUNT_STREAMS).bind(peer).bind(limit).bind(silent_us);
            let row = query.fetch_one(conn).await?;
            Ok(StreamCounts { open: row.try_get(0)?, silent: row.try_get(1)?, first_started_at_us: row.try_get(2)? })
        }
    }
}
