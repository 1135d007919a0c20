//! The migrations in the program. sqlx's macro does the same, and needs a second build of sqlx, for the compiler.

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Names and texts of the migrations of an engine. Both engines have the same names.
macro_rules! migration_files {
    ($engine:literal) => {
        migration_files!($engine: "0001_eventbox", "0002_runtime", "0003_timer", "0004_paused_kind",
            "0005_empty_tables", "0006_round_of_one", "0007_operate", "0008_journal", "0009_paused_destination",
            "0010_origin", "0011_peer", "0012_shard", "0014_endpoint", "0015_anchor")
    };
    ($engine:literal: $($name:literal),+) => {
        [$(
            ($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/", $engine, "/", $name, ".sql")))
        ),+]
    };
}
pub(in crate::store) use migration_files;

/// Makes the migrations of the given files. The checksums are those of sqlx, so that its programs read the table, too.
pub(in crate::store) fn migrator_of(files: &[(&'static str, &'static str)]) -> Migrator {
    let migration = |(name, sql): &(&'static str, &'static str)| {
        let (version, description) = name.split_once('_').unwrap_or((name, ""));
        let version = version.parse().unwrap_or_default();
        let sql = SqlStr::from_static(sql);
        Migration::new(version, description.replace('_', " ").into(), MigrationType::Simple, sql, false)
    };
    let mut migrator = Migrator::with_migrations(files.iter().map(migration).collect());
    migrator.dangerous_set_table_name("eventbox_migration");
    migrator
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program has every file of the folder, read as sqlx reads it.
    async fn is_whole(engine: &str, ours: Migrator) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(engine);
        let theirs = Migrator::new(folder).await.unwrap();
        let parts = |migrator: &Migrator| -> Vec<_> {
            let migrations = migrator.iter().cloned();
            migrations.map(|of| (of.version, of.description, of.checksum, of.no_tx, of.migration_type)).collect()
        };
        assert!(theirs.iter().count() > 10);
        assert_eq!(parts(&ours), parts(&theirs), "{engine}");
    }

    #[cfg(feature = "postgres")]
    #[tokio::test]
    async fn all_migrations_of_postgres_are_in_the_program() {
        is_whole("postgres", migrator_of(&migration_files!("postgres"))).await;
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn all_migrations_of_sqlite_are_in_the_program() {
        is_whole("sqlite", migrator_of(&migration_files!("sqlite"))).await;
    }
}
