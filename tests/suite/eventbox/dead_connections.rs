//! Connections that die silently: a cut cable, a frozen server. Only Postgres is reached over a network.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::eventbox::runtime::{Runtime, RuntimeConfig};
use ::eventbox::{
    BoxError, EVersion, Error, Event, Mutation, Outcome, Processor, Recipient, Reducer, ReducerAsProcessor, Sender,
    SideEffect, Transition, begin, emit, limits::IDLE_LIMIT, process_batch,
};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Postgres};

use crate::support::proxy::Proxy;
use crate::support::{LOCK_WAITS, SOON, TestDb, drain, eventually, with_database};

/// Longest time until work goes on after connections died.
const BACK_AT_WORK: Duration = Duration::from_secs(15);

fn to() -> Recipient {
    Recipient::new("tally", "1").unwrap()
}

/// Returns a pool that has opened all its connections.
async fn full_pool(options: PgPoolOptions, through: PgConnectOptions, size: usize) -> PgPool {
    let pool = options.max_connections(u32::try_from(size).unwrap()).connect_with(through).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..size {
        held.push(pool.acquire().await.unwrap());
    }
    drop(held);
    eventually(SOON, async || pool.num_idle() == size).await;
    pool
}

/// Emits until an emit succeeds. Returns the time that this took.
async fn emit_again_and_again(pool: &PgPool) -> Duration {
    let started = Instant::now();
    loop {
        match emit(pool, &to(), Event::new("x").named("again")).await {
            Ok(_) => return started.elapsed(),
            Err(error) => assert!(matches!(error, Error::Transient { .. } | Error::Unknown { .. }), "{error:?}"),
        }
    }
}

