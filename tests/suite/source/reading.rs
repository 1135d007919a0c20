//! How a partition is read: rounds, failures, repairs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use eventbox::admin::{self, Operator};
use eventbox::source::{EventSource, Page, Room, SourceConfig, SourceError, SourceReader, Sources, drain};
use eventbox::{BoxError, Error, Event};

use super::{Lists, assert_emitted, config, items, to, values};
use crate::support::running::{STOP, idle_runtime};
use crate::support::{SOON, TestEngine, eventually, on_every_engine};

/// A source of one event a page, which is away or wrong in one way.
struct Wrong(fn(u32) -> Result<Page, BoxError>, Arc<AtomicUsize>);

#[async_trait]
impl EventSource for Wrong {
    async fn partitions(&self) -> Result<Vec<String>, BoxError> {
        Ok(vec!["all".to_owned()])
    }

    async fn open(&self, _: &str, _: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
        Ok(Box::new(WrongReader(self.0, 0, Arc::clone(&self.1))))
    }
}

struct WrongReader(fn(u32) -> Result<Page, BoxError>, u32, Arc<AtomicUsize>);

#[async_trait]
impl SourceReader for WrongReader {
    async fn read(&mut self, _: Room) -> Result<Page, BoxError> {
        self.2.fetch_add(1, Ordering::SeqCst);
        self.1 += 1;
        (self.0)(self.1)
    }
}

fn page(value: &'static str) -> Page {
    let mut page = Page::new();
    page.emit(to("x"), Event::new(value)).unwrap();
    page
}

