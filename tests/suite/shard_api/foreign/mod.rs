//! A foreign client: Python with Google's gRPC library, and stubs that are generated from `proto/consumer.proto`.
//!
//! `cargo xtask peers` installs the library, generates the stubs and runs these tests. A plain run of the tests ignores
//! them, and shows that.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use eventbox::shard_api::{Credential, shard_id};
use eventbox::{admin, testing};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::*;
use crate::admin::shards::assign_and_fail;
use crate::support::with_database;

/// Environment variable with a Python that has the library and finds the stubs. `cargo xtask peers` sets it.
const PYTHON: &str = "EVENTBOX_FOREIGN_PYTHON";

/// Token of the client.
const TOKEN: &str = "0123456789abcdef";

/// Time until the event of a timer is due that the test fires itself.
const LATER: Duration = Duration::from_secs(3_600);

/// The client, and what it prints.
struct Client {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn start(server: &ShardServerHandle, mode: &str, args: &[&str]) -> Self {
        let python = std::env::var_os(PYTHON).expect("run `cargo xtask peers`, which installs the client's library");
        let mut command = Command::new(python);
        command.args(["-c", include_str!("client.py"), mode, &server.local_addr().to_string(), TOKEN]).args(args);
        // Its errors go to the output of the test.
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Client { process, lines }
    }

    /// Waits until the client has passed what comes before this line.
    async fn says(&mut self, line: &str) {
        let said = timeout(SOON, self.lines.next_line()).await.expect("the client goes on").unwrap();
        assert_eq!(said.as_deref(), Some(line), "its error is above");
    }

    async fn hears(&mut self, line: &str) {
        self.process.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn finish(mut self) {
        self.says("done").await;
        assert!(timeout(SOON, self.process.wait()).await.unwrap().unwrap().success());
    }
}

/// Serves an API to clients with the token.
async fn serve(api: impl ShardApi) -> ShardServerHandle {
    let credential = Credential::headers([("authorization", format!("Bearer {TOKEN}"))]);
    ShardService::new(api).accept(credential).serve("127.0.0.1:0").await.unwrap()
}

/// Cases 12 and 13, and every refusal, with a client that shares no code with the server.
async fn lists_and_changes_shards<B: CellEngine>(db: &TestDb<B>) {
    assign_and_fail(db).await;
    let server = serve(Shards::new(db.pool.clone())).await;
    Client::start(&server, "specs", &[]).finish().await;
    let record = admin::operations(&db.pool, None, 100).await.unwrap();
    assert!(record.iter().any(|done| done.action == "unassign"), "{record:?}");
    let is_named =
        |done: &admin::Operation| (done.who.as_str(), done.why.as_deref()) == ("ana", Some("a test in Python"));
    assert!(record.iter().all(is_named), "{record:?}");
}

/// Cases 10 and 16: Stat blocks until a process has worked, then says how far, and what was delivered.
async fn waits_until_events_are_processed<B: CellEngine>(db: &TestDb<B>) {
    let runtime = counting(db, None).await;
    let server = serve(Shards::new(db.pool.clone()).on(&runtime)).await;
    let to = counter(1);
    let other = (2..).map(counter).find(|other| other.shard() != to.shard()).unwrap();
    let later = B::emit_on(&db.pool, &to, Event::new("later").due_in(LATER)).await.unwrap().to_string();
    let shard = shard_id(to.shard());
    let mut client = Client::start(&server, "stat", &[to.as_str(), &shard, other.as_str(), &later]);
    client.says("emit").await;
    let receipt = emit(db, &to).await;
    client.hears(&receipt).await;
    client.says("fire").await;
    testing::fire_timers(&db.pool, SystemTime::now() + 2 * LATER).await.unwrap();
    client.finish().await;
    runtime.stop(STOP).await;
}

macro_rules! with_python {
    ($($name:ident)+) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "`cargo xtask peers` runs it"]
            async fn postgres() {
                super::with_database::<sqlx::Postgres, _>(stringify!($name), super::$name).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "`cargo xtask peers` runs it"]
            async fn sqlite() {
                super::with_database::<sqlx::Sqlite, _>(stringify!($name), super::$name).await;
            }
        }
    )+};
}
with_python!(lists_and_changes_shards waits_until_events_are_processed);
