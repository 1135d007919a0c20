//! Starts and stops peers.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{Mutex, broadcast};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::{from_now, micros};
use crate::heartbeat::Heartbeats;
use crate::peer::boxes::door::{Door, PoolDoor};
use crate::peer::boxes::drain::drain;
use crate::peer::boxes::emits::Emits;
use crate::peer::boxes::sweep;
use crate::peer::boxes::turns::StreamTurns;
use crate::peer::connect::links::Links;
use crate::peer::connect::supervise;
use crate::peer::core::{Core, kind_of};
use crate::peer::declare::builder::PeersBuilder;
use crate::peer::error::PeerError;
use crate::peer::status::PeerStatus;
use crate::peer::stream::facts::StreamSignal;
use crate::peer::stream::id::StreamId;
use crate::runtime::{Attended, Runtime, RuntimeConfig};
use crate::service::{Health, StopReport};
use crate::store::Backend;

/// Signals that a slow observer may be behind; older ones are lost for it.
pub const OBSERVED_SIGNALS: usize = 1_024;

/// Part of a stop's time in which streams send what waits. The rest is for closing.
const DRAIN_PART: f64 = 0.7;

/// Interval at which [`Peers::ready`] looks at a peer.
const READY_LOOK: Duration = Duration::from_millis(10);

/// Running peers. Clones are handles of the same peers.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(directory.path().join("boxes.db"))).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::peer::connectors::Null;
/// use eventbox::peer::{Peer, Peers};
/// use std::time::Duration;
///
/// let peers = Peers::builder(pool).peer(Peer::new("sink", Null::new())).start().await?;
/// peers.ready(Duration::from_secs(5)).await?;
/// let report = peers.stop(Duration::from_secs(5)).await;
/// assert!(report.complete);
/// # Ok(()) }
/// ```
pub struct Peers<B: Backend> {
    inner: Arc<Inner<B>>,
}

impl<B: Backend> Clone for Peers<B> {
    fn clone(&self) -> Self {
        Peers { inner: Arc::clone(&self.inner) }
    }
}

impl<B: Backend> std::fmt::Debug for Peers<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<&str> = self.inner.cores.iter().map(|core| core.id()).collect();
        f.debug_struct("Peers").field("peers", &ids).finish_non_exhaustive()
    }
}

struct Inner<B: Backend> {
    runtime: Runtime<B>,
    cores: Vec<Arc<Core>>,
    hearts: Heartbeats,
    signals: broadcast::Sender<StreamSignal>,
    stopping: CancellationToken,
    closing: CancellationToken,
    work: Mutex<Option<Work>>,
    /// The drop of the last handle stops the peers.
    _guards: [DropGuard; 2],
}

struct Work {
    lives: TaskTracker,
    emits: JoinHandle<()>,
    sweep: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl<B: Backend> Peers<B> {
    /// Returns a builder.
    pub fn builder(pool: Pool<B>) -> PeersBuilder<B> {
        PeersBuilder::new(pool)
    }

    pub(super) async fn run(builder: PeersBuilder<B>) -> Result<Self, PeerError> {
        let PeersBuilder { pool, peers, config } = builder;
        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let attended = Arc::<Attended>::default();
        let (signals, _) = broadcast::channel(OBSERVED_SIGNALS);
        let linked = Arc::<Links>::default();
        let (declared, linked_ids) = PeersBuilder::<B>::declared(peers);
        let (emits, emitting) = Emits::start(pool.clone(), closing.clone());
        let worker = Uuid::new_v4();
        let door: Arc<dyn Door> = Arc::new(PoolDoor {
            pool: pool.clone(),
            worker,
            silent_us: config.runtime.leases.map_or(i64::MAX, |leases| micros(leases.lease_ttl)),
            emits: Arc::new(emits),
        });
        let core = |declared| {
            let (door, attended, signals) = (Arc::clone(&door), Arc::clone(&attended), signals.clone());
            Arc::new(Core::new(declared, door, attended, signals, Arc::clone(&linked), stopping.clone()))
        };
        let cores: Vec<Arc<Core>> = declared.into_iter().map(core).collect();
        let runtime = start_runtime(pool, &cores, attended, worker, config.runtime).await;
        let runtime = runtime.map_err(|source| PeerError::store("start the peers", source))?;
        let hearts = Heartbeats::default();
        let beat = hearts.add("peers", config.sweep_interval, Duration::from_secs(30));
        let sweep = tokio::spawn(sweep::run(cores.clone(), config.sweep_interval, stopping.clone(), beat));
        let lives = TaskTracker::new();
        let tasks = cores
            .iter()
            .map(|core| {
                let core = Arc::clone(core);
                let stopping = stopping.clone();
                if linked_ids.contains(core.id()) {
                    let demands = linked.add(core.id());
                    lives.spawn(supervise::run_linked(core, demands))
                } else {
                    lives.spawn(supervise::run(core, StreamId::main(), stopping))
                }
            })
            .collect();
        lives.close();
        tracing::info!(peers = cores.len(), %worker, engine = B::NAME, "peers started");
        let _guards = [stopping.clone().drop_guard(), closing.clone().drop_guard()];
        let work = Mutex::new(Some(Work { lives, emits: emitting, sweep, tasks }));
        Ok(Peers { inner: Arc::new(Inner { runtime, cores, hearts, signals, stopping, closing, work, _guards }) })
    }

    /// Returns the signals of all streams from now on: starts and ends. An observer that is more than
    /// [`OBSERVED_SIGNALS`] behind loses the oldest ones.
    #[must_use]
    pub fn observe(&self) -> broadcast::Receiver<StreamSignal> {
        self.inner.signals.subscribe()
    }

    /// Returns the number of open streams of a peer in this process.
    #[must_use]
    pub fn streams(&self, peer: &str) -> usize {
        self.inner.cores.iter().find(|core| core.id() == peer).map_or(0, |core| core.streams().len())
    }

    /// Returns the state of each peer in this process, in the order of their declaration.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.inner.cores.iter().map(|core| PeerStatus::of(core, self.is_linked(core))).collect()
    }

