//! The blame for a failure: an event goes into quarantine only for a failure of its own. Health reports a failure that
//! no event caused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use eventbox::runtime::Runtime;
use eventbox::{BoxError, Event, Mutation, Outage, Outcome, Recipient, Reducer, SideEffect, Transition, UnknownEvent};

use super::{STOP, Tally, backoff, emit, emit_all, idle, isolating, seen, tally, tallying};
use crate::support::{CellEngine, Cells, SOON, TestDb, TestEngine, create_cells, effects, eventually, on_every_engine};

fn cell(key: impl std::fmt::Display) -> Recipient {
    Recipient::new("cell", key.to_string()).unwrap()
}

/// Notes the value of each event in the transaction of its turn, one event a turn.
fn writing<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|to, events, population| {
        let Some(event) = events.first() else { return Ok(Mutation::none()) };
        let text = format!("{}:{}", to.key(), String::from_utf8_lossy(event.value()));
        let effect = SideEffect::new(move |tx| Box::pin(async move { Ok(B::note(tx, text).await?) }));
        Ok(Transition::to(population + 1).consuming([event]).side_effect(effect).into())
    })
}

/// Fails while `away`; counts its calls.
struct Calling {
    away: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    error: fn() -> BoxError,
}

impl Calling {
    fn new(error: fn() -> BoxError) -> (Self, Arc<AtomicBool>, Arc<AtomicUsize>) {
        let (away, calls) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        (Calling { away: Arc::clone(&away), calls: Arc::clone(&calls), error }, away, calls)
    }
}

impl Reducer for Calling {
    type State = Vec<String>;

    fn reduce(&self, _: &Recipient, events: &[Event], mut seen: Vec<String>) -> Result<Outcome<Vec<String>>, BoxError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err((self.error)());
        }
        seen.extend(events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()));
        Ok(Outcome::to(seen).consuming(events))
    }
}

/// Checks that no event was blamed.
async fn no_event_is_blamed<B: TestEngine>(db: &TestDb<B>) {
    assert_eq!(db.count("eventbox_dead_letter").await, 0);
    assert_eq!(db.number("SELECT coalesce(sum(attempts), 0) FROM eventbox_failure").await, 0);
}

async fn health_says<B: TestEngine>(runtime: &Runtime<B>, text: &str) {
    eventually(SOON, async || runtime.health().problems.iter().any(|problem| problem.contains(text))).await;
}

