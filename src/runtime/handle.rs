//! Starts and stops a runtime.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Resolver;
use super::builder::RuntimeBuilder;
use super::failing::complaints::Complaints;
use super::failing::outage::Outages;
use super::finding::notify::{self, Sending};
use super::finding::roles::{Database, LocalRole};
use super::shards::failed::FailedShards;
use super::shards::gauges::ShardGauges;
use super::shards::membership::Membership;
use super::shards::passing::Passing;
use super::shared::{Publishers, Shared, turn_options};
use super::stats::{Counters, RuntimeStats};
use super::working::at_work::AtWork;
use super::working::paused::{self, PausedKinds};
use super::working::rates::Rates;
use super::working::scheduler::{Left, Scheduler};
use super::{reserve, timers, upkeep};
use crate::error::Result;
use crate::eventbox::{self, WakeUps};
use crate::heartbeat::Heartbeats;
use crate::service::{Health, StopReport};
use crate::shard::ShardSet;
use crate::store::Backend;

/// Part of a stop's time after which turns in flight are interrupted. The rest of the time is for handing over the
/// leases.
const INTERRUPT_AFTER: f64 = 0.8;

/// Checks of the leases that other members get to begin with the shards of a runtime that stops. A member needs one.
const HAND_OVER_CHECKS: u32 = 3;

/// Largest part of a stop's time in which the shards are handed over while the work goes on.
const HAND_OVER_PART: f64 = 0.4;

/// Workers for the boxes of a database. Clones are handles of the same workers.
///
/// # Examples
///
/// ```
/// # use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
/// # use std::time::Duration;
/// struct Counter;
///
/// impl Reducer for Counter {
///     type State = u64;
///
///     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
///         Ok(Outcome::to(count + events.len() as u64).consuming(events))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// # let directory = tempfile::tempdir()?;
/// # let file = directory.path().join("boxes.db");
/// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&file)).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::runtime::Runtime;
///
/// let runtime = Runtime::builder(pool.clone()).reducer("airport", Counter).start().await?;
/// let airport = Recipient::new("airport", "JFK")?;
/// eventbox::emit(&pool, &airport, Event::new("departed")).await?;
/// while eventbox::state::<u64>(&pool, &airport).await?.is_none() {
///     tokio::time::sleep(Duration::from_millis(1)).await;
/// }
/// let report = runtime.stop(Duration::from_secs(5)).await;
/// assert!(report.complete);
/// # Ok(()) }
/// ```
pub struct Runtime<B: Backend> {
    inner: Arc<Inner<B>>,
}

impl<B: Backend> Clone for Runtime<B> {
    fn clone(&self) -> Self {
        Runtime { inner: Arc::clone(&self.inner) }
    }
}

impl<B: Backend> std::fmt::Debug for Runtime<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("worker", &self.inner.worker).finish_non_exhaustive()
    }
}

struct Inner<B: Backend> {
    shared: Arc<Shared<B>>,
    worker: Uuid,
    stopping: CancellationToken,
    interrupt: CancellationToken,
    leaving: CancellationToken,
    hearts: Heartbeats,
    owned: watch::Receiver<ShardSet>,
    membership: Option<Arc<Membership<B>>>,
    loops: Mutex<Option<Loops>>,
    /// The drop of the last handle stops the runtime.
    _guards: [DropGuard; 3],
    /// Wake-ups for the attended recipients stay in this process.
    _role: Option<Arc<LocalRole>>,
}

struct Loops {
    work: JoinHandle<Left>,
    /// The loops of timers, wake-ups and kinds on hold.
    others: TaskTracker,
    membership: Option<JoinHandle<()>>,
}

