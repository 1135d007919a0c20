//! The memory of a process with large events is bounded by bytes, whatever the number of waiting events. The process is
//! this test binary itself, started again with one test and an environment. The child prints its largest memory.

use std::num::{NonZeroU32, NonZeroUsize};
use std::process::Stdio;
use std::sync::Arc;

use eventbox::chip::{MAX_QUEUE_BYTES, NoopTransport, Transport};
use eventbox::emitter::DurableEmitter;
use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{
    BoxError, CloudEvent, Event, Outcome, Recipient, Reducer, admin, limits::DEFAULT_TURN_BYTES, reduce_batch,
};
use sqlx::pool::PoolOptions;
use tokio::process::Command;

use super::{STOP, config, emit_all};
use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Variable of a child: the database.
const URL: &str = "EVENTBOX_TEST_MEMORY_URL";
/// Variable of a child: its role.
const ROLE: &str = "EVENTBOX_TEST_MEMORY_ROLE";

/// Text before the largest memory in the output of a child, in KiB.
const MOST: &str = "most memory: ";

/// Size of a large event.
const LARGE: usize = 1_000 << 10;

/// The largest memory of a child without large work, with room for what allocators and drivers keep.
const BASE_KIB: u64 = 80 << 10;

/// Number of connections of a child. Few, because each connection of SQLite may keep 16 MiB of pages.
const CONNECTIONS: u32 = 3;

/// Counts bytes.
struct Weigh;

impl Reducer for Weigh {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], bytes: u64) -> Result<Outcome<u64>, BoxError> {
        let more: usize = events.iter().map(|event| event.value().len()).sum();
        Ok(Outcome::to(bytes + more as u64).consuming(events))
    }
}

fn boxes(recipients: usize) -> impl Iterator<Item = Recipient> {
    (0..recipients).map(|n| Recipient::new("tally", n.to_string()).unwrap())
}

/// Fills boxes with large events.
async fn fill<B: CellEngine>(db: &TestDb<B>, recipients: usize, events: usize) {
    let value = vec![b'x'; LARGE];
    for to in boxes(recipients) {
        let events: Vec<_> = (0..events).map(|_| (to.clone(), Event::new(value.clone()))).collect();
        for events in events.chunks(eventbox::limits::MAX_EMIT_BYTES / LARGE) {
            emit_all(db, events).await;
        }
    }
}

async fn weight<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> u64 {
    eventbox::state::<u64>(&db.pool, of).await.unwrap().and_then(|at| at.state).unwrap_or(0)
}

/// The work of a child. Not a test by itself.
#[test]
#[ignore = "a child process of the tests of this file"]
#[allow(clippy::print_stdout, reason = "the test reads what its child says")]
fn child() {
    let (Ok(url), Ok(role)) = (std::env::var(URL), std::env::var(ROLE)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        if url.starts_with("postgres") {
            play(PoolOptions::<sqlx::Postgres>::new().max_connections(CONNECTIONS).connect(&url).await.unwrap(), &role)
                .await;
        } else {
            let file: sqlx::sqlite::SqliteConnectOptions = url.parse().unwrap();
            let options = eventbox::sqlite_options(file.get_filename());
            play(
                PoolOptions::<sqlx::Sqlite>::new().max_connections(CONNECTIONS).connect_with(options).await.unwrap(),
                &role,
            )
            .await;
        }
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{MOST}{}", most.trim().trim_end_matches(" kB"));
}

async fn play<B: TestEngine>(pool: sqlx::Pool<B>, role: &str) {
    match role {
        "rounds" => {
            // One round at a time, because each concurrent round holds as many bytes again.
            let mut config: RuntimeConfig = config();
            config.rounds = NonZeroUsize::MIN;
            let runtime = Runtime::builder(pool.clone()).reducer("tally", Weigh).config(config).start().await.unwrap();
            let left = || B::number(&pool, "SELECT count(*) FROM eventbox_event".to_owned());
            eventually(4 * SOON, async || left().await == 0).await;
            runtime.stop(STOP).await;
        }
        "turns" => {
            let most = NonZeroU32::new(1_000).unwrap();
            for to in boxes(1) {
                while reduce_batch(&pool, &to, &Weigh, most).await.unwrap().more_remain {}
            }
        }
        "sends" => {
            let transport: Arc<dyn Transport> = Arc::new(NoopTransport);
            let emitter = DurableEmitter::builder(pool.clone(), transport).start().await.unwrap();
            let left = || B::number(&pool, "SELECT count(*) FROM eventbox_outbox".to_owned());
            // SQLite writes a message again with each of its claims.
            eventually(10 * SOON, async || left().await == 0).await;
            emitter.stop(STOP).await;
        }
        _ => {
            for to in boxes(1) {
                let mut after = None;
                loop {
                    let page = admin::events(&pool, &to, after, admin::MAX_LISTED).await.unwrap();
                    let Some(last) = page.last() else { break };
                    after = Some(last.id());
                }
            }
        }
    }
}

/// Returns the largest memory of a child, in KiB.
async fn most_memory<B: TestEngine>(db: &TestDb<B>, role: &str) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "runtime::memory::child", "--ignored", "--nocapture"]);
    // Memory that one thread frees is used again by the others, however busy the machine is.
    command
        .env("MALLOC_ARENA_MAX", "1")
        .env(URL, db.url())
        .env(ROLE, role)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    said.lines().find_map(|line| line.split(MOST).nth(1)?.trim().parse().ok()).unwrap()
}

#[cfg(target_os = "linux")]
on_every_engine! {
    /// 200 MiB wait, of which a round may have 32. The first sum is what the process may hold, the second what it would
    /// hold without a bound.
    async fn rounds_of_large_events_are_bounded_by_bytes(db) {
        fill(db, 20, 10).await;
        let most = most_memory(db, "rounds").await;
        assert!(most < BASE_KIB + 3 * (DEFAULT_TURN_BYTES as u64 >> 10), "{} MiB", most >> 10);
        for to in boxes(20) {
            assert_eq!(weight(db, &to).await, 10 * LARGE as u64, "{to}");
        }
    }

    async fn a_turn_of_large_events_is_bounded_by_bytes(db) {
        fill(db, 1, 200).await;
        let most = most_memory(db, "turns").await;
        assert!(most < BASE_KIB + 2 * (DEFAULT_TURN_BYTES as u64 >> 10), "{} MiB", most >> 10);
        assert_eq!(weight(db, &boxes(1).next().unwrap()).await, 200 * LARGE as u64);
    }

    /// 480 MiB are due in the outbox. A claim has at most 16 MiB of them, and the queue of the client 64 MiB. A message
    /// is in memory as a row, as an event and in its request.
    async fn claims_of_an_emitter_are_bounded_by_bytes(db) {
        let payload = vec![b'x'; 5 << 20];
        for _ in 0..96 {
            let event = CloudEvent::builder("tests", "large").payload(payload.clone()).build().unwrap();
            drop(eventbox::outbox::publish_in(&db.pool, event).await.unwrap());
        }
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
        let most = most_memory(db, "sends").await;
        assert!(most < BASE_KIB + ((5 * MAX_QUEUE_BYTES as u64) >> 10), "{} MiB", most >> 10);
    }

    async fn a_listing_of_large_events_is_bounded_by_bytes(db) {
        fill(db, 1, 200).await;
        let most = most_memory(db, "listings").await;
        assert!(most < BASE_KIB + 2 * (admin::MAX_LISTED_BYTES as u64 >> 10), "{} MiB", most >> 10);
    }
}
