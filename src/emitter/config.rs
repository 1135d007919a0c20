//! Options of the durable emitter.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use crate::chip::answer::outcome::SendError;
use crate::chip::client::config::BatchConfig;
use crate::chip::error::ConfigError;
use crate::emitter::error::Error;
use crate::outbox::row::{FIRST_CLAIM_TTL, IdempotencyKey};
use crate::retry::pause_after;

/// Options of a [`DurableEmitter`](crate::emitter::DurableEmitter). Take the default, and set the fields you need.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Whether the emitter is a host: it claims due rows of every process, sends them, and moves expired ones to the
    /// dead letters. Without it the emitter is a plugin.
    pub retransmit: bool,
    /// Time between two searches for due rows, when the last one found none.
    pub retransmit_interval: Duration,
    /// Duration of a claim: only the process that inserted or claimed a row sends it. Longer than the publish timeout.
    pub claim_ttl: Duration,
    /// Most rows of a claim. A host claims fewer when the server is slow, so that it sends all of them in time.
    pub retransmit_batch_size: NonZeroUsize,
    /// Pauses before the next attempt after a transient failure.
    pub backoff: Backoff,
    /// Pauses before the next attempt when a schema or a domain is not registered at the server.
    pub slow_backoff: Backoff,
    /// Attempts after which a message that fails becomes a dead letter, with the code
    /// [`ATTEMPTS_CODE`](crate::emitter::ATTEMPTS_CODE); `None`: no limit. Each claim of the row is an attempt, also
    /// one without a request. An outage of the endpoint counts as a refusal does.
    pub max_attempts: Option<NonZeroU32>,
    /// Age at which rows become dead letters; `None`: rows never expire.
    pub expiry: Option<Expiry>,
    /// Time for which dead letters are kept, checked at the interval of the expiry; `None`: until you delete them.
    pub dead_letter_retention: Option<Duration>,
    /// Longest time of a statement.
    pub database_timeout: Duration,
    /// Most messages that share an insert; 0: each has its own.
    pub insert_batch_size: usize,
    /// Time for which an insert waits for more messages; zero waits only for the statement in flight.
    pub insert_flush_interval: Duration,
    /// Inserts at the same time; 0: as many as the engine can use.
    pub insert_workers: usize,
    /// Most outcomes that share a statement; 0: each has its own.
    pub delete_batch_size: usize,
    /// Time for which an outcome waits for others to share its statement.
    pub delete_flush_interval: Duration,
    /// Statements of outcomes at the same time, as far as the engine can use them: one on SQLite.
    pub delete_workers: NonZeroUsize,
    /// Marks delivered rows and deletes them later; `None`: deletes them at once.
    pub retain_delivered: Option<Retain>,
    /// Whether an event that failed for a transient reason is sent once more by the unary call.
    pub fallback: bool,
    /// Idempotency key of events that have none.
    pub idempotency_key: IdempotencyKey,
    /// Most messages that wait in [`publish_async`](crate::emitter::DurableEmitter::publish_async). Further ones are
    /// dropped and counted.
    pub async_buffer: NonZeroUsize,
    /// Observation of the outbox and the process for gauges; `None`: no gauges.
    pub metrics: Option<MetricsConfig>,
    /// Least silence of a loop before health reports it, if three of its intervals are shorter. Also the time with an
    /// open breaker before health reports that.
    pub health_grace: Duration,
    /// Longest time of a stop whose caller gives no limit.
    pub shutdown_timeout: Duration,
    /// Functions of yours that the emitter calls.
    pub hooks: Hooks,
    /// Options of the batch client.
    pub batch: BatchConfig,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            retransmit: true,
            retransmit_interval: Duration::from_secs(5),
            claim_ttl: FIRST_CLAIM_TTL,
            retransmit_batch_size: NonZeroUsize::MIN.saturating_add(999),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            slow_backoff: Backoff::new(Duration::from_secs(30), Duration::from_secs(3600)),
            max_attempts: None,
            expiry: None,
            dead_letter_retention: None,
            database_timeout: Duration::from_secs(5),
            insert_batch_size: 500,
            insert_flush_interval: Duration::ZERO,
            insert_workers: 0,
            delete_batch_size: 1000,
            delete_flush_interval: Duration::from_millis(50),
            delete_workers: NonZeroUsize::MIN.saturating_add(1),
            retain_delivered: None,
            fallback: false,
            idempotency_key: IdempotencyKey::Unique,
            async_buffer: NonZeroUsize::MIN.saturating_add(9_999),
            metrics: None,
            health_grace: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(30),
            hooks: Hooks::default(),
            batch: BatchConfig::durable(),
        }
    }
}

/// Pauses that double from `initial` to `max`. Jitter takes off up to half of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// First pause.
    pub initial: Duration,
    /// Longest pause.
    pub max: Duration,
}

impl Backoff {
    /// Makes a back-off from its first and its longest pause.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Backoff { initial, max }
    }

    /// Returns the pause after this number of attempts: between half of its step and all of it.
    pub(crate) fn after(&self, attempts: i32) -> Duration {
        pause_after(u32::try_from(attempts.saturating_sub(1)).unwrap_or(0), self.initial, self.max)
    }
}

