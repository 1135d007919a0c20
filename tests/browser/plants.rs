//! Rows that a test plants in the database.

use std::time::Duration;

use eventbox::{Event, Recipient, admin};

use crate::stage::order;
use crate::support::{CellEngine, TestDb, TestEngine};

/// A key that would run if a page did not escape it.
pub(crate) const HOSTILE_KEY: &str = "<script>alert(1)</script>";

/// Returns an id as SQL, and as the pages show it behind its shard.
pub(crate) fn row_id<B: TestEngine>(number: u8) -> (String, String) {
    let id = uuid::Uuid::from_u128(number.into());
    let sql = if B::FOLDER == "postgres" { format!("'{id}'") } else { format!("x'{}'", id.simple()) };
    (sql, format!("{number}-{id}"))
}

fn payload<B: TestEngine>(text: &str) -> String {
    if B::FOLDER == "postgres" { format!("convert_to('{text}', 'UTF8')") } else { format!("CAST('{text}' AS BLOB)") }
}

/// Plants a message that was given up. Its shard is its number.
pub(crate) async fn dead_message<B: TestEngine>(db: &TestDb<B>, number: u8, code: &str) {
    let ((id, _), payload) = (row_id::<B>(number), payload::<B>(r#"{"flight": "UA 1545", "seats": [1, 2]}"#));
    db.run(format_args!(
        "INSERT INTO eventbox_dead_letter (shard, id, source, type, code, reason, attempts, dead_at_us, payload)
         VALUES ({number}, {id}, 'flights', 'departed', '{code}', 'too old', 9, 1700000000000000, {payload})"
    ))
    .await;
}

/// Plants a message that was tried twice, and whose next attempt is far away. Its shard is its number.
pub(crate) async fn message<B: TestEngine>(db: &TestDb<B>, number: u8, event_type: &str, code: &str) {
    let ((id, _), payload) = (row_id::<B>(number), payload::<B>("secret message"));
    db.run(format_args!(
        "INSERT INTO eventbox_outbox (shard, id, source, type, attempts, created_at_us, next_attempt_at_us, last_code,
            last_error, payload)
         VALUES ({number}, {id}, 'flights', '{event_type}', 2, 1700000000000000, 4000000000000000, '{code}',
            'connection refused (os error 111): tcp connect error', {payload})"
    ))
    .await;
}

/// Plants a member that lives no more, and whose leases last longer than the test. It was heard 20 s ago.
pub(crate) async fn ghost<B: TestEngine>(db: &TestDb<B>, address: &str) -> uuid::Uuid {
    let id = uuid::Uuid::from_u128(7);
    let (now, sql) = match B::FOLDER {
        "postgres" => ("(extract(epoch FROM clock_timestamp()) * 1000000)::int8", format!("'{id}'")),
        _ => ("CAST(unixepoch('subsec') * 1000000 AS INTEGER)", format!("x'{}'", id.simple())),
    };
    db.run(format_args!(
        "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us, report)
         VALUES ({sql}, '{address}', 256, false, {now} - 20000000, '{}')",
        r#"{"kinds":["order","mail"]}"#
    ))
    .await;
    id
}

/// Emits events for one recipient, in one transaction.
pub(crate) async fn emit_many<B: CellEngine>(db: &TestDb<B>, to: &Recipient, many: usize) {
    let events: Vec<_> = (0..many).map(|number| (to.clone(), Event::new(number.to_string()))).collect();
    B::emit_all_on(&db.pool, &events).await.unwrap();
}

/// Plants a row of everything that a page can show. Returns the recipient with the hostile key, which has most of it.
pub(crate) async fn everything<B: CellEngine>(db: &TestDb<B>) -> Recipient {
    let hostile = order(HOSTILE_KEY);
    admin::pause(&db.pool, &hostile).await.unwrap();
    for value in ["1", r#"{"items": [1, 2, 3], "note": "a pencil"}"#, "3"] {
        let name = format!("a name of an event without any space: {}", "x".repeat(120));
        B::emit_on(&db.pool, &hostile, Event::new(value).named(format!("{value} {name}"))).await.unwrap();
    }
    let later = Event::new("4").due_in(Duration::from_secs(3_600)).named("later");
    B::emit_on(&db.pool, &hostile, later).await.unwrap();
    let first = admin::events(&db.pool, &hostile, None, 1).await.unwrap()[0].id();
    let reason = "the event is no number: expected value at line 1 column 1: https://example.com/errors/very-long-path";
    admin::quarantine(&db.pool, &hostile, &[first], reason).await.unwrap();
    let turn = admin::standing(&db.pool, &hostile).await.unwrap().turn;
    let state = br#"{"status": "open", "lines": [{"item": "pencil", "price": 120}], "note": "<b>bold</b>"}"#;
    admin::set_state(&db.pool, &hostile, turn, Some(state)).await.unwrap();
    failing(db, &hostile).await;
    admin::pause_kind(&db.pool, "shipment").await.unwrap();
    for number in 0..60 {
        let key = if number == 7 { "k".repeat(180) } else { format!("2026-{number:04}") };
        emit_many(db, &Recipient::new("shipment", key).unwrap(), 1 + number % 7).await;
    }
    for number in 1..=3 {
        dead_message(db, number, "EXPIRED").await;
        message(db, number, "departed", "UNAVAILABLE").await;
    }
    message(db, 9, "a.type.without.any.space.that.is.longer.than.a.narrow.screen.is.wide", "INTERNAL").await;
    hostile
}

/// Notes failures of a recipient, whose next attempt is far away.
pub(crate) async fn failing<B: TestEngine>(db: &TestDb<B>, of: &Recipient) {
    let (shard, recipient) = (of.shard(), of.as_str().replace('\'', "''"));
    db.run(format_args!(
        "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error)
         VALUES ({shard}, '{recipient}', 3, 4000000000000000, 'connect to the warehouse: connection refused')
         ON CONFLICT (shard, recipient) DO UPDATE
         SET attempts = excluded.attempts, next_attempt_at_us = excluded.next_attempt_at_us, error = excluded.error"
    ))
    .await;
}