on_every_engine! {
    /// A service that all recipients of a kind need is away. The runtime holds the kind and blames no event, and each
    /// box goes on in its order.
    async fn a_service_that_is_away_is_no_events_fault(db) {
        let (calling, away, calls) = Calling::new(|| "the service is away".into());
        for n in 0..30 {
            emit(db, &tally(n), ["a", "b", "c"]).await;
        }
        let builder =
            Runtime::builder(db.open(4)).reducer("tally", calling).reducer("other", Tally).config(isolating(2));
        let runtime = builder.start().await.unwrap();
        health_says(&runtime, "kind tally is held").await;
        health_says(&runtime, "the service is away").await;
        // Another kind goes on.
        let other = Recipient::new("other", "1").unwrap();
        emit(db, &other, ["x"]).await;
        eventually(SOON, async || seen(db, &other).await == ["x"]).await;
        let before = calls.load(Ordering::SeqCst);
        eventually(SOON, async || calls.load(Ordering::SeqCst) >= before + 2).await;
        emit(db, &tally(7), ["d"]).await;
        away.store(false, Ordering::SeqCst);
        idle(db).await;
        eventually(SOON, async || runtime.health().is_healthy()).await;
        assert_eq!(db.count("eventbox_dead_letter").await, 0);
        for n in 0..30 {
            assert_eq!(seen(db, &tally(n)).await.concat(), if n == 7 { "abcd" } else { "abc" });
        }
        runtime.stop(STOP).await;
    }

    /// An `Outage` is no event's fault, also for a single recipient and at any depth of wrapping. The runtime tries
    /// again after the time of the outage.
    async fn an_outage_blames_no_event(db) {
        let (calling, away, calls) = Calling::new(|| {
            let outage = Outage { retry_after: Duration::from_millis(50) };
            std::io::Error::other(Box::new(std::io::Error::other(outage))).into()
        });
        emit(db, &tally(1), ["a", "b"]).await;
        let builder = Runtime::builder(db.open(4)).reducer("tally", calling).config(isolating(1));
        let runtime = builder.start().await.unwrap();
        eventually(SOON, async || calls.load(Ordering::SeqCst) >= 10).await;
        health_says(&runtime, "kind tally").await;
        no_event_is_blamed(db).await;
        away.store(false, Ordering::SeqCst);
        idle(db).await;
        assert_eq!(seen(db, &tally(1)).await, ["a", "b"]);
        runtime.stop(STOP).await;
    }

    /// A worker of an older version leaves an unknown event to a worker of a newer version.
    async fn an_unknown_event_waits_for_a_newer_version(db) {
        let (old, _, calls) = Calling::new(|| UnknownEvent::new("departed, version 2").into());
        emit(db, &tally(1), ["new"]).await;
        let builder = Runtime::builder(db.open(4)).reducer("tally", old).config(isolating(1));
        let runtime = builder.start().await.unwrap();
        eventually(SOON, async || calls.load(Ordering::SeqCst) >= 5).await;
        health_says(&runtime, "departed, version 2").await;
        runtime.stop(STOP).await;
        no_event_is_blamed(db).await;
        let runtime = tallying(db.open(4)).start().await.unwrap();
        idle(db).await;
        assert_eq!(seen(db, &tally(1)).await, ["new"]);
        runtime.stop(STOP).await;
    }

    /// A missing table is the deployment's fault: the events wait until the table exists.
    async fn a_missing_table_blames_no_event(db) {
        create_cells(db).await;
        db.run("ALTER TABLE effect RENAME TO renamed").await;
        emit(db, &cell(1), ["a", "b"]).await;
        let builder = Runtime::builder(db.open(4)).processor("cell", writing::<Engine>()).config(isolating(1));
        let runtime = builder.start().await.unwrap();
        health_says(&runtime, "kind cell").await;
        let fails = || runtime.stats().failures;
        eventually(SOON, async || fails() >= 4).await;
        no_event_is_blamed(db).await;
        db.run("ALTER TABLE renamed RENAME TO effect").await;
        idle(db).await;
        assert_eq!(effects(db).await, ["1:a", "1:b"]);
        runtime.stop(STOP).await;
    }

    /// Data that a constraint of the database refuses is the event's fault, and the event goes into quarantine. The
    /// others go on.
    async fn data_that_is_refused_blames_its_event(db) {
        create_cells(db).await;
        db.run("CREATE UNIQUE INDEX once ON effect (text)").await;
        db.run("INSERT INTO effect (text) VALUES ('1:bad')").await;
        emit(db, &cell(1), ["a", "bad", "b"]).await;
        let builder = Runtime::builder(db.open(4)).processor("cell", writing::<Engine>()).config(isolating(2));
        let runtime = builder.start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(effects(db).await, ["1:bad", "1:a", "1:b"]);
        assert_eq!(db.count("eventbox_dead_letter").await, 1);
    }

    /// A message that the outbox never accepts is the fault of the event that publishes it, in rounds of reducers too.
    async fn a_message_that_is_refused_blames_its_event(db) {
        refuse_messages(db).await;
        for n in 0..3 {
            emit(db, &tally(n), ["a", "b"]).await;
        }
        emit(db, &tally("bad"), ["a", "bad", "b"]).await;
        let builder = Runtime::builder(db.open(4)).reducer("tally", Publishing).config(isolating(2));
        let runtime = builder.start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!((seen(db, &tally("bad")).await.concat(), db.count("eventbox_dead_letter").await), ("ab".into(), 1));
        assert_eq!((db.count("eventbox_outbox").await, seen(db, &tally(2)).await.concat()), (8, "ab".into()));
    }

    /// Many boxes have a bad event behind a good event: each box loses only its bad event.
    async fn many_bad_events_are_not_taken_for_an_outage(db) {
        for n in 0..8 {
            emit(db, &tally(n), ["a", "fail", "b"]).await;
        }
        let builder =
            Runtime::builder(db.open(4)).reducer("tally", crate::runtime::failing::Fragile).config(isolating(2));
        let runtime = builder.start().await.unwrap();
        idle(db).await;
        runtime.stop(STOP).await;
        assert_eq!(db.count("eventbox_dead_letter").await, 8);
        for n in 0..8 {
            assert_eq!(seen(db, &tally(n)).await.concat(), "ab");
        }
    }

    /// A recipient whose failures cannot be noted backs off too: the process remembers the failures.
    async fn a_failure_that_cannot_be_noted_backs_off_too(db) {
        refuse_notes(db).await;
        let mut config = isolating(3);
        config.backoff = backoff(Duration::from_millis(200), Duration::from_secs(60));
        emit(db, &tally("fails"), ["fail"]).await;
        let (calling, _, calls) = Calling::new(|| "this event is bad".into());
        let builder = Runtime::builder(db.open(4)).reducer("tally", calling).config(config);
        let runtime = builder.start().await.unwrap();
        let began = Instant::now();
        health_says(&runtime, "cannot be noted").await;
        eventually(SOON, async || began.elapsed() > Duration::from_secs(2)).await;
        // A round and a turn each time: pauses of 100 ms or more, then 200, 400 and 800.
        let calls = calls.load(Ordering::SeqCst);
        assert!((2..=12).contains(&calls), "{calls} calls");
        runtime.stop(STOP).await;
    }
}

