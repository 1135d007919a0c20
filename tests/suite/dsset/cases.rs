//! The set: adding, listing, popping and deleting items, and the life of their ids.

use std::collections::HashSet;
use std::num::NonZeroU32;

use eventbox::dsset::{Item, Listing, PopTx, Set, cleanup_garbage, finish_pop};
use eventbox::{Backend, Emitted, Error, Pruner, PrunerConfig, Recipient};
use futures_util::future::join_all;
use sqlx::Pool;

use super::{MANY, airport, ids, item, let_the_delay_pass, set, turn_of};
use crate::support::on_every_engine;

/// Pops all items of a listing in a transaction of its own. Returns the ids that were popped.
async fn pop_all<B: Backend>(pool: &Pool<B>, set: &Set, listing: &Listing) -> Result<Vec<String>, Error> {
    let mut tx = PopTx::begin(pool).await?;
    let mut op = set.begin_pop(&mut tx, listing).await?;
    let popped = listing.items().iter().filter(|item| op.pop(item.id())).map(|item| item.id().to_owned()).collect();
    finish_pop(&mut tx, [op]).await?;
    tx.commit().await?;
    Ok(popped)
}

/// A value may be a secret or large, so no log has it.
#[test]
fn the_debug_output_of_an_item_has_no_value() {
    assert_eq!(format!("{:?}", Item::new("abc", "secret")), r#"Item { id: "abc", value_bytes: 6 }"#);
}

on_every_engine! {
    /// An item is popped once. Its id is refused until the delay has passed and the tombstone is cleaned up.
    /// A refused id stores no event, so it is no garbage before the delay is over.
    async fn an_item_lives_once_and_its_id_is_remembered(db) {
        // The item is added, listed and popped.
        assert_eq!(set().add(&db.pool, &[item("abc")]).await.unwrap(), [Emitted::Added]);
        let listing = set().list(&db.pool, MANY).await.unwrap();
        assert_eq!((ids(&listing), listing.garbage().len()), (vec!["abc"], 0));
        assert_eq!(listing.items()[0].value(), b"value of abc");
        assert_eq!(pop_all(&db.pool, &set(), &listing).await.unwrap(), ["abc"]);
        assert_eq!(cleanup_garbage(&db.pool, &[&listing]).await.unwrap().deleted, 0);
        let empty = set().list(&db.pool, MANY).await.unwrap();
        assert_eq!((ids(&empty).len(), empty.garbage().len()), (0, 0));

        // The id is refused at once, and the old listing pops nothing.
        assert_eq!(set().add(&db.pool, &[item("abc")]).await.unwrap(), [Emitted::Tombstoned]);
        assert_eq!(db.count("eventbox_event").await, 0);
        let empty = set().list(&db.pool, MANY).await.unwrap();
        assert_eq!((ids(&empty).len(), empty.garbage().len()), (0, 0));
        assert_eq!(pop_all(&db.pool, &set(), &listing).await.unwrap(), [""; 0], "the old listing pops nothing");

        // After the delay the id is garbage, and after the cleanup it can be added again.
        let_the_delay_pass(db).await;
        let expired = set().list(&db.pool, MANY).await.unwrap();
        assert_eq!((ids(&expired).len(), expired.garbage()), (0, ["abc".to_owned()].as_slice()));
        assert_eq!(
            set().add(&db.pool, &[item("abc")]).await.unwrap(),
            [Emitted::Tombstoned],
            "remembered until it is pruned"
        );
        assert_eq!(cleanup_garbage(&db.pool, &[&expired]).await.unwrap().deleted, 1);
        assert!(set().list(&db.pool, MANY).await.unwrap().garbage().is_empty());
        assert_eq!(set().add(&db.pool, &[item("abc")]).await.unwrap(), [Emitted::Added]);
        assert_eq!(ids(&set().list(&db.pool, MANY).await.unwrap()), ["abc"]);
    }

    /// A listing returns at most its limit of items, the oldest first, and says whether more remain.
    async fn a_listing_has_a_limit(db) {
        set().add(&db.pool, &[item("c"), item("a"), item("b")]).await.unwrap();
        let two = set().list(&db.pool, NonZeroU32::new(2).unwrap()).await.unwrap();
        assert_eq!((ids(&two), two.more_remain()), (vec!["c", "a"], true), "the oldest come first");
        let three = set().list(&db.pool, NonZeroU32::new(3).unwrap()).await.unwrap();
        assert_eq!((ids(&three).len(), three.more_remain()), (3, false));
    }

    /// `delete` removes items in a transaction of its own, remembers their ids, and moves the turn if it removed any.
    async fn deleting_needs_no_transaction_of_the_caller(db) {
        set().add(&db.pool, &[item("a"), item("b"), item("c")]).await.unwrap();
        assert_eq!(set().delete(&db.pool, &["a", "c", "never added"]).await.unwrap(), 2);
        assert_eq!(ids(&set().list(&db.pool, MANY).await.unwrap()), ["b"]);
        assert_eq!(
            set().add(&db.pool, &[item("a")]).await.unwrap(),
            [Emitted::Tombstoned],
            "refused until the delay is over"
        );
        assert_eq!(turn_of(db, &airport()).await, 1);
        assert_eq!(set().delete(&db.pool, &["a"]).await.unwrap(), 0);
        assert_eq!(turn_of(db, &airport()).await, 1, "a call that changes nothing moves no turn");
    }

    /// Three producers of the same ids and five consumers run at the same time: each id is popped once.
    async fn racing_producers_and_consumers_pop_each_id_once(db) {
        const IDS: usize = 100;
        let producers = (0..3).map(|producer| {
            let pool = db.open(1);
            async move {
                for chunk in 0..10 {
                    let mut items: Vec<Item> = (0..10).map(|n| item(&format!("{chunk}-{n}"))).collect();
                    if producer == 1 {
                        items.reverse();
                    }
                    set().add(&pool, &items).await.unwrap();
                }
            }
        });
        let done = std::sync::atomic::AtomicUsize::new(0);
        let consumers = (0..5).map(|_| {
            let (pool, done) = (db.open(1), &done);
            async move {
                let mut popped = Vec::new();
                let started = std::time::Instant::now();
                while done.load(std::sync::atomic::Ordering::SeqCst) < IDS {
                    assert!(started.elapsed() < crate::support::SOON, "the ids are popped soon");
                    let listing = set().list(&pool, NonZeroU32::new(17).unwrap()).await.unwrap();
                    match pop_all(&pool, &set(), &listing).await {
                        Ok(ids) => {
                            done.fetch_add(ids.len(), std::sync::atomic::Ordering::SeqCst);
                            popped.extend(ids);
                        }
                        Err(error) => assert!(error.is_contention(), "{error:?}"),
                    }
                    tokio::task::yield_now().await;
                }
                popped
            }
        });
        let (_, popped) = tokio::join!(join_all(producers), join_all(consumers));
        let popped: Vec<String> = popped.into_iter().flatten().collect();
        assert_eq!(popped.len(), IDS);
        assert_eq!(popped.iter().collect::<HashSet<_>>().len(), IDS);
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_tombstone").await), (0, IDS as i64));
    }

    /// The first value of an id wins over values added between the listing and the commit, and after the pop.
    async fn the_first_value_wins_over_values_added_during_a_pop(db) {
        set().add(&db.pool, &[Item::new("abc", "first")]).await.unwrap();
        let listing = set().list(&db.pool, MANY).await.unwrap();
        assert_eq!(set().add(&db.pool, &[Item::new("abc", "second")]).await.unwrap(), [Emitted::Duplicate]);
        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        let mut op = set().begin_pop(&mut tx, &listing).await.unwrap();
        assert!(op.pop("abc"));
        finish_pop(&mut tx, [op]).await.unwrap();
        // In the popping transaction the item is gone. Other transactions see it until the commit.
        // SQLite has one writer, so the test adds inside the popping transaction.
        assert_eq!(set().add(&mut *tx, &[Item::new("abc", "third")]).await.unwrap(), [Emitted::Tombstoned]);
        tx.commit().await.unwrap();
        assert_eq!(listing.items()[0].value(), b"first");
        assert_eq!(set().add(&db.pool, &[Item::new("abc", "fourth")]).await.unwrap(), [Emitted::Tombstoned]);
        assert_eq!(db.count("eventbox_event").await, 0);
    }

    /// A popped id leaves one small row, which the pruner deletes after the delay. 3,000 pops never leave more than
    /// the ids of one delay.
    async fn popping_leaves_tombstones_for_one_delay_only(db) {
        const ROUNDS: usize = 6;
        const BLOCK: usize = 500;
        let pruner = Pruner::new(db.pool.clone(), PrunerConfig::default().with_slice(NonZeroU32::new(128).unwrap()));
        for round in 0..ROUNDS {
            let block: Vec<Item> = (0..BLOCK).map(|n| item(&format!("{round}-{n}"))).collect();
            set().add(&db.pool, &block).await.unwrap();
            let listing = set().list(&db.pool, MANY).await.unwrap();
            assert_eq!(pop_all(&db.pool, &set(), &listing).await.unwrap().len(), BLOCK);
            let pruned = pruner.run_once().await.unwrap();
            let expected_deleted = if round == 0 { 0 } else { BLOCK as u64 };
            assert_eq!((pruned.stamped, pruned.deleted), (BLOCK as u64, expected_deleted));
            assert_eq!(db.count("eventbox_tombstone").await, BLOCK as i64, "only the ids of one delay remain");
            let_the_delay_pass(db).await;
        }
        assert_eq!((turn_of(db, &airport()).await, db.count("eventbox_state").await), (ROUNDS as i64, 1));
        pruner.run_once().await.unwrap();
        assert_eq!((db.count("eventbox_tombstone").await, db.count("eventbox_event").await), (0, 0));
    }

    async fn several_sets_are_popped_together_or_not_at_all(db) {
        let sets: Vec<Set> = (0..8).map(|n| Set::new(Recipient::new("airport", n.to_string()).unwrap())).collect();
        let mut listings = Vec::new();
        for set in &sets {
            set.add(&db.pool, &[item("a"), item("b")]).await.unwrap();
            listings.push(set.list(&db.pool, MANY).await.unwrap());
        }
        for commits in [false, true] {
            let mut tx = PopTx::begin(&db.pool).await.unwrap();
            let mut ops = Vec::new();
            for (set, listing) in sets.iter().zip(&listings) {
                let mut op = set.begin_pop(&mut tx, listing).await.unwrap();
                assert!(op.can_pop("a") && op.pop("a") && !op.can_pop("a") && !op.pop("a"));
                assert!(!op.can_pop("not listed") && !op.pop("not listed"));
                ops.push(op);
            }
            assert_eq!(finish_pop(&mut tx, ops).await.unwrap(), 8);
            match commits {
                true => tx.commit().await.unwrap(),
                false => tx.rollback().await.unwrap(),
            }
            assert_eq!(db.count("eventbox_event").await, if commits { 8 } else { 16 });
            assert_eq!(turn_of(db, sets[0].of()).await, i64::from(commits));
        }
    }

    async fn an_operation_that_pops_nothing_moves_no_turn(db) {
        set().add(&db.pool, &[item("a")]).await.unwrap();
        let listing = set().list(&db.pool, MANY).await.unwrap();
        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        let op = set().begin_pop(&mut tx, &listing).await.unwrap();
        assert_eq!(finish_pop(&mut tx, [op]).await.unwrap(), 0);
        tx.commit().await.unwrap();
        assert_eq!((turn_of(db, &airport()).await, db.count("eventbox_event").await), (0, 1));
    }

    /// A set neither lists nor removes events without a name.
    async fn events_without_a_name_are_no_items(db) {
        eventbox::emit(&db.pool, &airport(), eventbox::Event::new("no name")).await.unwrap();
        eventbox::emit(&db.pool, &airport(), eventbox::Event::new("value").named("named")).await.unwrap();
        let listing = set().list(&db.pool, NonZeroU32::MIN).await.unwrap();
        assert_eq!((ids(&listing), listing.more_remain()), (vec!["named"], false));
        assert_eq!(pop_all(&db.pool, &set(), &listing).await.unwrap(), ["named"]);
        assert_eq!(db.count("eventbox_event").await, 1);
    }
}
