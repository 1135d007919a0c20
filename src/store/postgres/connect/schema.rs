//! Migrations, settings and transactions of Postgres.

use sqlx::migrate::Migrator;
use sqlx::{Pool, Postgres, Transaction};

use super::check::{check_server, check_visible};
use super::pooler;
use crate::store::connect::schema::{Schema, SettingsCheck};
use crate::store::connect::transaction::begin_for_caller;
use crate::store::fault::Fault;

/// With this setting the server ends the statement of a client that has closed its connection. Without it, a statement
/// that waits for a lock keeps its process on the server until it has the lock, and each retry of the client adds
/// another process.
const NOTICE_CLOSED_CLIENTS: &str = "SET client_connection_check_interval = '5s'";

impl Schema for Postgres {
    const BEGIN_WRITE: &'static str = "BEGIN";

    fn migrator() -> Migrator {
        let mut migrator = sqlx::migrate!("migrations/postgres");
        migrator.dangerous_set_table_name("eventbox_migration");
        // A session whose migration failed would keep the lock. Without a lock, the names that a migration creates
        // decide between racing migrations.
        migrator.set_locking(false);
        migrator
    }

    async fn has_migrations(conn: &mut sqlx::PgConnection) -> Result<bool, Fault> {
        Ok(sqlx::query_scalar("SELECT to_regclass('eventbox_migration') IS NOT NULL").fetch_one(conn).await?)
    }

    fn why_not_migrated(error: &sqlx::Error) -> Option<&'static str> {
        match error.as_database_error()?.code()?.as_ref() {
            "42P07" | "42710" => {
                Some("something of that name is there already: drop or rename it, or use another database")
            }
            "42501" => Some("this role may not create tables: let one that may call eventbox::migrate once"),
            "25006" => Some("this server or session is read only: migrate on one that can be written"),
            "3F000" => Some("there is no schema to create tables in: set the role's search_path"),
            _ => None,
        }
    }

    async fn check_settings(conn: &mut sqlx::PgConnection) -> Result<SettingsCheck, Fault> {
        let mut check = check_server(conn).await?;
        check_visible(conn, &mut check).await?;
        Ok(check)
    }

    async fn check_connections(
        pool: &Pool<Self>,
        conn: &mut sqlx::PgConnection,
    ) -> Result<Option<&'static str>, Fault> {
        pooler::check(pool, conn).await
    }

    fn connection_problem(fault: &Fault) -> Option<&'static str> {
        pooler::problem_of(fault)
    }

    async fn on_connect(conn: &mut sqlx::PgConnection) {
        if let Err(error) = sqlx::raw_sql(NOTICE_CLOSED_CLIENTS).execute(conn).await {
            // Some systems do not report a closed socket to the server.
            tracing::debug!(%error, "the server cannot notice closed clients");
        }
    }

    async fn begin_write(pool: &Pool<Self>) -> Result<Transaction<'static, Self>, Fault> {
        begin_for_caller(pool, Self::BEGIN_WRITE).await
    }

    fn reserve(pool: &Pool<Self>, connections: u32) -> Option<Pool<Self>> {
        let options = pool.options().clone().min_connections(0).max_connections(connections);
        Some(options.connect_lazy_with((*pool.connect_options()).clone()))
    }

    async fn limit_lock_wait(tx: &mut sqlx::PgConnection, milliseconds: u32) -> Result<(), Fault> {
        let query = sqlx::query("SELECT set_config('lock_timeout', $1, true)");
        query.bind(milliseconds.to_string()).execute(tx).await?;
        Ok(())
    }
}
