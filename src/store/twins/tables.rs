//! The rows, and what is in the tables.

use sqlx::{Pool, Row};
use uuid::Uuid;

use super::{HOUR, Transcript, hours, label};
use crate::store::macros::on_both_engines;

/// Shards with rows. Those between them are empty.
pub(super) const SHARDS: [i16; 4] = [0, 1, 7, 255];

/// Keys that sort differently by byte and by language, keys with wildcards, and kinds that begin alike.
pub(super) const RECIPIENTS: [&str; 15] = [
    "cell/a",
    "cell/A",
    "cell/ä",
    "cell/z",
    "cell/a%b",
    "cell/a_b",
    "cell/axb",
    "cell/😀",
    "cell/a b",
    "cell/a/b",
    "cello/1",
    "order/1",
    "order/10",
    "Order/2",
    "no kind",
];

/// A kind that is paused.
pub(super) const PAUSED_KIND: &str = "order";

/// Stored form of an origin.
pub(super) const ORIGIN: &str = r#"[["chat \"ñ\"","s1",1,7]]"#;

pub(super) const TYPES: [(&str, &str); 3] = [("shop", "paid"), ("Shop", "paid"), ("shop", "sent")];

/// Numbers that look random, and are the same in each run.
pub(super) struct Dice {
    random: fastrand::Rng,
    /// Number of times so far.
    times: i64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice { random: fastrand::Rng::with_seed(seed), times: 0 }
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.random.u64(..limit)
    }

    /// Returns true once in `count` throws.
    pub(super) fn once_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(super) fn id(&mut self) -> Uuid {
        Uuid::from_u128(u128::from(self.below(1 << 48) + 1))
    }

    /// Returns a time from `from` to `to` hours from now, in microseconds.
    ///
    /// The next time of the same hour is earlier by some milliseconds, which is more than the difference of the
    /// engines' clocks. So the rows of one hour have the same order on both.
    pub(super) fn time(&mut self, from: i64, to: i64) -> i64 {
        let span = u64::try_from(to - from).unwrap();
        self.times += 1;
        (from + i64::try_from(self.below(span)).unwrap()) * HOUR - self.times * 10_000
    }
}

/// Returns every box: a shard and a recipient.
pub(super) fn boxes() -> impl Iterator<Item = (i16, &'static str)> {
    SHARDS.into_iter().flat_map(|shard| RECIPIENTS.map(|recipient| (shard, recipient)))
}