    /// Returns whether other peers link to this one.
    fn is_linked(&self, core: &Core) -> bool {
        self.inner.cores.iter().any(|other| other.declared.links.iter().any(|id| id == core.id()))
    }

    /// Waits until every peer is connected, except clients that others link to.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] with the last error of a peer that gave up, or is not connected within `limit`.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn ready(&self, limit: Duration) -> Result<(), PeerError> {
        let until = from_now(limit);
        for core in &self.inner.cores {
            while !self.is_linked(core) && core.status().attempts.successes == 0 {
                let status = core.status();
                if status.gave_up || Instant::now() >= until {
                    let error = status.error.unwrap_or_else(|| format!("it was not connected within {limit:?}"));
                    return Err(PeerError::setup(core.id(), error));
                }
                tokio::time::sleep(READY_LOOK).await;
            }
        }
        Ok(())
    }

    /// Returns the health: peers that are not connected or gave up, open breakers, and loops that give no sign of life.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut health = self.inner.runtime.health();
        health.problems.extend(self.inner.hearts.problems());
        health.problems.extend(self.inner.cores.iter().filter_map(|core| problem_of(core)));
        health
    }

    /// Stops the peers: nothing new is read, what was read is emitted, streams send what waits, and close.
    ///
    /// After seven tenths of `limit` streams close with events that they have not sent; these stay in their eventboxes.
    /// Returns by `limit`. [`StopReport::left`] counts streams that had not sent everything, and
    /// [`StopReport::interrupted`] connections that were cut off. A second stop does nothing.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves the peers stopping.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        let (began, deadline) = (Instant::now(), from_now(limit));
        let Some(work) = self.inner.work.lock().await.take() else { return StopReport::COMPLETE };
        self.inner.stopping.cancel();
        let drained_by = began + limit.mul_f64(DRAIN_PART);
        let draining = self.inner.cores.iter().map(|core| drain(core, drained_by));
        let left: usize = futures_util::future::join_all(draining).await.into_iter().sum();
        let lives_ended = timeout_at(deadline, work.lives.wait()).await.is_ok();
        let interrupted = if lives_ended { 0 } else { work.tasks.iter().filter(|task| !task.is_finished()).count() };
        work.tasks.iter().for_each(JoinHandle::abort);
        let swept = timeout_at(deadline, work.sweep).await.is_ok();
        self.inner.closing.cancel();
        let emitted = timeout_at(deadline, work.emits).await.is_ok();
        let of_runtime = self.inner.runtime.stop(deadline.saturating_duration_since(Instant::now())).await;
        let complete = left == 0 && interrupted == 0 && swept && emitted && of_runtime.complete;
        tracing::info!(complete, left, interrupted, "peers stopped");
        StopReport { complete, left, interrupted }
    }
}

/// Starts the workers that take the eventboxes of streams through turns.
async fn start_runtime<B: Backend>(
    pool: Pool<B>,
    cores: &[Arc<Core>],
    attended: Arc<Attended>,
    worker: Uuid,
    mut config: RuntimeConfig,
) -> crate::error::Result<Runtime<B>> {
    // Half of a listing may be in flight, so that the other half is new.
    let window = cores.iter().map(|core| core.declared.limits.in_flight.get()).max().unwrap_or(1);
    let listed = u32::try_from(2 * window).ok().and_then(std::num::NonZeroU32::new);
    config.max_events = listed.unwrap_or(config.max_events);
    let mut builder = Runtime::builder(pool).config(config).attending(attended, worker);
    for core in cores {
        builder = builder.reducer(&kind_of(core.id()), StreamTurns(Arc::clone(core)));
    }
    builder.start().await
}

fn problem_of(core: &Core) -> Option<String> {
    let (id, status) = (core.id(), core.status());
    let error = status.error.as_deref().unwrap_or("no error yet");
    if status.gave_up {
        return Some(format!("peer {id} gave up: {error}"));
    }
    if core.flow.is_open() {
        return Some(format!("the breaker of peer {id} is open: {error}"));
    }
    let failing = core.streams().iter().filter(|(_, stream)| stream.breaker.is_open()).count();
    if failing > 0 {
        let error = status.send_error.as_deref().unwrap_or("no error yet");
        return Some(format!("{failing} streams of peer {id} cannot send: {error}"));
    }
    (status.attempts.since_success >= DEGRADED_AFTER).then(|| format!("peer {id} is not connected: {error}"))
}

/// Failed attempts in a row from which on health reports a peer.
const DEGRADED_AFTER: u64 = 5;