/// Publishes a message of the type of each event's value.
struct Publishing;

impl Reducer for Publishing {
    type State = Vec<String>;

    fn reduce(&self, _: &Recipient, events: &[Event], mut seen: Vec<String>) -> Result<Outcome<Vec<String>>, BoxError> {
        let mut messages = Vec::new();
        for event in events {
            let value = String::from_utf8_lossy(event.value()).into_owned();
            messages.push(eventbox::CloudEvent::builder("test", &value).build()?);
            seen.push(value);
        }
        Ok(Outcome::to(seen).consuming(events).publishing(messages))
    }
}

/// Makes the database refuse messages of the type `bad`.
async fn refuse_messages<B: TestEngine>(db: &TestDb<B>) {
    if B::FOLDER == "sqlite" {
        let body = "BEGIN SELECT RAISE(ABORT, 'no such messages'); END";
        let refuses = format!("BEFORE INSERT ON eventbox_outbox WHEN NEW.type = 'bad' {body}");
        return db.run(format_args!("CREATE TRIGGER no_messages {refuses}")).await;
    }
    db.run("ALTER TABLE eventbox_outbox ADD CHECK (type <> 'bad')").await;
}

/// Makes the database refuse every note of a failure.
async fn refuse_notes<B: TestEngine>(db: &TestDb<B>) {
    if B::FOLDER == "sqlite" {
        let refuses = "BEFORE INSERT ON eventbox_failure BEGIN SELECT RAISE(ABORT, 'no notes'); END";
        return db.run(format_args!("CREATE TRIGGER no_notes {refuses}")).await;
    }
    db.run(
        "CREATE FUNCTION no_notes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no notes'; END $$",
    )
    .await;
    db.run("CREATE TRIGGER no_notes BEFORE INSERT ON eventbox_failure FOR EACH ROW EXECUTE FUNCTION no_notes()").await;
}

#[cfg(feature = "postgres")]
mod postgres {
    use eventbox::{EVersion, Processor};
    use sqlx::postgres::PgConnection;
    use sqlx::{Postgres, Row};

    use super::*;
    use crate::support::with_database;