/// Age at which rows become dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expiry {
    /// Largest age of a row.
    pub ttl: Duration,
    /// Time between two searches for older rows.
    pub interval: Duration,
}

impl Expiry {
    /// Sets the largest age of a row.
    #[must_use]
    pub const fn with_ttl(self, ttl: Duration) -> Self {
        Expiry { ttl, ..self }
    }

    /// Sets the time between two searches.
    #[must_use]
    pub const fn with_interval(self, interval: Duration) -> Self {
        Expiry { interval, ..self }
    }
}

impl Default for Expiry {
    fn default() -> Self {
        Expiry { ttl: Duration::from_secs(3600), interval: Duration::from_secs(60) }
    }
}

/// Deletion of delivered rows that were retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retain {
    /// Time between two runs.
    pub purge_interval: Duration,
    /// Most rows of a statement.
    pub purge_batch_size: NonZeroUsize,
}

impl Retain {
    /// Sets the time between two runs.
    #[must_use]
    pub const fn with_purge_interval(self, purge_interval: Duration) -> Self {
        Retain { purge_interval, ..self }
    }

    /// Sets the most rows of a statement.
    #[must_use]
    pub const fn with_purge_batch_size(self, purge_batch_size: NonZeroUsize) -> Self {
        Retain { purge_batch_size, ..self }
    }
}

impl Default for Retain {
    fn default() -> Self {
        Retain { purge_interval: Duration::from_millis(250), purge_batch_size: NonZeroUsize::MIN.saturating_add(499) }
    }
}

/// Observation of the outbox for gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricsConfig {
    /// Time between two observations.
    pub poll_interval: Duration,
    /// Bytes of undelivered payload that count as a full outbox; 0: no gauge of the ratio.
    pub max_queue_payload_bytes: u64,
    /// Time before its expiry at which a row counts as near it. Counts only when shorter than the time to live.
    pub near_expiry_lead: Duration,
}

impl MetricsConfig {
    /// Sets the time between two observations.
    #[must_use]
    pub const fn with_poll_interval(self, poll_interval: Duration) -> Self {
        MetricsConfig { poll_interval, ..self }
    }

    /// Sets the bytes of undelivered payload that count as a full outbox.
    #[must_use]
    pub const fn with_max_queue_payload_bytes(self, max_queue_payload_bytes: u64) -> Self {
        MetricsConfig { max_queue_payload_bytes, ..self }
    }

    /// Sets the time before its expiry at which a row counts as near it.
    #[must_use]
    pub const fn with_near_expiry_lead(self, near_expiry_lead: Duration) -> Self {
        MetricsConfig { near_expiry_lead, ..self }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        MetricsConfig {
            poll_interval: Duration::from_secs(10),
            max_queue_payload_bytes: 0,
            near_expiry_lead: Duration::from_secs(300),
        }
    }
}

type InsertHook = dyn Fn(Duration, Option<&Error>) + Send + Sync;
type PublishHook = dyn Fn(Duration, usize, Option<&SendError>) + Send + Sync;
type DeleteHook = dyn Fn(Duration, usize) + Send + Sync;

/// Functions of yours that the emitter calls, several at the same time. They should return at once. A panic is logged
/// and goes no further.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Hooks {
    /// Called after each insert of a published message, with its time and its error.
    pub on_insert: Option<Arc<InsertHook>>,
    /// Called for each event whose outcome is known, with the time since the hand-over, 1, and the error.
    pub on_batch_publish: Option<Arc<PublishHook>>,
    /// Called after each statement that deletes or marks delivered rows, also a failed one, with its time and its rows.
    pub on_batch_delete: Option<Arc<DeleteHook>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_insert", &self.on_insert.is_some())
            .field("on_batch_publish", &self.on_batch_publish.is_some())
            .field("on_batch_delete", &self.on_batch_delete.is_some())
            .finish()
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let expiry = self.expiry.unwrap_or_default();
        let retain = self.retain_delivered.unwrap_or_default();
        let metrics = self.metrics.unwrap_or_default();
        for (setting, duration) in [
            ("retransmit_interval", self.retransmit_interval),
            ("claim_ttl", self.claim_ttl),
            ("backoff.initial", self.backoff.initial),
            ("slow_backoff.initial", self.slow_backoff.initial),
            ("expiry.ttl", expiry.ttl),
            ("expiry.interval", expiry.interval),
            ("dead_letter_retention", self.dead_letter_retention.unwrap_or(Duration::MAX)),
            ("database_timeout", self.database_timeout),
            ("retain_delivered.purge_interval", retain.purge_interval),
            ("metrics.poll_interval", metrics.poll_interval),
            ("shutdown_timeout", self.shutdown_timeout),
        ] {
            if duration.is_zero() {
                return Err(ConfigError::Zero { setting }.into());
            }
        }
        if self.claim_ttl <= self.batch.publish_timeout {
            return Err(Error::ClaimTooShort {
                claim_ttl_ms: self.claim_ttl.as_millis(),
                publish_timeout_ms: self.batch.publish_timeout.as_millis(),
            });
        }
        Ok(self.batch.check()?)
    }
}
