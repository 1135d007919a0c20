//! Misuses of the set that are refused, and races of pops.
//!
//! The types refuse a listing inside a transaction, a limit of 0, a pop outside of a transaction, and a second finish.
//! The documentation of the module shows these misuses in examples that must not compile.
//! A pop touches no tombstone, so an old tombstone cannot make a pop fail.

use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::dsset::{Item, PopTx, Set, finish_pop};
use eventbox::{
    Error, Event, Misuse, Recipient,
    limits::{MAX_EMIT_EVENTS, MAX_KEY_BYTES, MAX_VALUE_BYTES},
    process_batch,
};

use super::{MANY, airport, item, set, turn_of};
use crate::support::{SOON, drain, eventually, on_every_engine};

fn misuse(error: &Error) -> &Misuse {
    assert!(!error.is_transient() && !error.is_contention(), "{error:?}");
    match error {
        Error::Misuse { misuse, .. } => misuse,
        other => panic!("{other:?}"),
    }
}

on_every_engine! {
    async fn a_listing_of_another_set_is_refused(db) {
        let other = Set::new(Recipient::new("airport", "JFK").unwrap()).list(&db.pool, MANY).await.unwrap();
        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        let error = set().begin_pop(&mut tx, &other).await.unwrap_err();
        assert_eq!(*misuse(&error), Misuse::ForeignListing { listed: "airport/JFK".to_owned() });
        assert!(error.to_string().contains("airport/EWR"), "{error}");
    }

    async fn an_operation_must_be_finished_in_its_own_transaction(db) {
        set().add(&db.pool, &[item("a")]).await.unwrap();
        let listing = set().list(&db.pool, MANY).await.unwrap();
        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        let mut op = set().begin_pop(&mut tx, &listing).await.unwrap();
        assert!(op.pop("a"));
        tx.rollback().await.unwrap();
        let mut other = PopTx::begin(&db.pool).await.unwrap();
        assert_eq!(*misuse(&finish_pop(&mut other, [op]).await.unwrap_err()), Misuse::OtherTransaction);
        assert_eq!(*misuse(&other.commit().await.unwrap_err()), Misuse::PopNotFinished);
        assert_eq!((db.count("eventbox_event").await, turn_of(db, &airport()).await), (1, 0));
    }

    async fn two_operations_cannot_pop_the_same_item(db) {
        set().add(&db.pool, &[item("a"), item("b")]).await.unwrap();
        let listing = set().list(&db.pool, MANY).await.unwrap();
        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        let (mut one, mut two) =
            (set().begin_pop(&mut tx, &listing).await.unwrap(), set().begin_pop(&mut tx, &listing).await.unwrap());
        assert!(one.pop("a") && two.pop("a"));
        assert_eq!(
            *misuse(&finish_pop(&mut tx, [one, two]).await.unwrap_err()),
            Misuse::PoppedTwice { id: "a".to_owned() }
        );
        tx.rollback().await.unwrap();

        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        let (mut one, mut two) =
            (set().begin_pop(&mut tx, &listing).await.unwrap(), set().begin_pop(&mut tx, &listing).await.unwrap());
        assert!(one.pop("a") && two.pop("b"));
        assert_eq!(finish_pop(&mut tx, [one, two]).await.unwrap(), 2);
        tx.commit().await.unwrap();
        assert_eq!((db.count("eventbox_event").await, turn_of(db, &airport()).await), (0, 1), "one set, one turn");
    }

    /// A set refuses a listing that is older than its tombstone delay; the caller lists again.
    async fn a_listing_that_is_older_than_the_delay_is_stale(db) {
        let hasty = set().tombstone_delay(Duration::ZERO);
        hasty.add(&db.pool, &[item("a")]).await.unwrap();
        let listing = hasty.list(&db.pool, MANY).await.unwrap();
        let mut refused = None;
        eventually(SOON, async || {
            let mut tx = PopTx::begin(&db.pool).await.unwrap();
            refused = hasty.begin_pop(&mut tx, &listing).await.err();
            tx.rollback().await.unwrap();
            refused.is_some()
        })
        .await;
        let error = refused.unwrap();
        assert!(matches!(error, Error::Stale { .. }) && error.is_transient() && !error.is_contention(), "{error:?}");

        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        assert!(set().begin_pop(&mut tx, &listing).await.unwrap().can_pop("a"), "the delay of the popping set counts");
    }

    async fn limits_are_refused_before_any_sql(db) {
        db.pool.close().await;
        for (item, wanted) in [
            (Item::new("", ""), "event's name is empty"),
            (Item::new("a\0b", ""), "NUL"),
            (Item::new("x".repeat(MAX_KEY_BYTES + 1), ""), "513"),
            (Item::new("a", vec![0; MAX_VALUE_BYTES + 1]), "1048577"),
        ] {
            let error = set().add(&db.pool, &[self::item("good"), item]).await.unwrap_err();
            misuse(&error);
            assert!(error.to_string().contains(wanted) && error.to_string().contains("airport/EWR"), "{error}");
        }
        let many = vec![item("a"); MAX_EMIT_EVENTS + 1];
        assert!(matches!(misuse(&set().add(&db.pool, &many).await.unwrap_err()), Misuse::TooMany { .. }));
        assert!(matches!(misuse(&set().delete(&db.pool, &["a\0b"]).await.unwrap_err()), Misuse::Nul { .. }));
        let ids = vec!["a"; MAX_EMIT_EVENTS + 2];
        for too_many in [&ids[1..], &ids[..]] {
            assert!(matches!(misuse(&set().delete(&db.pool, too_many).await.unwrap_err()), Misuse::TooMany { .. }));
        }
        assert!(set().delete(&db.pool, &ids[2..]).await.unwrap_err().is_transient(), "so many are allowed");
        assert!(set().add(&db.pool, &[]).await.unwrap().is_empty());
        let error = set().list(&db.pool, NonZeroU32::MIN).await.unwrap_err();
        assert!(error.is_transient() && !error.is_contention(), "{error:?}");
    }

    /// A turn consumes the items between the listing and the begin of the pop; the pop cannot pop them.
    async fn a_pop_does_not_take_items_that_a_turn_consumed(db) {
        set().add(&db.pool, &[item("a"), item("b")]).await.unwrap();
        let listing = set().list(&db.pool, MANY).await.unwrap();
        assert_eq!(drain(&db.pool, &airport()).await.len(), 2);
        set().add(&db.pool, &[item("c")]).await.unwrap();
        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        let op = set().begin_pop(&mut tx, &listing).await.unwrap();
        assert!(!op.can_pop("a") && !op.can_pop("b") && !op.can_pop("c"));
        tx.rollback().await.unwrap();
    }

    /// A pop commits while a turn decides. The turn starts again and does not apply the popped item.
    async fn a_turn_does_not_apply_a_popped_item(db) {
        set().add(&db.pool, &[item("a")]).await.unwrap();
        crate::support::create_cells(db).await;
        let other = db.open(1);
        let cells = crate::support::Cells::<Engine>::deciding(|_, events, _| match events {
            [] => Ok(eventbox::Mutation::none()),
            events => {
                Ok(eventbox::Transition::stay().consuming(events).side_effect(crate::support::noting("applied")).into())
            }
        });
        let cells = cells.before_deciding(move |attempt| {
            let other = other.clone();
            async move {
                if attempt == 1 {
                    let listing = set().list(&other, MANY).await.unwrap();
                    let mut tx = PopTx::begin(&other).await.unwrap();
                    let mut op = set().begin_pop(&mut tx, &listing).await.unwrap();
                    assert!(op.pop("a"));
                    finish_pop(&mut tx, [op]).await.unwrap();
                    tx.commit().await.unwrap();
                    eventbox::emit(&other, &airport(), Event::new("later")).await.unwrap();
                }
            }
        });
        let turn = process_batch(&db.pool, &airport(), &cells, MANY).await.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.contention), (Some(2), 1, 1), "only the later event is consumed");
        assert_eq!(db.count("effect").await, 1);
    }
}

