//! Counts of the outbox, and expiry: the same on both engines, behind any number of kept rows.

use std::time::{Duration, SystemTime};

use eventbox::emitter::{DurableEmitter, Expiry};
use eventbox::outbox::MAX_COUNTED;

use super::support::{Fake, STOP, started};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

pub(super) const HOUR_US: i64 = 3_600_000_000;

/// Due time of a kept row: the latest possible time.
const NEVER: i64 = i64::MAX;

/// A group of equal rows.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) shard: i16,
    /// The first of their ids, which places them before or after other rows.
    pub(super) from: i64,
    pub(super) count: i64,
    /// Age of the rows in microseconds.
    pub(super) age_us: i64,
    pub(super) kept: bool,
    pub(super) bytes: i64,
}

pub(super) const ROWS: Rows = Rows { shard: 7, from: 1, count: 1, age_us: 0, kept: false, bytes: 10 };

fn now_us() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64
}

/// Time after which a row is due. No emitter claims such a row during a test, and it looks like a claimed row.
const CLAIM_US: i64 = HOUR_US / 6;

/// Puts rows into the outbox that no emitter sends during the test.
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
                "FROM (WITH RECURSIVE g (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM g WHERE i < {until})
                       SELECT i FROM g)"
            ),
            "unhex(printf('%032x', i))",
            format!("zeroblob({bytes})"),
        ),
    };
    db.run(format!(
        "INSERT INTO eventbox_outbox
             (shard, id, source, type, created_at_us, next_attempt_at_us, delivered_at_us, payload)
         SELECT {shard}, {id}, 's', 't', {created}, {next}, {delivered}, {payload} {series}"
    ))
    .await;
}

/// Starts an emitter that only counts and expires rows.
async fn idle<B: TestEngine>(db: &TestDb<B>, ttl: Option<Duration>) -> DurableEmitter<B> {
    let fake = Fake::ok();
    started(&db.pool, &fake, |config| {
        config.expiry = ttl.map(|ttl| Expiry::default().with_ttl(ttl).with_interval(Duration::from_millis(5)));
    })
    .await
}

on_every_engine! {
    /// The counts are exact: of one row, of a thousand in one shard or in many, behind kept rows, and after a deletion.
    async fn the_queue_is_counted_exactly(db) {
        let emitter = idle(db, None).await;
        let told = async || {
            let stats = emitter.queue_stats().await.unwrap();
            assert!(!stats.depth_is_at_least && !stats.total_is_at_least);
            (stats.depth, stats.total_rows, stats.payload_bytes)
        };
        assert_eq!(told().await, (0, 0, 0));
        assert_eq!(emitter.queue_stats().await.unwrap().oldest_pending_age, Duration::ZERO);

        // One row behind 200 older rows that are kept.
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

    /// Above `MAX_COUNTED` a count is marked as a lower bound; each count has a mark of its own.
    async fn a_count_above_the_bound_is_marked_as_at_least(db) {
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

    /// Old rows expire behind kept rows and behind younger rows, also more of them than one statement takes.
    /// A dead letter with the same key is replaced. Younger and kept rows stay.
    async fn old_rows_expire_wherever_they_are(db) {
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
        assert_eq!(
            db.number("SELECT count(*) FROM eventbox_dead_letter WHERE code = 'EXPIRED' AND source = 's'").await,
            138
        );
        assert_eq!(db.count("eventbox_dead_letter").await, 138);
        assert_eq!(db.number("SELECT count(*) FROM eventbox_outbox WHERE delivered_at_us IS NOT NULL").await, 251);
        assert_eq!(db.number("SELECT count(*) FROM eventbox_outbox WHERE delivered_at_us IS NULL").await, 70);
        let stats = emitter.queue_stats().await.unwrap();
        assert_eq!((stats.depth, stats.total_rows), (70, 321));
        emitter.stop(STOP).await;
    }
}
