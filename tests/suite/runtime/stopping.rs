//! Stopping in two stages, and health.

use std::sync::Arc;
use std::time::Duration;

use eventbox::runtime::Runtime;
use eventbox::{Recipient, Transition};
use tokio::sync::Semaphore;

use super::{STOP, config, emit, tallying};
use crate::support::{Cells, SOON, create_cells, eventually, on_every_engine};

on_every_engine! {
    /// A stop waits for the work in flight, begins nothing new, and reports the waiting recipients.
    async fn a_stop_finishes_the_work_in_flight(db) {
        create_cells(db).await;
        let (entered, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (entering, going_on) = (Arc::clone(&entered), Arc::clone(&go_on));
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            Ok(Transition::to(population + 1).consuming(events).into())
        })
        .before_deciding(move |_| {
            let (entering, going_on) = (Arc::clone(&entering), Arc::clone(&going_on));
            async move {
                entering.add_permits(1);
                going_on.acquire().await.unwrap().forget();
            }
        });
        let mut config = config();
        config.workers = 1.try_into().unwrap();
        for key in ["1", "2", "3"] {
            emit(db, &Recipient::new("cell", key).unwrap(), ["x"]).await;
        }
        let runtime = Runtime::builder(db.open(4)).processor("cell", cells).config(config).start().await.unwrap();
        entered.acquire().await.unwrap().forget();
        let stopping = tokio::spawn({ let runtime = runtime.clone(); async move { runtime.stop(STOP).await } });
        eventually(SOON, async || !runtime.health().is_healthy()).await;
        go_on.add_permits(1);
        let report = stopping.await.unwrap();
        assert!(report.complete, "{report:?}");
        assert_eq!((report.interrupted, db.count("eventbox_event").await), (0, 2));
        assert_eq!(runtime.stop(STOP).await.left, 0, "a second stop has nothing to do");
    }

    /// The stop interrupts code that does not end in time. Its turn is rolled back, and no failure is counted. The
    /// report says so, and the leases are handed over nevertheless.
    async fn code_that_does_not_end_is_interrupted(db) {
        create_cells(db).await;
        let entered = Arc::new(Semaphore::new(0));
        let entering = Arc::clone(&entered);
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            Ok(Transition::to(population + 1).consuming(events).into())
        })
        .before_deciding(move |_| {
            entering.add_permits(1);
            std::future::pending()
        });
        emit(db, &Recipient::new("cell", "1").unwrap(), ["x"]).await;
        let runtime = Runtime::builder(db.open(4)).processor("cell", cells).config(config()).start().await.unwrap();
        entered.acquire().await.unwrap().forget();
        let report = runtime.stop(Duration::from_secs(6)).await;
        assert_eq!((report.complete, report.interrupted), (false, 1));
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_failure").await), (1, 0));
        assert_eq!(db.number("SELECT count(*) FROM eventbox_lease WHERE holder IS NOT NULL").await, 0);
    }

    /// A dropped runtime stops by itself.
    async fn a_runtime_that_is_dropped_stops(db) {
        let pool = db.open(4);
        let runtime = tallying(pool.clone()).start().await.unwrap();
        assert!(runtime.health().is_healthy(), "{:?}", runtime.health());
        drop(runtime);
        // Its loops hold clones of the pool as long as they run.
        pool.close().await;
        assert_eq!(pool.size(), 0);
    }
}
