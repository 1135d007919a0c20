//! Finds the process that holds a shard, and waits until that process is ready.

pub(super) mod options;
pub(super) mod resolution;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::options::ResolveOptions;
use self::resolution::{Holder, Resolution, ResolveStatus};
use super::shared::Shared;
use crate::clock::{from_now, micros};
use crate::error::Result;
use crate::eventbox::{Status, status};
use crate::recipient::Recipient;
use crate::retry::endless_pauses;
use crate::shard::ShardSet;
use crate::store::{Backend, Fault, HolderRow, answered, hold};

/// First and longest pause between two looks at the lease and the status of the event.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Finds the process that works on a recipient, and waits on request: until there is one, and until it has processed an
/// event. [`Runtime::resolver`](crate::runtime::Runtime::resolver) makes it.
///
/// Use it in a service that any client may call on any node: answer where the status is [`ResolveStatus::Ok`], and send
/// the call on to the [`Holder`] where it is [`ResolveStatus::NotPrimary`].
///
/// Each look reads the lease of the shard in the database, so an answer is right when the statement ran. It may be
/// outdated when it arrives: a call that is sent on carries the
/// [generation](ResolveOptions::generation), and the process that gets it resolves again. Correctness does not depend
/// on it: also a process that lost the shard commits no turn twice.
///
/// Clones are cheap, and do not keep the runtime alive.
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
/// # let file = directory.path().join("boxes.db");
/// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&file)).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::runtime::{ResolveOptions, ResolveStatus, Runtime, RuntimeConfig};
///
/// let mut config = RuntimeConfig::default();
/// config.endpoint = Some("https://10.0.0.7:8443".to_owned());
/// let runtime = Runtime::builder(pool.clone()).reducer("airport", Counter).config(config).start().await?;
/// let resolver = runtime.resolver();
///
/// let airport = Recipient::new("airport", "JFK")?;
/// let receipt = eventbox::emit(&pool, &airport, Event::new("departed")).await?;
/// let options = ResolveOptions::new().wait(Duration::from_secs(5)).read_through(receipt);
/// let found = resolver.resolve(&airport, options).await?;
/// match found.status {
///     // This process works on the airport, and the state includes the departure.
///     ResolveStatus::Ok => assert_eq!(eventbox::state::<u64>(&pool, &airport).await?.unwrap().state, Some(1)),
///     // Send the call to `found.holder`, with `found.generation`.
///     ResolveStatus::NotPrimary => {}
///     problem => return Err(problem.to_string().into()),
/// }
/// # runtime.stop(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
pub struct Resolver<B: Backend> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) worker: Uuid,
    /// Shards that this process works on.
    pub(super) owned: watch::Receiver<ShardSet>,
    /// Whether the runtime was stopped.
    pub(super) stopping: CancellationToken,
}

impl<B: Backend> Clone for Resolver<B> {
    fn clone(&self) -> Self {
        Resolver {
            shared: Arc::clone(&self.shared),
            worker: self.worker,
            owned: self.owned.clone(),
            stopping: self.stopping.clone(),
        }
    }
}

impl<B: Backend> fmt::Debug for Resolver<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl<B: Backend> Resolver<B> {
    /// Finds the process that works on a recipient.
    ///
    /// Returns a [`Resolution`] whose status says the rest. A status that is no [`ResolveStatus::Ok`] is no error.
    ///
    /// # Units and limits
    ///
    /// Without a [wait](ResolveOptions::wait) it looks once: one statement, and one more for a receipt. Waiting, it
    /// looks again when this process takes or loses shards, and at growing pauses of up to 100 ms.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    ///
    /// # Examples
    ///
    /// See [`Resolver`].
    pub async fn resolve(&self, recipient: &Recipient, options: ResolveOptions) -> Result<Resolution> {
        self.search(recipient.shard(), &options, &format!("resolve {recipient}")).await
    }

