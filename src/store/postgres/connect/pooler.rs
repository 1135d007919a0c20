//! Whether a pooler between the process and the server gives one server connection to many sessions.
//!
//! sqlx prepares a statement in one request and runs it in the next. A pooler that may send the two to different
//! servers breaks that, or runs another session's statement of the same name.

use std::io;
use std::time::Duration;

use sqlx::{Connection, PgConnection, Pool, Postgres, Row};
use tokio::time::timeout;

use crate::store::fault::Fault;

/// Time that a second connection may take to be opened, asked and closed.
const PROBE_WAIT: Duration = Duration::from_secs(10);

/// Number of times that two connections are asked for their server. The work of other sessions may hide the server from
/// a single question.
const PROBES: usize = 8;

/// Codes of a pooler about prepared statements that went to another server (26000) or met another session's (42P05),
/// and about a transaction where the server has none (08P01).
const CLASHES: [&str; 3] = ["26000", "42P05", "08P01"];

/// Reason why sessions that share servers are refused, and what to do.
const REFUSED: &str = "a connection pooler hands one server connection to several sessions, \
and prepared statements do not survive that: \
let it pool sessions (PgBouncer: pool_mode = session), or connect past it; see docs/high-availability.md";

/// Text about a parameter that a pooler refuses at the start of a connection, with what to do.
const STARTUP: &str = "a connection pooler refuses a parameter of the start of a connection: \
open the pool with eventbox::postgres_options, \
which leaves out what PgBouncer does not know; see docs/high-availability.md";

/// Returns why the connections of a pool cannot be used, if an error comes from a pooler.
pub(in crate::store::postgres) fn problem_of(fault: &Fault) -> Option<&'static str> {
    let error = fault.database_error()?;
    if error.message().contains("startup parameter") {
        return Some(STARTUP);
    }
    error.code().is_some_and(|code| code == "26000" || code == "42P05").then_some(REFUSED)
}

/// Returns why the connections of a pool cannot be used, if a pooler shares servers between sessions.
pub(in crate::store::postgres) async fn check(
    pool: &Pool<Postgres>,
    conn: &mut PgConnection,
) -> Result<Option<&'static str>, Fault> {
    let opened = timeout(PROBE_WAIT, PgConnection::connect_with(&pool.connect_options())).await;
    let Ok(Ok(mut other)) = opened else {
        tracing::warn!("no second connection could be opened, so a pooler that shares servers would not be noticed");
        return Ok(None);
    };
    let shared = timeout(PROBE_WAIT, is_shared(conn, &mut other)).await;
    // Closing the connection ends its transaction.
    let _ = timeout(PROBE_WAIT, other.close()).await;
    match shared {
        Ok(Ok(false)) => Ok(None),
        Ok(Ok(true)) => Ok(Some(REFUSED)),
        Ok(Err(fault)) if is_clash(&fault) => Ok(Some(REFUSED)),
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err(no_answer()),
    }
}

/// Returns whether a connection has the server of another connection, or changes its own server. Two sessions with
/// servers of their own do neither.
async fn is_shared(conn: &mut PgConnection, other: &mut PgConnection) -> Result<bool, Fault> {
    for _ in 0..PROBES {
        let mine = server_of(conn).await?;
        sqlx::raw_sql("BEGIN").execute(&mut *other).await?;
        if server_of(other).await? == mine || server_of(conn).await? != mine {
            return Ok(true);
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut *other).await?;
    }
    Ok(false)
}

/// Returns the process id of the server, without a prepared statement.
async fn server_of(conn: &mut PgConnection) -> Result<String, Fault> {
    let row = sqlx::raw_sql("SELECT pg_backend_pid()::text").fetch_one(conn).await?;
    Ok(row.try_get(0)?)
}

/// Returns the error of a probe that reached its bound.
fn no_answer() -> Fault {
    let text = format!("the database did not answer within {PROBE_WAIT:?}");
    Fault(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
}

fn is_clash(fault: &Fault) -> bool {
    let code = fault.database_error().and_then(|error| error.code());
    code.is_some_and(|code| CLASHES.contains(&code.as_ref()))
}
