//! Where a run keeps its data: opening it, refusing what is not the demo's, and cleaning up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Pool, Postgres, Sqlite};

use super::tables::{DemoTables, Progress};

/// The file of a kept run that names no database.
const DEFAULT_FILE: &str = "eventbox-demo.sqlite3";

/// How long connecting to a server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a task waits for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections of a process beside one for each turn at the same time: rounds, finding work, leases, timers, the emitter, the sender.
const EXTRA_CONNECTIONS: u32 = 8;

/// The most connections of all processes together, well below what a server allows that nobody has configured.
const MAX_CONNECTIONS: u32 = 72;

/// How many connections each process may have.
pub(crate) fn connections(workers: u32, processes: u32) -> u32 {
    (workers + EXTRA_CONNECTIONS).min(MAX_CONNECTIONS / processes.max(1))
}

/// The database that a run was given.
#[derive(Debug)]
pub(crate) enum Target {
    /// A file, and the directory that is removed with it when the demo made that up.
    Sqlite {
        file: PathBuf,
        temporary: Option<tempfile::TempDir>,
    },
    Postgres(Box<PgConnectOptions>),
}

impl Target {
    /// From what was typed. Nothing is created yet, but for a temporary directory.
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
            // Settings behind a question mark are the demo's own business.
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

    /// Leaves a temporary directory where it is.
    pub(crate) fn keep(self) {
        if let Target::Sqlite { temporary: Some(directory), .. } = self {
            let _ = directory.keep();
        }
    }

    /// Where the built-in ingress keeps what it gets: beside the file, or in a temporary file beside a server.
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

/// Opens a file, which is created when it is missing.
pub(crate) async fn open_sqlite(file: &Path, connections: u32) -> Result<Pool<Sqlite>> {
    let options = eventbox::sqlite_options(file);
    let trouble = || format!("cannot open {}: name a file in a directory that you may write to", file.display());
    let conn = options.clone().connect().await.with_context(trouble)?;
    conn.close().await.with_context(trouble)?;
    Ok(pool(connections).connect_lazy_with(options))
}

/// Connects to a server; tells at once when it is not there.
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

/// Makes the database ready for a run, or for going on with one; answers how far that had got.
pub(crate) async fn prepare<B: DemoTables>(pool: &Pool<B>, wanted: Progress, resume: bool) -> Result<Progress> {
    let mut conn = pool.acquire().await.context("look into the database")?;
    let (demo, eventboxes) = B::existing(&mut conn).await.context("look into the database: is it one?")?;
    if !demo && eventboxes {
        bail!("the database holds the eventboxes of another program: create an empty one for the demo");
    }
    drop(conn);
    if !demo {
        // Before the tables of eventboxes, which a resumed run could not tell from those of another program.
        let mut tx = eventbox::begin(pool).await?;
        B::create(&mut tx).await.context("create the demo's tables")?;
        B::save_progress(&mut tx, &wanted).await.context("note the demo's progress")?;
        tx.commit().await.context("create the demo's tables")?;
        eventbox::migrate(pool).await?;
        return Ok(wanted);
    }
    ensure!(
        resume,
        "the database holds an earlier run of the demo: go on with it with --resume, or name another database"
    );
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

/// Removes what a run made.
pub(crate) async fn remove<B: DemoTables>(pool: &Pool<B>, target: Target, ingress_store: &Path) -> Result<()> {
    match target {
        Target::Postgres(_) => {
            let mut conn = pool.acquire().await?;
            B::drop_all(&mut conn).await.context("drop the tables of the demo")?;
            drop(conn);
            pool.close().await;
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
