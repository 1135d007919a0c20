//! Migrations that fail, databases that are already migrated, and the version that landed last.

#[cfg(all(feature = "postgres", feature = "sqlite"))]
mod expand;
#[cfg(all(feature = "postgres", feature = "sqlite"))]
mod released;
#[cfg(all(feature = "postgres", feature = "sqlite"))]
mod statements;

use ::eventbox::Error;

use crate::support::{SOON, TestDb, on_every_engine};

/// Migrates and returns the error, which must come within `SOON`.
async fn refused<B: ::eventbox::Backend>(pool: &sqlx::Pool<B>) -> String {
    let done = tokio::time::timeout(SOON, ::eventbox::migrate(pool)).await.expect("an error comes at once");
    let error = done.unwrap_err();
    assert!(matches!(error, Error::Setup { .. }), "{error:?}");
    error.to_string()
}

on_every_engine! {
    /// A table, an index or a view with a name that the migration needs is an error, at every attempt.
    /// After the object is dropped, the migration succeeds.
    async fn a_name_that_is_taken_is_an_error(_db) {
        for taken in [
            "CREATE TABLE eventbox_event (x int)",
            "CREATE VIEW eventbox_state AS SELECT 1 AS x",
            "CREATE TABLE other (x int); CREATE INDEX eventbox_outbox ON other (x)",
        ] {
            let fresh = TestDb::<Engine>::empty("a_name_that_is_taken").await;
            fresh.run(taken).await;
            for _ in 0..2 {
                let text = refused(&fresh.pool).await;
                assert!(text.contains("of that name is there already"), "{taken}: {text}");
            }
            let what = taken.rsplit("CREATE ").next().unwrap().split(' ').take(2).collect::<Vec<_>>().join(" ");
            fresh.run(format_args!("DROP {what}")).await;
            ::eventbox::migrate(&fresh.pool).await.unwrap();
            fresh.remove().await;
        }
    }

    /// A foreign table with the name of the migration record is an error that names the table.
    async fn a_foreign_record_of_migrations_is_an_error(_db) {
        let fresh = TestDb::<Engine>::empty("a_foreign_record").await;
        fresh.run("CREATE TABLE eventbox_migration (x int)").await;
        let text = refused(&fresh.pool).await;
        assert!(text.contains("eventbox_migration"), "{text}");
        fresh.remove().await;
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use sqlx::Postgres;

    use super::*;
    use crate::support::{LOCK_WAITS, eventually, layout, with_database};

    /// Creates a role that may only log in, and a pool of this role.
    async fn role(db: &TestDb<Postgres>) -> (String, sqlx::PgPool) {
        let name = format!("eventbox_{:.12}", uuid::Uuid::new_v4().simple());
        let schema = layout::schema();
        db.run(format_args!("CREATE ROLE {name} LOGIN PASSWORD 'x'")).await;
        db.run(format_args!("REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC")).await;
        let options = db.options().username(&name).password("x");
        (name, sqlx::postgres::PgPoolOptions::new().max_connections(4).connect_lazy_with(options))
    }

    async fn drop_role(db: &TestDb<Postgres>, name: &str, pool: sqlx::PgPool) {
        pool.close().await;
        db.run(format_args!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
    }

    /// A role without the right to create gets an error at once, and leaves no lock behind.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_role_that_may_not_create_fails_at_once() {
        let fresh = TestDb::<Postgres>::empty("a_role_that_may_not_create").await;
        let (name, pool) = role(&fresh).await;
        for _ in 0..2 {
            let text = refused(&pool).await;
            assert!(text.contains("may not create tables"), "{text}");
        }
        // Other tests lock in databases of their own.
        let held = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                    WHERE l.locktype = 'advisory' AND d.datname = current_database()";
        assert_eq!(fresh.number(held).await, 0);
        tokio::time::timeout(SOON, ::eventbox::migrate(&fresh.pool)).await.unwrap().unwrap();
        drop_role(&fresh, &name, pool).await;
        fresh.remove().await;
    }

    /// On a migrated database a role needs only rights on the tables. A role that cannot read the record gets an error.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_migrated_database_needs_no_right_to_create() {
        with_database("a_migrated_database_needs_no_right", async |db: &TestDb<Postgres>| {
            let (name, pool) = role(db).await;
            let text = refused(&pool).await;
            assert!(text.contains("cannot be read"), "{text}");
            let (schema, rights) = (layout::schema(), "SELECT, INSERT, UPDATE, DELETE");
            db.run(format_args!("GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {name}")).await;
            ::eventbox::migrate(&pool).await.unwrap();
            drop_role(db, &name, pool).await;
        })
        .await;
    }

    /// A migration waits for the open transaction of another process, and succeeds when that rolls back.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_migration_waits_for_another_in_flight() {
        let fresh = TestDb::<Postgres>::empty("a_migration_under_way").await;
        // Another process has an open transaction that makes this migration wait, and then gives up.
        let mut other = fresh.pool.begin().await.unwrap();
        sqlx::raw_sql("CREATE TABLE eventbox_migration (x int)").execute(&mut *other).await.unwrap();
        let pool = fresh.open(2);
        let ours = tokio::spawn(async move { ::eventbox::migrate(&pool).await });
        eventually(SOON, async || fresh.number(LOCK_WAITS).await > 0).await;
        other.rollback().await.unwrap();
        ours.await.unwrap().unwrap();
        fresh.remove().await;
    }
}
