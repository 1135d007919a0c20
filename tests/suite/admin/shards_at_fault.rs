//! Shards that failed, are disabled, have no holder or no standby elsewhere: what the doctor and `why` say of them.

use eventbox::admin::{self, DoctorOptions, Finding, Operator, Reason, Severity, ShardChange, ShardSpec};
use eventbox::{Event, Recipient, uuid::Uuid};

use crate::support::{CellEngine, TestDb, TestEngine, on_every_engine};

/// Microseconds of an hour.
const HOUR: i64 = 3_600_000_000;

fn now_us<B: TestEngine>() -> &'static str {
    match B::FOLDER {
        "postgres" => "(extract(epoch FROM clock_timestamp()) * 1000000)::int8",
        _ => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
    }
}

/// Returns the id of a member as SQL.
fn id<B: TestEngine>(number: u128) -> String {
    let id = Uuid::from_u128(number);
    if B::FOLDER == "postgres" { format!("'{id}'") } else { format!("x'{}'", id.simple()) }
}

/// Inserts a living member of a zone that says of which shards it is the standby.
async fn member<B: TestEngine>(db: &TestDb<B>, number: u128, zone: &str, standby_of: &str) {
    let (id, now) = (id::<B>(number), now_us::<B>());
    db.run(format_args!(
        "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us, report, zone)
         VALUES ({id}, 'host-{number}', 256, false, {now}, '{{\"kinds\":[\"order\"],\"standby_of\":\"{standby_of}\"}}',
             '{zone}')"
    ))
    .await;
}

/// Gives all shards to a member.
async fn holds_all<B: TestEngine>(db: &TestDb<B>, number: u128) {
    let (id, now) = (id::<B>(number), now_us::<B>());
    db.run(format_args!("UPDATE eventbox_lease SET holder = {id}, expires_at_us = {now} + 20000000")).await;
}

/// Makes shards failed, with a next try in an hour or without one.
async fn failed<B: TestEngine>(db: &TestDb<B>, shards: &str, is_tried: bool, error: &str) {
    let now = now_us::<B>();
    let next = if is_tried { format!("{now} + {HOUR}") } else { "NULL".to_owned() };
    db.run(format_args!(
        "UPDATE eventbox_shard SET failed_at_us = {now}, attempts = 3, next_attempt_at_us = {next}, errors = '{error}'
         WHERE shard IN ({shards})"
    ))
    .await;
}

async fn of_shards<B: TestEngine>(db: &TestDb<B>) -> Vec<Finding> {
    let findings = admin::doctor(&db.pool, &DoctorOptions::default()).await.unwrap();
    findings.into_iter().filter(|finding| finding.check == "shards").collect()
}

/// Returns the only finding of the check.
#[track_caller]
fn only(findings: &[Finding], severity: Severity) -> (String, String) {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].severity, severity, "{findings:#?}");
    (findings[0].sentence.clone(), findings[0].advice.clone().unwrap_or_default())
}

fn order() -> Recipient {
    Recipient::new("order", "7").unwrap()
}

async fn disable<B: TestEngine>(db: &TestDb<B>, shard: u8) {
    let mut spec = ShardSpec::default();
    spec.is_disabled = true;
    Operator::new(db.pool.clone(), "ana").apply_shards(&[ShardChange::upsert(shard, spec)]).await.unwrap();
}

