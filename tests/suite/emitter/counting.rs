//! What the outbox is said to hold, and what expires: the same on both engines, behind any number of rows that are kept.

use std::time::{Duration, SystemTime};

use eventbox::emitter::{DurableEmitter, Expiry};
use eventbox::outbox::MAX_COUNTED;

use super::support::{Fake, STOP, started};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

pub(super) const HOUR_US: i64 = 3_600_000_000;

/// The end of time, at which a kept row is due.
const NEVER: i64 = i64::MAX;

/// Rows that are alike.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) shard: i16,
    /// The first of their ids, so that some stand before others.
    pub(super) from: i64,
    pub(super) count: i64,
    /// How long ago they were made.
    pub(super) age_us: i64,
    pub(super) kept: bool,
    pub(super) bytes: i64,
}

pub(super) const ROWS: Rows = Rows { shard: 7, from: 1, count: 1, age_us: 0, kept: false, bytes: 10 };

fn now_us() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64
}

/// How far ahead a row is due: no emitter takes it during a test, and it looks like a claim.
const CLAIM_US: i64 = HOUR_US / 6;

/// Puts rows into the outbox that nobody sends for now.
pub(super) async fn put<B: TestEngine>(db: &TestDb<B>, rows: Rows) {
    let Rows { shard, from, count, age_us, kept, bytes } = rows;
    let (created, until) = (now_us() - age_us, from + count - 1);
    let (next, delivered) = if kept { (NEVER, created.to_string()) } else { (now_us() + CLAIM_US, "NULL".to_owned()) };
    let (series, id, payload) = match B::FOLDER {
        "postgres" => (
            format!("FROM generate_series({from}::int8, {until}) AS g (i)"),
            "lpad(to_hex(i), 32, '0')::uuid",
            format!("convert_to(repeat('x', {bytes}), 'UTF8')"),
        ),
        _ => (
            format!(
                "FROM (WITH RECURSIVE g (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM g WHERE i < {until}) SELECT i FROM g)"
            ),
            "unhex(printf('%032x', i))",
            format!("zeroblob({bytes})"),
        ),
    };
    db.run(format!(
        "INSERT INTO eventbox_outbox (shard, id, source, type, created_at_us, next_attempt_at_us, delivered_at_us, payload)
         SELECT {shard}, {id}, 's', 't', {created}, {next}, {delivered}, {payload} {series}"
    ))
    .await;
}

/// An emitter that only keeps books.
async fn idle<B: TestEngine>(db: &TestDb<B>, ttl: Option<Duration>) -> DurableEmitter<B> {
    let fake = Fake::ok();
    started(&db.pool, &fake, |config| {
        config.expiry = ttl.map(|ttl| Expiry { ttl, interval: Duration::from_millis(5) });
    })
    .await
}

