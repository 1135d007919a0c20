//! Migrations, settings and transactions of Postgres.

use sqlx::migrate::{Migrate, MigrateError, Migration, Migrator};
use sqlx::{AssertSqlSafe, Connection, Pool, Postgres, Transaction};

use super::check::{check_server, check_visible};
use super::{citus, pooler};
use crate::store::connect::layout::Layout;
use crate::store::connect::migrations::{migration_files, migrator_of};
use crate::store::connect::schema::{Schema, SettingsCheck, SettingsProblem};
use crate::store::connect::transaction::begin_for_caller;
use crate::store::fault::Fault;
use crate::store::postgres::by_shard;

/// With this setting the server ends the statement of a client that has closed its connection. Without it, a statement
/// that waits for a lock keeps its process on the server until it has the lock, and each retry of the client adds
/// another process.
const NOTICE_CLOSED_CLIENTS: &str = "SET client_connection_check_interval = '5s'";

impl Schema for Postgres {
    const BEGIN_WRITE: &'static str = "BEGIN";

    const ROLES: Option<&'static str> = Some(include_str!("../../../../migrations/roles/postgres.sql"));

    fn migrator() -> Migrator {
        let mut migrator = migrator_of(&migration_files!("postgres"));
        // A session whose migration failed would keep the lock. Without a lock, the names that a migration creates
        // decide between racing migrations.
        migrator.set_locking(false);
        migrator
    }

    async fn run_migrations(conn: &mut sqlx::PgConnection) -> Result<(), MigrateError> {
        let migrator = Self::migrator();
        conn.ensure_migrations_table(&migrator.table_name).await?;
        let applied = conn.list_applied_migrations(&migrator.table_name).await?;
        let is_missing = |known: &&Migration| applied.iter().all(|applied| applied.version != known.version);
        for migration in migrator.iter().filter(is_missing) {
            apply(conn, &migrator.table_name, migration).await?;
        }
        Ok(())
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
        if let Err(problem) = citus::read_layout(conn).await? {
            check.refuse(problem.what, problem.help);
        }
        Ok(check)
    }

    async fn read_layout(conn: &mut sqlx::PgConnection) -> Result<Result<Layout, SettingsProblem>, Fault> {
        citus::read_layout(conn).await
    }

    fn is_by_shard() -> bool {
        by_shard::is_on()
    }

    async fn distribution_problem(
        conn: &mut sqlx::PgConnection,
        wanted: Layout,
    ) -> Result<Option<SettingsProblem>, Fault> {
        citus::distribution_problem(conn, wanted).await
    }

    async fn distribute_schema(conn: &mut sqlx::PgConnection) -> Result<(), Fault> {
        citus::distribute_schema(conn).await
    }

    async fn cut_by_shard(conn: &mut sqlx::PgConnection) -> Result<(), Fault> {
        citus::cut_by_shard(conn).await
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

/// Applies a migration with its record, in one transaction.
///
/// Command by command: in a schema that Citus has distributed, an index that is made by one of several commands in one
/// text is an error.
async fn apply(conn: &mut sqlx::PgConnection, table: &str, migration: &Migration) -> Result<(), MigrateError> {
    let in_migration = |error: sqlx::Error| MigrateError::ExecuteMigration(error, migration.version);
    let mut tx = conn.begin().await.map_err(in_migration)?;
    for command in commands_of(migration.sql.as_str()) {
        sqlx::raw_sql(AssertSqlSafe(command)).execute(&mut *tx).await.map_err(in_migration)?;
    }
    // This writes only the record.
    tx.skip(table, migration).await?;
    tx.commit().await.map_err(in_migration)
}

/// Returns the commands of a migration. Each ends with the semicolon at the end of a line, before the line's comment.
fn commands_of(sql: &str) -> Vec<&str> {
    let (mut commands, mut from, mut until) = (Vec::new(), 0, 0);
    for line in sql.split_inclusive('\n') {
        until += line.len();
        if without_comment(line).ends_with(';') {
            commands.extend(sql.get(from..until));
            from = until;
        }
    }
    commands.extend(sql.get(from..).filter(|rest| rest.lines().any(|line| !without_comment(line).is_empty())));
    commands
}

fn without_comment(line: &str) -> &str {
    line.split_once("--").map_or(line, |(code, _)| code).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_is_applied_command_by_command() {
        let sql = "-- One;\nCREATE TABLE a ( -- a;\n  x int\n); -- b\n\n-- Two\nDROP TABLE a; \nSELECT 1\n-- end;\n";
        let commands = commands_of(sql);
        assert_eq!(commands.len(), 3, "{commands:?}");
        assert_eq!(commands.concat(), sql);
        assert!(commands_of("-- nothing;\n\n").is_empty());
    }

    #[test]
    fn every_command_of_the_migrations_is_one_command() {
        let mut count = 0;
        for migration in Postgres::migrator().iter() {
            for command in commands_of(migration.sql.as_str()) {
                let code = command.lines().map(without_comment).collect::<Vec<_>>().join("\n");
                let verb = code.split_whitespace().next().unwrap();
                let verbs = ["ALTER", "CREATE", "DELETE", "DROP", "INSERT", "SELECT", "UPDATE"];
                assert!(verbs.contains(&verb), "{command}");
                assert_eq!(code.matches(';').count(), 1, "{command}");
                count += 1;
            }
        }
        assert!(count > 30, "only {count} commands were found");
    }
}