on_every_engine! {
    async fn the_doctor_finds_failed_shards_with_the_command_that_mends_them(db) {
        only(&of_shards(db).await, Severity::Ok);
        failed(db, "3, 4, 5, 9", true, "refused").await;
        let (sentence, advice) = only(&of_shards(db).await, Severity::Warning);
        assert!(sentence.starts_with("shards 3-5 9 FAILED, 3 times in a row; the next try is in "), "{sentence}");
        assert!(sentence.ends_with("; error: refused"), "{sentence}");
        assert!(advice.ends_with("`eventbox shards unassign 3-5 9 --only-failed`"), "{advice}");
        // Those that no process tries again are worse, and come first.
        failed(db, "4", false, "refused").await;
        let findings = of_shards(db).await;
        assert_eq!(findings.iter().map(|found| found.severity).collect::<Vec<_>>(), [
            Severity::Error,
            Severity::Warning
        ]);
        let sentence = &findings[0].sentence;
        assert!(sentence.starts_with("shard 4 FAILED") && sentence.contains("no process tries again"), "{sentence}");
        // A shard whose pause has ended is tried now.
        db.run("UPDATE eventbox_shard SET next_attempt_at_us = 1 WHERE attempts > 0").await;
        only(&of_shards(db).await, Severity::Ok);
    }

    async fn the_doctor_finds_shards_that_nobody_holds_or_that_are_disabled_with_events(db) {
        member(db, 1, "", "").await;
        holds_all(db, 1).await;
        only(&of_shards(db).await, Severity::Ok);
        db.run("UPDATE eventbox_lease SET expires_at_us = 1 WHERE shard IN (0, 1)").await;
        let (sentence, _) = only(&of_shards(db).await, Severity::Warning);
        assert!(sentence.contains("no process holds shards 0-1"), "{sentence}");
        holds_all(db, 1).await;

        let shard = order().shard();
        disable(db, shard).await;
        db.run(format_args!("UPDATE eventbox_lease SET holder = NULL WHERE shard = {shard}")).await;
        only(&of_shards(db).await, Severity::Ok);
        Engine::emit_on(&db.pool, &order(), Event::new("x")).await.unwrap();
        let (sentence, advice) = only(&of_shards(db).await, Severity::Warning);
        assert_eq!(sentence, format!("events wait in shard {shard}, which operators disabled"));
        assert!(advice.contains(&format!("eventbox shards apply {shard} --reset")), "{advice}");
    }

    async fn the_doctor_finds_standbys_in_the_zone_of_the_holder(db) {
        let all = "f".repeat(64);
        member(db, 1, "a", "").await;
        member(db, 2, "a", &all).await;
        holds_all(db, 1).await;
        only(&of_shards(db).await, Severity::Ok);
        member(db, 3, "b", "").await;
        let (sentence, _) = only(&of_shards(db).await, Severity::Note);
        assert!(sentence.starts_with("shards 0-255 have no standby in another zone"), "{sentence}");
        let three = id::<Engine>(3);
        db.run("UPDATE eventbox_member SET report = '{}'").await;
        only(&of_shards(db).await, Severity::Note);
        let report = format!(r#"{{"standby_of":"{all}"}}"#);
        db.run(format_args!("UPDATE eventbox_member SET report = '{report}' WHERE worker = {three}")).await;
        only(&of_shards(db).await, Severity::Ok);
    }

    async fn why_tells_that_the_shard_failed_or_is_disabled(db) {
        let shard = order().shard();
        member(db, 1, "", "").await;
        holds_all(db, 1).await;
        Engine::emit_on(&db.pool, &order(), Event::new("x")).await.unwrap();
        let why = async || admin::why(&db.pool, &order()).await.unwrap();
        assert!(matches!(why().await.reason, Reason::InLine { .. }));
        failed(db, &shard.to_string(), true, "refused").await;
        let told = why().await;
        let Reason::ShardFailed { shard: of, attempts: 3, next_attempt_at: Some(_), error } = &told.reason else {
            panic!("{told:?}");
        };
        assert_eq!((*of, error.as_str()), (shard, "refused"));
        assert!(told.sentence.contains("is tried again in 59m"), "{}", told.sentence);
        assert!(told.advice.ends_with(&format!("eventbox shards unassign {shard} --only-failed")), "{}", told.advice);
        failed(db, &shard.to_string(), false, "refused").await;
        assert!(matches!(why().await.reason, Reason::ShardFailed { next_attempt_at: None, .. }));
        disable(db, shard).await;
        let told = why().await;
        assert_eq!(told.reason, Reason::ShardDisabled { shard });
        assert!(told.sentence.ends_with("is disabled by an operator; 1 event waits."), "{}", told.sentence);
        // The pause of the recipient is told first, because it is the recipient's own.
        admin::pause(&db.pool, &order()).await.unwrap();
        assert_eq!(why().await.reason, Reason::Paused { is_kind: false });
    }
}
