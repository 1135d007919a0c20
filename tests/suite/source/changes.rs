//! The changes of tables in Postgres as a source. The server of these tests is their own, because it needs
//! `wal_level = logical`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eventbox::source::{Change, ChangeKind, IDLE_WAL_BYTES, PostgresChanges, SourceError, drain};
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer, TurnOptions};
use sqlx::{AssertSqlSafe, PgPool};

use super::{config, to, values};
use crate::support::cluster::Cluster;
use crate::support::{TestDb, TestEngine};

/// Each test has a server of its own, and the events go into this engine.
macro_rules! into_engines {
    ($($test:ident: $($name:ident $engine:ty),+;)+) => {$(
        mod $test {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$test::<$engine>().await;
            })+
        }
    )+};
}

mod slots;

struct Server {
    cluster: Cluster,
    pool: PgPool,
}

async fn server() -> Server {
    let cluster = Cluster::start();
    cluster.set("wal_level = logical");
    let pool = cluster.pool(6);
    let server = Server { cluster, pool };
    server.run("CREATE TABLE orders (id int8 PRIMARY KEY, item text, note text); CREATE TABLE other (id int8)").await;
    server.run("CREATE PUBLICATION orders FOR TABLE orders").await;
    server
}

impl Server {
    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    async fn insert(&self, ids: std::ops::RangeInclusive<i64>) {
        let (first, last) = (ids.start(), ids.end());
        self.run(&format!("INSERT INTO orders SELECT n, 'item', NULL FROM generate_series({first}, {last}) n")).await;
    }

    async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }
}

fn ids(pool: &PgPool) -> PostgresChanges {
    mapped(pool, |change| Ok(vec![(to("all"), Event::new(change.text("id").ok_or("no id")?.to_owned()))]))
}

fn mapped<F>(pool: &PgPool, map: F) -> PostgresChanges
where
    F: Fn(&Change) -> Result<Vec<(Recipient, Event)>, BoxError> + Send + Sync + 'static,
{
    PostgresChanges::new(pool.clone(), "eventbox", "orders", map)
}

fn wanted(ids: impl IntoIterator<Item = i64>) -> Vec<String> {
    ids.into_iter().map(|id| id.to_string()).collect()
}

async fn with_server<B: TestEngine>(test: &str, body: impl AsyncFnOnce(&Server, &TestDb<B>)) {
    crate::support::with_database::<B, _>(test, async |db: &TestDb<B>| {
        let server = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(server()));
        body(&server, db).await;
        server.pool.close().await;
        tokio::task::block_in_place(|| drop(server.cluster));
    })
    .await;
}

/// What commits late comes late, and nothing is passed over: a transaction that was open while later ones committed,
/// across readers that begin anew in between.
async fn a_late_commit_is_emitted_once<B: TestEngine>() {
    with_server::<B>("a_late_commit_is_emitted_once", async |server, db| {
        let read = async || drain(&db.pool, "orders", &ids(&server.pool), &config()).await.unwrap().events;
        server.insert(1..=2).await;
        assert_eq!(read().await, 0, "the slot has what comes after it was made");
        let mut late = server.pool.begin().await.unwrap();
        sqlx::query("INSERT INTO orders VALUES (3)").execute(&mut *late).await.unwrap();
        server.insert(4..=6).await;
        assert_eq!(read().await, 3);
        let mut later = server.pool.begin().await.unwrap();
        sqlx::query("INSERT INTO orders VALUES (7)").execute(&mut *later).await.unwrap();
        server.insert(8..=8).await;
        assert_eq!(read().await, 1);
        late.commit().await.unwrap();
        assert_eq!(read().await, 1);
        server.insert(9..=9).await;
        later.rollback().await.unwrap();
        assert_eq!(read().await, 1);
        assert_eq!(values(db, &to("all")).await, wanted([4, 5, 6, 8, 3, 9]));
    })
    .await;
}

