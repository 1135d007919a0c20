//! The migrations as data, for those who look at them or run them by hand.

use std::collections::BTreeSet;

use sqlx::Pool;

use super::migrate::{Migrated, usable};
use crate::error::Result;
use crate::store::Backend;

/// A migration of the tables of eventboxes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Migration {
    /// Number of the migration.
    pub version: i64,
    /// What the migration is about, in a word or two.
    pub description: String,
    /// Whether the database has it.
    pub is_applied: bool,
}

/// Lists the migrations of this library, in their order, and says which of them the database has.
///
/// Use it to see before a deploy what [`migrate`](crate::migrate) will do.
///
/// # Errors
///
/// [`Error::Setup`](crate::Error::Setup) when the database was migrated by a newer version of this library, or by
/// migrations with other texts. Transient and database errors.
///
/// # Cancel safety
///
/// Safe: it only reads.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// assert!(eventbox::migrations(&pool).await?.iter().all(|migration| !migration.is_applied));
/// eventbox::migrate(&pool).await?;
/// assert!(eventbox::migrations(&pool).await?.iter().all(|migration| migration.is_applied));
/// # Ok(()) }
/// ```
pub async fn migrations<B: Backend>(pool: &Pool<B>) -> Result<Vec<Migration>> {
    let migrator = B::migrator();
    let versions = || migrator.iter().map(|migration| migration.version);
    let missing: BTreeSet<i64> = match usable(pool, "read the migrations").await? {
        Migrated::Current { .. } => BTreeSet::new(),
        Migrated::Older { missing } => missing.into_iter().collect(),
        _ => versions().collect(),
    };
    let listed = migrator.iter().map(|migration| Migration {
        version: migration.version,
        description: migration.description.to_string(),
        is_applied: !missing.contains(&migration.version),
    });
    Ok(listed.collect())
}

/// Returns the migrations of an engine: number, description and SQL, in their order.
///
/// Use it where a person runs all SQL. [`migrate`](crate::migrate) does the same and records each migration, so prefer
/// it: a database that was migrated by hand looks unmigrated to it.
///
/// # Examples
///
/// ```
/// let (version, description, sql) = &eventbox::migration_sql::<sqlx::Sqlite>()[0];
/// assert_eq!((*version, description.as_str()), (1, "eventbox"));
/// assert!(sql.contains("CREATE TABLE eventbox_event"));
/// ```
#[must_use]
pub fn migration_sql<B: Backend>() -> Vec<(i64, String, String)> {
    let of = |migration: &sqlx::migrate::Migration| {
        (migration.version, migration.description.to_string(), migration.sql.as_str().to_owned())
    };
    B::migrator().iter().map(of).collect()
}

/// Returns the SQL that makes roles for the tables: an owner, a service, an emitter and a reader. `None` for an engine
/// without roles.
///
/// Run it in the database and schema of the tables, as a superuser, after each migration. Run again, it changes
/// nothing.
///
/// # Examples
///
/// ```
/// assert_eq!(eventbox::roles_sql::<sqlx::Sqlite>(), None);
/// # #[cfg(feature = "postgres")]
/// assert!(eventbox::roles_sql::<sqlx::Postgres>().is_some_and(|sql| sql.contains("eventbox_reader")));
/// ```
#[must_use]
pub fn roles_sql<B: Backend>() -> Option<&'static str> {
    B::ROLES
}
