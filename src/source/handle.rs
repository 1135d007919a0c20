//! Starts and stops the sources of a process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::SourceConfig;
use super::contract::EventSource;
use super::error::SourceError;
use super::status::PartitionStatus;
use super::supervise::Supervised;
use crate::clock::from_now;
use crate::runtime::Runtime;
use crate::service::{Health, StopReport};
use crate::store::Backend;

/// The running sources of a process. Clones are handles of the same sources.
///
/// Start the same sources in every process of a service, each beside its [`Runtime`]. A partition is read by the
/// process whose runtime holds the partition's shard, so that the processes share the work. When a process dies, others
/// read its partitions after the term of its leases.
///
/// # Examples
///
/// ```
/// # use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
/// # use std::time::Duration;
/// # struct Counter;
/// # impl Reducer for Counter {
/// #     type State = u64;
/// #     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
/// #         Ok(Outcome::to(count + events.len() as u64).consuming(events))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// # let directory = tempfile::tempdir()?;
/// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("boxes.db"))).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::runtime::Runtime;
/// use eventbox::source::{Directory, Sources};
///
/// # let files = directory.path().join("flights");
/// # std::fs::create_dir(&files)?;
/// # std::fs::write(files.join("2013-01-01.jsonl"), "{\"from\":\"JFK\"}\n")?;
/// let flights = Directory::new(&files, |line| {
///     let flight: serde_json::Value = line.json()?;
///     let airport = Recipient::new("airport", flight["from"].as_str().ok_or("no airport")?)?;
///     Ok(vec![(airport, Event::new(line.bytes.to_vec()))])
/// });
/// let runtime = Runtime::builder(pool.clone()).reducer("airport", Counter).start().await?;
/// let sources = Sources::builder(&runtime).source("flights", flights).start()?;
/// # let airport = Recipient::new("airport", "JFK")?;
/// while eventbox::state::<u64>(&pool, &airport).await?.is_none() {
///     tokio::time::sleep(Duration::from_millis(1)).await;
/// }
/// assert_eq!(sources.status()[0].events, 1);
/// assert!(sources.stop(Duration::from_secs(5)).await.complete);
/// runtime.stop(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
pub struct Sources<B: Backend> {
    inner: Arc<Inner<B>>,
}

impl<B: Backend> Clone for Sources<B> {
    fn clone(&self) -> Self {
        Sources { inner: Arc::clone(&self.inner) }
    }
}

impl<B: Backend> std::fmt::Debug for Sources<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.inner.sources.iter().map(|source| source.name.as_str()).collect();
        f.debug_struct("Sources").field("sources", &names).finish_non_exhaustive()
    }
}

struct Inner<B: Backend> {
    /// Its leases say what is read here.
    _runtime: Runtime<B>,
    sources: Vec<Arc<Supervised>>,
    stopping: CancellationToken,
    tasks: Mutex<Option<Vec<JoinHandle<()>>>>,
    /// The drop of the last handle stops the sources.
    _guard: DropGuard,
}

/// Builder of [`Sources`].
pub struct SourcesBuilder<B: Backend> {
    runtime: Runtime<B>,
    sources: Vec<(String, Arc<dyn EventSource>, SourceConfig)>,
}

impl<B: Backend> std::fmt::Debug for SourcesBuilder<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.sources.iter().map(|(name, ..)| name.as_str()).collect();
        f.debug_struct("SourcesBuilder").field("sources", &names).finish_non_exhaustive()
    }
}

impl<B: Backend> SourcesBuilder<B> {
    /// Adds a source with the default settings. Its name owns its checkpoints: 1 to
    /// [`MAX_SOURCE_NAME_BYTES`](super::MAX_SOURCE_NAME_BYTES) letters, digits, `-` and `_`.
    #[must_use]
    pub fn source(self, name: impl Into<String>, source: impl EventSource) -> Self {
        self.source_with(name, source, SourceConfig::default())
    }

    /// Adds a source with these settings.
    #[must_use]
    pub fn source_with(mut self, name: impl Into<String>, source: impl EventSource, config: SourceConfig) -> Self {
        self.sources.push((name.into(), Arc::new(source), config));
        self
    }

    /// Starts reading.
    ///
    /// Call it within a `tokio` runtime.
    ///
    /// # Errors
    ///
    /// [`SourceError::Setup`] with the wrong name or setting. Then nothing is started.
    pub fn start(self) -> Result<Sources<B>, SourceError> {
        for (at, (name, _, config)) in self.sources.iter().enumerate() {
            config.check(name)?;
            if self.sources.iter().take(at).any(|(other, ..)| other == name) {
                return Err(SourceError::setup(name, "it is added twice: each source has a name of its own"));
            }
        }
        let stopping = CancellationToken::new();
        let supervised = |(name, source, config)| Arc::new(Supervised::new(name, source, config));
        let sources: Vec<Arc<Supervised>> = self.sources.into_iter().map(supervised).collect();
        let (pool, owned) = (self.runtime.pool(), self.runtime.owned());
        let run = |source: &Arc<Supervised>| {
            tokio::spawn(Arc::clone(source).run(pool.clone(), owned.clone(), stopping.clone()))
        };
        let tasks = Mutex::new(Some(sources.iter().map(run).collect()));
        tracing::info!(sources = sources.len(), worker = %self.runtime.worker(), "sources started");
        let _guard = stopping.clone().drop_guard();
        Ok(Sources { inner: Arc::new(Inner { _runtime: self.runtime, sources, stopping, tasks, _guard }) })
    }
}

impl<B: Backend> Sources<B> {
    /// Returns a builder of sources that read where this runtime holds the shards. The events go into its database.
    pub fn builder(runtime: &Runtime<B>) -> SourcesBuilder<B> {
        SourcesBuilder { runtime: runtime.clone(), sources: Vec::new() }
    }

    /// Returns the partitions that this process reads, by source in the order of their declaration.
    #[must_use]
    pub fn status(&self) -> Vec<PartitionStatus> {
        self.inner.sources.iter().flat_map(|source| source.status()).collect()
    }

    /// Returns the health: partitions that fail again and again, with their errors, and sources that do not tell their
    /// partitions.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut problems: Vec<String> = self.inner.sources.iter().flat_map(|source| source.problems()).collect();
        if self.inner.stopping.is_cancelled() {
            problems.push("stopped".to_owned());
        }
        Health { problems }
    }

    /// Stops the sources: nothing more is read, and rounds in their commit commit.
    ///
    /// Returns by `limit`. [`StopReport::interrupted`] counts partitions that were cut off. What they had not committed
    /// is read again. Stop the runtime after its sources. A second stop does nothing.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves the sources stopping.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        let deadline = from_now(limit);
        self.inner.stopping.cancel();
        let Some(tasks) = self.inner.tasks.lock().await.take() else { return StopReport::COMPLETE };
        let mut interrupted = 0;
        for (mut task, source) in tasks.into_iter().zip(&self.inner.sources) {
            if timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                interrupted += source.abort().max(1);
            }
        }
        tracing::info!(interrupted, "sources stopped");
        StopReport { complete: interrupted == 0, left: 0, interrupted }
    }
}