/// A transaction that is larger than a round is cut, and every round goes on where the last one ended. What the server
/// repeats is left out: here the slot is never confirmed before the end of the transaction.
async fn a_large_transaction_is_cut_into_rounds<B: TestEngine>() {
    with_server::<B>("a_large_transaction_is_cut", async |server, db| {
        let mut config = config();
        config.max_events = 30.try_into().unwrap();
        let read = async || drain(&db.pool, "orders", &ids(&server.pool), &config).await.unwrap();
        read().await;
        server.insert(1..=100).await;
        server.insert(101..=105).await;
        server.insert(106..=106).await;
        let read = read().await;
        assert_eq!(read.events, 106);
        assert!(read.rounds >= 4, "{read:?}");
        assert_eq!(values(db, &to("all")).await, wanted(1..=106));
    })
    .await;
}

/// Inserts, updates, deletions and truncations come with their values.
async fn changes_have_their_values<B: TestEngine>() {
    with_server::<B>("changes_have_their_values", async |server, db| {
        let source = mapped(&server.pool, |change| Ok(vec![(to("all"), Event::new(change.to_json()))]));
        drain(&db.pool, "orders", &source, &config()).await.unwrap();
        server.run("INSERT INTO orders VALUES (1, 'a \"b\"', NULL); UPDATE orders SET item = 'c' WHERE id = 1").await;
        server.run("INSERT INTO other VALUES (1); ALTER TABLE orders ADD COLUMN extra bool").await;
        server.run("UPDATE orders SET id = 2, extra = true; DELETE FROM orders; TRUNCATE orders").await;
        drain(&db.pool, "orders", &source, &config()).await.unwrap();
        let said = values(db, &to("all")).await;
        let said: Vec<serde_json::Value> = said.iter().map(|json| serde_json::from_str(json).unwrap()).collect();
        let kinds: Vec<&str> = said.iter().map(|change| change["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["insert", "update", "update", "delete", "truncate"]);
        assert!(said.iter().all(|change| change["table"] == "orders" && change["schema"] == "public"));
        assert_eq!(said[0]["row"], serde_json::json!({"id": "1", "item": "a \"b\"", "note": null}));
        assert_eq!((&said[2]["row"]["extra"], &said[2]["old"]["id"]), (&"t".into(), &"1".into()));
        assert_eq!(said[3]["old"]["id"], "2");
    })
    .await;
}

/// A change that cannot be used stops the source before it. A slot that somebody else has read, or that is gone, is an
/// error and no gap.
async fn nothing_is_skipped_in_silence<B: TestEngine>() {
    with_server::<B>("nothing_is_skipped_in_silence", async |server, db| {
        let is_bad = Arc::new(AtomicBool::new(true));
        let bad = Arc::clone(&is_bad);
        let source = mapped(&server.pool, move |change| match change.text("id") {
            Some("2") if bad.load(Ordering::SeqCst) => Err("two is bad".into()),
            Some(id) if change.kind == ChangeKind::Insert => Ok(vec![(to("all"), Event::new(id.to_owned()))]),
            _ => Ok(Vec::new()),
        });
        let read = async || drain(&db.pool, "orders", &source, &config()).await;
        let failed = async || match read().await.unwrap_err() {
            SourceError::Read { source, .. } => format!("{source}: {:?}", source.source().map(ToString::to_string)),
            other => panic!("{other:?}"),
        };
        read().await.unwrap();
        server.insert(1..=3).await;
        let said = failed().await;
        assert!(said.contains("the change of public.orders at ") && said.contains("two is bad"), "{said}");
        assert_eq!(values(db, &to("all")).await, ["1"]);
        is_bad.store(false, Ordering::SeqCst);
        assert_eq!(read().await.unwrap().events, 2);

        server.insert(4..=4).await;
        server
            .run(
                "SELECT * FROM pg_logical_slot_get_binary_changes('eventbox', NULL, NULL, 'proto_version', '1',
            'publication_names', 'orders')",
            )
            .await;
        assert!(failed().await.contains("somebody else has read it"));
        server.run("SELECT pg_drop_replication_slot('eventbox')").await;
        assert!(failed().await.contains("the slot eventbox is gone"));
        server.run("DROP PUBLICATION orders").await;
        assert!(failed().await.contains("there is no publication orders"));
        assert_eq!(values(db, &to("all")).await, ["1", "2", "3"]);
    })
    .await;
}

/// A log that grows by other tables does not stay for the slot, and no change in it is passed over.
async fn the_log_of_other_tables_is_given_up<B: TestEngine>() {
    with_server::<B>("the_log_of_other_tables", async |server, db| {
        let read = async || drain(&db.pool, "orders", &ids(&server.pool), &config()).await.unwrap().events;
        read().await;
        server.insert(1..=1).await;
        assert_eq!(read().await, 1);
        let held = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::int8 FROM pg_replication_slots";
        let mut late = server.pool.begin().await.unwrap();
        sqlx::query("INSERT INTO orders VALUES (2)").execute(&mut *late).await.unwrap();
        server.run("INSERT INTO other SELECT generate_series(1, 400000)").await;
        let idle = i64::try_from(IDLE_WAL_BYTES).unwrap();
        assert!(server.number(held).await > idle);
        crate::support::eventually(crate::support::SOON, async || {
            assert_eq!(read().await, 0);
            server.number(held).await < idle
        })
        .await;
        late.commit().await.unwrap();
        server.insert(3..=3).await;
        assert_eq!(read().await, 2);
        assert_eq!(values(db, &to("all")).await, wanted(1..=3));
    })
    .await;
}

struct Counter;

impl Reducer for Counter {
    type State = u64;

    fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        Ok(Outcome::to(count + events.len() as u64).consuming(events))
    }
}

