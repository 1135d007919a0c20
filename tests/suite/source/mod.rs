//! Sources: what comes from elsewhere is emitted exactly once.

#[cfg(feature = "postgres")]
mod changes;
mod crash;
mod cuts;
mod directory;
mod files;
mod model;
mod reading;
mod sharing;
mod waiting;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::source::{EventSource, Page, Room, SourceConfig, SourceReader, drain};
use eventbox::{BoxError, Event, Recipient};

use crate::support::{TestDb, TestEngine};

/// Short pauses, so that a test of them does not take long.
fn config() -> SourceConfig {
    let mut config = SourceConfig::default();
    config.poll_interval = Duration::from_millis(5);
    config.partition_interval = Duration::from_millis(20);
    config.checkpoint_interval = Duration::from_millis(20);
    config.retry_base = Duration::from_millis(1);
    config.retry_cap = Duration::from_millis(20);
    config
}

/// An event of a list: its recipient and its value.
type Item = (Recipient, String);

/// A source of lists in memory, one for each partition. The position is the number of events before it.
#[derive(Clone)]
struct Lists {
    lists: Arc<Mutex<Vec<Vec<Item>>>>,
    /// Most events of a page, beside the room.
    page: usize,
    /// Returned instead of the event with this number, in any partition.
    bad: Arc<Mutex<Option<usize>>>,
    opened: Arc<AtomicUsize>,
    /// Positions that the source was told of.
    told: Arc<Mutex<Vec<String>>>,
    /// A reader ends at a boundary of rounds after this number of pages.
    ends_after: Option<usize>,
    /// A reader fails after this number of pages.
    fails_after: Option<usize>,
}

impl Lists {
    fn new(lists: Vec<Vec<Item>>, page: usize) -> Self {
        let lists = Arc::new(Mutex::new(lists));
        let (bad, opened, told) = (Arc::default(), Arc::default(), Arc::default());
        Lists { lists, page, bad, opened, told, ends_after: None, fails_after: None }
    }

    fn append(&self, partition: usize, items: impl IntoIterator<Item = Item>) {
        self.lists.lock().unwrap()[partition].extend(items);
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl EventSource for Lists {
    async fn partitions(&self) -> Result<Vec<String>, BoxError> {
        Ok((0..self.lists.lock().unwrap().len()).map(|number| number.to_string()).collect())
    }

    async fn open(&self, partition: &str, from: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        let at = from.map_or(Ok(0), str::parse)?;
        Ok(Box::new(ListReader { of: self.clone(), partition: partition.parse()?, at, pages: 0 }))
    }

    async fn committed(&self, _partition: &str, position: &str) -> Result<(), BoxError> {
        self.told.lock().unwrap().push(position.to_owned());
        Ok(())
    }
}

struct ListReader {
    of: Lists,
    partition: usize,
    at: usize,
    pages: usize,
}

#[async_trait]
impl SourceReader for ListReader {
    async fn read(&mut self, room: Room) -> Result<Page, BoxError> {
        // A process may die between the steps of a reader, too.
        tokio::task::yield_now().await;
        let bad = *self.of.bad.lock().unwrap();
        if self.of.fails_after == Some(self.pages) {
            return Err("the source is away".into());
        }
        self.pages += 1;
        let mut page = Page::new();
        let lists = self.of.lists.lock().unwrap();
        let list = &lists[self.partition];
        for (to, value) in list.iter().skip(self.at).take(self.of.page) {
            if page.is_full(room) {
                break;
            }
            if bad == Some(self.at) {
                match page.is_empty() {
                    true => return Err(format!("event {} is bad", self.at).into()),
                    false => break,
                }
            }
            page.emit(to.clone(), Event::new(value.clone()))?;
            self.at += 1;
        }
        let lag = list.len().saturating_sub(self.at) as u64;
        let page = if page.is_empty() { page.behind(lag) } else { page.up_to(self.at.to_string()).behind(lag) };
        Ok(if self.of.ends_after == Some(self.pages) { page.ending() } else { page })
    }
}

/// Returns the room of a page, which only the core makes.
async fn room(config: &SourceConfig) -> Room {
    #[derive(Clone, Default)]
    struct Asking(Arc<Mutex<Option<Room>>>);

    #[async_trait]
    impl EventSource for Asking {
        async fn partitions(&self) -> Result<Vec<String>, BoxError> {
            Ok(vec!["all".to_owned()])
        }

        async fn open(&self, _: &str, _: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
            Ok(Box::new(self.clone()))
        }
    }

    #[async_trait]
    impl SourceReader for Asking {
        async fn read(&mut self, room: Room) -> Result<Page, BoxError> {
            *self.0.lock().unwrap() = Some(room);
            Ok(Page::new())
        }
    }
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect_with(eventbox::sqlite_options(":memory:")).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let asking = Asking::default();
    drain(&pool, "asking", &asking, config).await.unwrap();
    let room = asking.0.lock().unwrap().take();
    room.unwrap()
}

/// Returns an error with its causes.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn to(key: impl std::fmt::Display) -> Recipient {
    Recipient::new("item", key.to_string()).unwrap()
}

/// Returns events with these numbers, for a few recipients in turn.
fn items(numbers: std::ops::Range<usize>) -> Vec<Item> {
    numbers.map(|number| (to(number % 3), number.to_string())).collect()
}

/// Returns the values that wait for a recipient, in their order.
async fn values<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> Vec<String> {
    let text = if B::FOLDER == "postgres" { "convert_from(value, 'UTF8')" } else { "CAST(value AS TEXT)" };
    db.texts(format_args!("SELECT {text} FROM eventbox_event WHERE recipient = '{of}' ORDER BY id")).await
}

/// Fails unless the recipients of [`items`] have exactly the events with these numbers, in order.
async fn assert_emitted<B: TestEngine>(db: &TestDb<B>, count: usize) {
    for key in 0..3 {
        let wanted: Vec<String> = (0..count).filter(|n| n % 3 == key).map(|n| n.to_string()).collect();
        assert_eq!(values(db, &to(key)).await, wanted, "of recipient {key}");
    }
}
