//! Waits of a source: a reader that waits for events, and calls without an answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::BoxError;
use eventbox::admin::{self, Operator};
use eventbox::source::{
    EventSource, MAX_PARTITIONS, Page, PartitionState, PartitionStatus, Room, SourceConfig, SourceError, SourceReader,
    Sources, drain,
};

use super::{Lists, assert_emitted, causes, config, items, to, values};
use crate::support::running::{STOP, config as runtime_config, idle_runtime, idle_runtime_with, leases};
use crate::support::{SOON, eventually, on_every_engine};

/// Lists whose readers wait until there is an event, or return an empty page.
struct Following {
    lists: Lists,
    waits: bool,
}

#[async_trait]
impl EventSource for Following {
    async fn partitions(&self) -> Result<Vec<String>, BoxError> {
        self.lists.partitions().await
    }

    async fn open(&self, partition: &str, from: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
        Ok(Box::new(FollowingReader { reader: self.lists.open(partition, from).await?, waits: self.waits }))
    }
}

struct FollowingReader {
    reader: Box<dyn SourceReader>,
    waits: bool,
}

#[async_trait]
impl SourceReader for FollowingReader {
    async fn read(&mut self, room: Room) -> Result<Page, BoxError> {
        loop {
            let page = self.reader.read(room).await?;
            if !(self.waits && page.is_empty()) {
                return Ok(page);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A call of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Partitions,
    Open,
    Committed,
}

/// Lists that leave one kind of calls without an answer.
#[derive(Clone)]
struct Silent {
    lists: Lists,
    in_call: Arc<Mutex<Option<Call>>>,
    /// Calls that wait for ever, or did until they were dropped.
    waited: Arc<AtomicUsize>,
}

impl Silent {
    fn new(lists: Lists, in_call: Option<Call>) -> Self {
        Silent { lists, in_call: Arc::new(Mutex::new(in_call)), waited: Arc::default() }
    }

    fn set(&self, call: Option<Call>) {
        *self.in_call.lock().unwrap() = call;
    }

    fn waited(&self) -> usize {
        self.waited.load(Ordering::SeqCst)
    }

    async fn answers(&self, call: Call) {
        let is_silent = *self.in_call.lock().unwrap() == Some(call);
        if is_silent {
            self.waited.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl EventSource for Silent {
    async fn partitions(&self) -> Result<Vec<String>, BoxError> {
        self.answers(Call::Partitions).await;
        self.lists.partitions().await
    }

    async fn open(&self, partition: &str, from: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
        self.answers(Call::Open).await;
        self.lists.open(partition, from).await
    }

    async fn committed(&self, partition: &str, position: &str) -> Result<(), BoxError> {
        self.answers(Call::Committed).await;
        self.lists.committed(partition, position).await
    }
}

/// Short limits of the calls.
fn impatient() -> SourceConfig {
    let mut config = config();
    (config.partitions_limit, config.open_limit, config.committed_limit) =
        (Duration::from_millis(20), Duration::from_millis(20), Duration::from_millis(20));
    config
}

on_every_engine! {
    /// An operator moves the checkpoint forward, back and away. The reader is idle: it waits for an event that does not
    /// come, or finds nothing again and again.
    async fn an_idle_reader_begins_anew_when_its_checkpoint_is_moved(db) {
        for (name, waits) in [("waits", true), ("polls", false)] {
            let of_case = |number| to(format!("{name}-{number}"));
            let list = (0..4).map(|number| (of_case(number), number.to_string())).collect();
            let lists = Lists::new(vec![list], 100);
            let runtime = idle_runtime(db).await;
            let source = Following { lists: lists.clone(), waits };
            let sources = Sources::builder(&runtime).source_with(name, source, config()).start().unwrap();
            let counts = async || {
                let mut counts = Vec::new();
                for number in 0..4 {
                    counts.push(values(db, &of_case(number)).await.len());
                }
                counts
            };
            eventually(SOON, async || counts().await == [1, 1, 1, 1]).await;
            let ana = Operator::new(db.pool.clone(), "ana");
            assert_eq!(ana.move_checkpoint(name, "0", Some("2")).await.unwrap().touched, 1);
            eventually(SOON, async || counts().await == [1, 1, 2, 2]).await;
            assert_eq!(ana.move_checkpoint(name, "0", None).await.unwrap().touched, 1);
            eventually(SOON, async || counts().await == [2, 2, 3, 3]).await;
            // Forward: the next two events are not wanted.
            let opened = lists.opened();
            assert_eq!(ana.move_checkpoint(name, "0", Some("6")).await.unwrap().touched, 1);
            eventually(SOON, async || lists.opened() > opened).await;
            lists.append(0, (0..4).map(|number| (of_case(number), number.to_string())));
            eventually(SOON, async || counts().await == [2, 2, 4, 4]).await;
            assert!(sources.status()[0].overtaken >= 3, "{:?}", sources.status());
            assert!(sources.stop(STOP).await.complete);
            runtime.stop(STOP).await;
            assert_eq!(counts().await, [2, 2, 4, 4]);
        }
    }

    /// A call without an answer is given up at its limit. The error names the call and the setting.
    async fn a_call_without_an_answer_is_an_error_that_names_its_limit(db) {
        for (call, said) in [(Call::Partitions, "partitions()"), (Call::Open, "open()")] {
            let source = Silent::new(Lists::new(vec![items(0..3)], 1), Some(call));
            let error = drain(&db.pool, "items", &source, &impatient()).await.unwrap_err();
            let said_by = causes(&error);
            assert!(said_by.contains(said) && said_by.contains("_limit"), "{said_by}");
            assert_eq!(matches!(error, SourceError::Partitions { .. }), call == Call::Partitions, "{error:?}");
        }
        // A round whose source was not told of it is committed. The next attempt goes on behind it.
        let source = Silent::new(Lists::new(vec![items(0..3)], 1), Some(Call::Committed));
        let mut config = impatient();
        config.max_events = 1.try_into().unwrap();
        for at in ["1", "2", "3"] {
            let error = drain(&db.pool, "items", &source, &config).await.unwrap_err();
            assert!(causes(&error).contains("committed() within 20ms"), "{}", causes(&error));
            let SourceError::Tell { position, .. } = &error else { panic!("{error:?}") };
            assert_eq!((position.as_str(), admin::checkpoints(&db.pool).await.unwrap()[0].position.as_str()), (at, at));
        }
        assert_eq!(drain(&db.pool, "items", &source, &config).await.unwrap().events, 0);
        assert_emitted(db, 3).await;
    }

    /// Calls without an answer are tried again, health says why, and the source goes on once it answers.
    async fn a_source_that_does_not_answer_is_tried_again(db) {
        for (name, call) in [("partitions", Call::Partitions), ("open", Call::Open)] {
            let source = Silent::new(Lists::new(vec![vec![(to(name), "x".to_owned())]], 1), Some(call));
            let runtime = idle_runtime(db).await;
            let sources = Sources::builder(&runtime).source_with(name, source.clone(), impatient()).start().unwrap();
            eventually(SOON, async || {
                let problems = sources.health().problems;
                source.waited() >= 3 && problems.iter().any(|problem| problem.contains(&format!("{name}() within")))
            })
            .await;
            assert!(values(db, &to(name)).await.is_empty());
            source.set(None);
            eventually(SOON, async || values(db, &to(name)).await == ["x"]).await;
            eventually(SOON, async || sources.health().is_healthy()).await;
            // At the stop no call delays it.
            source.set(Some(call));
            assert!(sources.stop(STOP).await.complete);
            runtime.stop(STOP).await;
        }
        let source = Silent::new(Lists::new(vec![items(0..5)], 1), Some(Call::Committed));
        let runtime = idle_runtime(db).await;
        let mut config = impatient();
        config.max_events = 1.try_into().unwrap();
        let sources = Sources::builder(&runtime).source_with("committed", source.clone(), config).start().unwrap();
        let is_well = |status: &PartitionStatus| status.failures == 5 && status.state == PartitionState::Reading;
        eventually(SOON, async || sources.status().first().is_some_and(is_well)).await;
        assert_eq!(source.waited(), 5);
        sources.stop(STOP).await;
        runtime.stop(STOP).await;
        assert_emitted(db, 5).await;
    }

    /// While the source does not tell its partitions, those that are known follow the leases.
    async fn a_silent_source_delays_no_change_of_the_leases(db) {
        const PARTITIONS: usize = 24;
        let source = Silent::new(Lists::new(vec![Vec::new(); PARTITIONS], 1), None);
        let mut leased = runtime_config();
        leased.leases = Some(leases());
        let first = idle_runtime_with(db, leased.clone()).await;
        let mut config = config();
        config.partitions_limit = SOON * 4;
        let sources = Sources::builder(&first).source_with("items", source.clone(), config).start().unwrap();
        eventually(SOON, async || sources.status().len() == PARTITIONS).await;
        source.set(Some(Call::Partitions));
        eventually(SOON, async || source.waited() == 1).await;
        let second = idle_runtime_with(db, leased).await;
        eventually(SOON, async || sources.status().len() < PARTITIONS).await;
        assert!(second.stop(STOP).await.complete);
        eventually(SOON, async || sources.status().len() == PARTITIONS).await;
        assert_eq!(source.waited(), 1, "the same call waits all the time");
        assert!(sources.stop(STOP).await.complete);
        first.stop(STOP).await;
    }

    async fn more_partitions_than_the_limit_are_refused(db) {
        let source = Lists::new(vec![Vec::new(); MAX_PARTITIONS + 1], 1);
        let error = drain(&db.pool, "items", &source, &config()).await.unwrap_err();
        assert!(matches!(error, SourceError::Partitions { .. }), "{error:?}");
        assert!(causes(&error).contains("over the limit of 10000"), "{}", causes(&error));
    }

    /// Events at a position that was known would come again each time the partition is opened there.
    async fn events_that_move_no_position_are_refused(db) {
        /// Stays at a position, with an event.
        struct Staying;

        #[async_trait]
        impl EventSource for Staying {
            async fn partitions(&self) -> Result<Vec<String>, BoxError> {
                Ok(vec!["all".to_owned()])
            }

            async fn open(&self, _: &str, _: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
                Ok(Box::new(Staying))
            }
        }

        #[async_trait]
        impl SourceReader for Staying {
            async fn read(&mut self, _: Room) -> Result<Page, BoxError> {
                let mut page = Page::new();
                page.emit(to("x"), eventbox::Event::new("x"))?;
                Ok(page.up_to("here"))
            }
        }
        for _ in 0..3 {
            let error = drain(&db.pool, "staying", &Staying, &config()).await.unwrap_err();
            assert!(causes(&error).contains("stayed at \"here\""), "{}", causes(&error));
            assert_eq!(values(db, &to("x")).await, ["x"], "the first one moved the checkpoint");
        }
    }
}