/// Emits by pools of each kind, when all connections are dead and when only some are.
async fn emits_go_on(options: fn() -> PgPoolOptions) {
    with_database("emits_go_on_behind_dead_connections", async |db: &TestDb<Postgres>| {
        for dead in [1, 3] {
            let proxy = Proxy::start(db.options()).await;
            let pool = full_pool(options(), proxy.options(), 3).await;
            proxy.silence(dead);
            let took = emit_again_and_again(&pool).await;
            assert!(took < BACK_AT_WORK, "{dead} dead: {took:?}");
            // No dead connection is left to disturb the next emits.
            let started = Instant::now();
            for _ in 0..6 {
                emit_again_and_again(&pool).await;
            }
            assert!(started.elapsed() < BACK_AT_WORK, "{dead} dead: {:?}", started.elapsed());
            assert!(pool.size() <= 3);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emits_go_on_with_a_pool_that_asks_before_use() {
    emits_go_on(PgPoolOptions::new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emits_go_on_with_a_pool_that_trusts() {
    emits_go_on(::eventbox::pool_options::<Postgres>).await;
}

/// A turn, an administrator's transaction and the emits of a sender run on a pool with one dead connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_call_has_a_bound() {
    with_database("each_kind_of_call_has_a_bound", async |db: &TestDb<Postgres>| {
        emit(&db.pool, &to(), Event::new("x")).await.unwrap();
        let processor =
            crate::support::Decider(|events: &[Event]| ::eventbox::Transition::stay().consuming(events).into());
        for call in ["turn", "pause", "sender", "begin"] {
            let proxy = Proxy::start(db.options()).await;
            let pool = full_pool(PgPoolOptions::new().test_before_acquire(false), proxy.options(), 1).await;
            proxy.silence(proxy.made());
            let started = Instant::now();
            let done: Result<(), BoxError> = match call {
                "turn" => process_batch(&pool, &to(), &processor, NonZeroU32::MIN).await.map(drop).map_err(Into::into),
                "pause" => ::eventbox::admin::pause(&pool, &to()).await.map(drop).map_err(Into::into),
                "begin" => begin(&pool).await.map(drop).map_err(Into::into),
                "sender" => Sender::new(pool.clone()).emit(&to(), Event::new("y")).await.map(drop).map_err(Into::into),
                _ => ::eventbox::admin::standing(&pool, &to()).await.map(drop).map_err(Into::into),
            };
            let took = started.elapsed();
            assert!(done.is_err() || call == "sender", "{call}: {done:?}");
            assert!(took < BACK_AT_WORK, "{call}: {took:?}");
            // The place in the pool is free again.
            let back = tokio::time::timeout(BACK_AT_WORK, pool.acquire()).await;
            back.unwrap_or_else(|_| panic!("{call}: the pool has no place")).unwrap().ping().await.unwrap();
        }
    })
    .await;
}

struct Counting(Arc<AtomicUsize>);

impl Reducer for Counting {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        self.0.fetch_add(events.len(), Ordering::Relaxed);
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

/// A runtime keeps working when some of its connections die, and when all die, including the listener's connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_goes_on() {
    with_database("a_runtime_goes_on_behind_dead_connections", async |db: &TestDb<Postgres>| {
        let proxy = Proxy::start(db.options()).await;
        let pool = full_pool(PgPoolOptions::new(), proxy.options(), 4).await;
        let calls = Arc::new(AtomicUsize::new(0));
        let runtime = Runtime::builder(pool.clone()).reducer("tally", Counting(Arc::clone(&calls)));
        let runtime = runtime.config(RuntimeConfig::default()).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let mut emitted = 0;
        for dead in [2, usize::MAX] {
            proxy.silence(dead.min(proxy.made()));
            let started = Instant::now();
            for n in 0..20 {
                emit(&db.pool, &Recipient::new("tally", format!("{n}")).unwrap(), Event::new("x")).await.unwrap();
                emitted += 1;
            }
            eventually(BACK_AT_WORK, async || db.count("eventbox_event").await == 0).await;
            println!("{dead} dead: back after {:?}", started.elapsed());
        }
        let states = "SELECT coalesce(sum(turn), 0)::int8 FROM eventbox_state";
        assert!(db.number(states).await > 0);
        assert!(calls.load(Ordering::Relaxed) >= emitted);
        runtime.stop(Duration::from_secs(20)).await;
        assert!(drain(&db.pool, &to()).await.is_empty());
    })
    .await;
}

/// Each connection that the library gives up while a table is locked would stay on the server until the lock is gone. A
/// server that has no room for more connections refuses those of everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_was_given_up_does_not_stay_on_the_server() {
    with_database("a_statement_that_was_given_up", async |db: &TestDb<Postgres>| {
        let pool = full_pool(::eventbox::pool_options::<Postgres>(), db.options(), 1).await;
        let mut tx = db.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE eventbox_event IN ACCESS EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
        emit(&pool, &to(), Event::new("x")).await.unwrap_err();
        eventually(SOON, async || db.number(LOCK_WAITS).await == 0).await;
        tx.rollback().await.unwrap();
        emit(&pool, &to(), Event::new("x")).await.unwrap();
    })
    .await;
}

/// A reducer in the place of a processor whose connection dies before one of its statements.
struct DyingBefore {
    statement: &'static str,
    reducer: Counting,
    proxy: Proxy,
}

impl DyingBefore {
    fn reach(&self, statement: &str) {
        if self.statement == statement {
            self.proxy.silence(self.proxy.made());
        }
    }

    fn inner(&self) -> impl Processor<Postgres, State = Kept<'_>> {
        ReducerAsProcessor::<Counting>::new(&self.reducer)
    }
}

type Kept<'a> = <ReducerAsProcessor<'a, Counting> as Processor<Postgres>>::State;

impl Processor<Postgres> for DyingBefore {
    type State = Kept<'static>;

    async fn load_state(&self, conn: &mut PgConnection, to: &Recipient) -> Result<(Self::State, EVersion), BoxError> {
        self.reach("load");
        self.inner().load_state(conn, to).await
    }

    async fn prepare_mutation(
        &self,
        to: &Recipient,
        events: &[Event],
        state: &Self::State,
    ) -> Result<Mutation<Postgres, Self::State>, BoxError> {
        self.inner().prepare_mutation(to, events, state).await
    }

    async fn fetch_eversion(&self, tx: &mut PgConnection, to: &Recipient) -> Result<EVersion, BoxError> {
        self.inner().fetch_eversion(tx, to).await
    }

    async fn save_state(
        &self,
        tx: &mut PgConnection,
        to: &Recipient,
        state: &Self::State,
        eversion: EVersion,
    ) -> Result<(), BoxError> {
        self.reach("save");
        self.inner().save_state(tx, to, state, eversion).await
    }
}

/// The statements of a reducer in the place of a processor are the library's, so the deadline of a turn (60 s) is not
/// their bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reducer_in_the_place_of_a_processor_has_the_bound_of_the_library() {
    with_database("a_reducer_in_the_place_of_a_processor", async |db: &TestDb<Postgres>| {
        emit(&db.pool, &to(), Event::new("x")).await.unwrap();
        for statement in ["load", "save"] {
            let proxy = Proxy::start(db.options()).await;
            let pool = full_pool(PgPoolOptions::new().test_before_acquire(false), proxy.options(), 1).await;
            let dying = DyingBefore { statement, reducer: Counting(Arc::default()), proxy };
            let started = Instant::now();
            let error = process_batch(&pool, &to(), &dying, NonZeroU32::MIN).await.unwrap_err();
            let took = started.elapsed();
            assert!(took < BACK_AT_WORK, "{statement}: {took:?}: {error}");
            assert_eq!(db.count("eventbox_dead_letter").await, 0);
        }
        // The event waits, and the next turn consumes it.
        let turn = ::eventbox::reduce_batch(&db.pool, &to(), &Counting(Arc::default()), NonZeroU32::MIN).await.unwrap();
        assert_eq!(turn.consumed, 1);
    })
    .await;
}

/// A step of a service's own processor: it may lose its connection, and then runs a statement.
#[derive(Clone)]
struct Step {
    name: &'static str,
    statement: &'static str,
    proxy: Option<Arc<Proxy>>,
    /// Whether the step waits for a service after its statement.
    calls_a_service: bool,
}

impl Step {
    async fn reach(&self, name: &str, conn: &mut PgConnection) -> Result<(), BoxError> {
        if self.name == name {
            if let Some(proxy) = &self.proxy {
                proxy.silence(proxy.made());
            }
            sqlx::raw_sql(self.statement).execute(conn).await?;
            if self.calls_a_service {
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }

    /// Whether the decision waits, so that the commit takes another connection than the load.
    fn waits(&self) -> bool {
        self.name == "save after a wait"
    }
}

impl Processor<Postgres> for Step {
    type State = ();

    async fn load_state(&self, conn: &mut PgConnection, _to: &Recipient) -> Result<((), EVersion), BoxError> {
        self.reach("load", conn).await?;
        Ok(((), EVersion(0)))
    }

    async fn prepare_mutation(
        &self,
        _to: &Recipient,
        events: &[Event],
        (): &(),
    ) -> Result<Mutation<Postgres, ()>, BoxError> {
        if self.waits() {
            tokio::task::yield_now().await;
        }
        let step = self.clone();
        let effect = SideEffect::new(move |tx| Box::pin(async move { step.reach("effect", tx).await }));
        Ok(Transition::to(()).consuming(events).side_effect(effect).into())
    }

    async fn fetch_eversion(&self, tx: &mut PgConnection, _to: &Recipient) -> Result<EVersion, BoxError> {
        self.reach("fetch", tx).await?;
        Ok(EVersion(0))
    }

    async fn save_state(&self, tx: &mut PgConnection, _to: &Recipient, (): &(), _: EVersion) -> Result<(), BoxError> {
        self.reach(if self.waits() { "save after a wait" } else { "save" }, tx).await
    }
}

const STEPS: [&str; 5] = ["load", "fetch", "effect", "save", "save after a wait"];

/// Runs a turn of each step, of a recipient of its own. Returns the results and how long each turn took.
async fn turns_of_each_step(
    db: &TestDb<Postgres>,
    statement: &'static str,
    is_dying: bool,
) -> Vec<(&'static str, Result<usize, Error>, Duration)> {
    let turn = async |name: &'static str| {
        let recipient = Recipient::new("tally", name.replace(' ', "_")).unwrap();
        emit(&db.pool, &recipient, Event::new("x")).await.unwrap();
        let proxy = Arc::new(Proxy::start(db.options()).await);
        let pool = full_pool(PgPoolOptions::new().test_before_acquire(false), proxy.options(), 2).await;
        let step = Step { name, statement, proxy: is_dying.then(|| Arc::clone(&proxy)), calls_a_service: false };
        let started = Instant::now();
        let done = process_batch(&pool, &recipient, &step, NonZeroU32::MIN).await;
        (name, done.map(|turn| turn.consumed), started.elapsed())
    };
    futures_util::future::join_all(STEPS.map(turn)).await
}

/// A statement of the user's code may take its time, but it waits for no answer of a dead connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_step_of_a_processor_waits_for_a_dead_connection() {
    with_database("no_step_waits_for_a_dead_connection", async |db: &TestDb<Postgres>| {
        for (name, done, took) in turns_of_each_step(db, "SELECT 1", true).await {
            assert!(done.as_ref().is_err_and(Error::is_transient), "{name}: {done:?}");
            assert!(took < BACK_AT_WORK, "{name}: {took:?}: {done:?}");
        }
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_dead_letter").await), (5, 0));
    })
    .await;
}

/// The clock of the server went back by an hour after the last statement of a session, which then lost its connection.
/// A view stands for the server's own, and tells such a time of each session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_back_hides_no_dead_connection() {
    with_database("a_clock_that_goes_back", async |db: &TestDb<Postgres>| {
        db.run("CREATE SCHEMA ahead").await;
        db.run(
            "CREATE VIEW ahead.pg_stat_activity AS
             SELECT pid, state, state_change + interval '1 hour' AS state_change FROM pg_catalog.pg_stat_activity",
        )
        .await;
        emit(&db.pool, &to(), Event::new("x")).await.unwrap();
        let proxy = Arc::new(Proxy::start(db.options()).await);
        let through = proxy.options().options([("search_path", "ahead,public,pg_catalog")]);
        let pool = full_pool(PgPoolOptions::new().test_before_acquire(false), through, 1).await;
        let (name, statement, proxy) = ("load", "SELECT 1", Some(proxy));
        let step = Step { name, statement, proxy, calls_a_service: false };
        let started = Instant::now();
        let done = process_batch(&pool, &to(), &step, NonZeroU32::MIN).await;
        let took = started.elapsed();
        assert!(done.as_ref().is_err_and(Error::is_transient), "{done:?}");
        assert!(took < BACK_AT_WORK, "{took:?}: {done:?}");
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_dead_letter").await), (1, 0));
    })
    .await;
}

/// The server works for such a session, so its connection is not taken for dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_of_a_processor_may_take_long() {
    with_database("a_statement_may_take_long", async |db: &TestDb<Postgres>| {
        for (name, done, took) in turns_of_each_step(db, "SELECT pg_sleep(10.5)", false).await {
            assert!(matches!(done, Ok(1)), "{name}: {done:?}");
            assert!(took > IDLE_LIMIT + Duration::from_secs(2), "{name}: the statement did not run");
        }
    })
    .await;
}

/// A side effect that waits for a service keeps its locks, and cannot be told from one whose connection died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_effect_that_waits_for_a_service_is_told_what_to_do() {
    with_database("a_side_effect_that_waits", async |db: &TestDb<Postgres>| {
        emit(&db.pool, &to(), Event::new("x")).await.unwrap();
        let step = Step { name: "effect", statement: "SELECT 1", proxy: None, calls_a_service: true };
        let started = Instant::now();
        let error = process_batch(&db.pool, &to(), &step, NonZeroU32::MIN).await.unwrap_err();
        let took = started.elapsed();
        assert!(error.is_transient() && took > IDLE_LIMIT && took < BACK_AT_WORK, "{took:?}: {error:?}");
        assert!(format!("{error:?}").contains("call services in prepare_mutation"), "{error:?}");
        // The event stays, and the locks of that turn are gone.
        let counting = Counting(Arc::default());
        let turn = ::eventbox::reduce_batch(&db.pool, &to(), &counting, NonZeroU32::MIN).await.unwrap();
        assert_eq!((turn.consumed, db.count("eventbox_dead_letter").await), (1, 0));
    })
    .await;
}
