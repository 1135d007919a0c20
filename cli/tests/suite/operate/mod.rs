//! The commands of an operator, as real processes on real databases.

mod changes;
mod letters;
mod output;
#[cfg(unix)]
mod peer;
mod reading;
mod refused;
#[cfg(unix)]
mod serve;
mod setup;
mod states;
mod story;
#[cfg(unix)]
mod terminal;
mod workers;

use std::process::Stdio;
use std::time::Duration;

use eventbox::{CloudEvent, Event, EventId, Recipient};
use serde_json::Value;
use sqlx::Pool;
use tokio::process::Command;

use crate::support::{TestDb, TestEngine};

/// Time limit of a command on a busy machine.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// Returns a command without the settings of the test's own environment.
fn eventbox(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbox"));
    for name in ["DATABASE_URL", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.args(args).env("USER", "tester").current_dir(env!("CARGO_TARGET_TMPDIR")).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The result of a finished command.
#[derive(Debug)]
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn finish(mut command: Command) -> Finished {
    let output = tokio::time::timeout(HANGS_AFTER, command.output()).await.expect("the command ends").unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn run(args: &[&str]) -> Finished {
    finish(eventbox(args)).await
}

/// Runs a command on a database.
async fn on<B: TestEngine>(db: &TestDb<B>, args: &[&str]) -> Finished {
    let url = db.url();
    run(&[args, &["--database-url", &url]].concat()).await
}

impl Finished {
    /// Returns the output of a successful command.
    #[track_caller]
    fn done(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.trim_end()
    }

    /// Returns the JSON document of a successful command.
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(self.done()).unwrap()
    }

    /// Returns the line of a refused command.
    #[track_caller]
    fn refused(&self) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (Some(2), ""), "{self:?}");
        let line = self.stderr.trim_end();
        assert!(line.starts_with("eventbox: ") && line.lines().count() == 1, "{self:?}");
        assert!(!line.contains("panicked"), "{self:?}");
        line
    }
}

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

/// What a test puts into a database, on the pool of its engine.
trait Seed: TestEngine {
    async fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) -> EventId;

    async fn publish(pool: &Pool<Self>, message: CloudEvent);
}

macro_rules! seed {
    ($($engine:ty),+) => {$(
        impl Seed for $engine {
            async fn emit(pool: &Pool<Self>, to: &Recipient, event: Event) -> EventId {
                eventbox::emit(pool, to, event).await.unwrap().id().unwrap()
            }

            async fn publish(pool: &Pool<Self>, message: CloudEvent) {
                let _ = eventbox::outbox::publish_in(pool, message).await.unwrap();
            }
        }
    )+};
}
seed!(sqlx::Postgres, sqlx::Sqlite);

/// Emits an event to [`order`] and returns its id.
async fn emit<B: Seed>(db: &TestDb<B>, event: Event) -> EventId {
    B::emit(&db.pool, &order(), event).await
}

/// Makes a recipient fail, as its turns would.
async fn fail<B: TestEngine>(db: &TestDb<B>, of: &Recipient) {
    let shard = of.shard();
    db.run(format_args!(
        "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error)
         VALUES ({shard}, '{of}', 3, 4000000000000000, 'no such seat')"
    ))
    .await;
}
