//! Slots: in use by others, moved by others, left by readers that were dropped, and in the eventbox's own database.

use std::process::Command;

use eventbox::admin::{self, Operator};
use eventbox::source::EventSource;
use tokio::time::timeout;

use super::*;
use crate::source::{causes, room};
use crate::support::{SOON, eventually};

/// Rows of a transaction whose decoding takes a while.
const LARGE: i64 = 300_000;

const READ_BY_ANOTHER: &str = "SELECT count(*) FROM pg_logical_slot_get_binary_changes('eventbox', NULL, NULL,
    'proto_version', '1', 'publication_names', 'orders')";

const PEEKED_BY_ANOTHER: &str = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('eventbox', NULL, NULL,
    'proto_version', '1', 'publication_names', 'orders')";

impl Server {
    /// Returns the number of the session that uses the slot; 0 when there is none.
    async fn user_of_slot(&self) -> i64 {
        self.number("SELECT coalesce(max(active_pid), 0)::int8 FROM pg_replication_slots").await
    }
}

/// A source that wants no change: what a large transaction costs is its decoding.
fn nothing(pool: &PgPool) -> PostgresChanges {
    mapped(pool, |_| Ok(Vec::new()))
}

/// The eventbox is in the database of the slot, and its own tables are published. Its rounds come as changes without
/// events, and must not move the checkpoint again, which would be the next change.
async fn a_slot_in_its_own_database_does_not_feed_itself<B: TestEngine>() {
    with_server::<B>("a_slot_in_its_own_database", async |server, _| {
        eventbox::migrate(&server.pool).await.unwrap();
        server.run("CREATE PUBLICATION own FOR TABLE orders, eventbox_checkpoint, eventbox_event").await;
        let source = PostgresChanges::new(server.pool.clone(), "own", "own", |change| match change.text("id") {
            Some(id) if change.table == "orders" => Ok(vec![(to("all"), Event::new(id.to_owned()))]),
            _ => Ok(Vec::new()),
        });
        let config = config();
        let read =
            async || timeout(SOON, drain(&server.pool, "own", &source, &config)).await.expect("it ends").unwrap();
        let emitted = "SELECT count(*) FROM eventbox_event";
        // The slot is made, and the checkpoint begins.
        eventually(SOON, async || {
            read().await;
            !admin::checkpoints(&server.pool).await.unwrap().is_empty()
        })
        .await;
        for round in 1..=3 {
            server.insert(round..=round).await;
            assert_eq!(read().await.events, 1);
            let at = admin::checkpoints(&server.pool).await.unwrap();
            for _ in 0..5 {
                assert_eq!(read().await.rounds, 0, "its own round is no news");
            }
            assert_eq!(admin::checkpoints(&server.pool).await.unwrap(), at);
            assert_eq!(server.number(emitted).await, round);
        }
    })
    .await;
}

/// More changes without events than one read may have are passed, and what comes behind them is read.
async fn many_unwanted_changes_are_passed<B: TestEngine>() {
    with_server::<B>("many_unwanted_changes", async |server, db| {
        let source = mapped(&server.pool, |change| match change.text("item") {
            Some("wanted") => Ok(vec![(to("all"), Event::new("x"))]),
            _ => Ok(Vec::new()),
        });
        let mut config = config();
        config.max_events = 10.try_into().unwrap();
        let read = async || drain(&db.pool, "orders", &source, &config).await.unwrap();
        read().await;
        for first in [1, 1_001, 2_001] {
            server.insert(first..=first + 999).await;
        }
        server.run("INSERT INTO orders VALUES (5000, 'wanted')").await;
        let read = read().await;
        assert_eq!(read.events, 1);
        assert!(read.rounds <= 5, "{read:?}");
    })
    .await;
}

/// The server goes on with the statement of a reader that was dropped, and the slot is in use until its session ends.
/// The next reader of the process waits for that, and does not fail.
async fn a_dropped_read_frees_its_slot<B: TestEngine>() {
    with_server::<B>("a_dropped_read_frees_its_slot", async |server, db| {
        let source = nothing(&server.pool);
        let config = config();
        drain(&db.pool, "orders", &source, &config).await.unwrap();
        server.insert(1..=LARGE).await;
        let reading = tokio::spawn({
            let (pool, source, config) = (db.pool.clone(), source.clone(), config.clone());
            async move { drain(&pool, "orders", &source, &config).await }
        });
        eventually(SOON, async || server.user_of_slot().await != 0).await;
        let user = server.user_of_slot().await;
        reading.abort();
        assert!(reading.await.is_err_and(|error| error.is_cancelled()), "it is dropped in the middle");
        drain(&db.pool, "orders", &source, &config).await.expect("the slot is free");
        let session = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {user}");
        assert_eq!(server.number(&session).await, 0, "the session was ended");
        assert_eq!(server.user_of_slot().await, 0);
    })
    .await;
}