    /// Runs with a session that holds the row of a cell until the test releases it. No event may be blamed for waiting.
    async fn blames_no_waiting_event(
        db: &TestDb<Postgres>,
        pool: sqlx::PgPool,
        config: eventbox::runtime::RuntimeConfig,
    ) {
        create_cells(db).await;
        db.run("INSERT INTO cell VALUES ('cell/1', 0, 0)").await;
        let mut holder = db.pool.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM cell FOR UPDATE").execute(&mut *holder).await.unwrap();
        emit(db, &cell(1), ["a"]).await;
        let runtime =
            Runtime::builder(pool).processor("cell", writing::<Postgres>()).config(config).start().await.unwrap();
        eventually(SOON, async || runtime.stats().failures >= 3).await;
        health_says(&runtime, "kind cell").await;
        // The other cells are not delayed.
        emit(db, &cell(2), ["x"]).await;
        eventually(SOON, async || effects(db).await == ["2:x"]).await;
        no_event_is_blamed(db).await;
        holder.rollback().await.unwrap();
        idle(db).await;
        assert_eq!(effects(db).await, ["2:x", "1:a"]);
        runtime.stop(STOP).await;
        no_event_is_blamed(db).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cancelled_statement_blames_no_event() {
        with_database("a_cancelled_statement_blames_no_event", async |db: &TestDb<Postgres>| {
            let options = db.options().options([("statement_timeout", "200ms")]);
            let pool = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect_lazy_with(options);
            blames_no_waiting_event(db, pool, isolating(1)).await;
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_deadline_that_passes_in_a_lock_blames_no_event() {
        with_database("a_deadline_that_passes_in_a_lock_blames_no_event", async |db: &TestDb<Postgres>| {
            let mut config = isolating(1);
            config.turn_deadline = Duration::from_millis(400);
            blames_no_waiting_event(db, db.open(8), config).await;
        })
        .await;
    }

    /// Reads all columns of a table of its own, in the named step.
    struct Starred(&'static str);

    impl Starred {
        async fn read(&self, step: &str, conn: &mut PgConnection) -> Result<(), BoxError> {
            if self.0 == step {
                let row = sqlx::query("SELECT * FROM seats").fetch_one(conn).await?;
                assert!(row.len() > 1);
            }
            Ok(())
        }
    }

    impl Processor<Postgres> for Starred {
        type State = ();

        async fn load_state(&self, conn: &mut PgConnection, _: &Recipient) -> Result<((), EVersion), BoxError> {
            self.read("load", conn).await?;
            Ok(((), EVersion(0)))
        }

        async fn prepare_mutation(
            &self,
            _: &Recipient,
            events: &[Event],
            (): &(),
        ) -> Result<Mutation<Postgres, ()>, BoxError> {
            if events.is_empty() {
                return Ok(Mutation::none());
            }
            let Starred(step) = *self;
            let effect = SideEffect::new(move |tx| Box::pin(async move { Starred(step).read("effect", tx).await }));
            Ok(Transition::to(()).consuming(&events[..1]).side_effect(effect).into())
        }

        async fn fetch_eversion(&self, tx: &mut PgConnection, _: &Recipient) -> Result<EVersion, BoxError> {
            self.read("fetch", tx).await?;
            Ok(EVersion(0))
        }

        async fn save_state(&self, tx: &mut PgConnection, _: &Recipient, (): &(), _: EVersion) -> Result<(), BoxError> {
            self.read("save", tx).await
        }
    }

    /// Another session alters a table while plans on it are kept. The library closes the connections with the plans,
    /// and no event is blamed.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stale_plan_blames_no_event() {
        for step in ["load", "fetch", "effect", "save"] {
            with_database("a_stale_plan_blames_no_event", async |db: &TestDb<Postgres>| {
                db.run("CREATE TABLE seats (a INT, b INT)").await;
                db.run("INSERT INTO seats VALUES (1, 2)").await;
                let pool = db.open(6);
                let runtime =
                    Runtime::builder(pool).processor("cell", Starred(step)).config(isolating(1)).start().await.unwrap();
                for alter in ["ADD COLUMN c INT", "ALTER COLUMN b TYPE BIGINT", "DROP COLUMN c"] {
                    let events: Vec<_> = (0..60).map(|n| (cell(n % 20), Event::new("x"))).collect();
                    emit_all(db, &events).await;
                    idle(db).await;
                    db.run(format_args!("ALTER TABLE seats {alter}")).await;
                }
                emit(db, &cell(1), ["x", "y"]).await;
                idle(db).await;
                no_event_is_blamed(db).await;
                runtime.stop(STOP).await;
            })
            .await;
        }
    }
}