/// Tests that need an engine with many writers.
#[cfg(feature = "postgres")]
mod on_postgres {
    use super::*;
    use crate::support::{LOCK_WAITS, TestDb, with_database};

    /// Two pops of one item run at the same time. The second waits for the first, and fails as contention if the first
    /// commits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_two_pops_at_once_one_wins() {
        with_database("of_two_pops_at_once_one_wins", async |db: &TestDb<sqlx::Postgres>| {
            for first_commits in [false, true] {
                set().add(&db.pool, &[item("a")]).await.unwrap();
                let listing = set().list(&db.pool, MANY).await.unwrap();
                let (mut first, mut second) =
                    (PopTx::begin(&db.pool).await.unwrap(), PopTx::begin(&db.pool).await.unwrap());
                let mut ours = set().begin_pop(&mut first, &listing).await.unwrap();
                let mut theirs = set().begin_pop(&mut second, &listing).await.unwrap();
                assert!(ours.pop("a") && theirs.pop("a"));
                finish_pop(&mut first, [ours]).await.unwrap();
                let waiting = tokio::spawn(async move {
                    finish_pop(&mut second, [theirs]).await?;
                    second.commit().await
                });
                eventually(SOON, async || db.number(LOCK_WAITS).await == 1).await;
                match first_commits {
                    true => first.commit().await.unwrap(),
                    false => first.rollback().await.unwrap(),
                }
                let second = waiting.await.unwrap();
                match first_commits {
                    true => assert!(second.unwrap_err().is_contention()),
                    false => second.unwrap(),
                }
                let turns = 1 + i64::from(first_commits);
                assert_eq!((db.count("eventbox_event").await, turn_of(db, &airport()).await), (0, turns));
                if !first_commits {
                    db.run("DELETE FROM eventbox_tombstone").await;
                }
            }
        })
        .await;
    }

    /// A turn commits between the begin of a pop and its end; the pop is contention.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_pop_that_a_turn_overtook_is_contention() {
        with_database("a_pop_that_a_turn_overtook_is_contention", async |db: &TestDb<sqlx::Postgres>| {
            set().add(&db.pool, &[item("a")]).await.unwrap();
            let listing = set().list(&db.pool, MANY).await.unwrap();
            let mut tx = PopTx::begin(&db.pool).await.unwrap();
            let mut op = set().begin_pop(&mut tx, &listing).await.unwrap();
            assert!(op.pop("a"));
            assert_eq!(drain(&db.pool, &airport()).await.len(), 1);
            let error = finish_pop(&mut tx, [op]).await.unwrap_err();
            assert!(error.is_contention() && error.to_string().contains("finish a pop from the set of airport/EWR"));
            assert_eq!(*misuse(&tx.commit().await.unwrap_err()), Misuse::PopNotFinished);
            assert_eq!(turn_of(db, &airport()).await, 1);
        })
        .await;
    }

    /// A connection that is lost is not the caller's fault: the commit does not say that the caller's statements undid
    /// the pop. The rollback of the caller's own transaction says that it could not be sent.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lost_connection_is_a_transient_error() {
        with_database("a_lost_connection_is_a_transient_error", async |db: &TestDb<sqlx::Postgres>| {
            for commits in [true, false] {
                set().add(&db.pool, &[item("a")]).await.unwrap();
                let listing = set().list(&db.pool, MANY).await.unwrap();
                let pool = db.open(1);
                let mut tx: PopTx<_> = match commits {
                    true => PopTx::begin(&pool).await.unwrap(),
                    false => eventbox::begin(&pool).await.unwrap().into(),
                };
                let mut op = set().begin_pop(&mut tx, &listing).await.unwrap();
                assert!(op.pop("a"));
                finish_pop(&mut tx, [op]).await.unwrap();
                let session: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
                db.run(format_args!("SELECT pg_terminate_backend({session})")).await;
                let ended = if commits { tx.commit().await } else { tx.rollback().await };
                let error = ended.unwrap_err();
                assert!(error.is_transient() && !error.is_contention(), "{error:?}");
                assert_eq!((db.count("eventbox_event").await, turn_of(db, &airport()).await), (1, 0));
            }
        })
        .await;
    }
}
