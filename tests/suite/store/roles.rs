//! The roles of `migrations/roles/postgres.sql`: each may do its work, and nothing else.

use std::time::Duration;

use eventbox::admin::{self, DoctorOptions, Severity};
use eventbox::runtime::Runtime;
use eventbox::{BoxError, CloudEvent, Emitted, Error, Event, Outcome, Recipient, Reducer, outbox};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres};

use crate::support::running::{STOP, config};
use crate::support::{SOON, TestDb, eventually, with_database};

const ROLES: &str = include_str!("../../../migrations/roles/postgres.sql");

/// Adds up events, and publishes the sum.
struct Sums;

impl Reducer for Sums {
    type State = u64;

    fn reduce(&self, of: &Recipient, events: &[Event], sum: u64) -> Result<Outcome<u64>, BoxError> {
        let message = CloudEvent::builder("shop", "order.grown").subject(of.key()).build()?;
        Ok(Outcome::to(sum + events.len() as u64).consuming(events).publishing([message]))
    }
}

/// The roles of one test, with names of their own, because roles belong to the whole server.
struct Roles<'a> {
    db: &'a TestDb<Postgres>,
    suffix: String,
}

impl<'a> Roles<'a> {
    async fn make(db: &'a TestDb<Postgres>) -> Self {
        let suffix = format!("_{:.12}", uuid::Uuid::new_v4().simple());
        let roles = Roles { db, suffix };
        // A second run, as after the next migration, changes nothing.
        for _ in 0..2 {
            db.run(roles.named(ROLES)).await;
        }
        roles
    }

    fn named(&self, sql: &str) -> String {
        let names = ["eventbox_owner", "eventbox_service", "eventbox_emitter", "eventbox_reader"];
        names.iter().fold(sql.to_owned(), |sql, name| sql.replace(name, &format!("{name}{}", self.suffix)))
    }

    /// Opens a pool of a login that is a member of the role.
    async fn login(&self, role: &str) -> PgPool {
        let login = format!("login_of_{role}{}", self.suffix);
        let create = format!("CREATE ROLE {login} LOGIN PASSWORD 'x' IN ROLE {}", self.named(role));
        self.db.run(create).await;
        let options = self.db.options().username(&login).password("x");
        let options = if role == "eventbox_owner" { options.options([("role", self.named(role))]) } else { options };
        PgPoolOptions::new().max_connections(6).connect_lazy_with(options)
    }

    async fn remove(self, pools: &[&PgPool]) {
        for pool in pools {
            pool.close().await;
        }
        let names = format!("SELECT rolname::text FROM pg_roles WHERE rolname LIKE '%{}'", self.suffix);
        for name in self.db.texts(names).await {
            self.db
                .run(format_args!("REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}"))
                .await;
        }
    }
}

fn order(key: &str) -> Recipient {
    Recipient::new("order", key).unwrap()
}

/// Returns whether a statement is refused for lack of a right.
async fn is_refused(pool: &PgPool, sql: &'static str) -> bool {
    let error = match sqlx::query(sql).execute(pool).await {
        Ok(_) => return false,
        Err(error) => error,
    };
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42501")
}