/// The journal of another eventbox is a table like others.
async fn the_journal_of_another_eventbox_is_a_source<B: TestEngine>() {
    with_server::<B>("the_journal_of_another_eventbox", async |server, db| {
        eventbox::migrate(&server.pool).await.unwrap();
        server.run("CREATE PUBLICATION journal FOR TABLE eventbox_journal").await;
        let source = PostgresChanges::new(server.pool.clone(), "journal", "journal", |change| {
            let of = change.text("recipient").ok_or("an entry has a recipient")?;
            let consumed = change.kind == ChangeKind::Insert && change.text("outcome") == Some("1");
            let event = || Event::new(format!("{of} turn {}", change.text("turn").unwrap_or_default()));
            Ok(if consumed { vec![(to("all"), event())] } else { Vec::new() })
        });
        drain(&db.pool, "journal", &source, &config()).await.unwrap();
        let options = TurnOptions::new(10.try_into().unwrap()).journaled();
        for key in ["JFK", "EWR", "JFK"] {
            let airport = Recipient::new("airport", key).unwrap();
            eventbox::emit(&server.pool, &airport, Event::new("departed")).await.unwrap();
            let turn = eventbox::reduce_batch_with(&server.pool, &airport, &Counter, &options).await.unwrap();
            assert_eq!(turn.consumed, 1);
        }
        drain(&db.pool, "journal", &source, &config()).await.unwrap();
        let said = ["airport/JFK turn 1", "airport/EWR turn 1", "airport/JFK turn 2"];
        assert_eq!(values(db, &to("all")).await, said);
    })
    .await;
}

into_engines! {
    a_late_commit_is_emitted_once: postgres sqlx::Postgres, sqlite sqlx::Sqlite;
    a_large_transaction_is_cut_into_rounds: postgres sqlx::Postgres;
    changes_have_their_values: sqlite sqlx::Sqlite;
    nothing_is_skipped_in_silence: sqlite sqlx::Sqlite;
    the_log_of_other_tables_is_given_up: postgres sqlx::Postgres;
    the_journal_of_another_eventbox_is_a_source: sqlite sqlx::Sqlite;
}
