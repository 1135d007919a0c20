//! The doctor: a healthy database has no finding, and each planted fault has one.

use std::time::{Duration, SystemTime};

use eventbox::admin::{self, DoctorOptions, Finding, Severity};
use eventbox::testing::Clock;
use eventbox::{CloudEvent, Event, Recipient, outbox};

use crate::support::{CellEngine, TestDb, TestEngine, on_every_engine};

/// Microseconds of an hour.
const HOUR: i64 = 3_600_000_000;

async fn examined<B: TestEngine>(db: &TestDb<B>) -> Vec<Finding> {
    examined_on(&db.pool).await
}

async fn examined_on<B: eventbox::Backend>(pool: &sqlx::Pool<B>) -> Vec<Finding> {
    admin::doctor(pool, &DoctorOptions::default()).await.unwrap()
}

/// Returns the findings that are worse than a note.
fn bad(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.severity > Severity::Note).collect()
}

/// Checks that there is exactly this finding that is worse than a note, with advice. Returns its sentence.
#[track_caller]
fn only(findings: &[Finding], severity: Severity, check: &str) -> String {
    let bad = bad(findings);
    assert_eq!(bad.len(), 1, "{bad:#?}");
    assert_eq!((bad[0].severity, bad[0].check), (severity, check), "{bad:#?}");
    assert!(bad[0].advice.as_ref().is_some_and(|advice| !advice.is_empty()), "{bad:#?}");
    bad[0].sentence.clone()
}

fn now_us<B: TestEngine>() -> &'static str {
    match B::FOLDER {
        "postgres" => "(extract(epoch FROM statement_timestamp()) * 1000000)::int8",
        _ => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
    }
}