on_every_engine! {
    async fn events_come_in_order_and_rounds_keep_their_bounds(db) {
        let source = Lists::new(vec![items(0..100)], 7);
        let mut config = config();
        config.max_events = 10.try_into().unwrap();
        let read = drain(&db.pool, "items", &source, &config).await.unwrap();
        assert_eq!(read.events, 100);
        assert!(read.rounds >= 10, "{read:?}");
        assert_emitted(db, 100).await;
        let told = source.told.lock().unwrap().clone();
        assert_eq!((told.len() as u64, told.last().unwrap().as_str()), (read.rounds, "100"));
        assert!(told.iter().map(|at| at.parse::<usize>().unwrap()).is_sorted());
        assert_eq!(drain(&db.pool, "items", &source, &config).await.unwrap().rounds, 0, "nothing new, no transaction");
        let at = &admin::checkpoints(&db.pool).await.unwrap()[0];
        assert_eq!((at.source.as_str(), at.partition.as_str(), at.position.as_str()), ("items", "0", "100"));
    }

    /// What is read while a round commits is one round, however small the pages are.
    async fn pages_that_come_during_a_commit_are_one_round(db) {
        let source = Lists::new(vec![items(0..2_000)], 1);
        let read = drain(&db.pool, "items", &source, &config()).await.unwrap();
        assert_eq!(read.events, 2_000);
        assert!(read.rounds < 1_000, "{} rounds", read.rounds);
        assert_emitted(db, 2_000).await;
    }

    async fn names_bound_each_source_and_partition_apart(db) {
        let source = Lists::new(vec![items(0..3), items(3..6)], 10);
        drain(&db.pool, "one", &source, &config()).await.unwrap();
        assert_emitted(db, 6).await;
        drain(&db.pool, "two", &source, &config()).await.unwrap();
        assert_eq!(values(db, &to(0)).await, ["0", "3", "0", "3"]);
        assert_eq!(admin::checkpoints(&db.pool).await.unwrap().len(), 4);
    }

    /// The events before a bad one are emitted. The partition goes on once the source is mended, or once an operator
    /// has moved the checkpoint behind the bad event.
    async fn a_bad_event_stops_its_partition_and_names_the_place(db) {
        let source = Lists::new(vec![items(0..20), vec![(to("other"), "x".to_owned())]], 8);
        *source.bad.lock().unwrap() = Some(10);
        let error = drain(&db.pool, "items", &source, &config()).await.unwrap_err();
        let SourceError::Read { partition, position, source: cause, .. } = &error else { panic!("{error:?}") };
        assert_eq!((partition.as_str(), position.as_str()), ("0", "10"));
        assert_eq!(cause.to_string(), "event 10 is bad");
        assert_emitted(db, 10).await;

        let ana = Operator::new(db.pool.clone(), "ana").because("event 10 is nonsense");
        assert_eq!(ana.clone().rehearsing(true).move_checkpoint("items", "0", Some("11")).await.unwrap().touched, 1);
        assert!(drain(&db.pool, "items", &source, &config()).await.is_err(), "a rehearsal moves nothing");
        assert_eq!(ana.move_checkpoint("items", "0", Some("11")).await.unwrap().touched, 1);
        assert_eq!(ana.move_checkpoint("items", "0", Some("11")).await.unwrap().touched, 0);
        drain(&db.pool, "items", &source, &config()).await.unwrap();
        assert_eq!(values(db, &to(1)).await, ["1", "4", "7", "13", "16", "19"], "without 10");
        let record = &admin::operations(&db.pool, None, 10).await.unwrap()[0];
        let said = (record.action.as_str(), record.target.as_str(), record.touched);
        assert_eq!(said, ("move checkpoint", "source items, partition 0", 1));
        for wrong in ["", &"x".repeat(1_001), "a\0"] {
            let refused = ana.move_checkpoint("items", "0", Some(wrong)).await;
            assert!(matches!(refused, Err(Error::Misuse { .. })), "{refused:?}");
        }
    }

    /// The database refuses an event for good: the ones before it get through, and nothing is emitted twice.
    async fn an_event_that_the_database_refuses_is_alone_in_the_end(db) {
        let refuses = match Engine::FOLDER {
            "postgres" => "ALTER TABLE eventbox_event ADD CONSTRAINT refused CHECK (value <> '13'::bytea)",
            _ => "CREATE TRIGGER refused BEFORE INSERT ON eventbox_event WHEN CAST(NEW.value AS TEXT) = '13'
                  BEGIN SELECT RAISE(ABORT, 'refused'); END",
        };
        db.run(refuses).await;
        let source = Lists::new(vec![items(0..20)], 100);
        let runtime = idle_runtime(db).await;
        let sources = Sources::builder(&runtime);
        let sources = sources.source_with("items", source, config()).start().unwrap();
        eventually(SOON, async || {
            sources.status().first().is_some_and(|status| status.position.as_deref() == Some("13"))
        })
        .await;
        eventually(SOON, async || !sources.health().is_healthy()).await;
        assert_emitted(db, 13).await;
        db.run(match Engine::FOLDER {
            "postgres" => "ALTER TABLE eventbox_event DROP CONSTRAINT refused",
            _ => "DROP TRIGGER refused",
        })
        .await;
        eventually(SOON, async || sources.status()[0].lag == Some(0)).await;
        eventually(SOON, async || sources.health().is_healthy()).await;
        assert_emitted(db, 20).await;
        sources.stop(STOP).await;
        runtime.stop(STOP).await;
    }

    /// A checkpoint that another process or an operator moves during a round wins: the round is rolled back whole.
    async fn a_round_whose_checkpoint_was_moved_emits_nothing(db) {
        struct Moving(Lists, sqlx::Pool<Engine>);

        #[async_trait]
        impl EventSource for Moving {
            async fn partitions(&self) -> Result<Vec<String>, BoxError> {
                self.0.partitions().await
            }

            async fn open(&self, partition: &str, from: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
                if from.is_none() {
                    let operator = Operator::new(self.1.clone(), "ana");
                    operator.move_checkpoint("items", "0", Some("4")).await?;
                }
                self.0.open(partition, from).await
            }
        }
        let lists = Lists::new(vec![items(0..6)], 100);
        let read = drain(&db.pool, "items", &Moving(lists.clone(), db.pool.clone()), &config()).await.unwrap();
        assert_eq!((read.events, lists.opened()), (2, 2));
        assert_eq!(values(db, &to(0)).await, [""; 0]);
        assert_eq!((values(db, &to(1)).await, values(db, &to(2)).await), (vec!["4".to_owned()], vec!["5".to_owned()]));
    }

    /// A reader that ends at a boundary of rounds is opened anew at the new checkpoint.
    async fn a_source_begins_anew_at_a_boundary(db) {
        struct Restarting(Lists);

        #[async_trait]
        impl EventSource for Restarting {
            async fn partitions(&self) -> Result<Vec<String>, BoxError> {
                self.0.partitions().await
            }

            async fn open(&self, partition: &str, from: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
                Ok(Box::new(Ending(self.0.open(partition, from).await?)))
            }
        }

        struct Ending(Box<dyn SourceReader>);

        #[async_trait]
        impl SourceReader for Ending {
            async fn read(&mut self, room: Room) -> Result<Page, BoxError> {
                Ok(self.0.read(room).await?.ending())
            }
        }
        let lists = Lists::new(vec![items(0..10)], 2);
        let read = drain(&db.pool, "items", &Restarting(lists.clone()), &config()).await.unwrap();
        assert_eq!((read.events, read.rounds, lists.opened()), (10, 5, 6));
        assert_emitted(db, 10).await;
    }

    async fn wrong_pages_and_panics_are_errors_that_emit_nothing(db) {
        type Wrong = fn(u32) -> Result<Page, BoxError>;
        let wrong: [(Wrong, &str); 4] = [
            (|_| Ok(page("x")), "events without a position"),
            (|_| Ok(page("x").up_to("p".repeat(1_001))), "1001 bytes"),
            (|_| panic!("a mistake of the source"), "panicked"),
            (|_| Err("it is away".into()), "it is away"),
        ];
        for (read, said) in wrong {
            let error = drain(&db.pool, "wrong", &Wrong(read, Arc::default()), &config()).await.unwrap_err();
            let SourceError::Read { source, .. } = &error else { panic!("{error:?}") };
            assert!(source.to_string().contains(said), "{source}");
        }
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_checkpoint").await), (0, 0));
    }

    /// A position without events moves the checkpoint, so that what was skipped is not read again.
    async fn a_position_without_events_is_kept(db) {
        let read: fn(u32) -> Result<Page, BoxError> =
            |number| Ok(if number == 1 { Page::new().up_to("skipped") } else { Page::new() });
        drain(&db.pool, "skips", &Wrong(read, Arc::default()), &config()).await.unwrap();
        assert_eq!(admin::checkpoints(&db.pool).await.unwrap()[0].position, "skipped");
    }

    async fn names_and_settings_are_checked(db) {
        let source = Lists::new(vec![Vec::new()], 1);
        let mut zero = SourceConfig::default();
        zero.poll_interval = std::time::Duration::ZERO;
        let mut large = SourceConfig::default();
        large.max_events = 10_001.try_into().unwrap();
        let fine = SourceConfig::default();
        for (name, config) in [("", &fine), ("a:b", &fine), (&"x".repeat(65), &fine), ("a", &zero), ("a", &large)] {
            let refused = drain(&db.pool, name, &source, config).await;
            assert!(matches!(refused, Err(SourceError::Setup { .. })), "{name}: {refused:?}");
        }
        assert_eq!(source.opened(), 0);
        let runtime = idle_runtime(db).await;
        let twice = Sources::builder(&runtime).source("a", source.clone()).source("a", source);
        assert!(twice.start().unwrap_err().to_string().contains("twice"));
        runtime.stop(STOP).await;
    }
}