    /// Finds the process that works on a shard, 0 to 255. Any other number is [`ResolveStatus::ShardNotFound`], without
    /// any SQL.
    ///
    /// See [`resolve`](Self::resolve).
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    pub async fn resolve_shard(&self, shard: u16, options: ResolveOptions) -> Result<Resolution> {
        match u8::try_from(shard) {
            Ok(number) => self.search(number, &options, &format!("resolve shard {shard}")).await,
            Err(_) => Ok(Resolution::new(shard, ResolveStatus::ShardNotFound)),
        }
    }

    /// Looks until the answer is final or the wait is over.
    async fn search(&self, shard: u8, options: &ResolveOptions, attempt: &str) -> Result<Resolution> {
        let until = from_now(options.wait);
        let mut owned = self.owned.clone();
        let mut pauses = endless_pauses(LOOKS.0, LOOKS.1);
        loop {
            // Before the look, so that a later change ends the pause.
            owned.mark_unchanged();
            let was_stopped = self.stopping.is_cancelled();
            let found = self.look(shard, options, attempt).await?;
            let left = until.saturating_duration_since(Instant::now());
            if was_stopped || left.is_zero() || !found.may_change(options) {
                return Ok(found);
            }
            tokio::select! {
                () = self.stopping.cancelled() => {}
                Ok(()) = owned.changed() => {}
                () = tokio::time::sleep(pauses.next().unwrap_or(LOOKS.1).min(left)) => {}
            }
        }
    }

    /// Reads the lease, and then the status of the event.
    async fn look(&self, shard: u8, options: &ResolveOptions, attempt: &str) -> Result<Resolution> {
        let mut found = match self.shared.config.leases {
            None => self.without_leases(shard),
            Some(leases) => {
                let pool = &self.shared.pool;
                let read = answered(pool, async { B::read_holder(&mut *hold(pool).await?, shard.into()).await });
                let row = read.await.map_err(|fault: Fault| fault.during(attempt))?;
                self.judged(shard, row, micros(leases.lease_ttl), options.generation)
            }
        };
        match &options.read_through {
            Some(receipt) if found.status == ResolveStatus::Ok && receipt.to().shard() == shard => {
                let now = status(&self.shared.pool, receipt).await?;
                if !matches!(now, Status::Done { .. }) {
                    found.status = ResolveStatus::NotReadThrough;
                }
                found.read_through = Some(now);
            }
            _ => {}
        }
        Ok(found)
    }

    fn judged(&self, shard: u8, row: Option<HolderRow>, ttl_us: i64, generation: Option<i64>) -> Resolution {
        let Some(row) = row else { return Resolution::new(shard.into(), ResolveStatus::NoPrimary) };
        let holder = row.lease.holder.filter(|_| row.lease.is_valid(ttl_us));
        let is_local = holder == Some(self.worker);
        let status = match holder {
            _ if generation.is_some_and(|generation| generation != row.lease.generation) => {
                ResolveStatus::WrongGeneration
            }
            Some(_) if !is_local => ResolveStatus::NotPrimary,
            _ if self.stopping.is_cancelled() => ResolveStatus::Stopped,
            Some(_) if self.owned.borrow().contains(shard) => ResolveStatus::Ok,
            _ => ResolveStatus::NoPrimary,
        };
        let (zone, endpoint) = (row.zone.unwrap_or_default(), row.endpoint);
        let holder = holder.map(|worker| Holder { worker, zone, endpoint, is_local });
        Resolution { holder, generation: row.lease.generation, ..Resolution::new(shard.into(), status) }
    }

    /// Without leases every process works on every shard.
    fn without_leases(&self, shard: u8) -> Resolution {
        let is_stopped = self.stopping.is_cancelled();
        let status = if is_stopped { ResolveStatus::Stopped } else { ResolveStatus::Ok };
        let holder = (!is_stopped).then(|| Holder {
            worker: self.worker,
            zone: self.shared.config.zone.clone(),
            endpoint: self.shared.config.endpoint.clone(),
            is_local: true,
        });
        Resolution { holder, ..Resolution::new(shard.into(), status) }
    }
}