on_every_engine! {
    async fn a_healthy_database_has_no_finding(db) {
        let options = DoctorOptions::default().with_integrity(true);
        let findings = admin::doctor(&db.pool, &options).await.unwrap();
        assert!(bad(&findings).is_empty(), "{findings:#?}");
        let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
        let of_engine: &[&str] = match Engine::FOLDER {
            "postgres" => &["row_security", "rights", "autovacuum", "dead_rows", "transactions"],
            _ => &["log"],
        };
        let common = [
            "versions", "connections", "migrations", "settings", "tables", "indexes", "clocks", "leases", "shards",
            "outbox", "integrity",
        ];
        for check in common.iter().chain(of_engine) {
            assert!(checks.contains(check), "{check} is not in {checks:?}");
        }
        assert!(findings[0].sentence.contains(env!("CARGO_PKG_VERSION")), "{:?}", findings[0]);
        let json = serde_json::to_value(&findings[0]).unwrap();
        assert_eq!((json["severity"].as_str(), json["check"].as_str()), (Some("ok"), Some("versions")));
    }

    async fn a_database_that_was_never_migrated_has_one_error(_db) {
        let fresh = TestDb::<Engine>::empty("the_doctor_before_migrations").await;
        let sentence = only(&examined(&fresh).await, Severity::Error, "migrations");
        assert!(sentence.contains("not there"), "{sentence}");
        fresh.remove().await;
    }

    async fn older_newer_and_changed_migrations_are_errors(db) {
        let other = "(SELECT checksum FROM eventbox_migration WHERE version = 1)";
        db.run(format_args!("UPDATE eventbox_migration SET checksum = {other} WHERE version = 2")).await;
        let sentence = only(&examined(db).await, Severity::Error, "migrations");
        assert!(sentence.contains("migration 2") && sentence.contains("differs"), "{sentence}");
        db.run("DELETE FROM eventbox_migration WHERE version IN (2, 3)").await;
        let sentence = only(&examined(db).await, Severity::Error, "migrations");
        assert!(sentence.contains("older") && sentence.contains("2, 3"), "{sentence}");
        db.run(
            "INSERT INTO eventbox_migration (version, description, success, checksum, execution_time)
             SELECT 9999, 'from the future', success, checksum, 0 FROM eventbox_migration LIMIT 1",
        )
        .await;
        let sentence = only(&examined(db).await, Severity::Error, "migrations");
        assert!(sentence.contains("newer") && sentence.contains("9999"), "{sentence}");
    }

    async fn a_foreign_record_of_migrations_is_an_error(_db) {
        let fresh = TestDb::<Engine>::empty("the_doctor_and_a_foreign_record").await;
        fresh.run("CREATE TABLE eventbox_migration (x int)").await;
        let findings = examined(&fresh).await;
        assert!(bad(&findings).iter().any(|finding| finding.check == "migrations"), "{findings:#?}");
        fresh.remove().await;
    }

    async fn a_missing_index_and_a_missing_table_are_errors(db) {
        db.run("DROP INDEX eventbox_timer_id").await;
        let sentence = only(&examined(db).await, Severity::Error, "indexes");
        assert!(sentence.contains("eventbox_timer_id"), "{sentence}");
        db.run("CREATE UNIQUE INDEX eventbox_timer_id ON eventbox_timer (shard, recipient, id)").await;
        assert!(bad(&examined(db).await).is_empty());

        db.run("ALTER TABLE eventbox_member RENAME TO away").await;
        let findings = examined(db).await;
        assert!(bad(&findings).iter().any(|finding| finding.check == "tables"), "{findings:#?}");
        // A check that cannot look says so, and the others go on.
        let leases = findings.iter().find(|finding| finding.check == "leases").unwrap();
        assert_eq!(leases.severity, Severity::Note);
        assert!(leases.sentence.starts_with("could not look at leases: "), "{leases:?}");
        assert!(findings.iter().any(|finding| finding.check == "outbox" && finding.severity == Severity::Ok));
    }

    async fn every_object_of_the_migrations_is_looked_for(db) {
        let findings = examined(db).await;
        let looked_for: i64 = ["tables", "indexes"]
            .map(|check| {
                let finding = findings.iter().find(|finding| finding.check == check).unwrap();
                finding.sentence.split(' ').nth(1).unwrap().parse::<i64>().unwrap()
            })
            .iter()
            .sum();
        let there = match Engine::FOLDER {
            "postgres" => r"SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'i') AND relname LIKE 'eventbox\_%'",
            _ => "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'eventbox_*'",
        };
        // The record of the migrations is looked at by itself; on Postgres it has an index.
        let record = if Engine::FOLDER == "postgres" { 2 } else { 1 };
        assert_eq!(looked_for, db.number(there).await - record, "a migration made something: add it to MADE");
    }

    async fn a_process_with_a_wrong_clock_is_told(db) {
        let clock = Clock::at(SystemTime::now() + Duration::from_secs(3_600));
        let sentence = only(&clock.scope(examined(db)).await, Severity::Warning, "clocks");
        assert!(sentence.contains("ahead of"), "{sentence}");
        let clock = Clock::at(SystemTime::now() - Duration::from_secs(3_600));
        let sentence = only(&clock.scope(examined(db)).await, Severity::Warning, "clocks");
        assert!(sentence.contains("behind"), "{sentence}");
    }

    async fn a_heartbeat_in_the_future_is_told(db) {
        let (now, id) = (now_us::<Engine>(), "00000000-0000-0000-0000-0000000000a1");
        let id = if Engine::FOLDER == "postgres" { format!("'{id}'") } else { format!("x'{}'", id.replace('-', "")) };
        let no = if Engine::FOLDER == "postgres" { "false" } else { "0" };
        db.run(format_args!(
            "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us)
             VALUES ({id}, '', 256, {no}, {now} + {HOUR})"
        ))
        .await;
        let sentence = only(&examined(db).await, Severity::Warning, "clocks");
        assert!(sentence.contains("a1") && sentence.contains("59 min"), "{sentence}");
        // A living one with little room leaves shards without a worker.
        db.run(format_args!("UPDATE eventbox_member SET heartbeat_at_us = {now}, shard_limit = 3")).await;
        let sentence = only(&examined(db).await, Severity::Warning, "leases");
        assert!(sentence.contains("at most 3 of 256"), "{sentence}");
    }

    async fn events_of_a_kind_that_nobody_registered_are_told(db) {
        let id = if Engine::FOLDER == "postgres" { "gen_random_uuid()" } else { "randomblob(16)" };
        let not = if Engine::FOLDER == "postgres" { "false" } else { "0" };
        for kind in ["known", "misspelt"] {
            Engine::emit_on(&db.pool, &Recipient::new(kind, "1").unwrap(), Event::new("x")).await.unwrap();
        }
        db.run(format_args!(
            "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us, report)
             VALUES ({id}, '', 256, {not}, {}, '{}')",
            now_us::<Engine>(),
            r#"{"kinds":["known","other"]}"#
        ))
        .await;
        db.run(format_args!(
            "UPDATE eventbox_lease
             SET holder = (SELECT worker FROM eventbox_member), expires_at_us = {} + {HOUR}",
            now_us::<Engine>()
        ))
        .await;
        let sentence = only(&examined(db).await, Severity::Warning, "kinds");
        assert!(sentence.contains("kind misspelt"), "{sentence}");
        // A worker of an older version does not say its kinds.
        db.run("UPDATE eventbox_member SET report = '{}'").await;
        assert!(bad(&examined(db).await).is_empty());
        db.run(r#"UPDATE eventbox_member SET report = '{"kinds":["known","misspelt"]}'"#).await;
        let findings = examined(db).await;
        assert!(findings.iter().any(|finding| finding.check == "kinds" && finding.severity == Severity::Ok));
    }

    async fn leases_that_nobody_renews_are_told(db) {
        let now = now_us::<Engine>();
        let id = if Engine::FOLDER == "postgres" { "gen_random_uuid()" } else { "randomblob(16)" };
        let first = "(SELECT holder FROM eventbox_lease WHERE shard = 0)";
        for (shard, holder, hours) in [(0, format!("(SELECT {id})"), 10), (1, first.to_owned(), 9)] {
            db.run(format_args!(
                "UPDATE eventbox_lease SET holder = {holder}, expires_at_us = {now} - {hours} * {HOUR}
                 WHERE shard = {shard}"
            ))
            .await;
        }
        let sentence = only(&examined(db).await, Severity::Warning, "leases");
        assert!(sentence.contains("holds 2 shards") && sentence.contains("9 h ago"), "{sentence}");
        db.run(format_args!("UPDATE eventbox_lease SET expires_at_us = {now} + 10000000")).await;
        assert!(bad(&examined(db).await).is_empty());
    }

    async fn an_old_message_is_told_with_its_error(db) {
        let message = CloudEvent::builder("shop", "order.grown").build().unwrap();
        let _ = outbox::publish_in(&db.pool, message).await.unwrap();
        let findings = examined(db).await;
        let outbox = findings.iter().find(|finding| finding.check == "outbox").unwrap();
        assert_eq!(outbox.severity, Severity::Ok);
        assert!(outbox.sentence.starts_with("the oldest message waits for"), "{outbox:?}");
        let now = now_us::<Engine>();
        db.run(format_args!(
            "UPDATE eventbox_outbox SET created_at_us = {now} - {HOUR} - 60000000, attempts = 7,
                 last_code = 'UNAVAILABLE', last_error = 'no route'"
        ))
        .await;
        let sentence = only(&examined(db).await, Severity::Warning, "outbox");
        assert_eq!(sentence, "the oldest message waits for 61 min, claimed 7 times; last: UNAVAILABLE: no route");
        // A delivered row that is retained does not wait.
        db.run("UPDATE eventbox_outbox SET delivered_at_us = 1, next_attempt_at_us = 9223372036854775807").await;
        assert!(bad(&examined(db).await).is_empty());
    }

    async fn a_database_that_cannot_be_reached_is_an_error(db) {
        db.pool.close().await;
        assert!(admin::doctor(&db.pool, &DoctorOptions::default()).await.unwrap_err().is_transient());
    }
}

#[cfg(feature = "sqlite")]
mod on_sqlite {
    use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
    use sqlx::{Pool, Sqlite};

    use super::*;
    use crate::support::with_database;

    fn open(db: &TestDb<Sqlite>, options: sqlx::sqlite::SqliteConnectOptions) -> Pool<Sqlite> {
        let _ = db;
        SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options)
    }

    #[tokio::test]
    async fn settings_that_lose_events_are_told() {
        with_database("doctor_settings", async |db: &TestDb<Sqlite>| {
            let pool = open(db, db.options().synchronous(SqliteSynchronous::Off));
            let sentence = only(&examined_on(&pool).await, Severity::Warning, "settings");
            assert!(sentence.contains("synchronous is below FULL"), "{sentence}");
            pool.close().await;
            db.pool.close().await;
            let pool = open(db, db.options().journal_mode(SqliteJournalMode::Delete));
            let sentence = only(&examined_on(&pool).await, Severity::Warning, "settings");
            assert!(sentence.contains("journal_mode is delete"), "{sentence}");
            pool.close().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_read_only_file_is_an_error() {
        with_database("doctor_read_only", async |db: &TestDb<Sqlite>| {
            let pool = open(db, db.options().pragma("query_only", "on"));
            let sentence = only(&examined_on(&pool).await, Severity::Error, "settings");
            assert!(sentence.contains("read only"), "{sentence}");
            pool.close().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_missing_trigger_is_an_error() {
        with_database("doctor_trigger", async |db: &TestDb<Sqlite>| {
            db.run("DROP TRIGGER eventbox_named_emit_insert").await;
            let sentence = only(&examined(db).await, Severity::Error, "tables");
            assert!(sentence.contains("trigger eventbox_named_emit_insert"), "{sentence}");
        })
        .await;
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_when_asked() {
        with_database("doctor_integrity", async |db: &TestDb<Sqlite>| {
            let integrity = DoctorOptions::default().with_integrity(true);
            // An index that the catalogue has forgotten leaves pages that nobody has.
            let pool = open(db, db.options().pragma("writable_schema", "on"));
            sqlx::query("DELETE FROM sqlite_schema WHERE name = 'eventbox_outbox_due'").execute(&pool).await.unwrap();
            pool.close().await;
            let damaged = db.open(1);
            let findings = admin::doctor(&damaged, &integrity).await.unwrap();
            assert!(bad(&findings).iter().any(|finding| finding.check == "integrity"), "{findings:#?}");
            let findings = admin::doctor(&damaged, &DoctorOptions::default()).await.unwrap();
            assert!(findings.iter().all(|finding| finding.check != "integrity"), "{findings:#?}");
            damaged.close().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_of_something_else_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.png");
        std::fs::write(&path, vec![b'x'; 8_192]).unwrap();
        let pool = SqlitePoolOptions::new().connect_lazy_with(eventbox::sqlite_options(&path));
        let sentence = only(&examined_on(&pool).await, Severity::Error, "connections");
        assert!(sentence.contains("not a database"), "{sentence}");
    }

    /// A pool of one connection, in memory, must not wait for itself.
    #[tokio::test]
    async fn a_database_in_memory_is_examined() {
        let pool = SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect_with(eventbox::sqlite_options(":memory:")).await.unwrap();
        eventbox::migrate(&pool).await.unwrap();
        let findings = admin::doctor(&pool, &DoctorOptions::default().with_integrity(true)).await.unwrap();
        assert!(bad(&findings).is_empty(), "{findings:#?}");
        assert!(findings.iter().all(|finding| finding.check != "log"));
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use sqlx::postgres::PgPoolOptions;
    use sqlx::{PgPool, Postgres};

    use super::*;
    use crate::support::{SOON, eventually, layout, with_database};

    /// Creates a role that may log in and use all tables, and a pool of this role.
    async fn role(db: &TestDb<Postgres>) -> (String, PgPool) {
        let name = format!("eventbox_{:.12}", uuid::Uuid::new_v4().simple());
        db.run(format_args!("CREATE ROLE {name} LOGIN PASSWORD 'x'")).await;
        db.run(format_args!("GRANT ALL ON ALL TABLES IN SCHEMA {} TO {name}", layout::schema())).await;
        let options = db.options().username(&name).password("x");
        (name, PgPoolOptions::new().max_connections(2).connect_lazy_with(options))
    }

    async fn drop_role(db: &TestDb<Postgres>, name: &str, pool: PgPool) {
        pool.close().await;
        db.run(format_args!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
    }

    #[tokio::test]
    async fn an_invalid_index_is_an_error() {
        with_database("doctor_invalid", async |db: &TestDb<Postgres>| {
            db.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'eventbox_outbox_due'::regclass").await;
            let sentence = only(&examined(db).await, Severity::Error, "indexes");
            assert!(sentence.contains("eventbox_outbox_due is invalid"), "{sentence}");
        })
        .await;
    }

    #[tokio::test]
    async fn row_level_security_is_told_by_what_the_role_sees() {
        with_database("doctor_rls", async |db: &TestDb<Postgres>| {
            let (name, pool) = role(db).await;
            db.run("ALTER TABLE eventbox_event ENABLE ROW LEVEL SECURITY").await;
            // The superuser sees everything, but a service may not.
            let sentence = only(&examined(db).await, Severity::Warning, "row_security");
            assert!(sentence.contains("does not bind this role"), "{sentence}");
            let sentence = only(&examined_on(&pool).await, Severity::Error, "row_security");
            assert!(sentence.contains("hides every row of eventbox_event"), "{sentence}");
            db.run(format_args!("CREATE POLICY few ON eventbox_event TO {name} USING (shard < 7)")).await;
            let sentence = only(&examined_on(&pool).await, Severity::Warning, "row_security");
            assert!(sentence.contains("may hide rows"), "{sentence}");
            db.run(format_args!("CREATE POLICY sees ON eventbox_event TO {name} USING (true)")).await;
            assert!(bad(&examined_on(&pool).await).is_empty());
            drop_role(db, &name, pool).await;
        })
        .await;
    }

    #[tokio::test]
    async fn missing_rights_are_told_by_table() {
        with_database("doctor_rights", async |db: &TestDb<Postgres>| {
            let (name, pool) = role(db).await;
            assert!(bad(&examined_on(&pool).await).is_empty());
            db.run(format_args!("REVOKE DELETE, UPDATE ON eventbox_event FROM {name}")).await;
            let sentence = only(&examined_on(&pool).await, Severity::Warning, "rights");
            assert_eq!(sentence, "this role lacks DELETE, UPDATE on eventbox_event");
            // Without the right to look, the check says so.
            db.run(format_args!("REVOKE SELECT ON eventbox_lease FROM {name}")).await;
            let findings = examined_on(&pool).await;
            let leases = findings.iter().find(|finding| finding.check == "leases").unwrap();
            assert_eq!(leases.severity, Severity::Note);
            assert!(leases.sentence.contains("permission denied"), "{leases:?}");
            drop_role(db, &name, pool).await;
        })
        .await;
    }

    #[tokio::test]
    async fn settings_of_a_role_are_told() {
        with_database("doctor_role_settings", async |db: &TestDb<Postgres>| {
            for (setting, value, severity, text) in [
                ("synchronous_commit", "off", Severity::Warning, "synchronous_commit is off"),
                ("default_transaction_isolation", "serializable", Severity::Warning, "isolation is serializable"),
                ("default_transaction_read_only", "on", Severity::Error, "read only"),
            ] {
                let options = db.options().options([(setting, value)]);
                let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options);
                let sentence = only(&examined_on(&pool).await, severity, "settings");
                assert!(sentence.contains(text), "{sentence}");
                pool.close().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_table_without_autovacuum_and_its_removed_rows_are_told() {
        with_database("doctor_autovacuum", async |db: &TestDb<Postgres>| {
            db.run("ALTER TABLE eventbox_event SET (autovacuum_enabled = off)").await;
            let sentence = only(&examined(db).await, Severity::Warning, "autovacuum");
            assert!(sentence.contains("switched off for eventbox_event"), "{sentence}");
            db.run(
                "INSERT INTO eventbox_event (shard, recipient, id, value)
                 SELECT 0, 'cell/1', gen_random_uuid(), '' FROM generate_series(1, 60000)",
            )
            .await;
            db.run("DELETE FROM eventbox_event").await;
            eventually(SOON, async || {
                // A session reports its statistics when it is idle or at its end.
                drop(db.connect().await);
                let findings = examined(db).await;
                findings.iter().any(|finding| finding.check == "dead_rows" && finding.severity == Severity::Warning)
            })
            .await;
            db.run("VACUUM eventbox_event").await;
            eventually(SOON, async || bad(&examined(db).await).iter().all(|finding| finding.check != "dead_rows"))
                .await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_long_transaction_is_named() {
        with_database("doctor_transaction", async |db: &TestDb<Postgres>| {
            let other = PgPoolOptions::new().connect_lazy_with(db.options().application_name("reports"));
            let mut open = other.begin().await.unwrap();
            sqlx::query("SELECT pg_current_xact_id()").execute(&mut *open).await.unwrap();
            let options = DoctorOptions::default().with_old_transaction(Duration::ZERO);
            let findings = admin::doctor(&db.pool, &options).await.unwrap();
            let sentence = only(&findings, Severity::Warning, "transactions");
            assert!(sentence.contains("reports"), "{sentence}");
            assert!(bad(&examined(db).await).is_empty(), "it is not 60 s old");
            open.rollback().await.unwrap();
            other.close().await;
        })
        .await;
    }
}
