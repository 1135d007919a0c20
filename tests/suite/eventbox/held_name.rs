//! A name in an open transaction delays only senders of that name, for a bounded time. On SQLite emits wait for the
//! file instead.

use std::time::{Duration, Instant};

use ::eventbox::runtime::{LeaseConfig, Runtime, RuntimeConfig};
use ::eventbox::{
    BoxError, Emitted, Error, Event, Outcome, Recipient, Reducer, begin, emit, emit_all, limits::NAME_WAIT, state,
};
use eventbox::dsset::{Item, Set};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::task::JoinSet;

use crate::support::{LOCK_WAITS, SOON, TestDb, eventually, with_database};

/// Number of connections in the pool of a service.
const POOL: u32 = 10;

/// Longest time that an emit without a held name may take on a busy machine. The names are held for far longer.
const PROMPT: Duration = Duration::from_secs(5);

fn order(key: impl std::fmt::Display) -> Recipient {
    Recipient::new("order", key.to_string()).unwrap()
}

struct Count;

impl Reducer for Count {
    type State = u64;

    fn reduce(&self, _: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

/// Emits a named event to another recipient for each consumed event.
struct Forward;

impl Reducer for Forward {
    type State = u64;

    fn reduce(&self, _: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let forwarded = [(order("held"), Event::new("forwarded").named("name 0"))];
        Ok(Outcome::to(count + events.len() as u64).consuming(events).emitting(forwarded))
    }
}

fn config() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    config.poll_interval = Duration::from_millis(100);
    let mut leases = LeaseConfig::default();
    (leases.lease_ttl, leases.renew_interval, leases.check_interval) =
        (Duration::from_millis(1_500), Duration::from_millis(300), Duration::from_millis(100));
    config.leases = Some(leases);
    config
}

/// An open transaction of a caller that holds a number of names of one recipient.
async fn hold(db: &TestDb<Postgres>, names: usize) -> Transaction<'static, Postgres> {
    let mut tx = begin(&db.pool).await.unwrap();
    for name in 0..names {
        emit(&mut *tx, &order("held"), Event::new("first").named(format!("name {name}"))).await.unwrap();
    }
    tx
}

/// Emits events under free names and without names, one by one, and checks that each emit is prompt.
async fn others_go_on(pool: &PgPool, round: usize) {
    for n in 0..10 {
        let began = Instant::now();
        emit(pool, &order(n), Event::new("free")).await.unwrap();
        emit(pool, &order(n), Event::new("free").named(format!("{round}/{n}"))).await.unwrap();
        assert!(began.elapsed() < PROMPT, "two unrelated emits took {:?}", began.elapsed());
    }
}

/// Waits until at least `count` statements of the database wait for a lock.
async fn waits(db: &TestDb<Postgres>, count: i64) {
    eventually(SOON, async || db.number(LOCK_WAITS).await >= count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_name_delays_only_callers_that_send_it_again() {
    with_database("a_held_name_delays_only_those", async |db: &TestDb<Postgres>| {
        let pool = db.open(POOL);
        let runtime = Runtime::builder(pool.clone()).reducer("order", Count).config(config()).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let tx = hold(db, 12).await;
        let mut again = JoinSet::new();
        for n in 0..30_usize {
            let pool = pool.clone();
            // One name twelve times, and others; alone, of several, and as an item of a set.
            again.spawn(async move {
                let name = format!("name {}", if n < 12 { 0 } else { n % 12 });
                let event = Event::new("again").named(&name);
                match n % 3 {
                    0 => emit(&pool, &order("held"), event).await.map(|receipt| receipt == Emitted::Duplicate),
                    1 => emit_all(&pool, &[(order("held"), event)]).await.map(|all| all == [Emitted::Duplicate]),
                    _ => {
                        let added = Set::new(order("held")).add(&pool, &[Item::new(name, "again")]).await;
                        Ok(added.unwrap() == [Emitted::Duplicate])
                    }
                }
            });
        }
        waits(db, 1).await;
        for round in 0..3 {
            others_go_on(&pool, round).await;
        }
        let left = "SELECT count(*) FROM eventbox_event WHERE recipient <> 'order/held'";
        eventually(PROMPT, async || db.number(left).await == 0).await;
        assert!(runtime.health().is_healthy(), "{:?}", runtime.health());
        tx.commit().await.unwrap();
        for was_duplicate in again.join_all().await {
            // The first event may have been consumed already. Then its name is a tombstone.
            was_duplicate.unwrap();
        }
        runtime.stop(SOON).await;
        assert_eq!(state::<u64>(&db.pool, &order("held")).await.unwrap().unwrap().state, Some(12), "each name once");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_held_for_long_is_contention() {
    with_database("a_name_that_is_held_for_long", async |db: &TestDb<Postgres>| {
        let pool = db.open(1);
        let tx = hold(db, 1).await;
        let began = Instant::now();
        let again = tokio::spawn({
            let pool = pool.clone();
            async move { emit(&pool, &order("held"), Event::new("again").named("name 0")).await }
        });
        waits(db, 1).await;
        // A pool of one connection still serves the other senders.
        others_go_on(&pool, 0).await;
        let error = again.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Contention { .. }), "{error:?}");
        assert!(error.to_string().contains("order/held"), "{error}");
        assert!(began.elapsed() < NAME_WAIT + PROMPT, "{:?}", began.elapsed());
        tx.rollback().await.unwrap();
        assert_eq!(emit(&pool, &order("held"), Event::new("again").named("name 0")).await.unwrap(), Emitted::Added);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_emits_a_held_name_leaves_the_pool_to_others() {
    with_database("a_turn_that_emits_a_held_name", async |db: &TestDb<Postgres>| {
        let pool = db.open(4);
        let tx = hold(db, 1).await;
        let builder = Runtime::builder(pool.clone()).reducer("order", Count).reducer("forward", Forward);
        let runtime = builder.config(config()).start().await.unwrap();
        for n in 0..12 {
            emit(&pool, &Recipient::new("forward", n.to_string()).unwrap(), Event::new("x")).await.unwrap();
        }
        waits(db, 1).await;
        others_go_on(&pool, 0).await;
        let left = "SELECT count(*) FROM eventbox_event WHERE recipient LIKE 'order/_'";
        eventually(SOON, async || db.number(left).await == 0).await;
        tx.commit().await.unwrap();
        eventually(SOON, async || db.count("eventbox_event").await == 0).await;
        runtime.stop(SOON).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_kept_and_work_is_found_while_every_connection_is_taken() {
    with_database("leases_are_kept_while", async |db: &TestDb<Postgres>| {
        let pool = db.open(4);
        let runtime = Runtime::builder(pool.clone()).reducer("order", Count).config(config()).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(pool.acquire().await.unwrap());
        }
        let beat = "SELECT coalesce(max(heartbeat_at_us), 0)::int8 FROM eventbox_member";
        let before = db.number(beat).await;
        // Two terms of a lease.
        eventually(SOON, async || db.number(beat).await > before + 3_000_000).await;
        assert_eq!(runtime.shards(), 256);
        drop(taken);
        runtime.stop(SOON).await;
    })
    .await;
}
