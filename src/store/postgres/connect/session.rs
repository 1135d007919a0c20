//! Sessions of Postgres.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Pool, Postgres, Row};
use tokio::time::timeout;

use crate::store::connect::connection;
use crate::store::connect::session::Session;
use crate::store::fault::Fault;

/// Settings of a session that its users may have changed, and that would affect the code of other users.
///
/// `pg_settings` has all settings, and takes ten times as long. No view has the settings with a dot in their names. The
/// statement releases the locks of the session without a look at them: this look costs more, the more locks all
/// sessions have.
const READ_SESSION: &str = "SELECT concat_ws(';', session_user,
    current_setting('role', true), current_setting('search_path', true),
    current_setting('statement_timeout', true), current_setting('lock_timeout', true),
    current_setting('idle_in_transaction_session_timeout', true),
    current_setting('idle_session_timeout', true), current_setting('default_transaction_read_only', true),
    current_setting('default_transaction_isolation', true),
    current_setting('default_transaction_deferrable', true), current_setting('synchronous_commit', true),
    current_setting('session_replication_role', true), current_setting('row_security', true),
    current_setting('TimeZone', true), current_setting('DateStyle', true),
    current_setting('IntervalStyle', true), current_setting('client_encoding', true),
    current_setting('bytea_output', true), current_setting('extra_float_digits', true),
    current_setting('standard_conforming_strings', true), current_setting('backslash_quote', true),
    current_setting('transform_null_equals', true), current_setting('array_nulls', true),
    current_setting('client_min_messages', true), current_setting('application_name', true),
    current_setting('work_mem', true), current_setting('maintenance_work_mem', true),
    current_setting('temp_buffers', true), current_setting('plan_cache_mode', true),
    current_setting('jit', true), current_setting('enable_seqscan', true),
    current_setting('enable_indexscan', true), current_setting('enable_bitmapscan', true),
    current_setting('enable_hashjoin', true), current_setting('enable_mergejoin', true),
    current_setting('enable_nestloop', true), current_setting('enable_sort', true),
    current_setting('random_page_cost', true), current_setting('default_tablespace', true),
    current_setting('temp_tablespaces', true), current_setting('default_table_access_method', true),
    current_setting('check_function_bodies', true), current_setting('lc_messages', true),
    current_setting('lc_monetary', true), current_setting('lc_numeric', true),
    current_setting('lc_time', true), current_setting('xmlbinary', true), current_setting('xmloption', true),
    current_setting('tcp_keepalives_idle', true), current_setting('tcp_user_timeout', true),
    CASE WHEN pg_my_temp_schema() <> 0
         THEN (SELECT string_agg(relname::text, ',') FROM pg_class WHERE relnamespace = pg_my_temp_schema()) END,
    (SELECT string_agg(channel, ',') FROM pg_listening_channels() channel),
    (SELECT string_agg(name, ',') FROM pg_cursors WHERE is_holdable),
    (SELECT string_agg(name, ',') FROM pg_prepared_statements WHERE from_sql), pg_advisory_unlock_all()::text)";

/// Whether a session runs a statement, or has done so within the last seconds. A last statement in the future is from
/// before the clock of the server went back, and says nothing.
const IS_ALIVE: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = $1
    AND (state NOT LIKE 'idle%'
         OR state_change BETWEEN clock_timestamp() - $2 * interval '1 second' AND clock_timestamp())";

/// For a statement that is a transaction by itself.
const IS_OUTSIDE: &str = "SELECT now() = statement_timestamp()";

/// State of the sessions of a pool, by the address of the pool's options.
static SESSIONS: Mutex<Option<Sessions>> = Mutex::new(None);

type Sessions = HashMap<usize, (Weak<PgConnectOptions>, Arc<str>)>;

/// State of the sessions of a pool that no user has changed. `after_connect` may have set it.
#[derive(Debug)]
pub struct Before {
    options: Arc<PgConnectOptions>,
    session: Arc<str>,
}

impl Before {
    fn known(options: &Arc<PgConnectOptions>) -> Option<Arc<str>> {
        let sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.as_ref()?.get(&place_of(options)).map(|(_, session)| Arc::clone(session))
    }

    fn note(&self) {
        let mut sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = sessions.get_or_insert_default();
        sessions.retain(|_, (options, _)| options.strong_count() > 0);
        // The weak reference keeps the address, so that no other pool's options have it.
        sessions.insert(place_of(&self.options), (Arc::downgrade(&self.options), Arc::clone(&self.session)));
    }

    /// Forgets the state, so that the next session is noted again: a user may have changed the noted session.
    fn forget(&self) {
        let mut sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get_or_insert_default().remove(&place_of(&self.options));
    }
}

fn place_of(options: &Arc<PgConnectOptions>) -> usize {
    Arc::as_ptr(options) as usize
}

async fn ask_for(options: &PgConnectOptions, session_id: i32) -> Result<bool, sqlx::Error> {
    let mut conn = PgConnection::connect_with(options).await?;
    let query = sqlx::query_scalar(IS_ALIVE).bind(session_id).bind(connection::IDLE_LIMIT.as_secs_f64());
    let is_alive = query.fetch_one(&mut conn).await?;
    conn.close().await?;
    Ok(is_alive)
}

impl Session for Postgres {
    const ANSWER_WAIT: Duration = connection::ANSWER_WAIT;

    const RELEASE_WAIT: Duration = connection::RELEASE_WAIT;

    type Before = Before;

    async fn note_session(pool: &Pool<Self>, conn: &mut PgConnection) -> Result<Before, Fault> {
        let options = pool.connect_options();
        if let Some(session) = Before::known(&options) {
            return Ok(Before { options, session });
        }
        let session: String = sqlx::query_scalar(READ_SESSION).fetch_one(conn).await?;
        let before = Before { options, session: session.into() };
        before.note();
        Ok(before)
    }

    async fn is_unchanged(conn: &mut PgConnection, before: &Before) -> Result<bool, Fault> {
        let now: String = sqlx::query_scalar(READ_SESSION).fetch_one(conn).await?;
        let is_same = *now == *before.session;
        if !is_same {
            before.forget();
        }
        Ok(is_same)
    }

    // Closed and not reset, because the library does not know the settings of `after_connect`.
    async fn restore_session(conn: &mut PgConnection, before: Before) -> Result<bool, Fault> {
        Self::is_unchanged(conn, &before).await
    }

    async fn is_outside_transaction(conn: &mut PgConnection) -> Result<bool, Fault> {
        const IN_FAILED_TRANSACTION: &str = "25P02";
        match sqlx::raw_sql(IS_OUTSIDE).fetch_one(conn).await {
            Ok(row) => Ok(row.try_get(0)?),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(IN_FAILED_TRANSACTION) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn session_id(conn: &mut PgConnection) -> Result<Option<i32>, Fault> {
        Ok(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(conn).await?)
    }

    async fn is_alive(pool: &Pool<Self>, session_id: i32) -> bool {
        let options = pool.connect_options();
        // The drop at the bound closes the connection, which belongs to no pool.
        match timeout(connection::RELEASE_WAIT, ask_for(&options, session_id)).await {
            Ok(Ok(is_alive)) => is_alive,
            // The server answers, and refuses to say more.
            Ok(Err(sqlx::Error::Database(_))) => true,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    // A new connection costs little, and the old connection has nothing to lose.
    async fn repair(_conn: &mut PgConnection) -> bool {
        false
    }

    fn begins_whole(_error: &sqlx::Error) -> bool {
        false
    }
}
