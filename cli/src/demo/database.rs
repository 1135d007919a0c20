//! The database of a run: opens it, refuses foreign data, and cleans up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Pool, Postgres, Sqlite};

use super::tables::{DemoTables, Progress, drop_all};

/// File of a kept run without a database URL.
const DEFAULT_FILE: &str = "eventbox-demo.sqlite3";

/// Time limit of a connection attempt to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of a task's wait for a pooled connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of connections of a process in addition to its turns: rounds, scans, leases, timers, the emitter and the
/// sender.
const EXTRA_CONNECTIONS: u32 = 8;

/// Maximum number of connections of all processes together, well below the default of a server.
const MAX_CONNECTIONS: u32 = 72;

/// Returns the number of connections of each process.
pub(crate) fn connections(workers: u32, processes: u32) -> u32 {
    (workers + EXTRA_CONNECTIONS).min(MAX_CONNECTIONS / processes.max(1))
}

/// The database of a run.
#[derive(Debug)]
pub(crate) enum Target {
    /// A file, and its temporary directory if the demo created one.
    Sqlite {
        file: PathBuf,
        temporary: Option<tempfile::TempDir>,
    },
    Postgres(Box<PgConnectOptions>),
}

impl Target {
    /// Parses the command line. Creates only a temporary directory.
    pub(crate) fn choose(url: Option<&str>, lasting: bool) -> Result<Self> {
        let Some(url) = url else {
            if lasting {
                return Ok(Target::Sqlite { file: std::path::absolute(DEFAULT_FILE)?, temporary: None });
            }
            let directory = tempfile::Builder::new().prefix("eventbox-demo-").tempdir();
            let directory =
                directory.context("cannot create a temporary directory: set TMPDIR to one that is writable")?;
            return Ok(Target::Sqlite { file: directory.path().join(DEFAULT_FILE), temporary: Some(directory) });
        };
        if let Some(file) = url.strip_prefix("sqlite:") {
            // The demo sets its own options, so it ignores those behind a question mark.
            let file = file.strip_prefix("//").unwrap_or(file).split('?').next().unwrap_or_default();
            ensure!(!file.is_empty(), "--database-url {url} names no file: write sqlite://FILE");
            return Ok(Target::Sqlite { file: std::path::absolute(file)?, temporary: None });
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = url
                .parse()
                .with_context(|| "--database-url is not a URL of Postgres: write postgres://USER@HOST/DATABASE")?;
            return Ok(Target::Postgres(Box::new(options)));
        }
        bail!("--database-url must begin with sqlite:// or postgres://")
    }

    /// Keeps a temporary directory.
    pub(crate) fn keep(self) {
        if let Target::Sqlite { temporary: Some(directory), .. } = self {
            let _ = directory.keep();
        }
    }

    /// Returns the file of the built-in ingress: next to the SQLite file, or a temporary file if the database is a
    /// server.
    pub(crate) fn ingress_store(&self) -> PathBuf {
        match self {
            Target::Sqlite { file, .. } => with_suffix(file, "-ingress"),
            Target::Postgres(options) => {
                let name = format!(
                    "eventbox-demo-{}-{}.sqlite3",
                    options.get_database().unwrap_or("postgres"),
                    uuid::Uuid::new_v4()
                );
                std::env::temp_dir().join(name)
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Sqlite { file, .. } => write!(f, "sqlite://{}", file.display()),
            Target::Postgres(options) => {
                let database = options.get_database().unwrap_or("postgres");
                write!(f, "postgres://{}:{}/{database}", options.get_host(), options.get_port())
            }
        }
    }
}

/// Opens a file, and creates it if it is missing.
pub(crate) async fn open_sqlite(file: &Path, connections: u32) -> Result<Pool<Sqlite>> {
    let options = eventbox::sqlite_options(file);
    let trouble = || format!("cannot open {}: name a file in a directory that you may write to", file.display());
    let conn = options.clone().connect().await.with_context(trouble)?;
    conn.close().await.with_context(trouble)?;
    Ok(pool(connections).connect_lazy_with(options))
}

/// Connects to a server. Fails at once if the server does not answer.
pub(crate) async fn open_postgres(options: &PgConnectOptions, connections: u32) -> Result<Pool<Postgres>> {
    let at = || {
        let (host, port) = (options.get_host(), options.get_port());
        format!("cannot connect to Postgres at {host}:{port}: start it, or give another --database-url")
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await.with_context(at)?;
    connected.with_context(at)?.close().await.with_context(at)?;
    Ok(pool(connections).connect_lazy_with(options.clone()))
}

fn pool<B: eventbox::Backend>(connections: u32) -> PoolOptions<B> {
    eventbox::pool_options().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT)
}

/// Prepares the database for a new or a resumed run. Returns the progress of the earlier run.
pub(crate) async fn prepare<B: DemoTables>(pool: &Pool<B>, wanted: Progress, resume: bool) -> Result<Progress> {
    let mut conn = pool.acquire().await.context("read the database")?;
    let (demo, eventboxes) = B::existing(&mut conn).await.context("read the database: is it a database?")?;
    if !demo && eventboxes {
        bail!("the database holds the eventboxes of another program: create an empty one for the demo");
    }
    drop(conn);
    if !demo {
        // Before the library's tables: a resumed run could not distinguish those from the tables of another program.
        let mut tx = eventbox::begin(pool).await?;
        B::create(&mut tx).await.context("create the demo's tables")?;
        B::save_progress(&mut tx, &wanted).await.context("save the demo's progress")?;
        tx.commit().await.context("create the demo's tables")?;
        eventbox::migrate(pool).await?;
        return Ok(wanted);
    }
    ensure!(resume, "the database holds an earlier run of the demo: resume it with --resume, or name another database");
    let mut conn = pool.acquire().await.context("read the progress of the earlier run")?;
    let found = B::load_progress(&mut conn).await.context("read the progress of the earlier run")?;
    let found = found.context("the earlier run has no progress: name another database")?;
    ensure!(
        found.input == wanted.input,
        "the earlier run was about another file: give the same --input, or another database"
    );
    drop(conn);
    eventbox::migrate(pool).await?;
    Ok(found)
}

/// Removes everything that a run created.
pub(crate) async fn remove<B: DemoTables>(pool: &Pool<B>, target: Target, ingress_store: &Path) -> Result<()> {
    match target {
        Target::Postgres(options) => {
            pool.close().await;
            let mut conn = options.connect().await?;
            drop_all(&mut conn).await.context("drop the tables of the demo")?;
            conn.close().await?;
        }
        Target::Sqlite { file, temporary } => {
            pool.close().await;
            remove_sqlite(&file);
            remove_sqlite(ingress_store);
            if let Some(directory) = temporary {
                directory.close().context("remove the temporary directory")?;
            }
        }
    }
    remove_sqlite(ingress_store);
    Ok(())
}

fn remove_sqlite(file: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(with_suffix(file, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(file = %file.display(), %error, "cannot remove the file");
            }
            _ => {}
        }
    }
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