on_every_engine! {
    /// The numbers are the numbers: of a few rows, of a thousand in one shard or in many, behind rows that are kept, and after they are gone.
    async fn the_queue_is_counted_exactly(db) {
        let emitter = idle(db, None).await;
        let told = async || {
            let stats = emitter.queue_stats().await.unwrap();
            assert!(!stats.depth_is_at_least && !stats.total_is_at_least);
            (stats.depth, stats.total_rows, stats.payload_bytes)
        };
        assert_eq!(told().await, (0, 0, 0));
        assert_eq!(emitter.queue_stats().await.unwrap().oldest_pending_age, Duration::ZERO);

        // One row behind 200 that are kept and older.
        put(db, Rows { count: 200, age_us: 9 * HOUR_US, kept: true, ..ROWS }).await;
        put(db, Rows { from: 1_000, age_us: 5 * HOUR_US, ..ROWS }).await;
        assert_eq!(told().await, (1, 201, 10));
        let age = emitter.queue_stats().await.unwrap().oldest_pending_age;
        assert!((5 * 3_600..6 * 3_600).contains(&age.as_secs()), "{age:?}");

        put(db, Rows { from: 2_000, count: 1_000, bytes: 3, ..ROWS }).await;
        assert_eq!(told().await, (1_001, 1_201, 3_010));
        for shard in [0, 8, 100, 254, 255] {
            put(db, Rows { shard, count: 70, kept: shard == 100, bytes: 1, ..ROWS }).await;
        }
        assert_eq!(told().await, (1_001 + 4 * 70, 1_201 + 5 * 70, 3_010 + 4 * 70));

        db.run("DELETE FROM eventbox_outbox WHERE delivered_at_us IS NULL AND shard = 7").await;
        assert_eq!(told().await, (4 * 70, 200 + 5 * 70, 4 * 70));
        db.run("DELETE FROM eventbox_outbox").await;
        assert_eq!(told().await, (0, 0, 0));
        emitter.stop(STOP).await;
    }

    /// Beyond the bound the numbers say that there is at least so much, and each says it for itself.
    async fn beyond_the_bound_it_says_at_least(db) {
        let emitter = idle(db, None).await;
        put(db, Rows { count: MAX_COUNTED, bytes: 1, kept: true, ..ROWS }).await;
        put(db, Rows { from: 1 << 40, age_us: 2 * HOUR_US, ..ROWS }).await;
        let stats = emitter.queue_stats().await.unwrap();
        assert_eq!((stats.depth, stats.depth_is_at_least), (1, false));
        assert_eq!((stats.total_rows, stats.total_is_at_least), (MAX_COUNTED, true));
        assert!(stats.oldest_pending_age >= Duration::from_secs(7_200));

        put(db, Rows { shard: 9, count: MAX_COUNTED - 1, bytes: 1, ..ROWS }).await;
        let stats = emitter.queue_stats().await.unwrap();
        assert_eq!((stats.depth, stats.depth_is_at_least), (MAX_COUNTED, false));
        put(db, Rows { shard: 10, ..ROWS }).await;
        let stats = emitter.queue_stats().await.unwrap();
        assert_eq!((stats.depth, stats.depth_is_at_least), (MAX_COUNTED, true));
        emitter.stop(STOP).await;
    }

    /// What is old expires, wherever it stands: behind kept rows, behind younger ones, more than one statement takes, and with a dead letter of
    /// its key that was left behind. What is younger or kept stays.
    async fn what_is_old_expires_wherever_it_stands(db) {
        put(db, Rows { count: 200, age_us: 9 * HOUR_US, kept: true, ..ROWS }).await;
        put(db, Rows { from: 1_000, count: 60, age_us: HOUR_US / 2, ..ROWS }).await;
        put(db, Rows { from: 2_000, count: 130, age_us: 2 * HOUR_US, ..ROWS }).await;
        put(db, Rows { shard: 0, count: 1, age_us: 2 * HOUR_US, ..ROWS }).await;
        put(db, Rows { shard: 255, from: 500, count: 7, age_us: 3 * HOUR_US, ..ROWS }).await;
        put(db, Rows { shard: 255, from: 900, count: 51, kept: true, age_us: 3 * HOUR_US, ..ROWS }).await;
        put(db, Rows { shard: 3, count: 10, age_us: HOUR_US / 2, ..ROWS }).await;
        db.run(
            "INSERT INTO eventbox_dead_letter (shard, id, source, type, code, reason, attempts, dead_at_us, payload)
             SELECT shard, id, 'old', 'old', 'OLD', 'restored', 9, 1, payload FROM eventbox_outbox WHERE shard = 0",
        )
        .await;
        let emitter = idle(db, Some(Duration::from_secs(3_600))).await;
        eventually(SOON, async || emitter.stats().expired == 138).await;
        assert_eq!(db.number("SELECT count(*) FROM eventbox_dead_letter WHERE code = 'EXPIRED' AND source = 's'").await, 138);
        assert_eq!(db.count("eventbox_dead_letter").await, 138);
        assert_eq!(db.number("SELECT count(*) FROM eventbox_outbox WHERE delivered_at_us IS NOT NULL").await, 251);
        assert_eq!(db.number("SELECT count(*) FROM eventbox_outbox WHERE delivered_at_us IS NULL").await, 70);
        let stats = emitter.queue_stats().await.unwrap();
        assert_eq!((stats.depth, stats.total_rows), (70, 321));
        emitter.stop(STOP).await;
    }
}
