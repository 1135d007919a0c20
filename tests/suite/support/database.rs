//! A separate database for each test.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::Duration;

use eventbox::Backend;
use sha2::{Digest, Sha256};
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Pool, Postgres, SqlSafeStr, Sqlite};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::layout;

/// Number of connections of a test's pool. It is small, because many tests run at the same time on one server.
const POOL_CONNECTIONS: u32 = 4;

/// Time that a test waits for a connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Query for the number of sessions in the test's database on Postgres that wait for a lock.
pub(crate) const LOCK_WAITS: LockWaits = LockWaits;

/// The text of [`LOCK_WAITS`], which asks all nodes of a cluster.
pub(crate) struct LockWaits;

impl Display for LockWaits {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sessions = if layout::is_citus() { "citus_stat_activity" } else { "pg_stat_activity" };
        write!(f, "SELECT count(*) FROM {sessions} WHERE datname = current_database() AND wait_event_type = 'Lock'")
    }
}

type Options<B> = <<B as sqlx::Database>::Connection as Connection>::Options;

/// Engine functions for tests only: create and remove databases, and read tables.
pub(crate) trait TestEngine: Backend {
    /// Folder of the engine in `src/store` and in `migrations`.
    const FOLDER: &'static str;

    /// Owner of the database, which removes it.
    type Home: Send + Sync;

    /// Creates an empty database.
    async fn create(test: &str) -> (Options<Self>, Self::Home);

    /// Creates a database with the tables of the library.
    async fn create_migrated(test: &str) -> (Options<Self>, Self::Home) {
        let (options, home) = Self::create(test).await;
        let pool = pool_of::<Self>(&options, 1);
        eventbox::migrate(&pool).await.expect("a new database is migrated");
        pool.close().await;
        (options, home)
    }

    /// Removes the database, and ignores errors.
    async fn remove(home: Self::Home);

    /// Runs statements without parameters.
    fn run(pool: &Pool<Self>, sql: String) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Returns the number that a query selects.
    fn number(pool: &Pool<Self>, sql: String) -> impl Future<Output = i64> + Send;

    /// Returns the texts that a query selects.
    fn texts(pool: &Pool<Self>, sql: String) -> impl Future<Output = Vec<String>> + Send;

    /// Makes the engine parse a statement without running it.
    fn prepare(pool: &Pool<Self>, sql: String) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// The database of one test, created and migrated for it.
pub(crate) struct TestDb<B: TestEngine> {
    /// A small pool; [`TestDb::open`] returns more pools.
    pub(crate) pool: Pool<B>,
    options: Options<B>,
    home: B::Home,
}

/// Runs a test on a database of its own. The database is removed if the test passes, and stays if it fails.
pub(crate) async fn with_database<B, F>(test: &str, body: F)
where
    B: TestEngine,
    F: AsyncFnOnce(&TestDb<B>),
{
    let (options, home) = B::create_migrated(test).await;
    let db = TestDb { pool: pool_of(&options, POOL_CONNECTIONS), options, home };
    body(&db).await;
    db.remove().await;
}

impl<B: TestEngine> TestDb<B> {
    /// Creates a database without tables.
    pub(crate) async fn empty(test: &str) -> Self {
        let (options, home) = B::create(test).await;
        let pool = pool_of(&options, POOL_CONNECTIONS);
        TestDb { pool, options, home }
    }

    /// Returns the connect options of the database.
    pub(crate) fn options(&self) -> Options<B> {
        self.options.clone()
    }

    /// Returns the URL of the database, for another process.
    pub(crate) fn url(&self) -> String {
        self.options.to_url_lossy().to_string()
    }

    /// Opens another pool on the same database, as another process would.
    pub(crate) fn open(&self, max_connections: u32) -> Pool<B> {
        pool_of(&self.options, max_connections)
    }

    /// Opens a connection outside of any pool.
    pub(crate) async fn connect(&self) -> B::Connection {
        self.options.connect().await.expect("the test's database accepts connections")
    }

    /// Runs statements without parameters.
    pub(crate) async fn run(&self, sql: impl Display) {
        B::run(&self.pool, sql.to_string()).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Returns the number that a query selects.
    pub(crate) async fn number(&self, sql: impl Display) -> i64 {
        B::number(&self.pool, sql.to_string()).await
    }

    /// Returns the texts that a query selects.
    pub(crate) async fn texts(&self, sql: impl Display) -> Vec<String> {
        B::texts(&self.pool, sql.to_string()).await
    }

    /// Returns the number of rows of a table.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        self.number(format_args!("SELECT count(*) FROM {table}")).await
    }