on_both_engines! {
    const EVENT: &str = "INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, origin, value)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    const TOMBSTONE: &str = concat!(
        "INSERT INTO eventbox_tombstone (shard, recipient, name, id, gone_at_us)
         VALUES ($1, $2, $3, $4, $5 + ", now_us!(), ")"
    );
    const STATE: &str = concat!(
        "INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
         VALUES ($1, $2, $3, $4, $5 + ",
        now_us!(), ", $6)"
    );
    const FAILURE: &str = concat!(
        "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error, paused)
         VALUES ($1, $2, $3, $4 + ", now_us!(), ", $5, $6)"
    );
    const TIMER: &str = concat!(
        "INSERT INTO eventbox_timer (shard, due_at_us, id, recipient, name, traceparent, origin, value)
         VALUES ($1, $2 + ", now_us!(), ", $3, $4, $5, NULL, $6, $7)"
    );
    const DEAD: &str = concat!(
        "INSERT INTO eventbox_dead_letter
            (shard, id, recipient, name, source, type, code, reason, attempts, dead_at_us, payload, origin)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'because', $8, $9 + ", now_us!(), ", $10, $11)"
    );
    const MESSAGE: &str = concat!(
        "INSERT INTO eventbox_outbox
             (shard, id, source, type, attempts, created_at_us, next_attempt_at_us, delivered_at_us,
              last_code, last_error, payload, origin)
         VALUES ($1, $2, $3, $4, $5, $6 + ", now_us!(), ", $7 + ", now_us!(), ", $8 + ", now_us!(), ", $10, NULL, $9,
                 $11)"
    );

    /// Fills the tables; each box gets about `rows` events.
    pub(in crate::store::twins) async fn fill(pool: &Pool<Engine>, rows: u32) {
        let mut tx = pool.begin().await.unwrap();
        let mut dice = Dice::new(7);
        for (shard, recipient) in boxes() {
            if dice.once_in(5) {
                continue;
            }
            fill_box(&mut tx, &mut dice, (shard, recipient), rows).await;
        }
        for shard in SHARDS {
            for number in 0..rows * 4 {
                let (source, kind) = TYPES[dice.below(3) as usize];
                // Most rows that are delivered, and kept, come before the others.
                let delivered = (number < rows * 3 && dice.below(10) < 9).then(|| dice.time(-200, 0));
                let query = sqlx::query::<Engine>(MESSAGE).bind(shard).bind(dice.id()).bind(source).bind(kind);
                // Rows of many attempts have the longest pauses.
                let attempts = if dice.once_in(3) { 28 + dice.below(6) } else { dice.below(6) };
                let failed = (attempts > 1).then_some("UNAVAILABLE");
                let query = query.bind(attempts as i32).bind(dice.time(-300, 0));
                let query = query.bind(dice.time(-60, 60));
                let query = query.bind(delivered).bind(vec![1_u8; dice.below(3_000) as usize]).bind(failed);
                let query = query.bind((number % 3 == 0).then_some(ORIGIN));
                query.execute(&mut *tx).await.unwrap();
            }
            for number in 0..rows {
                let (source, kind) = TYPES[dice.below(3) as usize];
                let code = ["EXPIRED", "TOO_LARGE"][dice.below(2) as usize];
                let query =
                    sqlx::query::<Engine>(DEAD).bind(shard).bind(dice.id()).bind(None::<&str>).bind(None::<&str>);
                let query = query.bind(source).bind(kind).bind(code).bind(dice.below(9) as i32);
                let query = query.bind(dice.time(-300, 0)).bind(vec![2_u8; dice.below(3_000) as usize]);
                let query = query.bind((number % 3 == 0).then_some(ORIGIN));
                query.execute(&mut *tx).await.unwrap();
            }
        }
        sqlx::query::<Engine>("INSERT INTO eventbox_paused_kind VALUES ($1, 1)")
            .bind(PAUSED_KIND)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    async fn fill_box(
        tx: &mut <Engine as sqlx::Database>::Connection,
        dice: &mut Dice,
        (shard, recipient): (i16, &str),
        rows: u32,
    ) {
        if !dice.once_in(4) {
            let state = (!dice.once_in(3)).then(|| vec![3_u8; dice.below(500) as usize]);
            let query = sqlx::query::<Engine>(STATE).bind(shard).bind(recipient).bind(dice.below(50) as i64 + 1);
            let query = query.bind(dice.id()).bind(dice.time(-300, 0)).bind(state);
            query.execute(&mut *tx).await.unwrap();
        }
        if dice.once_in(2) {
            let (attempts, paused) = (dice.below(4) as i32, dice.once_in(3));
            let error = (attempts > 0).then_some("no seats");
            let query = sqlx::query::<Engine>(FAILURE).bind(shard).bind(recipient).bind(attempts);
            let query = query.bind(dice.time(-60, 60)).bind(error).bind(paused);
            query.execute(&mut *tx).await.unwrap();
        }
        if dice.once_in(3) {
            // Two quarantined events of one name: the name was forgotten in between.
            for _ in 0..2 {
                let query = sqlx::query::<Engine>(DEAD).bind(shard).bind(dice.id()).bind(recipient).bind("twice");
                let query = query.bind(None::<&str>).bind(None::<&str>).bind("POISON").bind(5_i32);
                let query = query.bind(dice.time(-300, 0)).bind(b"twice".to_vec()).bind(None::<&str>);
                query.execute(&mut *tx).await.unwrap();
            }
        }
        let has_events = !dice.once_in(6);
        for number in 0..rows {
            let id = dice.id();
            let name = dice
                .once_in(2)
                .then(|| format!("{}{number}", ["n", "N", "ñ", "n%", "n_"][dice.below(5) as usize]));
            let value = vec![4_u8; dice.below(2_000) as usize];
            let origin = number.is_multiple_of(3).then_some(ORIGIN);
            let place = if has_events { dice.below(6) } else { 3 + dice.below(3) };
            match place {
                0..3 => {
                    let traceparent = dice.once_in(3).then_some("00-1-2-01");
                    let query = sqlx::query::<Engine>(EVENT).bind(shard).bind(recipient).bind(id).bind(&name);
                    query.bind(traceparent).bind(origin).bind(value).execute(&mut *tx).await.unwrap();
                }
                3 => {
                    let query = sqlx::query::<Engine>(TIMER).bind(shard).bind(dice.time(-60, 60)).bind(id);
                    query.bind(recipient).bind(&name).bind(origin).bind(value).execute(&mut *tx).await.unwrap();
                }
                4 => {
                    let query = sqlx::query::<Engine>(DEAD).bind(shard).bind(id).bind(recipient).bind(&name);
                    let query = query.bind(None::<&str>).bind(None::<&str>).bind("POISON").bind(5_i32);
                    query.bind(dice.time(-300, 0)).bind(value).bind(origin).execute(&mut *tx).await.unwrap();
                }
                _ => {}
            }
            if let Some(name) = name {
                let gone = if place < 5 { dice.once_in(5) } else { dice.once_in(2) };
                let gone = gone.then(|| dice.time(-120, 120));
                let query = sqlx::query::<Engine>(TOMBSTONE).bind(shard).bind(recipient).bind(name).bind(id).bind(gone);
                query.execute(&mut *tx).await.unwrap();
            }
        }
    }

    /// Notes every row of every table.
    pub(in crate::store::twins) async fn dump(pool: &Pool<Engine>, title: &str, transcript: &mut Transcript) {
        const TABLES: [(&str, &str); 8] = [
            (
                "event",
                "SELECT shard, recipient, id,
                        coalesce(name, '-') || coalesce(traceparent, '-') || coalesce(origin, '-'),
                        octet_length(value), CAST(0 AS bigint), CAST(0 AS bigint), 0
                 FROM eventbox_event",
            ),
            (
                "tombstone",
                concat!(
                    "SELECT shard, recipient, id, name, 0, gone_at_us - ", now_us!(), ", CAST(0 AS bigint), 0
                     FROM eventbox_tombstone"
                ),
            ),
            (
                "state",
                concat!(
                    "SELECT shard, recipient, CAST(NULL AS uuid), CAST(turn AS text), octet_length(state),
                            updated_at_us - ", now_us!(), ", CAST(0 AS bigint), 0
                     FROM eventbox_state"
                ),
            ),
            (
                "failure",
                concat!(
                    "SELECT shard, recipient, NULL, coalesce(error, '-'), attempts,
                            CASE WHEN next_attempt_at_us > 0 THEN next_attempt_at_us - ", now_us!(), " END,
                            CAST(0 AS bigint), CASE WHEN paused THEN 1 ELSE 0 END
                     FROM eventbox_failure"
                ),
            ),
            (
                "timer",
                concat!(
                    "SELECT shard, recipient, id, coalesce(name, '-') || coalesce(origin, '-'), octet_length(value),
                            due_at_us - ", now_us!(), ",
                            CAST(0 AS bigint), 0
                     FROM eventbox_timer"
                ),
            ),
            (
                "dead letter",
                concat!(
                    "SELECT shard, coalesce(recipient, source || type), id,
                            coalesce(name, '-') || code || reason || coalesce(origin, '-'),
                            octet_length(payload), dead_at_us - ", now_us!(), ", CAST(0 AS bigint), attempts
                     FROM eventbox_dead_letter"
                ),
            ),
            (
                "journal",
                concat!(
                    "SELECT shard, recipient, id, coalesce(name, '-') || coalesce(origin, '-'), CAST(turn AS integer),
                            at_us - ", now_us!(), ",
                            CAST(0 AS bigint), CAST(outcome AS integer)
                     FROM eventbox_journal"
                ),
            ),
            (
                "outbox",
                concat!(
                    "SELECT shard, source || type, id,
                            coalesce(last_code, '-') || coalesce(last_error, '-') || coalesce(origin, '-'),
                            octet_length(payload), next_attempt_at_us - ", now_us!(), ",
                            delivered_at_us - ", now_us!(), ", attempts
                     FROM eventbox_outbox"
                ),
            ),
        ];
        for (table, sql) in TABLES {
            let rows = sqlx::query::<Engine>(sql).fetch_all(pool).await.unwrap();
            let rows = rows.iter().map(|row| {
                let id: Option<Uuid> = row.try_get(2).unwrap();
                let time = |column| row.try_get_unchecked::<Option<i64>, _>(column).unwrap().map(hours);
                let number = |column| row.try_get_unchecked::<Option<i32>, _>(column).unwrap();
                let texts = (row.try_get::<String, _>(1).unwrap(), row.try_get::<String, _>(3).unwrap());
                let shard: i16 = row.try_get(0).unwrap();
                format!(
                    "{shard} {texts:?} {:?} {:?} {:?} {:?} {:?}",
                    id.map(label), number(4), time(5), time(6), number(7),
                )
            });
            let mut rows: Vec<String> = rows.collect();
            rows.sort();
            for row in rows {
                transcript.note(format!("{title}: {table}"), row);
            }
        }
    }
}
