//! Decides which partitions of a source this process reads: those whose shard the runtime of the process holds.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::commit::Key;
use super::config::SourceConfig;
use super::contract::{Call, EventSource, MAX_PARTITION_BYTES, MAX_PARTITIONS};
use super::error::SourceError;
use super::metrics::SourceMetrics;
use super::partition::Partition;
use super::status::{MAX_ERROR_BYTES, PartitionState, PartitionStatus, Progress};
use crate::error::{BoxError, Error, Misuse};
use crate::retry::pause_after;
use crate::shard::ShardSet;
use crate::store::Backend;
use crate::text::{Chain, fit};

/// A source, and what this process reads of it.
pub(super) struct Supervised {
    pub(super) name: String,
    pub(super) source: Arc<dyn EventSource>,
    pub(super) config: SourceConfig,
    metrics: SourceMetrics,
    state: Mutex<State>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    readers: BTreeMap<String, ReaderTask>,
    /// Last error of the question for the partitions, until an answer comes.
    error: Option<String>,
}

/// The task that reads a partition.
struct ReaderTask {
    progress: Arc<Progress>,
    stopping: CancellationToken,
    task: AbortHandle,
}

impl Supervised {
    pub(super) fn new(name: String, source: Arc<dyn EventSource>, config: SourceConfig) -> Self {
        let metrics = SourceMetrics::new(&name);
        Supervised { name, source, config, metrics, state: Mutex::default(), tasks: TaskTracker::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts and stops readers until `stopping`. Then waits for the commits in flight.
    pub(super) async fn run<B: Backend>(
        self: Arc<Self>,
        pool: Pool<B>,
        mut owned: watch::Receiver<ShardSet>,
        stopping: CancellationToken,
    ) {
        let (mut partitions, mut failures, mut may_change) = (Vec::new(), 0_u32, true);
        let mut asking = Box::pin(self.ask_after(Duration::ZERO));
        while !stopping.is_cancelled() {
            let shards = *owned.borrow_and_update();
            self.assign(&pool, &partitions, shards, &stopping);
            // A source that does not answer delays no change of the leases.
            tokio::select! {
                () = stopping.cancelled() => {}
                answer = &mut asking => {
                    let pause = match answer {
                        Ok(found) => {
                            (partitions, failures) = (found, 0);
                            self.lock().error = None;
                            self.config.partition_interval
                        }
                        Err(error) => {
                            self.not_listed(&error);
                            failures = failures.saturating_add(1);
                            pause_after(failures.saturating_sub(1), self.config.retry_base, self.config.retry_cap)
                        }
                    };
                    asking = Box::pin(self.ask_after(pause));
                }
                changed = owned.changed(), if may_change => may_change = changed.is_ok(),
                () = sleep(self.config.partition_interval) => {}
            }
        }
        drop(asking);
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn ask_after(&self, pause: Duration) -> Result<Vec<Key>, SourceError> {
        sleep(pause).await;
        partitions_of(&self.name, &*self.source, &self.config).await
    }

    fn not_listed(&self, error: &SourceError) {
        let text = fit(&Chain(error).to_string(), MAX_ERROR_BYTES);
        let mut state = self.lock();
        if state.error.as_ref() != Some(&text) {
            tracing::warn!(source = self.name, error = text, "the partitions of a source are not known");
        }
        state.error = Some(text);
    }

    /// Starts the readers of partitions whose shards are held, and ends the others.
    fn assign<B: Backend>(
        self: &Arc<Self>,
        pool: &Pool<B>,
        partitions: &[Key],
        shards: ShardSet,
        stopping: &CancellationToken,
    ) {
        let is_ours = |key: &Key| key.shard().is_ok_and(|shard| shards.contains(shard));
        let ours: BTreeMap<&str, &Key> =
            partitions.iter().filter(|key| is_ours(key)).map(|key| (key.partition.as_str(), key)).collect();
        let mut state = self.lock();
        for (partition, reader) in &state.readers {
            if !ours.contains_key(partition.as_str()) && !reader.stopping.is_cancelled() {
                reader.stopping.cancel();
                self.metrics.lag(partition, 0);
            }
        }
        // A reader that ends is waited for, so that a process has one reader of a partition.
        state.readers.retain(|_, reader| !reader.task.is_finished());
        for (partition, key) in ours {
            let is_new = !state.readers.contains_key(partition);
            if is_new && !stopping.is_cancelled() {
                state.readers.insert(partition.to_owned(), self.start(pool.clone(), key.clone(), stopping));
            }
        }
        let failing = |reader: &&ReaderTask| reader.progress.status().state == PartitionState::Failing;
        let failing = state.readers.values().filter(failing).count();
        self.metrics.partitions(state.readers.len() - failing, failing);
    }

    fn start<B: Backend>(self: &Arc<Self>, pool: Pool<B>, key: Key, stopping: &CancellationToken) -> ReaderTask {
        let progress = Arc::new(Progress::new(&key, self.metrics.clone()));
        let stopping = stopping.child_token();
        let (of, shown, token) = (Arc::clone(self), Arc::clone(&progress), stopping.clone());
        let task = self.tasks.spawn(async move {
            let partition = Partition {
                pool: &pool,
                source: &*of.source,
                config: &of.config,
                key: &key,
                progress: shown,
                to_end: false,
                most: AtomicUsize::new(of.config.max_events.get()),
            };
            partition.run(&token).await;
        });
        ReaderTask { progress, stopping, task: task.abort_handle() }
    }

    /// Ends the readers at once. Returns the number of those that had not ended.
    pub(super) fn abort(&self) -> usize {
        let state = self.lock();
        let left = state.readers.values().filter(|reader| !reader.task.is_finished());
        left.inspect(|reader| reader.task.abort()).count()
    }

    pub(super) fn status(&self) -> Vec<PartitionStatus> {
        self.lock().readers.values().map(|reader| reader.progress.status()).collect()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let state = self.lock();
        let of_readers = state.readers.values().filter_map(|reader| reader.progress.problem());
        state.error.iter().cloned().chain(of_readers).collect()
    }
}

/// Asks a source for its partitions, and checks their names.
pub(super) async fn partitions_of(
    name: &str,
    source: &dyn EventSource,
    config: &SourceConfig,
) -> Result<Vec<Key>, SourceError> {
    let failed = |source: BoxError| SourceError::Partitions { name: name.to_owned(), source };
    let found = Call::Partitions.within(config.partitions_limit, source.partitions()).await.map_err(failed)?;
    if found.len() > MAX_PARTITIONS {
        return Err(failed(format!("it has {} partitions, over the limit of {MAX_PARTITIONS}", found.len()).into()));
    }
    let key = |partition: String| {
        let key = Key { name: name.to_owned(), partition };
        if key.partition.len() > MAX_PARTITION_BYTES {
            let (bytes, limit) = (key.partition.len(), MAX_PARTITION_BYTES);
            return Err(Error::misuse(
                "read a partition",
                Misuse::TooLong { what: "name of a partition", bytes, limit },
            ));
        }
        key.shard().map(|_| key)
    };
    found.into_iter().map(|partition| key(partition).map_err(|error| failed(error.into()))).collect()
}
