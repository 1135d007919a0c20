//! The options of the durable emitter.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use crate::chip::answer::outcome::SendError;
use crate::chip::client::config::BatchConfig;
use crate::chip::error::ConfigError;
use crate::emitter::error::EmitterError;
use crate::outbox::row::{FIRST_CLAIM_TTL, IdempotencyKey};
use crate::retry::pause_after;

/// The options of a [`DurableEmitter`](crate::emitter::DurableEmitter). Change what you need of the default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Host (true) or plugin (false): whether rows that are left in the table, by whomever, are claimed and sent again, and expired ones moved.
    pub retransmit: bool,
    /// Time between two searches for due rows when the last one found none.
    pub retransmit_interval: Duration,
    /// How long a row belongs to whoever inserted or claimed it; longer than the publish timeout.
    pub retransmit_after: Duration,
    /// The most rows of a claim. Fewer are claimed when the server is slow, so that they are sent while the claim lasts.
    pub retransmit_batch_size: NonZeroUsize,
    /// When a row is tried again after a transient failure.
    pub backoff: Backoff,
    /// When a row is tried again that waits for somebody to register a schema or a domain.
    pub slow_backoff: Backoff,
    /// The attempts after which a message that fails again becomes a dead letter, with the code
    /// [`ATTEMPTS_CODE`](crate::emitter::ATTEMPTS_CODE); `None`: it is tried for ever. Every claim of the row is an attempt, also one
    /// that ended without a request, and an outage of the endpoint counts as much as a refusal.
    pub max_attempts: Option<NonZeroU32>,
    /// Moves rows that get too old to the dead letters; `None`: rows never expire.
    pub expiry: Option<Expiry>,
    /// How long dead letters are kept, checked at the expiry's interval; `None`: until somebody deletes them.
    pub dead_letter_retention: Option<Duration>,
    /// The deadline of a statement.
    pub database_timeout: Duration,
    /// The most emits that share an insert; 0: each has its own.
    pub insert_batch_size: usize,
    /// Time for which an insert waits for more messages; zero waits only for the statement in flight.
    pub insert_flush_interval: Duration,
    /// Inserts at the same time; 0: as many as the engine can use.
    pub insert_workers: usize,
    /// The most outcomes that share a statement; 0: each has its own.
    pub delete_batch_size: usize,
    /// Time for which an outcome waits for others to share its statement.
    pub delete_flush_interval: Duration,
    /// Statements of outcomes at the same time, as far as the engine can use them: one on SQLite.
    pub delete_workers: NonZeroUsize,
    /// Keeps delivered rows for a while instead of deleting them at once.
    pub retain_delivered: Option<Retain>,
    /// Sends an event that failed for a transient reason once more by the unary call.
    pub fallback: bool,
    /// The idempotency key of events that have none.
    pub idempotency_key: IdempotencyKey,
    /// Emits that [`emit_async`](crate::emitter::DurableEmitter::emit_async) may have waiting; more are dropped and counted.
    pub async_buffer: NonZeroUsize,
    /// Observes the outbox and the process for gauges; `None` for none.
    pub metrics: Option<MetricsConfig>,
    /// The least time after which a loop that gives no sign of life is reported, if three of its intervals are shorter; and how long the
    /// breaker may be open before health is bad.
    pub health_grace: Duration,
    /// Longest time of a stop whose caller gives no limit.
    pub shutdown_timeout: Duration,
    /// Your own code, told what happens.
    pub hooks: Hooks,
    /// The batch client.
    pub batch: BatchConfig,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            retransmit: true,
            retransmit_interval: Duration::from_secs(5),
            retransmit_after: FIRST_CLAIM_TTL,
            retransmit_batch_size: NonZeroUsize::MIN.saturating_add(999),
            backoff: Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60) },
            slow_backoff: Backoff { initial: Duration::from_secs(30), max: Duration::from_secs(3600) },
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

/// Waits that double from `initial` to `max`, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Backoff {
    /// Returns the pause after this number of attempts: between half of its step and all of it.
    pub(crate) fn after(&self, attempts: i32) -> Duration {
        pause_after(u32::try_from(attempts.saturating_sub(1)).unwrap_or(0), self.initial, self.max)
    }
}

/// When rows are given up for their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The age.
    pub ttl: Duration,
    /// Time between two searches.
    pub interval: Duration,
}

impl Default for Expiry {
    fn default() -> Self {
        Expiry { ttl: Duration::from_secs(3600), interval: Duration::from_secs(60) }
    }
}

/// Removal of delivered rows that were retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    /// Time between two runs.
    pub purge_interval: Duration,
    /// The most rows of a statement.
    pub purge_batch_size: NonZeroUsize,
}

impl Default for Retain {
    fn default() -> Self {
        Retain { purge_interval: Duration::from_millis(250), purge_batch_size: NonZeroUsize::MIN.saturating_add(499) }
    }
}

/// Observation of the outbox for gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Time between two runs.
    pub poll_interval: Duration,
    /// The bytes of undelivered payload that count as full; 0 for no such ratio.
    pub max_queue_payload_bytes: u64,
    /// Time before its expiry at which a row counts as near it. Counts only when shorter than the time to live.
    pub near_expiry_lead: Duration,
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

type InsertHook = dyn Fn(Duration, Option<&EmitterError>) + Send + Sync;
type PublishHook = dyn Fn(Duration, usize, Option<&SendError>) + Send + Sync;
type DeleteHook = dyn Fn(Duration, usize) + Send + Sync;

/// Your own code, told what happens; called concurrently, and should return at once. A panic is logged and harms nothing else.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Hooks {
    /// After each insert of an emit: how long it took, and its error.
    pub on_emit_insert: Option<Arc<InsertHook>>,
    /// Per event whose outcome is known: the time since it was handed over, 1, and its error.
    pub on_batch_publish: Option<Arc<PublishHook>>,
    /// After each statement that deletes or marks delivered rows, also a failed one: how long it took and how many rows it was about.
    pub on_batch_delete: Option<Arc<DeleteHook>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("on_emit_insert", &self.on_emit_insert.is_some())
            .field("on_batch_publish", &self.on_batch_publish.is_some())
            .field("on_batch_delete", &self.on_batch_delete.is_some())
            .finish()
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let expiry = self.expiry.unwrap_or_default();
        let retain = self.retain_delivered.unwrap_or_default();
        let metrics = self.metrics.unwrap_or_default();
        for (setting, duration) in [
            ("retransmit_interval", self.retransmit_interval),
            ("retransmit_after", self.retransmit_after),
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
                return Err(ConfigError::Zero { setting });
            }
        }
        if self.retransmit_after <= self.batch.publish_timeout {
            return Err(ConfigError::ClaimTooShort {
                retransmit_after_ms: self.retransmit_after.as_millis(),
                publish_timeout_ms: self.batch.publish_timeout.as_millis(),
            });
        }
        self.batch.check()
    }
}
