//! Live updates: one reader of the database for all pages that listen, and the samples of the last hour.

mod history;
mod stream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use history::History;
pub use history::{SAMPLE_EVERY, SAMPLES};
pub(crate) use stream::listen;
pub use stream::{LISTEN_FOR, MAX_LISTENERS};

use super::database::Database;
use super::options::DashboardOptions;
use super::pages;
use crate::text::Chain;

/// Interval between two updates while a page listens.
pub const UPDATE_EVERY: Duration = Duration::from_secs(2);

/// Longest time of one read of the overview.
const READ_WAIT: Duration = Duration::from_secs(10);

/// The shared reader. It begins with the first request and ends when this value is dropped.
pub(crate) struct Live {
    shared: Arc<Shared>,
    is_started: AtomicBool,
    ending: CancellationToken,
    _end: DropGuard,
}

struct Shared {
    database: Arc<dyn Database>,
    options: Arc<DashboardOptions>,
    history: Mutex<History>,
    /// The last update, as JSON.
    updates: watch::Sender<Arc<str>>,
    /// Places of listeners.
    places: Arc<Semaphore>,
}

impl Live {
    pub(crate) fn new(database: Arc<dyn Database>, options: Arc<DashboardOptions>) -> Self {
        let updates = watch::Sender::new(Arc::from("{}"));
        let places = Arc::new(Semaphore::new(MAX_LISTENERS));
        let shared = Shared { database, options, history: Mutex::default(), updates, places };
        let ending = CancellationToken::new();
        let end = ending.clone().drop_guard();
        Live { shared: Arc::new(shared), is_started: AtomicBool::new(false), ending, _end: end }
    }

    /// Starts the reader, once. It must be called on a runtime.
    pub(crate) fn start(&self) {
        if !self.is_started.swap(true, Ordering::Relaxed) {
            let (shared, ending) = (self.shared.clone(), self.ending.clone());
            tokio::spawn(async move { ending.run_until_cancelled(shared.run()).await });
        }
    }

    /// Ends the reader and every stream of updates, so that a server can stop.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }

    /// Lets a page look at the last hour.
    pub(crate) fn with_history<R>(&self, look: impl FnOnce(&History) -> R) -> R {
        self.shared.with_history(|history| look(history))
    }
}

impl Shared {
    fn with_history<R>(&self, look: impl FnOnce(&mut History) -> R) -> R {
        look(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Samples every [`SAMPLE_EVERY`], and reads every [`UPDATE_EVERY`] while a page listens.
    async fn run(&self) {
        let mut tick = tokio::time::interval(UPDATE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sampled: Option<Instant> = None;
        loop {
            tick.tick().await;
            let is_due = sampled.is_none_or(|at| at.elapsed() >= SAMPLE_EVERY);
            if is_due {
                sampled = Some(Instant::now());
            }
            if self.updates.receiver_count() > 0 {
                self.update(is_due).await;
            } else if is_due && let Ok(Ok(overview)) = timeout(READ_WAIT, self.database.overview()).await {
                self.with_history(|history| history.note(&overview));
            }
        }
    }

    /// Reads the overview and sends it to the pages that listen, or says what went wrong.
    async fn update(&self, is_sample: bool) {
        let update = match timeout(READ_WAIT, self.database.glance()).await {
            Ok(Ok(glance)) => {
                let markup = self.with_history(|history| {
                    if is_sample {
                        history.note(&glance.overview);
                    }
                    pages::overview::glance(&self.options.base_path, &glance, history)
                });
                serde_json::json!({ "html": markup.into_string() })
            }
            Ok(Err(error)) => serde_json::json!({ "problem": Chain(&error).to_string() }),
            Err(_) => {
                let problem = format!("the overview was not read within {} s", READ_WAIT.as_secs());
                serde_json::json!({ "problem": problem })
            }
        };
        self.updates.send_replace(update.to_string().into());
    }
}
