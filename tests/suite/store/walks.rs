//! The rows of a scan: each recipient once, with its first event, however long its box is.

use sqlx::AssertSqlSafe;
use sqlx::types::Uuid;

use crate::support::source::statement;
use crate::support::{TestDb, TestEngine, on_every_engine};

/// Kinds that a worker registered.
const KINDS: [&str; 2] = ["cell", "order"];

/// A recipient, its first event, and the last recipient of the pass if the scan reports it.
type Row = (String, Uuid, Option<String>);

trait WalkEngine: TestEngine {
    /// Scans shard 3.
    async fn walk(db: &TestDb<Self>, after: &str, last: Option<&str>, limit: i64) -> Vec<Row>;

    /// Returns bytes or an id as a literal of this engine.
    fn literal(hex: &str) -> String;
}

#[cfg(feature = "postgres")]
impl WalkEngine for sqlx::Postgres {
    async fn walk(db: &TestDb<Self>, after: &str, last: Option<&str>, limit: i64) -> Vec<Row> {
        let query = sqlx::query_as(AssertSqlSafe(walk_statement::<Self>()));
        let query = query.bind(vec![3_i16]).bind(vec![after.to_owned()]).bind(vec![last.map(str::to_owned)]);
        query.bind(limit).bind(KINDS.map(str::to_owned).to_vec()).fetch_all(&db.pool).await.unwrap()
    }

    fn literal(hex: &str) -> String {
        format!("'{hex}'")
    }
}

#[cfg(feature = "sqlite")]
impl WalkEngine for sqlx::Sqlite {
    async fn walk(db: &TestDb<Self>, after: &str, last: Option<&str>, limit: i64) -> Vec<Row> {
        let query = sqlx::query_as(AssertSqlSafe(walk_statement::<Self>()));
        let query = query.bind(serde_json::json!([[3, after, last]]).to_string()).bind(limit);
        query.bind(serde_json::json!(KINDS).to_string()).fetch_all(&db.pool).await.unwrap()
    }

    fn literal(hex: &str) -> String {
        format!("x'{hex}'")
    }
}

/// Returns the statement, reduced to the columns of a [`Row`].
fn walk_statement<B: TestEngine>() -> String {
    let sql = statement(B::FOLDER, "WALK_RECIPIENTS");
    format!(
        "WITH walked (shard, recipient, first, last, paused, wait_us) AS ({sql})
         SELECT recipient, first, last FROM walked"
    )
}

on_every_engine! {
    /// A scan returns the next recipients in order, each once, with its first event.
    /// Of a kind that no worker registered it returns one recipient only.
    async fn a_scan_returns_each_recipient_once(db) {
        let mut wanted: Vec<(String, Uuid)> = Vec::new();
        let mut rows = Vec::new();
        for (kind, count) in [("alien", 30), ("cell", 150), ("order", 20), ("zoo", 5)] {
            for n in 0..count {
                let length = if n % 19 == 0 { 90 } else { 1 + n % 3 / 2 };
                let (to, ids): (_, Vec<Uuid>) =
                    (format!("{kind}/{n:03}"), (0..length).map(|_| Uuid::now_v7()).collect());
                let row = |id: &Uuid| {
                    format!("(3, '{to}', {}, {})", Engine::literal(&id.simple().to_string()), Engine::literal("00"))
                };
                rows.extend(ids.iter().map(row));
                if KINDS.contains(&kind) || n == 0 {
                    wanted.push((to, ids[0]));
                }
            }
        }
        db.run(format!("INSERT INTO eventbox_event (shard, recipient, id, value) VALUES {}", rows.join(","))).await;
        for limit in [1, 4, 7, 100, 171, 172, 173, 1_000] {
            let end = (limit <= 172).then_some("zoo/004");
            for (after, last, end) in [("", None, end), ("cell/010", Some("order/003"), Some("order/003"))] {
                let of_pass = |to: &str| after < to && last.is_none_or(|last| to <= last);
                let part = wanted.iter().filter(|(to, _)| of_pass(to)).take(usize::try_from(limit).unwrap());
                let walked = Engine::walk(db, after, last, limit).await;
                assert_eq!(walked.last().and_then(|row| row.2.as_deref()), end, "{limit} behind {after}");
                let found: Vec<(String, Uuid)> = walked.into_iter().map(|(to, first, _)| (to, first)).collect();
                assert_eq!(found, part.cloned().collect::<Vec<_>>(), "{limit} behind {after}");
            }
        }
    }
}
