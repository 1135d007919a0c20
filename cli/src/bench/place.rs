//! The database of a run, on a server or in a file. It is removed after the run.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use sqlx::migrate::MigrateDatabase;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Pool, Postgres, Sqlite};

use super::HANG_GUARD;
use super::engine::{Engine, Options};
#[cfg(unix)]
use crate::cluster::{Account, Cluster, newest};

/// Time limit of a connection attempt to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of attempts to remove a database. A busy server may need time to end its connections.
const REMOVE_ATTEMPTS: u32 = 10;

/// Settings of a throw-away server that resemble a service: memory for the working set, and rare checkpoints.
const SETTINGS: [&str; 5] =
    ["max_connections=120", "shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=30min", "jit=off"];

/// Settings of a throw-away server whose log is counted: nothing writes into it but the transactions of the run.
const COUNTED_SETTINGS: [&str; 6] =
    ["fsync=off", "full_page_writes=off", "autovacuum=off", "checkpoint_timeout=1d", "max_wal_size=4GB", "jit=off"];

/// The database of a run on one engine.
pub(crate) struct Place<B: Engine> {
    options: Options<B>,
    /// Process id of the server's first process, if the benchmark started the server.
    pub(crate) postmaster: Option<u32>,
    /// Description of the location for a person.
    pub(crate) description: String,
}

impl<B: Engine> Place<B> {
    /// Uses an existing database.
    pub(crate) fn given(options: Options<B>) -> Self {
        Place { options, postmaster: None, description: String::new() }
    }

    /// Opens a pool with all its connections. `costing` is set if their work is counted later.
    pub(crate) async fn open(&self, connections: u32, costing: bool) -> Result<Pool<B>> {
        let options = if costing { B::costing(self.options.clone()) } else { self.options.clone() };
        let pool = B::pool_options(costing).max_connections(connections).acquire_timeout(HANG_GUARD);
        let pool = pool.connect_lazy_with(options);
        let all = try_join_all((0..connections).map(|_| pool.acquire())).await;
        all.context("connect to the database of the benchmark")?;
        Ok(pool)
    }

    /// Returns the URL, for another process.
    pub(crate) fn url(&self) -> String {
        self.options.to_url_lossy().to_string()
    }
}

/// A Postgres server, given or started by the benchmark.
pub(crate) struct Server {
    options: PgConnectOptions,
    /// Throw-away cluster. Dropping the value stops and removes it.
    #[cfg(unix)]
    cluster: Option<Cluster>,
}

const ADVICE: &str = "name a server with --database-url, or leave Postgres out with --engine sqlite";

impl Server {
    /// Checks the given URL, or starts a throw-away cluster.
    pub(crate) fn choose(url: Option<&str>) -> Result<Self> {
        let Some(url) = url else { return Self::start(&SETTINGS) };
        ensure!(
            url.starts_with("postgres:") || url.starts_with("postgresql:"),
            "--database-url must begin with postgres:// (SQLite runs in a temporary directory: set TMPDIR to choose it)"
        );
        let options =
            url.parse().context("--database-url is not a URL of Postgres: write postgres://USER@HOST/DATABASE")?;
        Ok(Server {
            options,
            #[cfg(unix)]
            cluster: None,
        })
    }

    /// Starts a throw-away cluster for counting. Its speed is no service's.
    pub(crate) fn counted() -> Result<Self> {
        Self::start(&COUNTED_SETTINGS)
    }

    #[cfg(not(unix))]
    fn start(_settings: &[&str]) -> Result<Self> {
        anyhow::bail!("this system has no throw-away clusters: {ADVICE}")
    }

    #[cfg(not(unix))]
    fn postmaster(&self) -> Option<u32> {
        None
    }

    #[cfg(unix)]
    fn postmaster(&self) -> Option<u32> {
        self.cluster.as_ref().map(|cluster| cluster.postmaster)
    }

    #[cfg(unix)]
    fn start(settings: &[&str]) -> Result<Self> {
        let account = Account::for_a_server().context(ADVICE)?;
        let Some(programs) = newest(&account) else {
            anyhow::bail!("found no server programs of Postgres (initdb, postgres) on this machine: {ADVICE}");
        };
        let cluster = Cluster::start(&programs, &account, None, settings, || false).context(ADVICE)?;
        let options = PgConnectOptions::new().host("127.0.0.1").port(cluster.port).username("postgres");
        let options = options.password(&cluster.password).database("postgres");
        Ok(Server { options, cluster: Some(cluster) })
    }

    /// Creates a database for this run.
    pub(crate) async fn create(&self) -> Result<Place<Postgres>> {
        let name = format!("eventbox_bench_{}", uuid::Uuid::new_v4().simple());
        let options = self.options.clone().database(&name);
        let (host, port) = (options.get_host().to_owned(), options.get_port());
        let trouble = || {
            format!(
                "cannot create a database on Postgres at {host}:{port}: start the server, give another --database-url, \
                 or a user with the right to create databases"
            )
        };
        let url = options.to_url_lossy();
        // A short time limit shows whether the server answers. Creating the database has none: copying the template
        // may take long on a busy server.
        let answers = tokio::time::timeout(CONNECT_TIMEOUT, Postgres::database_exists(url.as_str())).await;
        answers.with_context(trouble)?.with_context(trouble)?;
        Postgres::create_database(url.as_str()).await.with_context(trouble)?;
        let postmaster = self.postmaster();
        let description = match postmaster {
            Some(_) => format!("a throw-away Postgres on {host}:{port}"),
            None => format!("Postgres at {host}:{port}, in a database of its own, {name}"),
        };
        Ok(Place { options, postmaster, description })
    }
}

/// Removes the database of a run, also with open connections.
pub(crate) async fn remove(url: &str) -> Result<()> {
    let mut attempts = 1;
    loop {
        match Postgres::force_drop_database(url).await {
            Err(_) if attempts < REMOVE_ATTEMPTS => attempts += 1,
            outcome => {
                return outcome
                    .with_context(|| format!("remove the database of the benchmark, {}", without_password(url)));
            }
        }
    }
}

fn without_password(url: &str) -> &str {
    url.rsplit('/').next().and_then(|name| name.split('?').next()).unwrap_or_default()
}

/// The options of a file as users open it, with an unlimited wait for other writers. A slow disk then costs time
/// instead of errors.
pub(crate) fn sqlite_file(path: impl AsRef<Path>) -> SqliteConnectOptions {
    eventbox::sqlite_options(path).busy_timeout(HANG_GUARD)
}

/// Creates a file in a directory. Dropping the second value removes both.
pub(crate) fn sqlite() -> Result<(Place<Sqlite>, tempfile::TempDir)> {
    let directory = tempfile::Builder::new().prefix("eventbox-bench-").tempdir();
    let directory = directory.context("cannot create a temporary directory: set TMPDIR to one that is writable")?;
    let file = directory.path().join("bench.sqlite3");
    let description = format!("SQLite in {}", directory.path().display());
    Ok((Place { options: sqlite_file(&file), postmaster: None, description }, directory))
}