/// A slot that another session uses is an error that says so. It is tried again.
async fn a_slot_in_use_says_so_and_is_tried_again<B: TestEngine>() {
    with_server::<B>("a_slot_in_use_says_so", async |server, db| {
        let source = nothing(&server.pool);
        let config = config();
        drain(&db.pool, "orders", &source, &config).await.unwrap();
        server.insert(1..=LARGE).await;
        // Its session is stopped in the middle of its statement.
        let pool = server.pool.clone();
        let other = tokio::spawn(async move { sqlx::raw_sql(PEEKED_BY_ANOTHER).execute(&pool).await });
        eventually(SOON, async || server.user_of_slot().await != 0).await;
        let user = server.user_of_slot().await;
        let signal = |signal: &str| Command::new("kill").args([signal, &user.to_string()]).status().unwrap();
        assert!(signal("-STOP").success());
        assert_eq!(server.user_of_slot().await, user, "it was stopped before its end");
        let failed = drain(&db.pool, "orders", &source, &config).await;
        let runtime = crate::support::running::idle_runtime(db).await;
        let sources = eventbox::source::Sources::builder(&runtime);
        let sources = sources.source_with("orders", source.clone(), config).start().unwrap();
        eventually(SOON, async || !sources.health().is_healthy()).await;
        let problem = sources.health().problems.remove(0);
        assert!(signal("-CONT").success());
        let said = causes(&failed.unwrap_err());
        for said in [said, problem] {
            assert!(
                said.contains("another session uses the slot eventbox") && said.contains(&user.to_string()),
                "{said}"
            );
        }
        other.await.unwrap().unwrap();
        eventually(SOON, async || sources.health().is_healthy()).await;
        sources.stop(crate::support::running::STOP).await;
        runtime.stop(crate::support::running::STOP).await;
    })
    .await;
}

/// Another reader moves the slot while a reader of ours is open: the events in between are lost, and the ones behind
/// them must not hide that.
async fn an_open_reader_notices_that_another_one_moved_its_slot<B: TestEngine>() {
    with_server::<B>("an_open_reader_notices", async |server, db| {
        let (source, config) = (ids(&server.pool), config());
        let read = async || drain(&db.pool, "orders", &source, &config).await;
        read().await.unwrap();
        server.insert(1..=1).await;
        assert_eq!(read().await.unwrap().events, 1);
        let at = admin::checkpoints(&db.pool).await.unwrap().remove(0).position;
        let room = room(&config).await;
        let mut reader = source.open("all", Some(&at)).await.unwrap();
        assert!(reader.read(room).await.unwrap().is_empty());
        server.insert(2..=2).await;
        assert!(server.number(READ_BY_ANOTHER).await >= 3, "a begin, an insert and a commit");
        server.insert(3..=3).await;
        let said = causes(&*reader.read(room).await.unwrap_err());
        assert!(said.contains("another reader has moved it"), "{said}");
        let said = causes(&read().await.unwrap_err());
        assert!(said.contains("somebody else has read it, and the changes in between are lost"), "{said}");
        assert_eq!(values(db, &to("all")).await, ["1"]);
        // Once the operator knows, the source begins anew at the slot.
        let operator = Operator::new(db.pool.clone(), "ana").because("change 2 was added by hand");
        operator.move_checkpoint("orders", "all", None).await.unwrap();
        assert_eq!(read().await.unwrap().events, 1);
        assert_eq!(values(db, &to("all")).await, ["1", "3"]);
    })
    .await;
}

/// A checkpoint behind the end of the log is that of a server whose last changes are gone. New changes have earlier
/// places: they must neither be left out nor be confirmed.
async fn a_log_that_ends_before_the_checkpoint_is_an_error<B: TestEngine>() {
    with_server::<B>("a_log_that_ends_before", async |server, db| {
        let (source, config) = (ids(&server.pool), config());
        let read = async || drain(&db.pool, "orders", &source, &config).await;
        read().await.unwrap();
        server.insert(1..=1).await;
        assert_eq!(read().await.unwrap().events, 1);
        let at = admin::checkpoints(&db.pool).await.unwrap().remove(0).position;
        let operator = Operator::new(db.pool.clone(), "ana");
        operator.move_checkpoint("orders", "all", Some("FFFF/0")).await.unwrap();
        server.insert(2..=2).await;
        let said = causes(&read().await.unwrap_err());
        assert!(said.contains("the log of the server ends at") && said.contains("FFFF/0"), "{said}");
        operator.move_checkpoint("orders", "all", Some(&at)).await.unwrap();
        assert_eq!(read().await.unwrap().events, 1, "nothing was confirmed");
        assert_eq!(values(db, &to("all")).await, ["1", "2"]);
    })
    .await;
}

into_engines! {
    a_slot_in_its_own_database_does_not_feed_itself: postgres sqlx::Postgres;
    many_unwanted_changes_are_passed: postgres sqlx::Postgres, sqlite sqlx::Sqlite;
    a_dropped_read_frees_its_slot: sqlite sqlx::Sqlite;
    a_slot_in_use_says_so_and_is_tried_again: sqlite sqlx::Sqlite;
    an_open_reader_notices_that_another_one_moved_its_slot: postgres sqlx::Postgres, sqlite sqlx::Sqlite;
    a_log_that_ends_before_the_checkpoint_is_an_error: sqlite sqlx::Sqlite;
}
