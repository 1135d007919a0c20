//! Processes that are killed with -9. A child is this test binary, started again with one test's name and its
//! environment.

use std::num::NonZeroU32;
use std::process::Stdio;
use std::time::{Duration, Instant};

use eventbox::{CloudEvent, Event, Mutation, PostProcess, Recipient, SideEffect, Transition, Turn};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::pool::PoolOptions;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::receiver::{Fake, STOP, builder};
use crate::support::{
    CellEngine, Cells, SOON, TestDb, create_cells, drain, effects, eventually, noting, on_every_engine,
};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// Environment variable of a child: the database.
const URL: &str = "EVENTBOX_TEST_CHILD_URL";
/// Environment variable of a child: its job.
const ROLE: &str = "EVENTBOX_TEST_CHILD_ROLE";

/// Line that a child prints after its turn has committed and before any hook has run.
const COMMITTED: &str = "the turn is committed";

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

/// Recipient of the durable work after the turn.
fn after() -> Recipient {
    Recipient::new("after", "order-7").unwrap()
}

/// Consumes all events. The durable work after the commit is an event to another box and a message. A hook may be lost.
fn with_work_after<B: CellEngine>(hooks: sqlx::Pool<B>) -> Cells<B> {
    Cells::deciding(move |_, events, population| {
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        let effect = SideEffect::new(|tx| {
            Box::pin(async move { Ok(B::emit(tx, &after(), Event::new("send the invoice")).await?) })
        });
        let pool = hooks.clone();
        let hook =
            PostProcess::new(move || async move { Ok(B::note(&mut *pool.acquire().await?, "hook".to_owned()).await?) });
        let message = CloudEvent::builder("shop", "order.paid").subject("7").build()?;
        let transition = Transition::to(population + events.len() as i64).consuming(events).side_effect(effect);
        Ok(transition.publishing([message]).post_process(hook).into())
    })
}

/// Consumes all events, counts them, and writes a note for each event.
fn taking_all<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|to, events, population| {
        if events.is_empty() {
            return Ok(Mutation::none());
        }
        let notes = events.iter().map(|event| Some(noting(format!("{to} {}", String::from_utf8_lossy(event.value())))));
        let effect = SideEffect::chain(notes);
        Ok(Transition::to(population + events.len() as i64).consuming(events).side_effect(effect).into())
    })
}

/// Runs the job of a child when a test has started this process, and else nothing.
#[test]
#[ignore = "a child process of the tests of this file"]
fn child() {
    let (Ok(url), Ok(role)) = (std::env::var(URL), std::env::var(ROLE)) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if url.starts_with("postgres") {
            let pool = PoolOptions::<sqlx::Postgres>::new().max_connections(1).connect(&url).await.unwrap();
            play(pool, &role).await;
        } else {
            let file: sqlx::sqlite::SqliteConnectOptions = url.parse().unwrap();
            let options = eventbox::sqlite_options(file.get_filename());
            play(PoolOptions::<sqlx::Sqlite>::new().max_connections(1).connect_with(options).await.unwrap(), &role)
                .await;
        }
    });
}

#[allow(clippy::print_stdout, reason = "the test reads what its child says")]
async fn play<B: CellEngine>(pool: sqlx::Pool<B>, role: &str) {
    match role {
        "die between commit and hooks" => {
            let options = eventbox::TurnOptions::new(MANY).return_hooks();
            let work = with_work_after(pool.clone());
            let turn = eventbox::process_batch_with(&pool, &order(), &work, &options).await.unwrap();
            assert_eq!(turn.post_process.len(), 1);
            println!("{COMMITTED}");
            std::future::pending::<()>().await;
        }
        role => {
            let first: u8 = role.parse().unwrap();
            while consume_a_round(&pool, first).await > 0 {}
        }
    }
}

/// Processes every pending recipient once, beginning with a shard. Returns the number of events consumed or seen
/// waiting.
async fn consume_a_round<B: CellEngine>(pool: &sqlx::Pool<B>, first: u8) -> usize {
    let (cells, few) = (taking_all::<B>(), NonZeroU32::new(4).unwrap());
    let mut seen = 0;
    for shard in (0..=u8::MAX).map(|shard| shard.wrapping_add(first)) {
        for to in eventbox::pending(pool, shard, None, eventbox::limits::MAX_PENDING).await.unwrap() {
            match eventbox::process_batch(pool, &to, &cells, few).await {
                Ok(Turn { consumed, more_remain, .. }) => seen += consumed + usize::from(more_remain),
                Err(error) if error.is_transient() => seen += 1,
                Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
            }
        }
    }
    seen
}

