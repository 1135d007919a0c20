//! Processes that share the partitions of a source.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use eventbox::source::{EventSource, Page, PartitionState, Room, SourceReader, Sources};
use eventbox::{BoxError, Event};

use super::{Lists, assert_emitted, config, items, to, values};
use crate::support::running::{STOP, idle_runtime, idle_runtime_with};
use crate::support::{CellEngine, SOON, TestEngine, eventually, on_every_engine};

/// Number of partitions, so many that each process has some.
const PARTITIONS: usize = 24;

/// A source whose reads wait for ever.
struct Stuck;

#[async_trait]
impl EventSource for Stuck {
    async fn partitions(&self) -> Result<Vec<String>, BoxError> {
        Ok(vec!["all".to_owned()])
    }

    async fn open(&self, _: &str, _: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
        Ok(Box::new(Stuck))
    }
}

#[async_trait]
impl SourceReader for Stuck {
    async fn read(&mut self, _: Room) -> Result<Page, BoxError> {
        std::future::pending().await
    }
}

/// Returns a list of its own for each partition.
fn lists(events: usize) -> Vec<Vec<super::Item>> {
    let list = |partition| (0..events).map(move |number| (to(format!("p{partition}")), number.to_string())).collect();
    (0..PARTITIONS).map(list).collect()
}

on_every_engine! {
    /// Without leases every process reads every partition, and the compare-and-set alone decides.
    async fn racing_processes_emit_each_event_once(db) {
        let source = Lists::new(vec![items(0..300)], 5);
        let mut bare = crate::support::running::config();
        bare.leases = None;
        let mut running = Vec::new();
        for _ in 0..2 {
            let runtime = idle_runtime_with(db, bare.clone()).await;
            let mut config = config();
            config.max_events = 5.try_into().unwrap();
            let sources = Sources::builder(&runtime).source_with("items", source.clone(), config).start().unwrap();
            running.push((runtime, sources));
        }
        eventually(SOON, async || db.count("eventbox_event").await >= 300).await;
        source.append(0, items(300..400));
        eventually(SOON, async || db.count("eventbox_event").await >= 400).await;
        let mut emitted = 0;
        for (runtime, sources) in running {
            assert!(sources.stop(STOP).await.complete);
            emitted += sources.status()[0].events;
            runtime.stop(STOP).await;
        }
        assert_emitted(db, 400).await;
        assert_eq!(emitted, 400);
    }

    /// Each partition is read by the process that holds its shard, and by the other one after a stop.
    async fn partitions_follow_the_leases(db) {
        let source = Lists::new(lists(10), 3);
        let mut leased = crate::support::running::config();
        leased.leases = Some(crate::support::running::leases());
        let first = idle_runtime_with(db, leased.clone()).await;
        let first_sources = Sources::builder(&first).source_with("items", source.clone(), config()).start().unwrap();
        eventually(SOON, async || first_sources.status().len() == PARTITIONS).await;
        let second = idle_runtime_with(db, leased).await;
        let second_sources = Sources::builder(&second).source_with("items", source.clone(), config()).start().unwrap();
        eventually(SOON, async || {
            let (first, second) = (first_sources.status().len(), second_sources.status().len());
            first > 0 && second > 0 && first + second == PARTITIONS
        })
        .await;
        assert!(first_sources.stop(STOP).await.complete);
        assert!(first.stop(STOP).await.complete);
        eventually(SOON, async || second_sources.status().len() == PARTITIONS).await;
        for partition in 0..PARTITIONS {
            source.append(partition, [(to(format!("p{partition}")), "last".to_owned())]);
        }
        eventually(SOON, async || db.count("eventbox_event").await == 11 * PARTITIONS as i64).await;
        for partition in 0..PARTITIONS {
            let mut wanted: Vec<String> = (0..10).map(|number| number.to_string()).collect();
            wanted.push("last".to_owned());
            assert_eq!(values(db, &to(format!("p{partition}"))).await, wanted);
        }
        second_sources.stop(STOP).await;
        second.stop(STOP).await;
    }

    async fn health_and_status_tell_of_a_failing_partition(db) {
        let source = Lists::new(vec![items(0..5)], 10);
        *source.bad.lock().unwrap() = Some(3);
        let runtime = idle_runtime(db).await;
        let sources = Sources::builder(&runtime).source_with("items", source.clone(), config()).start().unwrap();
        eventually(SOON, async || !sources.health().is_healthy()).await;
        let problem = &sources.health().problems[0];
        assert!(problem.contains("source items") && problem.contains("event 3 is bad"), "{problem}");
        let status = sources.status().remove(0);
        assert_eq!((status.state, status.position.as_deref()), (PartitionState::Failing, Some("3")));
        assert!(status.failures >= 2 && status.error.is_some(), "{status:?}");
        *source.bad.lock().unwrap() = None;
        eventually(SOON, async || sources.health().is_healthy() && sources.status()[0].lag == Some(0)).await;
        let status = sources.status().remove(0);
        assert_eq!((status.state, status.events, status.error), (PartitionState::Reading, 5, None));
        assert!(sources.stop(STOP).await.complete);
        assert_eq!(sources.health().problems, ["stopped"]);
        runtime.stop(STOP).await;
        assert_emitted(db, 5).await;
    }

    /// A read that never ends is dropped at the stop.
    async fn a_stop_waits_for_no_read(db) {
        let runtime = idle_runtime(db).await;
        let sources = Sources::builder(&runtime).source_with("stuck", Stuck, config()).start().unwrap();
        eventually(SOON, async || sources.status().len() == 1).await;
        let begun = Instant::now();
        assert!(sources.stop(STOP).await.complete);
        assert!(begun.elapsed() < STOP / 2);
        assert!(sources.stop(STOP).await.complete, "a second stop does nothing");
        runtime.stop(STOP).await;
    }

    /// A commit that waits for a lock is cut off at the limit of the stop, and is emitted later.
    async fn a_stop_keeps_its_bound_while_a_commit_waits(db) {
        let source = Lists::new(vec![items(0..3)], 10);
        let runtime = idle_runtime(db).await;
        eventually(SOON, async || runtime.shards() == 256).await;
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        <Engine as CellEngine>::emit(&mut tx, &to(0), Event::new("x")).await.unwrap();
        let lock = match Engine::FOLDER {
            "postgres" => "LOCK TABLE eventbox_checkpoint IN ACCESS EXCLUSIVE MODE",
            _ => "SELECT 1",
        };
        sqlx::raw_sql(lock).execute(&mut *tx).await.unwrap();
        let sources = Sources::builder(&runtime).source_with("items", source.clone(), config()).start().unwrap();
        eventually(SOON, async || sources.status().len() == 1).await;
        let begun = Instant::now();
        sources.stop(Duration::from_millis(300)).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        tx.rollback().await.unwrap();
        runtime.stop(STOP).await;
        eventbox::source::drain(&db.pool, "items", &source, &config()).await.unwrap();
        assert_emitted(db, 3).await;
    }
}