/// Checks that a call is refused for lack of a right.
#[track_caller]
fn refused<T: std::fmt::Debug>(done: Result<T, Error>) {
    let error = done.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("permission denied"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_emits_processes_and_publishes_and_alters_nothing() {
    with_database("roles_service", async |db: &TestDb<Postgres>| {
        let roles = Roles::make(db).await;
        let pool = roles.login("eventbox_service").await;
        eventbox::migrate(&pool).await.unwrap();
        let findings = admin::doctor(&pool, &DoctorOptions::default()).await.unwrap();
        assert!(findings.iter().all(|finding| finding.severity <= Severity::Note), "{findings:#?}");

        eventbox::emit(&pool, &order("1"), Event::new("x").named("n")).await.unwrap();
        eventbox::emit(&pool, &order("1"), Event::new("later").due_in(Duration::from_millis(1))).await.unwrap();
        let _ = outbox::publish_in(&pool, CloudEvent::builder("shop", "opened").build().unwrap()).await.unwrap();
        let runtime = Runtime::builder(pool.clone()).reducer("order", Sums).config(config()).start().await.unwrap();
        eventually(SOON, async || {
            eventbox::state::<u64>(&pool, &order("1")).await.unwrap().and_then(|at| at.state) == Some(2)
        })
        .await;
        runtime.stop(STOP).await;
        assert!(outbox::queue_stats(&pool).await.unwrap().depth >= 2);
        eventbox::emit(&pool, &order("2"), Event::new("bad")).await.unwrap();
        let bad = admin::events(&pool, &order("2"), None, 1).await.unwrap()[0].id();
        assert_eq!(admin::quarantine(&pool, &order("2"), &[bad], "why").await.unwrap(), 1);
        assert_eq!(admin::replay(&pool, &order("2"), &[bad]).await.unwrap(), 1);
        assert!(admin::pause_kind(&pool, "order").await.unwrap());
        let ana = admin::Operator::new(pool.clone(), "ana");
        assert_eq!(ana.pause_destination(&admin::Destination::all()).await.unwrap().touched, 1);

        for sql in [
            "ALTER TABLE eventbox_event ADD COLUMN x int",
            "DROP TABLE eventbox_outbox",
            "TRUNCATE eventbox_event",
            "DELETE FROM eventbox_migration",
            "DELETE FROM eventbox_lease",
            "DELETE FROM eventbox_shard",
            "DELETE FROM eventbox_revision",
        ] {
            assert!(is_refused(&pool, sql).await, "{sql}");
        }
        roles.remove(&[&pool]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emitter_emits_and_does_nothing_else() {
    with_database("roles_emitter", async |db: &TestDb<Postgres>| {
        let roles = Roles::make(db).await;
        let pool = roles.login("eventbox_emitter").await;
        eventbox::migrate(&pool).await.unwrap();
        eventbox::emit(&pool, &order("1"), Event::new("plain")).await.unwrap();
        let named = || Event::new("named").named("n");
        let sent =
            [eventbox::emit(&pool, &order("1"), named()).await, eventbox::emit(&pool, &order("1"), named()).await];
        let sent = sent.map(|receipt| receipt.unwrap().emitted());
        assert_eq!(sent, [Emitted::Added, Emitted::Duplicate]);
        let later = Event::new("later").due_in(Duration::from_secs(60)).named("t");
        eventbox::emit_all(&pool, &[(order("1"), Event::new("1")), (order("2"), later)]).await.unwrap();
        let sender = eventbox::Sender::new(pool.clone());
        sender.emit(&order("1"), Event::new("in a group")).await.unwrap();
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_timer").await), (4, 1));

        refused(admin::events(&pool, &order("1"), None, 1).await);
        refused(admin::pause(&pool, &order("1")).await);
        refused(eventbox::reduce_batch(&pool, &order("1"), &Sums, 10.try_into().unwrap()).await);
        refused(outbox::publish_in(&pool, CloudEvent::builder("shop", "opened").build().unwrap()).await);
        for sql in [
            "SELECT value FROM eventbox_event",
            "SELECT payload FROM eventbox_dead_letter",
            "DELETE FROM eventbox_event",
            "UPDATE eventbox_event SET value = ''",
            "DELETE FROM eventbox_tombstone",
            "SELECT 1 FROM eventbox_state",
            "SELECT 1 FROM eventbox_outbox",
        ] {
            assert!(is_refused(&pool, sql).await, "{sql}");
        }
        roles.remove(&[&pool]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_reads_and_does_nothing_else() {
    with_database("roles_reader", async |db: &TestDb<Postgres>| {
        let roles = Roles::make(db).await;
        let pool = roles.login("eventbox_reader").await;
        let receipt = eventbox::emit(&db.pool, &order("1"), Event::new("x").named("n")).await.unwrap();
        for table in
            db.texts(r"SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE 'eventbox\_%'").await
        {
            let count = format!("SELECT count(*) FROM {table}");
            sqlx::query(sqlx::AssertSqlSafe(count)).execute(&pool).await.unwrap();
        }
        assert_eq!(eventbox::backlog(&pool, &["order"]).await.unwrap()[0].events, 1);
        assert_eq!(admin::events(&pool, &order("1"), None, 10).await.unwrap().len(), 1);
        assert_eq!(admin::standing(&pool, &order("1")).await.unwrap().turn, 0);
        outbox::queue_stats(&pool).await.unwrap();
        eventbox::status(&pool, &receipt).await.unwrap();
        let findings = admin::doctor(&pool, &DoctorOptions::default()).await.unwrap();
        let worst = findings.iter().max_by_key(|finding| finding.severity).unwrap();
        assert_eq!((worst.severity, worst.check), (Severity::Warning, "rights"), "{findings:#?}");

        refused(eventbox::emit(&pool, &order("1"), Event::new("x")).await);
        refused(eventbox::emit(&pool, &order("1"), Event::new("x").named("m")).await);
        refused(admin::pause(&pool, &order("1")).await);
        refused(admin::pause_kind(&pool, "order").await);
        let ana = admin::Operator::new(pool.clone(), "ana");
        refused(ana.pause_destination(&admin::Destination::all()).await);
        admin::paused_destinations(&pool).await.unwrap();
        for sql in ["DELETE FROM eventbox_event", "UPDATE eventbox_lease SET holder = NULL", "TRUNCATE eventbox_state"]
        {
            assert!(is_refused(&pool, sql).await, "{sql}");
        }
        roles.remove(&[&pool]).await;
    })
    .await;
}

/// The owner makes the next migration, although another role made the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_alters_the_tables() {
    with_database("roles_owner", async |db: &TestDb<Postgres>| {
        let roles = Roles::make(db).await;
        let pool = roles.login("eventbox_owner").await;
        eventbox::migrate(&pool).await.unwrap();
        for sql in ["ALTER TABLE eventbox_event ADD COLUMN x int", "CREATE TABLE eventbox_next (x int)"] {
            sqlx::query(sql).execute(&pool).await.unwrap();
        }
        roles.remove(&[&pool]).await;
    })
    .await;
}
