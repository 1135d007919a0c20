//! A database of each engine.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Pool, Postgres, Sqlite};
use tempfile::TempDir;
use uuid::Uuid;

use super::{Transcript, changing, journal, outbox, reading, shards, tables};
use crate::store::Backend;

/// An engine that can be compared with its twin.
pub(super) trait Twin: Backend {
    /// Owner of the database.
    type Home;

    /// Creates a migrated database.
    async fn create() -> (Pool<Self>, Self::Home);

    async fn remove(home: Self::Home);

    /// Fills the tables and runs every group of statements.
    async fn run_all(pool: &Pool<Self>, rows: u32, transcript: &mut Transcript);

    /// Notes every row of every table.
    async fn dump(pool: &Pool<Self>, title: &str, transcript: &mut Transcript);
}

macro_rules! run_all {
    ($engine:ident) => {
        async fn run_all(pool: &Pool<Self>, rows: u32, transcript: &mut Transcript) {
            tables::$engine::fill(pool, rows).await;
            Self::dump(pool, "filled", transcript).await;
            reading::$engine::run(pool, transcript).await;
            changing::$engine::run(pool, transcript).await;
            journal::$engine::run(pool, transcript).await;
            shards::$engine::run(pool, transcript).await;
            outbox::$engine::run(pool, transcript).await;
        }

        async fn dump(pool: &Pool<Self>, title: &str, transcript: &mut Transcript) {
            tables::$engine::dump(pool, title, transcript).await;
        }
    };
}

impl Twin for Sqlite {
    type Home = TempDir;

    async fn create() -> (Pool<Self>, TempDir) {
        let home = tempfile::tempdir().unwrap();
        let pool = Pool::connect_with(crate::sqlite_options(home.path().join("twins.sqlite3"))).await.unwrap();
        crate::migrate(&pool).await.unwrap();
        (pool, home)
    }

    async fn remove(_home: TempDir) {}

    run_all!(on_sqlite);
}

impl Twin for Postgres {
    type Home = (String, String);

    async fn create() -> (Pool<Self>, (String, String)) {
        let server = std::env::var("DATABASE_URL").expect(
            "DATABASE_URL names no Postgres server: run `cargo xtask test`, which starts one \
             (or set DATABASE_URL=postgres://… to a server on which databases may be created)",
        );
        let name = format!("eventbox_twins_{}", Uuid::new_v4().simple());
        let mut conn = PgConnection::connect(&server).await.unwrap();
        // The order of a language, so that a statement that sorts or compares keys by it differs from its twin.
        let sorted = format!("CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
        if sqlx::raw_sql(AssertSqlSafe(sorted)).execute(&mut conn).await.is_err() {
            // For older servers, and servers without ICU.
            sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut conn).await.unwrap();
        }
        if std::env::var("EVENTBOX_TEST_LAYOUT").is_ok_and(|layout| layout == "by-shard") {
            let said = format!("ALTER DATABASE {name} SET eventbox.layout = 'by-shard'");
            sqlx::raw_sql(AssertSqlSafe(said)).execute(&mut conn).await.unwrap();
        }
        let options: sqlx::postgres::PgConnectOptions = server.parse().unwrap();
        let pool = Pool::connect_with(options.database(&name)).await.unwrap();
        crate::migrate(&pool).await.unwrap();
        (pool, (server, name))
    }

    async fn remove((server, name): (String, String)) {
        let mut conn = PgConnection::connect(&server).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut conn).await.unwrap();
    }

    run_all!(on_postgres);
}