fn start<B: CellEngine>(db: &TestDb<B>, role: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "eventbox::crash::child", "--ignored", "--nocapture"]).env(URL, db.url()).env(ROLE, role);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

on_every_engine! {
    /// A process is killed after its commit and before its hooks. The hook is lost, which hooks allow. The event and
    /// the message of the same transaction are stored, and are processed after the restart.
    async fn durable_work_after_a_turn_outlives_the_process(db) {
        create_cells(db).await;
        eventbox::emit(&db.pool, &order(), Event::new("paid")).await.unwrap();
        let mut process = start(db, "die between commit and hooks");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let committed = tokio::time::timeout(SOON, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(COMMITTED) {
                    return true;
                }
            }
            false
        });
        assert!(committed.await.unwrap(), "the child commits a turn");
        process.kill().await.unwrap();

        // After the restart the turn does not run again, and its durable work does.
        let again = eventbox::process_batch(&db.pool, &order(), &with_work_after(db.pool.clone()), MANY).await.unwrap();
        assert_eq!(again.number, None);
        assert_eq!(db.count("effect").await, 0, "the hook died with its process");
        assert_eq!(
            drain(&db.pool, &after()).await.iter().map(|event| event.value().to_vec()).collect::<Vec<_>>(),
            [b"send the invoice"]
        );

        // The dead process has a claim on its message for some seconds. The test lets them pass.
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
        let fake = Fake::ok();
        let emitter = builder(&db.pool, &fake).start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_outbox").await == 0).await;
        emitter.stop(STOP).await;
        let sent: Vec<_> = fake.batches().into_iter().flat_map(|batch| batch.events).collect();
        assert_eq!((sent.len(), sent[0].r#type.as_str()), (1, "order.paid"));
    }

    /// Eight processes work on 10,000 events of 1,000 recipients, without leases. The test kills them at random moments
    /// and replaces them. Every event is consumed once, in turns without a gap.
    async fn processes_that_are_killed_consume_everything_once(db) {
        const PROCESSES: usize = 8;
        const RECIPIENTS: usize = 1_000;
        const EVENTS: usize = 10_000;
        const KILLS: usize = 12;
        let seed = std::env::var("EVENTBOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        println!("EVENTBOX_SEED={seed} repeats the moments");
        let mut random = StdRng::seed_from_u64(seed);
        create_cells(db).await;
        let recipients: Vec<_> = (0..RECIPIENTS).map(|n| Recipient::new("cell", n.to_string()).unwrap()).collect();
        let events: Vec<_> =
            (0..EVENTS).map(|n| (recipients[n % RECIPIENTS].clone(), Event::new(format!("{n:05}")))).collect();
        eventbox::emit_all(&db.pool, &events).await.unwrap();

        let started = Instant::now();
        let begin = |random: &mut StdRng| start(db, &random.random_range(0..=u8::MAX).to_string());
        let mut processes: Vec<Child> = (0..PROCESSES).map(|_| begin(&mut random)).collect();
        let mut kills = 0;
        while db.count("eventbox_event").await > 0 {
            assert!(started.elapsed() < SOON * 10, "{} events are left", db.count("eventbox_event").await);
            // The moment is random, so the test waits for no condition here.
            tokio::time::sleep(Duration::from_millis(random.random_range(20..250))).await;
            let victim = &mut processes[random.random_range(0..PROCESSES)];
            if victim.try_wait().unwrap().is_none() {
                victim.kill().await.unwrap();
                kills += 1;
            }
            *victim = begin(&mut random);
        }
        for process in &mut processes {
            process.wait().await.unwrap();
        }
        println!("{kills} processes were killed in {:?}", started.elapsed());
        assert!(kills >= KILLS, "only {kills} kills prove little");

        assert_eq!(db.count("effect").await, EVENTS as i64, "EVENTBOX_SEED={seed}");
        let mut wanted: Vec<String> =
            events.iter().map(|(to, event)| format!("{to} {}", str::from_utf8(event.value()).unwrap())).collect();
        let mut effects = effects(db).await;
        wanted.sort();
        effects.sort();
        assert_eq!(effects, wanted, "EVENTBOX_SEED={seed}");
        let wrong = "SELECT count(*) FROM cell c JOIN eventbox_state s ON s.recipient = c.key
                     WHERE c.population <> 10 OR c.eversion <> s.turn";
        assert_eq!((db.count("cell").await, db.number(wrong).await), (RECIPIENTS as i64, 0), "EVENTBOX_SEED={seed}");
    }
}
