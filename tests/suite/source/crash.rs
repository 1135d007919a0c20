//! A process that is killed with -9 while it reads a directory. The process is this test binary, started again with one
//! test's name.

use std::process::Stdio;

use eventbox::source::{Directory, Sources};
use eventbox::{Backend, Event};
use sqlx::pool::PoolOptions;
use tokio::process::{Child, Command};

use super::{assert_emitted, config, to};
use crate::support::running::{config as runtime_config, idle_runtime};
use crate::support::{CellEngine, SOON, TestDb, eventually, on_every_engine};

/// Environment variables of the child: the database, and the directory.
const URL: &str = "EVENTBOX_TEST_SOURCES_URL";
const FILES: &str = "EVENTBOX_TEST_SOURCES_FILES";

const LINES: usize = 6_000;

fn numbers(path: impl Into<std::path::PathBuf>) -> Directory {
    Directory::new(path, |line| {
        let number: usize = line.json()?;
        Ok(vec![(to(number % 3), Event::new(number.to_string()))])
    })
}

/// Reads the directory when a test has started this process, and else nothing.
#[test]
#[ignore = "the child process of the test of this file"]
fn child() {
    let (Ok(url), Ok(files)) = (std::env::var(URL), std::env::var(FILES)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if url.starts_with("postgres") {
            read_for_ever(PoolOptions::<sqlx::Postgres>::new().max_connections(6).connect(&url).await.unwrap(), files)
                .await;
        } else {
            let file: sqlx::sqlite::SqliteConnectOptions = url.parse().unwrap();
            let options = eventbox::sqlite_options(file.get_filename());
            let pool = PoolOptions::<sqlx::Sqlite>::new().max_connections(6).connect_with(options).await.unwrap();
            read_for_ever(pool, files).await;
        }
    });
}

/// Consumes nothing.
struct Nobody;

impl eventbox::Reducer for Nobody {
    type State = u64;

    fn reduce(
        &self,
        _to: &eventbox::Recipient,
        _events: &[Event],
        state: u64,
    ) -> Result<eventbox::Outcome<u64>, eventbox::BoxError> {
        Ok(eventbox::Outcome::to(state))
    }
}

async fn read_for_ever<B: Backend>(pool: sqlx::Pool<B>, files: String) {
    let runtime = eventbox::runtime::Runtime::builder(pool).reducer("idle", Nobody).config(runtime_config());
    let runtime = runtime.start().await.unwrap();
    let mut config = config();
    config.max_events = 20.try_into().unwrap();
    let _sources = Sources::builder(&runtime).source_with("files", numbers(files), config).start().unwrap();
    std::future::pending::<()>().await;
}

fn start<B: CellEngine>(db: &TestDb<B>, files: &std::path::Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "source::crash::child", "--ignored"]).env(URL, db.url()).env(FILES, files);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

on_every_engine! {
    /// Three processes, which are killed one after the other in the middle of the lines. A fourth reads the rest. Each
    /// line is in its eventbox once, and in order.
    async fn killed_processes_emit_each_line_once(db) {
        let directory = tempfile::tempdir().unwrap();
        let lines = |numbers: std::ops::Range<usize>| numbers.map(|number| format!("{number}\n")).collect::<String>();
        std::fs::write(directory.path().join("1"), lines(0..LINES / 2)).unwrap();
        std::fs::write(directory.path().join("2"), lines(LINES / 2..LINES)).unwrap();
        for process in 1..=3 {
            let mut child = start(db, directory.path());
            let part = (process * LINES / 5) as i64;
            eventually(SOON * 4, async || db.count("eventbox_event").await >= part).await;
            child.kill().await.unwrap();
        }
        let left = LINES as i64 - db.count("eventbox_event").await;
        assert!(left > 0, "the processes were killed in the middle");
        let runtime = idle_runtime(db).await;
        let sources = Sources::builder(&runtime);
        let sources = sources.source_with("files", numbers(directory.path()), config()).start().unwrap();
        eventually(SOON, async || sources.status().first().is_some_and(|status| status.lag == Some(0))).await;
        sources.stop(crate::support::running::STOP).await;
        runtime.stop(crate::support::running::STOP).await;
        assert_emitted(db, LINES).await;
    }
}