impl<B: Backend> Inner<B> {
    fn start(builder: RuntimeBuilder<B>, held: PausedKinds) -> Self {
        #[cfg(feature = "emitter")]
        let emitter = builder.emitter.clone();
        let RuntimeBuilder {
            pool,
            config,
            handlers,
            journals,
            durations,
            rates,
            hooks,
            stopping,
            worker,
            attended,
            ..
        } = builder;
        let reserved = reserve::of(&pool);
        let (interrupt, leaving) = (CancellationToken::new(), CancellationToken::new());
        let hearts = Heartbeats::default();
        let takes_shards = attended.is_none();
        let all = if config.leases.is_some() || !takes_shards { ShardSet::default() } else { ShardSet::ALL };
        let (owned_sender, owned) = watch::channel(all);
        let scanned = attended.as_ref().map_or_else(|| owned.clone(), |attended| attended.shards());
        let complaints = Arc::new(Complaints::default());
        let at_work = Arc::new(AtWork::default());
        let rates = Arc::new(Rates::new(&rates, config.max_ready.get(), Instant::now()));
        let outages = Arc::<Outages>::default();
        let failed_shards = Arc::<FailedShards>::default();
        let (tell_held, held) = watch::channel(held);
        let membership = config.leases.map(|leases| {
            Arc::new(Membership {
                pool: reserved.clone(),
                worker,
                shard_limit: if takes_shards { config.shard_limit.get() } else { 0 },
                leases,
                config: config.clone(),
                failed_shards: Arc::clone(&failed_shards),
                standing: watch::Sender::default(),
                kinds: handlers.keys().map(|kind| kind.to_string()).collect::<BTreeSet<_>>().into_iter().collect(),
                held: held.clone(),
                at_work: Arc::clone(&at_work),
                rates: Arc::clone(&rates),
                outages: Arc::clone(&outages),
                attended: attended.clone(),
                complaints: Arc::clone(&complaints),
                #[cfg(feature = "emitter")]
                emitter: emitter.clone(),
                owned: owned_sender,
                passing: Passing::default(),
                stage: watch::Sender::default(),
                gauges: config.shard_metrics.then(ShardGauges::default),
            })
        });
        let grace = config.health_grace;
        let keeping = membership.as_ref().map(|membership| {
            let beat = hearts.add("membership", membership.leases.renew_interval, grace);
            tokio::spawn(Arc::clone(membership).run(leaving.clone(), beat))
        });
        let beat = hearts.add("work", config.poll_interval, grace);
        let shared = Arc::new(Shared {
            pool,
            reserved,
            attended,
            options: turn_options(&config),
            journals,
            counters: Counters::default(),
            publishers: Publishers::default(),
            outages,
            failed_shards,
            at_work,
            rates,
            complaints,
            slow_scans: watch::Sender::default(),
            finding: hearts.add("finding", Duration::ZERO, grace),
            config,
            handlers,
            hooks,
            #[cfg(feature = "emitter")]
            emitter,
        });
        let remote = Arc::new(WakeUps::default());
        let others = TaskTracker::new();
        let beating = hearts.add("timers", shared.config.poll_interval, grace);
        others.spawn(timers::run(Arc::clone(&shared), owned.clone(), stopping.clone(), beating));
        let beating = hearts.add("hold", shared.config.poll_interval, grace);
        others.spawn(paused::run(Arc::clone(&shared), tell_held, stopping.clone(), beating));
        if shared.config.remote_wake_ups {
            others.spawn(notify::listen_loop(Arc::clone(&shared), Arc::clone(&remote), stopping.clone()));
            if B::SENDS_WAKE_UPS {
                others.spawn(notify::send_loop(
                    shared.pool.clone(),
                    eventbox::listen(),
                    owned.clone(),
                    if takes_shards { Sending::All } else { Sending::Unsent },
                    stopping.clone(),
                ));
            }
        }
        upkeep::spawn(&others, &shared, &stopping);
        others.close();
        let local = if shared.config.local_wake_ups { eventbox::listen() } else { Arc::default() };
        let role = shared.attended.as_ref().map(|attended| {
            attended.is_run_by(&local);
            Database::of(&shared.pool).attends(Arc::clone(attended))
        });
        let work = Scheduler::new(Arc::clone(&shared), &durations, scanned, held, local, remote);
        let work = tokio::spawn(work.run(stopping.clone(), interrupt.clone(), beat));
        Inner {
            shared,
            worker,
            hearts,
            owned,
            membership,
            loops: Mutex::new(Some(Loops { work, others, membership: keeping })),
            _guards: [stopping.clone().drop_guard(), interrupt.clone().drop_guard(), leaving.clone().drop_guard()],
            _role: role,
            stopping,
            interrupt,
            leaving,
        }
    }

    /// Hands over the shards while the work on them goes on, so that no recipient waits for another process.
    async fn hand_over(&self, limit: Duration) {
        let Some(membership) = &self.membership else { return };
        let longest = (membership.leases.check_interval * HAND_OVER_CHECKS).min(limit.mul_f64(HAND_OVER_PART));
        if timeout(longest, membership.hand_over()).await.is_err() {
            tracing::info!(worker = %self.worker, "other processes have not begun with all shards: they will");
        }
    }

