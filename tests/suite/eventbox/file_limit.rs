//! A file of SQLite that cannot grow any more: the file system reports errors, and work goes on when their cause is
//! gone. The operating system limits the file of a separate process, which is this test binary, started again.

use std::process::Stdio;
use std::time::Duration;

use ::eventbox::runtime::Runtime;
use ::eventbox::{BoxError, Event, Outcome, Recipient, Reducer, emit, state};
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use crate::support::running::{STOP, config};
use crate::support::{SOON, eventually};

/// Of a child: the file.
const FILE: &str = "EVENTBOX_TEST_LIMITED_FILE";

/// Largest file, in blocks of 512 bytes (1 MiB in all). The log of the writes soon grows beyond this limit.
const BLOCKS: &str = "2048";

const FULL: &str = "the file is full: ";

fn to() -> Recipient {
    Recipient::new("tally", "1").unwrap()
}

struct Tally;

impl Reducer for Tally {
    type State = usize;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: usize) -> Result<Outcome<usize>, BoxError> {
        Ok(Outcome::to(count + events.len()).consuming(events))
    }
}

/// Emits under this name until it is there.
async fn emit_until_there(pool: &SqlitePool, name: usize) -> Result<(), ::eventbox::Error> {
    emit(pool, &to(), Event::new(vec![b'x'; 32 << 10]).named(name.to_string())).await.map(drop)
}

/// Not a test by itself: what a child does.
#[test]
#[ignore = "a child process of the test of this file"]
#[allow(clippy::print_stdout, reason = "the test reads what its child says")]
fn child() {
    let Ok(file) = std::env::var(FILE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(::eventbox::sqlite_options(file));
        let pool = pool.await.unwrap();
        let worker = Runtime::builder(pool.clone()).reducer("tally", Tally).config(config()).start().await.unwrap();
        let (mut name, mut has_said) = (0, false);
        while name < 400 {
            match emit_until_there(&pool, name).await {
                Ok(()) => name += 1,
                Err(error) if !has_said => {
                    println!("{FULL}{error:?}");
                    has_said = true;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        let count = async || state::<usize>(&pool, &to()).await.ok().flatten().and_then(|at| at.state);
        eventually(SOON, async || count().await == Some(400)).await;
        assert!(has_said, "the file never was full");
        worker.stop(STOP).await;
        println!("applied: {:?}", count().await);
    });
}

async fn line_with(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> String {
    loop {
        let line = tokio::time::timeout(2 * SOON, lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("the child never said {text:?}")).unwrap();
        let line = line.unwrap_or_else(|| panic!("the child ended and never said {text:?}"));
        if line.contains(text) {
            return line;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_when_a_file_may_grow_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limited.sqlite3");
    let pool = SqlitePool::connect_with(::eventbox::sqlite_options(&file)).await.unwrap();
    ::eventbox::migrate(&pool).await.unwrap();
    pool.close().await;
    // The signal that comes with the limit is ignored, so that writes answer an error.
    let script = format!("trap '' XFSZ; ulimit -S -f {BLOCKS}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "eventbox::file_limit::child", "--ignored", "--nocapture"]).env(FILE, &file);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let full = line_with(&mut lines, FULL).await;
    println!("{full}");
    let pid = child.id().unwrap().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status().await;
    assert!(raised.expect("prlimit is there (the package util-linux)").success());
    assert!(line_with(&mut lines, "applied: ").await.contains("Some(400)"));
    assert!(child.wait().await.unwrap().success());
}
