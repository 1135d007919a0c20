//! Transactions of callers whose own statements undo a pop.

use ::eventbox::dsset::{Item, PopTx, Set, finish_pop};
use ::eventbox::{Error, Misuse, Recipient};

use crate::support::on_every_engine;

on_every_engine! {
    /// A commit reports when the caller's statements have undone the pop, and pops nothing.
    /// This holds for a transaction of the set, and for a transaction of the caller.
    async fn a_pop_that_was_undone_is_reported(db) {
        let set = Set::new(Recipient::new("set", "1").unwrap());
        set.add(&db.pool, &[Item::new("a", "x"), Item::new("b", "y")]).await.unwrap();
        db.run("CREATE TABLE note (text varchar(9) PRIMARY KEY)").await;
        let pool = db.open(1);
        let undoing: &[&str] = match <Engine as crate::support::TestEngine>::FOLDER {
            "postgres" => {
                &["ROLLBACK TO SAVEPOINT mine", "ROLLBACK; BEGIN", "ROLLBACK", "SELECT 1/0", "ABORT AND CHAIN"]
            }
            _ => &["ROLLBACK TO SAVEPOINT mine", "ROLLBACK; BEGIN", "ROLLBACK"],
        };
        for (is_ours, sql) in [true, false].into_iter().flat_map(|ours| undoing.iter().map(move |sql| (ours, *sql))) {
            let listing = set.list(&pool, 10.try_into().unwrap()).await.unwrap();
            let mut tx: PopTx<Engine> = match is_ours {
                true => PopTx::begin(&pool).await.unwrap(),
                false => ::eventbox::begin(&pool).await.unwrap().into(),
            };
            sqlx::raw_sql("SAVEPOINT mine").execute(&mut *tx).await.unwrap();
            let mut op = set.begin_pop(&mut tx, &listing).await.unwrap();
            assert!(op.pop("a"));
            assert_eq!(finish_pop(&mut tx, [op]).await.unwrap(), 1);
            let _ = sqlx::raw_sql(sql).execute(&mut *tx).await;
            let error = tx.commit().await.unwrap_err();
            assert!(matches!(error, Error::Misuse { misuse: Misuse::PopUndone, .. }), "{sql}: {error:?}");
            assert_eq!(db.count("eventbox_event").await, 2, "{sql}");
        }
        let listing = set.list(&pool, 10.try_into().unwrap()).await.unwrap();
        let mut tx = PopTx::begin(&pool).await.unwrap();
        let mut op = set.begin_pop(&mut tx, &listing).await.unwrap();
        assert!(op.pop("a"));
        finish_pop(&mut tx, [op]).await.unwrap();
        sqlx::raw_sql("SAVEPOINT mine; INSERT INTO note VALUES ('x'); RELEASE SAVEPOINT mine")
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!((db.count("eventbox_event").await, db.count("note").await), (1, 1));
    }

    /// A commit checks the pops of all sets, also when the last one holds.
    async fn an_undone_pop_is_reported_when_a_later_pop_holds(db) {
        let sets = ["1", "2"].map(|key| Set::new(Recipient::new("set", key).unwrap()));
        for set in &sets {
            set.add(&db.pool, &[Item::new("a", "x"), Item::new("b", "y")]).await.unwrap();
        }
        let max = 10.try_into().unwrap();
        let listings = [sets[0].list(&db.pool, max).await.unwrap(), sets[1].list(&db.pool, max).await.unwrap()];
        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        sqlx::raw_sql("SAVEPOINT mine").execute(&mut *tx).await.unwrap();
        for (set, listing) in sets.iter().zip(&listings) {
            let mut op = set.begin_pop(&mut tx, listing).await.unwrap();
            assert!(op.pop("a"));
            assert_eq!(finish_pop(&mut tx, [op]).await.unwrap(), 1);
            if set.of() == sets[0].of() {
                sqlx::raw_sql("ROLLBACK TO SAVEPOINT mine").execute(&mut *tx).await.unwrap();
            }
        }
        let error = tx.commit().await.unwrap_err();
        assert!(matches!(error, Error::Misuse { misuse: Misuse::PopUndone, .. }), "{error:?}");
        assert_eq!(db.count("eventbox_event").await, 4);
    }

    /// A transaction may pop from one set again. Its first turn is not looked for, because the second one replaced it.
    async fn a_set_is_popped_twice_in_a_transaction(db) {
        let set = Set::new(Recipient::new("set", "1").unwrap());
        set.add(&db.pool, &[Item::new("a", "x"), Item::new("b", "y")]).await.unwrap();
        let listing = set.list(&db.pool, 10.try_into().unwrap()).await.unwrap();
        let mut tx = PopTx::begin(&db.pool).await.unwrap();
        for id in ["a", "b"] {
            let mut op = set.begin_pop(&mut tx, &listing).await.unwrap();
            assert!(op.pop(id));
            assert_eq!(finish_pop(&mut tx, [op]).await.unwrap(), 1);
        }
        tx.commit().await.unwrap();
        assert_eq!(db.count("eventbox_event").await, 0);
    }
}