    async fn stop(&self, limit: Duration) -> StopReport {
        let (begun, deadline) = (Instant::now(), Instant::now() + limit);
        let Some(mut loops) = self.loops.lock().await.take() else {
            return StopReport::COMPLETE;
        };
        // The work ends also when this future is dropped.
        let stopping = self.stopping.clone().drop_guard();
        self.hand_over(limit).await;
        drop(stopping);
        let interrupt_at = begun + limit.mul_f64(INTERRUPT_AFTER);
        let left = match timeout_at(interrupt_at, &mut loops.work).await {
            Ok(left) => left.unwrap_or_default(),
            Err(_) => {
                self.interrupt.cancel();
                timeout_at(deadline, &mut loops.work).await.ok().and_then(Result::ok).unwrap_or_default()
            }
        };
        let others_ended = timeout_at(deadline, loops.others.wait()).await.is_ok();
        self.leaving.cancel();
        let left_membership = match (&self.membership, loops.membership) {
            (Some(membership), Some(keeping)) => {
                let leave = async {
                    let _ = keeping.await;
                    membership.leave().await
                };
                match timeout_at(deadline, leave).await {
                    Ok(Ok(())) => true,
                    Ok(Err(fault)) => {
                        tracing::warn!(error = %fault.0, "the leases could not be released: they expire");
                        false
                    }
                    Err(_) => false,
                }
            }
            _ => true,
        };
        reserve::close(&self.shared, deadline).await;
        let complete = left.interrupted == 0 && others_ended && left_membership;
        tracing::info!(worker = %self.worker, complete, left.waiting, left.interrupted, "runtime stopped");
        StopReport { complete, left: left.waiting, interrupted: left.interrupted }
    }
}

impl<B: Backend> Runtime<B> {
    pub(super) fn run(builder: RuntimeBuilder<B>, held: PausedKinds) -> Self {
        Runtime { inner: Arc::new(Inner::start(builder, held)) }
    }

    /// Returns a builder. Register kinds, then call [`start`](RuntimeBuilder::start).
    pub fn builder(pool: Pool<B>) -> RuntimeBuilder<B> {
        RuntimeBuilder::new(pool)
    }

    pub(super) fn shared(&self) -> &Shared<B> {
        &self.inner.shared
    }

    /// Returns a resolver, which finds the process that works on a recipient.
    #[must_use]
    pub fn resolver(&self) -> Resolver<B> {
        let (shared, owned) = (Arc::clone(&self.inner.shared), self.inner.owned.clone());
        Resolver { shared, worker: self.inner.worker, owned, stopping: self.inner.stopping.clone() }
    }

    /// Returns the shards that this runtime works on, as they change.
    pub(crate) fn owned(&self) -> watch::Receiver<ShardSet> {
        self.inner.owned.clone()
    }

    pub(crate) fn pool(&self) -> &Pool<B> {
        &self.inner.shared.pool
    }

    /// The id of this runtime among the members.
    #[must_use]
    pub fn worker(&self) -> Uuid {
        self.inner.worker
    }

    /// Stops the runtime: its shards go to the other processes, then no new work starts, and the work in flight
    /// commits and runs its hooks.
    ///
    /// The runtime goes on with its shards until the other processes work on them. Each of them begins at its next
    /// check of the leases. The runtime waits for them no longer than three
    /// [`check_interval`](crate::runtime::LeaseConfig::check_interval) and two fifths of `limit`. Without other
    /// processes it does not wait.
    ///
    /// After four fifths of `limit` the remaining work is interrupted, which rolls it back and counts as no failure.
    /// Returns by `limit`, with the counts of the remaining work. A second stop does nothing.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves the runtime stopping. Its leases expire by themselves.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.inner.stop(limit).await
    }

    /// Returns the health: unhealthy when a loop gives no sign of life, also without other symptoms; when a kind is
    /// held because many of its recipients fail alike; and when something fails that is no event's fault.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut problems = self.inner.hearts.problems();
        problems.extend(self.inner.shared.outages.problems());
        problems.extend(self.inner.shared.complaints.problems());
        if self.inner.stopping.is_cancelled() {
            problems.push("stopped".to_owned());
        }
        Health { problems }
    }

    /// Returns the counts of this runtime since its start.
    #[must_use]
    pub fn stats(&self) -> RuntimeStats {
        let held_by_rates = self.inner.shared.rates.held() as u64;
        RuntimeStats { held_by_rates, ..self.inner.shared.counters.snapshot() }
    }

    /// Returns the number of shards that this runtime works on, 0 to 256.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.inner.owned.borrow().len()
    }
}
