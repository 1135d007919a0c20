//! Slots of logical decoding on a server of Postgres: how its committed changes are read in the order of their commits.

use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row};

use crate::store::fault::Fault;

/// A slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotRow {
    pub(crate) plugin: String,
    /// Place up to which its changes were confirmed.
    pub(crate) confirmed: i64,
}

/// Where the log of the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEnds {
    /// Place up to which it is on the disk.
    pub(crate) flushed: u64,
    /// Place of the next record.
    pub(crate) end: u64,
    /// Number of the session that asked.
    pub(crate) session_id: i32,
}

/// Milliseconds that [`end_session`] waits for the end of the session.
const END_WAIT_MS: i64 = 5_000;

/// The plugin that every server has.
pub(crate) const PLUGIN: &str = "pgoutput";

/// Returns a slot of this database.
pub(crate) async fn slot(conn: &mut PgConnection, name: &str) -> Result<Option<SlotRow>, Fault> {
    let query = sqlx::query(
        "SELECT coalesce(plugin::text, ''), (coalesce(confirmed_flush_lsn, '0/0') - '0/0'::pg_lsn)::int8
         FROM pg_replication_slots WHERE slot_name = $1::text AND database = current_database()",
    );
    let row = query.bind(name).fetch_optional(conn).await?;
    row.map(|row| Ok(SlotRow { plugin: row.try_get(0)?, confirmed: row.try_get(1)? })).transpose()
}

/// Makes a slot, which has the changes from now on.
pub(crate) async fn create_slot(conn: &mut PgConnection, name: &str) -> Result<(), Fault> {
    let query = sqlx::query("SELECT 1 FROM pg_create_logical_replication_slot($1::text, $2::text)");
    query.bind(name).bind(PLUGIN).execute(conn).await?;
    Ok(())
}

/// Confirms the changes up to a place, so that the server may forget them.
pub(crate) async fn advance_slot(conn: &mut PgConnection, name: &str, to: &str) -> Result<(), Fault> {
    let query = sqlx::query("SELECT 1 FROM pg_replication_slot_advance($1::text, $2::text::pg_lsn)");
    query.bind(name).bind(to).execute(conn).await?;
    Ok(())
}

/// Returns whether a publication exists.
pub(crate) async fn has_publication(conn: &mut PgConnection, name: &str) -> Result<bool, Fault> {
    let query = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_publication WHERE pubname = $1::text)");
    Ok(query.bind(name).fetch_one(conn).await?)
}

/// Ends the session with this number, if it still uses the slot.
pub(crate) async fn end_session(conn: &mut PgConnection, slot: &str, session_id: i32) -> Result<(), Fault> {
    let query = sqlx::query(
        "SELECT pg_terminate_backend(active_pid, $3::int8) FROM pg_replication_slots
         WHERE slot_name = $1::text AND active_pid = $2::int4",
    );
    query.bind(slot).bind(session_id).bind(END_WAIT_MS).execute(conn).await?;
    Ok(())
}

/// Returns where the log ends.
pub(crate) async fn log_ends(conn: &mut PgConnection) -> Result<LogEnds, Fault> {
    let query = sqlx::query(
        "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8,
                (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8, pg_backend_pid()",
    );
    let row = query.fetch_one(conn).await?;
    let place = |at: usize| Ok::<_, Fault>(u64::try_from(row.try_get::<i64, _>(at)?).unwrap_or_default());
    Ok(LogEnds { flushed: place(0)?, end: place(1)?, session_id: row.try_get(2)? })
}

/// Reads the messages of the plugin behind the confirmed place, without confirming them, until `take` wants no more.
/// The server ends after the transaction that has the message with the number `limit`; before it, at the end of the
/// log. Returns the number of messages, or `None` when `take` ended it.
pub(crate) async fn peek<E: From<Fault>>(
    conn: &mut PgConnection,
    slot: &str,
    publication: &str,
    limit: i32,
    mut take: impl FnMut(Vec<u8>) -> Result<bool, E>,
) -> Result<Option<usize>, E> {
    let query = sqlx::query_scalar::<_, Vec<u8>>(
        "SELECT data FROM pg_logical_slot_peek_binary_changes(
             $1::text, NULL, $2::int4, 'proto_version', '1', 'publication_names', $3::text)",
    );
    let mut messages = query.bind(slot).bind(limit).bind(publication).fetch(conn);
    let mut count = 0;
    while let Some(message) = messages.try_next().await.map_err(|error| E::from(error.into()))? {
        count += 1;
        if !take(message)? {
            return Ok(None);
        }
    }
    Ok(Some(count))
}
