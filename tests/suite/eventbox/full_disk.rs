//! A database file that cannot grow, and statements that SQLite interrupts. Work continues when the cause is gone.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ::eventbox::{Error, Event, Mutation, Recipient, Sender, SideEffect, Transition, emit, process_batch};
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, Connection, Sqlite, SqlitePool};
use tokio::task::JoinSet;

use crate::support::{Decider, TestDb, drain, with_database};

const ROOM: i64 = 1_000_000;

fn to(key: u32) -> Recipient {
    Recipient::new("order", key.to_string()).unwrap()
}

/// Returns a pool whose connections are limited to `pages` pages at each acquire.
async fn limited(db: &TestDb<Sqlite>, connections: u32) -> (SqlitePool, Arc<AtomicI64>) {
    let pages = Arc::new(AtomicI64::new(ROOM));
    let limit = Arc::clone(&pages);
    let pool = SqlitePoolOptions::new().max_connections(connections).before_acquire(move |conn, _| {
        let pages = limit.load(Ordering::SeqCst);
        Box::pin(async move {
            sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"))).execute(conn).await?;
            Ok(true)
        })
    });
    let pool = pool.connect_with(db.options()).await.unwrap();
    // sqlx does not run the hook on a connection that it has just opened.
    drop(pool.acquire().await.unwrap());
    (pool, pages)
}

async fn fill(db: &TestDb<Sqlite>, pages: &AtomicI64) {
    pages.store(db.number("SELECT page_count + 1 FROM pragma_page_count").await, Ordering::SeqCst);
}

/// Checks that no connection of the pool has an open transaction, for the engine or for the driver.
async fn nothing_is_open(pool: &SqlitePool, connections: u32) {
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut conn = pool.acquire().await.unwrap();
        assert!(!conn.is_in_transaction());
        conn.begin_with("BEGIN").await.unwrap().rollback().await.unwrap();
        held.push(conn);
    }
}

fn big() -> Event {
    Event::new(vec![7_u8; 100_000])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emits_and_turns_go_on_when_there_is_room_again() {
    with_database("emits_and_turns_go_on_when_there_is_room", async |db: &TestDb<Sqlite>| {
        let (pool, pages) = limited(db, 3).await;
        for n in 0..9 {
            emit(&pool, &to(n), Event::new("before")).await.unwrap();
        }
        for round in 0..3 {
            fill(db, &pages).await;
            let sender = Sender::new(pool.clone());
            let mut tasks = JoinSet::new();
            for n in 0..24_u32 {
                let (sender, pool) = (sender.clone(), pool.clone());
                tasks.spawn(async move {
                    match n % 4 {
                        0 => emit(&pool, &to(n), big()).await,
                        1 => sender.emit(&to(n), big()).await,
                        2 => sender.emit(&to(n), big().named(format!("{round}.{n}"))).await,
                        _ => emit(&pool, &to(n), big().named(format!("{round}.{n}"))).await,
                    }
                });
            }
            let failed = tasks.join_all().await.into_iter().filter_map(Result::err);
            let failed = failed.inspect(|error| assert!(error.is_transient(), "{error:?}")).count();
            assert!(failed > 0, "the file is full");
            let effect = || {
                SideEffect::<Sqlite>::new(|tx| {
                    Box::pin(async move {
                        for _ in 0..20 {
                            ::eventbox::emit(&mut *tx, &to(99), big()).await?;
                        }
                        Ok(())
                    })
                })
            };
            let growing =
                Decider(move |events: &[Event]| Transition::stay().consuming(events).side_effect(effect()).into());
            let error = process_batch(&pool, &to(0), &growing, NonZeroU32::MIN).await.unwrap_err();
            assert!(error.is_transient(), "{error:?}");
            pages.store(ROOM, Ordering::SeqCst);
            nothing_is_open(&pool, 3).await;
            for n in 0..9 {
                emit(&pool, &to(n), big()).await.unwrap();
            }
            process_batch(&pool, &to(0), &growing, NonZeroU32::MIN).await.unwrap().number.unwrap();
        }
        for n in 0..24 {
            drain(&pool, &to(n)).await;
        }
    })
    .await;
}

/// User code that drops the error with which SQLite ended its transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_engine_ended_is_found() {
    with_database("a_transaction_that_the_engine_ended_is_found", async |db: &TestDb<Sqlite>| {
        let (pool, pages) = limited(db, 1).await;
        emit(&pool, &to(1), Event::new("x")).await.unwrap();
        db.run("CREATE TABLE note (text text)").await;
        fill(db, &pages).await;
        let swallowing = Decider(|events: &[Event]| {
            let effect = SideEffect::<Sqlite>::new(|tx| {
                Box::pin(async move {
                    let _ = ::eventbox::emit(&mut *tx, &to(99), big()).await;
                    let _ = sqlx::raw_sql("INSERT INTO note VALUES ('by itself')").execute(tx).await;
                    Ok(())
                })
            });
            Mutation::<Sqlite, ()>::from(Transition::stay().consuming(events).side_effect(effect))
        });
        let error = process_batch(&pool, &to(1), &swallowing, NonZeroU32::MIN).await.unwrap_err();
        assert!(matches!(error, Error::Misuse { .. }), "{error:?}");
        assert_eq!((db.count("note").await, db.count("eventbox_event").await), (0, 1));
        pages.store(ROOM, Ordering::SeqCst);
        nothing_is_open(&pool, 1).await;
        assert_eq!(drain(&pool, &to(1)).await.len(), 1);
    })
    .await;
}

/// An interrupt in the middle of a statement also ends its transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_is_over_when_it_is_over() {
    with_database("an_interrupt_is_over", async |db: &TestDb<Sqlite>| {
        let pool = db.open(1);
        emit(&pool, &to(1), Event::new("x")).await.unwrap();
        let interrupted = Decider(|events: &[Event]| {
            let effect = SideEffect::<Sqlite>::new(|tx| {
                Box::pin(async move {
                    tx.lock_handle().await?.set_progress_handler(1, || false);
                    let done = ::eventbox::emit(&mut *tx, &to(2), Event::new("y")).await;
                    tx.lock_handle().await?.remove_progress_handler();
                    done?;
                    Ok(())
                })
            });
            Mutation::<Sqlite, ()>::from(Transition::stay().consuming(events).side_effect(effect))
        });
        for _ in 0..3 {
            process_batch(&pool, &to(1), &interrupted, NonZeroU32::MIN).await.unwrap_err();
            nothing_is_open(&pool, 1).await;
        }
        assert_eq!((drain(&pool, &to(1)).await.len(), db.count("eventbox_event").await), (1, 0));
    })
    .await;
}