    /// Closes the pool and removes the database.
    pub(crate) async fn remove(self) {
        self.pool.close().await;
        B::remove(self.home).await;
    }
}

/// Returns a pool that connects lazily, so that an unused pool costs no connection.
fn pool_of<B: sqlx::Database>(options: &Options<B>, max_connections: u32) -> Pool<B> {
    let pool = PoolOptions::new().max_connections(max_connections).acquire_timeout(ACQUIRE_TIMEOUT);
    pool.connect_lazy_with(options.clone())
}

macro_rules! raw_sql {
    () => {
        async fn run(pool: &Pool<Self>, sql: String) -> Result<(), sqlx::Error> {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(drop)
        }

        async fn number(pool: &Pool<Self>, sql: String) -> i64 {
            let query = sqlx::query_scalar::<Self, i64>(AssertSqlSafe(sql.clone()));
            query.fetch_one(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
        }

        async fn texts(pool: &Pool<Self>, sql: String) -> Vec<String> {
            let query = sqlx::query_scalar::<Self, String>(AssertSqlSafe(sql.clone()));
            query.fetch_all(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
        }

        async fn prepare(pool: &Pool<Self>, sql: String) -> Result<(), sqlx::Error> {
            pool.prepare(AssertSqlSafe(sql).into_sql_str()).await.map(drop)
        }
    };
}

/// Returns the server for the tests' databases: that of `EVENTBOX_TEST_URL`, or of `DATABASE_URL`.
fn server() -> PgConnectOptions {
    let url = std::env::var("EVENTBOX_TEST_URL").or_else(|_| std::env::var("DATABASE_URL")).ok();
    let url = url.filter(|url| url.starts_with("postgres")).expect(
        "DATABASE_URL names no Postgres server: run `cargo xtask test`, which starts one \
         (or set DATABASE_URL=postgres://… to a server on which databases may be created)",
    );
    url.parse().expect("DATABASE_URL is a URL of Postgres")
}

impl TestEngine for Postgres {
    const FOLDER: &'static str = "postgres";

    type Home = (String, PgConnectOptions);

    async fn create(test: &str) -> (Options<Self>, Self::Home) {
        create_from("template0", test).await
    }

    async fn create_migrated(test: &str) -> (Options<Self>, Self::Home) {
        if layout::is_citus() {
            let (options, home) = Self::create(test).await;
            migrate(&options).await;
            return (options, home);
        }
        let (options, home) = create_from(TEMPLATE.get_or_init(template).await, test).await;
        if layout::is_by_shard() {
            SEEN.get_or_init(|| see_layout(&options)).await;
        }
        (options, home)
    }

    async fn remove((name, server): Self::Home) {
        if let Ok(mut conn) = server.connect().await {
            if layout::is_citus() {
                let _ = layout::remove(&mut conn, &server, &name).await;
            }
            let dropped = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            let _ = sqlx::raw_sql(AssertSqlSafe(dropped)).execute(&mut conn).await;
            let _ = conn.close().await;
        }
    }

    raw_sql!();
}

/// Database that the tests of this program copy.
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

/// Makes a database with the tables of the library, unless an earlier program has made it. Its name tells the text of
/// the migrations, and it stays for later programs.
async fn template() -> String {
    let text: String = eventbox::migration_sql::<Postgres>().into_iter().map(|(_, _, sql)| sql).collect();
    let digest = Sha256::digest(text.as_bytes()).iter().take(8).fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let name = format!("eventbox_tests_{digest:016x}");
    let server = server();
    let mut conn = server.connect().await.expect("the server that DATABASE_URL names accepts connections");
    let exists = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    if !sqlx::query_scalar::<_, bool>(exists).bind(&name).fetch_one(&mut conn).await.unwrap() {
        let (options, (made, _)) = create_from("template0", "template").await;
        migrate(&options).await;
        // Another program may have been faster.
        let renamed = AssertSqlSafe(format!("ALTER DATABASE {made} RENAME TO {name}"));
        if sqlx::raw_sql(renamed).execute(&mut conn).await.is_err() {
            Postgres::remove((made, server)).await;
        }
    }
    let _ = conn.close().await;
    name
}

async fn migrate(options: &PgConnectOptions) {
    let pool = pool_of::<Postgres>(options, 1);
    let migrated = match layout::is_citus_by_shard() {
        true => eventbox::migrate_citus_by_shard(&pool).await,
        false => eventbox::migrate(&pool).await,
    };
    migrated.expect("a new database is migrated");
    pool.close().await;
}

/// Whether this program has read the layout of a database.
static SEEN: OnceCell<()> = OnceCell::const_new();

/// Reads the layout, as `check` and `migrate` do, so that the program uses its statements.
async fn see_layout(options: &PgConnectOptions) {
    let pool = pool_of::<Postgres>(options, 1);
    assert_eq!(eventbox::layout(&pool).await.expect("the layout is read"), eventbox::Layout::ByShard);
    pool.close().await;
}

/// Creates a database as a copy of another one.
async fn create_from(template: &str, test: &str) -> (PgConnectOptions, (String, PgConnectOptions)) {
    let server = server();
    // At most 63 bytes, and unique.
    let name = format!("eventbox_{test:.32}_{:.12}", uuid::Uuid::new_v4().simple());
    let mut conn = server.connect().await.expect("the server that DATABASE_URL names accepts connections");
    let create = format!("CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut conn).await.expect("the user may create databases");
    if layout::is_citus() {
        layout::distribute(&mut conn, &server, &name).await.expect("the server is a coordinator of Citus");
    } else if layout::is_by_shard() {
        layout::say(&mut conn, &name).await.expect("the owner of a database may set its settings");
    }
    conn.close().await.expect("the connection closes");
    (server.clone().database(&name), (name, server))
}

impl TestEngine for Sqlite {
    const FOLDER: &'static str = "sqlite";

    type Home = (PathBuf, TempDir);

    async fn create(test: &str) -> (Options<Self>, Self::Home) {
        let directory = tempfile::Builder::new().prefix("eventbox-test-").tempdir().expect("a temporary directory");
        let path = directory.path().join(format!("{test}.sqlite3"));
        (eventbox::sqlite_options(&path), (path, directory))
    }

    async fn remove((_, directory): Self::Home) {
        let _ = directory.close();
    }

    raw_sql!();
}
