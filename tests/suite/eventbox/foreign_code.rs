//! A processor that runs foreign SQL at one step of its turn, and the statements of each engine.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::eventbox::{
    Backend, EVersion, Error, Event, Mutation, Processor, Recipient, SideEffect, Transition, Turn, process_batch,
};
use sqlx::{AssertSqlSafe, Pool};

use crate::support::{TestDb, TestEngine};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Step of the turn at which foreign SQL runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    Load,
    Fetch,
    Effect,
    Alone,
    Save,
}

/// A processor that adds the number of events to its entity and writes a note for each turn. It runs foreign SQL at one
/// step.
pub(super) struct Foreign {
    place: Place,
    sql: &'static str,
    /// Whether the step returns an error after its SQL.
    fails: bool,
    calls: AtomicUsize,
}

fn entity() -> Recipient {
    Recipient::new("entity", "one").unwrap()
}

pub(super) trait ForeignEngine: TestEngine {
    /// Runs statements, and drops their errors as careless user code does.
    async fn swallow(conn: &mut Self::Connection, sql: &'static str);

    fn run_on(conn: &mut Self::Connection, sql: String) -> impl Future<Output = Result<(), BoxError>> + Send;

    fn number_on(conn: &mut Self::Connection, sql: &'static str) -> impl Future<Output = Result<i64, BoxError>> + Send;

    /// Statements that end the transaction, or leave it unable to commit.
    const ENDINGS: &[&str];

    /// Statements that change the session, each with a query that shows the change.
    const SETTINGS: &[(&str, &str)];

    /// Statements that user code may run freely.
    const HARMLESS: &[&str];
}

impl Foreign {
    pub(super) fn new(place: Place, sql: &'static str, fails: bool) -> Self {
        Foreign { place, sql, fails, calls: AtomicUsize::new(0) }
    }

    async fn run<B: ForeignEngine>(&self, conn: &mut B::Connection, place: Place) -> Result<(), BoxError> {
        foreign::<B>(conn, self.sql, place == self.place, self.fails).await
    }
}

async fn foreign<B: ForeignEngine>(
    conn: &mut B::Connection,
    sql: &'static str,
    is_here: bool,
    fails: bool,
) -> Result<(), BoxError> {
    if is_here {
        B::swallow(conn, sql).await;
        if fails {
            return Err("the code's own error".into());
        }
    }
    Ok(())
}

macro_rules! foreign_engine {
    ($engine:ty, $endings:expr, $settings:expr, $harmless:expr) => {
        impl ForeignEngine for $engine {
            const ENDINGS: &[&str] = $endings;
            const SETTINGS: &[(&str, &str)] = $settings;
            const HARMLESS: &[&str] = $harmless;

            async fn swallow(conn: &mut Self::Connection, sql: &'static str) {
                for sql in sql.split("; ") {
                    let _ = sqlx::raw_sql(sql).execute(&mut *conn).await;
                }
            }

            async fn run_on(conn: &mut Self::Connection, sql: String) -> Result<(), BoxError> {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await?;
                Ok(())
            }

            async fn number_on(conn: &mut Self::Connection, sql: &'static str) -> Result<i64, BoxError> {
                Ok(sqlx::query_scalar(sql).fetch_one(conn).await?)
            }
        }

        impl Processor<$engine> for Foreign {
            type State = i64;

            async fn load_state(
                &self,
                conn: &mut <$engine as sqlx::Database>::Connection,
                _: &Recipient,
            ) -> Result<(i64, EVersion), BoxError> {
                let total = <$engine>::number_on(conn, "SELECT total FROM entity").await?;
                let eversion = EVersion(<$engine>::number_on(conn, "SELECT eversion FROM entity").await?);
                self.run::<$engine>(conn, Place::Load).await?;
                Ok((total, eversion))
            }

            async fn prepare_mutation(
                &self,
                _: &Recipient,
                events: &[Event],
                total: &i64,
            ) -> Result<Mutation<$engine, i64>, BoxError> {
                if events.is_empty() {
                    return Ok(Mutation::none());
                }
                self.calls.fetch_add(1, Ordering::Relaxed);
                let (sql, place, fails) = (self.sql, self.place, self.fails);
                let first = SideEffect::new(move |tx| {
                    Box::pin(async move {
                        <$engine>::run_on(tx, "INSERT INTO note VALUES ('first')".to_owned()).await?;
                        let is_here = matches!(place, Place::Effect | Place::Alone);
                        foreign::<$engine>(tx, sql, is_here, fails).await
                    })
                });
                let second = SideEffect::new(move |tx| {
                    Box::pin(<$engine>::run_on(tx, "INSERT INTO note VALUES ('second')".to_owned()))
                });
                let mut all = Transition::to(total + events.len() as i64).consuming(events).side_effect(first);
                if place == Place::Alone {
                    all = all.independent();
                }
                Ok(Mutation::from(all).then(Transition::stay().side_effect(second)))
            }

            async fn fetch_eversion(
                &self,
                tx: &mut <$engine as sqlx::Database>::Connection,
                _: &Recipient,
            ) -> Result<EVersion, BoxError> {
                let eversion = EVersion(<$engine>::number_on(tx, "SELECT eversion FROM entity").await?);
                self.run::<$engine>(tx, Place::Fetch).await?;
                Ok(eversion)
            }

            async fn save_state(
                &self,
                tx: &mut <$engine as sqlx::Database>::Connection,
                _: &Recipient,
                total: &i64,
                eversion: EVersion,
            ) -> Result<(), BoxError> {
                let eversion = eversion.0;
                let sql = format!("UPDATE entity SET total = {total}, eversion = {eversion}");
                <$engine>::run_on(tx, sql).await?;
                self.run::<$engine>(tx, Place::Save).await
            }
        }
    };
}

#[cfg(feature = "postgres")]
foreign_engine!(
    sqlx::Postgres,
    &[
        "COMMIT",
        "END",
        "COMMIT AND CHAIN",
        "COMMIT; BEGIN",
        "ROLLBACK",
        "ABORT",
        "ROLLBACK AND CHAIN",
        "ROLLBACK; BEGIN",
        "ROLLBACK; BEGIN; SAVEPOINT _sqlx_savepoint_1",
        "PREPARE TRANSACTION 'foreign'",
        "END AND CHAIN",
        "COMMIT; START TRANSACTION",
        "COMMIT AND NO CHAIN",
        "ROLLBACK; SAVEPOINT mine",
        "DO $$ BEGIN COMMIT; END $$",
        "DO $$ BEGIN ROLLBACK;END $$",
        "DISCARD ALL",
        "COMMIT PREPARED 'foreign'",
        "VACUUM",
        "SELECT 1/0",
        "INSERT INTO note VALUES ('there')",
        "SELECT * FROM not_there",
        "RELEASE SAVEPOINT _sqlx_savepoint_1",
        "ROLLBACK TO SAVEPOINT _sqlx_savepoint_1",
    ],
    &[
        ("SET statement_timeout = '1min'", "SELECT (current_setting('statement_timeout') <> '0')::int::int8"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SELECT (current_setting('default_transaction_read_only') = 'on')::int::int8"
        ),
        ("SET ROLE pg_monitor", "SELECT (current_setting('role') <> 'none')::int::int8"),
        ("SET SESSION AUTHORIZATION pg_monitor", "SELECT (session_user = 'pg_monitor')::int::int8"),
        ("SET search_path = pg_catalog", "SELECT (current_setting('search_path') = 'pg_catalog')::int::int8"),
        ("DECLARE mine CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors WHERE is_holdable"),
        ("SELECT set_config('work_mem', '12MB', false)", "SELECT (current_setting('work_mem') = '12MB')::int::int8"),
        ("SET synchronous_commit = off", "SELECT (current_setting('synchronous_commit') = 'off')::int::int8"),
        (
            "SELECT pg_advisory_lock(7)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        ),
        ("CREATE TEMP TABLE mine (x int)", "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"),
        ("LISTEN mine", "SELECT count(*) FROM pg_listening_channels()"),
        ("PREPARE mine AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements WHERE from_sql"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SELECT (current_setting('default_transaction_isolation') = 'serializable')::int::int8"
        ),
        ("SET TIME ZONE 'Asia/Tokyo'", "SELECT (current_setting('timezone') = 'Asia/Tokyo')::int::int8"),
        ("SET lock_timeout = 17", "SELECT (current_setting('lock_timeout') = '17ms')::int::int8"),
        (
            "SET session_replication_role = replica",
            "SELECT (current_setting('session_replication_role') = 'replica')::int::int8"
        ),
        (
            "SET standard_conforming_strings = off",
            "SELECT (current_setting('standard_conforming_strings') = 'off')::int::int8"
        ),
    ],
    &[
        "SAVEPOINT mine; ROLLBACK TO mine",
        "SAVEPOINT mine; INSERT INTO note VALUES ('there'); ROLLBACK TO SAVEPOINT mine; RELEASE SAVEPOINT mine",
        "SAVEPOINT mine; RELEASE mine",
        "SAVEPOINT mine",
        "BEGIN",
        "START TRANSACTION",
        "SET LOCAL work_mem = '9MB'",
        "SET LOCAL statement_timeout = '1min'",
        "SET CONSTRAINTS ALL DEFERRED",
        "LOCK TABLE note",
        "DECLARE mine CURSOR FOR SELECT 1",
        "CREATE TEMP TABLE mine (x int) ON COMMIT DROP",
        "PREPARE mine AS SELECT 1; DEALLOCATE mine",
        "DISCARD PLANS",
        "NOTIFY mine",
        "SELECT pg_advisory_xact_lock(7)",
    ]
);
#[cfg(feature = "sqlite")]
foreign_engine!(
    sqlx::Sqlite,
    &[
        "COMMIT",
        "END",
        "COMMIT; BEGIN",
        "COMMIT; BEGIN IMMEDIATE",
        "ROLLBACK",
        "ROLLBACK; BEGIN",
        "ROLLBACK; BEGIN IMMEDIATE; SAVEPOINT _sqlx_savepoint_1",
        "INSERT OR ROLLBACK INTO note VALUES ('there')",
        "INSERT INTO bomb VALUES (1)",
        "SAVEPOINT mine; COMMIT",
        "END TRANSACTION",
        "INSERT OR ROLLBACK INTO note VALUES ('there'); BEGIN IMMEDIATE",
        "INSERT INTO bomb VALUES (1); BEGIN",
    ],
    &[
        ("PRAGMA query_only = ON", "SELECT query_only FROM pragma_query_only"),
        ("PRAGMA busy_timeout = 1", "SELECT timeout = 1 FROM pragma_busy_timeout"),
        (
            "PRAGMA ignore_check_constraints = ON",
            "SELECT ignore_check_constraints FROM pragma_ignore_check_constraints"
        ),
        ("CREATE TEMP TABLE mine (x int)", "SELECT count(*) FROM sqlite_temp_schema"),
        ("PRAGMA foreign_keys = OFF", "SELECT foreign_keys = 0 FROM pragma_foreign_keys"),
        ("PRAGMA synchronous = OFF", "SELECT synchronous = 0 FROM pragma_synchronous"),
        ("PRAGMA recursive_triggers = ON", "SELECT recursive_triggers FROM pragma_recursive_triggers"),
        ("PRAGMA locking_mode = EXCLUSIVE", "SELECT locking_mode = 'exclusive' FROM pragma_locking_mode"),
        ("PRAGMA writable_schema = ON", "SELECT writable_schema FROM pragma_writable_schema"),
        ("PRAGMA read_uncommitted = ON", "SELECT read_uncommitted FROM pragma_read_uncommitted"),
        ("PRAGMA legacy_alter_table = ON", "SELECT legacy_alter_table FROM pragma_legacy_alter_table"),
        (
            "PRAGMA reverse_unordered_selects = ON",
            "SELECT reverse_unordered_selects FROM pragma_reverse_unordered_selects"
        ),
        ("ATTACH ':memory:' AS mine", "SELECT count(*) FROM pragma_database_list WHERE name = 'mine'"),
    ],
    &[
        "SAVEPOINT mine; ROLLBACK TO mine",
        "SAVEPOINT mine; INSERT INTO note VALUES ('there'); ROLLBACK TO mine; RELEASE mine",
        "SAVEPOINT mine; RELEASE mine",
        "SAVEPOINT mine",
        "BEGIN",
        "INSERT INTO note VALUES ('there')",
        "INSERT OR IGNORE INTO note VALUES ('there')",
        "INSERT OR FAIL INTO note VALUES ('there')",
        "SELECT * FROM not_there",
        "PRAGMA defer_foreign_keys = ON",
        "PRAGMA journal_mode = DELETE",
        "VACUUM",
    ]
);

pub(super) async fn stage<B: ForeignEngine>(db: &TestDb<B>) {
    db.run("CREATE TABLE entity (total bigint NOT NULL, eversion bigint NOT NULL)").await;
    db.run("INSERT INTO entity VALUES (0, 0)").await;
    db.run("CREATE TABLE note (text varchar(9) PRIMARY KEY)").await;
    db.run("INSERT INTO note VALUES ('there')").await;
    if B::FOLDER == "sqlite" {
        db.run("CREATE TABLE bomb (x int)").await;
        db.run("CREATE TRIGGER explodes BEFORE INSERT ON bomb BEGIN SELECT RAISE(ROLLBACK, 'it explodes'); END").await;
    }
    for _ in 0..2 {
        emit_one(db).await;
    }
}

pub(super) async fn emit_one<B: ForeignEngine>(db: &TestDb<B>) {
    ::eventbox::Sender::new(db.pool.clone()).emit(&entity(), Event::new("x")).await.unwrap();
}

pub(super) async fn turn<B>(pool: &Pool<B>, processor: &Foreign) -> Result<Turn, Error>
where
    B: Backend,
    Foreign: Processor<B>,
{
    process_batch(pool, &entity(), processor, NonZeroU32::new(10).unwrap()).await
}

/// Returns the sum in the entity, the number of notes, and the number of waiting events.
pub(super) async fn seen<B: ForeignEngine>(db: &TestDb<B>) -> (i64, i64, i64) {
    let notes = db.number("SELECT count(*) FROM note WHERE text <> 'there'").await;
    (db.number("SELECT total FROM entity").await, notes, db.count("eventbox_event").await)
}
