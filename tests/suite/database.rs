//! Migrations and settings.

use eventbox::Error;
use sqlx::Connection;
use sqlx::pool::PoolOptions;

use crate::support::{TestDb, TestEngine, on_every_engine};

on_every_engine! {
    async fn migrating_again_changes_nothing(db) {
        let before = db.count("eventbox_migration").await;
        eventbox::migrate(&db.pool).await.unwrap();
        assert_eq!(db.count("eventbox_migration").await, before);
        assert!(before > 0);
    }

    /// Several processes migrate a new database at the same time.
    async fn concurrent_migrations_are_done_once(db) {
        let fresh = TestDb::<Engine>::empty("many_migrate_at_once_fresh").await;
        let pools: Vec<_> = (0..4).map(|_| fresh.open(1)).collect();
        let done = futures_util::future::join_all(pools.iter().map(eventbox::migrate)).await;
        for result in done {
            result.unwrap();
        }
        assert_eq!(fresh.count("eventbox_migration").await, db.count("eventbox_migration").await);
        for pool in pools {
            pool.close().await;
        }
        fresh.remove().await;
    }

    async fn a_newer_database_is_refused(db) {
        db.run(
            "INSERT INTO eventbox_migration (version, description, success, checksum, execution_time)
             SELECT 9999, 'from the future', success, checksum, 0 FROM eventbox_migration LIMIT 1",
        )
        .await;
        let error = eventbox::migrate(&db.pool).await.unwrap_err();
        assert!(matches!(error, Error::Setup { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("9999") && text.contains("update this program"), "{text}");
    }

    /// The harness reaches the database of a test by a connection, by its URL, and by another pool.
    async fn a_test_database_is_reached_in_several_ways(db) {
        db.connect().await.ping().await.unwrap();
        let pool = PoolOptions::<Engine>::new().max_connections(1).connect(&db.url()).await.unwrap();
        Engine::run(&pool, "CREATE TABLE seen (x int)".to_owned()).await.unwrap();
        assert_eq!(db.count("seen").await, 0);
        pool.close().await;
    }

    async fn a_migrated_database_passes_the_check(db) {
        eventbox::check(&db.pool).await.unwrap();
    }
}
