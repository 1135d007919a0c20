//! Delivery of the outbox to Chip Ingress, at least once.
//!
//! Three ways lead into the outbox: a turn publishes, [`outbox::publish_in`](crate::outbox::publish_in) joins any
//! transaction, and [`DurableEmitter::publish`] stores a message alone. One way leads out: a [`DurableEmitter`] sends
//! the row, from memory if this process just wrote it, and acts on the server's answer. It deletes a delivered row,
//! schedules the next attempt, or makes the row a dead letter with a code and a reason. You can replay dead letters. No
//! row leaves the outbox without an outcome.
//!
//! # The claim
//!
//! A row belongs to the process that inserted or claimed it until `next_attempt_at_us`, by the database's clock. Each
//! claim counts an attempt. The client does not send a message whose request could end after the claim. An outcome
//! changes a row only while its attempts are those of the claim. So any number of hosts and plugins share one table,
//! and only one of them sends a row at a time.
//!
//! # A pause
//!
//! An operator may pause a destination ([`admin::Operator::pause_destination`](crate::admin::Operator)): messages of a
//! source, of a type, of both, or all. No claim takes them, no process sends them from memory, they do not expire, and
//! they keep their attempts. A process learns of a pause within [`PAUSE_POLL_INTERVAL`]. What it has in its queue by
//! then may still be sent, for as long as its claim lasts.
//!
//! # What a failure means
//!
//! [`chip`](crate::chip) lists the classes of failures.

pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod delivery;
#[allow(clippy::module_inception)]
pub(crate) mod emitter;
pub(crate) mod error;
pub mod global;
pub(crate) mod health;
pub(crate) mod insert;
pub(crate) mod metrics;
pub(crate) mod outcomes;
pub(crate) mod setup;

pub use config::{Backoff, Config, Expiry, Hooks, MetricsConfig, Retain};
pub use delivery::handoff::Handover;
pub use delivery::paused::{PAUSE_POLL_INTERVAL, PAUSED_HOLD, PAUSED_KEPT_DUE};
pub use emitter::{DurableEmitter, DurableEmitterBuilder};
pub use error::Error;
pub use health::{HealthReport, SERVICE_NAME};
pub use metrics::instruments::INSTRUMENTS;
pub use metrics::stats::Stats;
pub use metrics::{MAX_LABEL_PAIRS, describe};
pub use outcomes::ATTEMPTS_CODE;
pub use outcomes::fallback::MAX_FALLBACKS;
pub use outcomes::struggling::STRUGGLES_AFTER;
pub use setup::{BATCH_VARIABLE, DURABLE_VARIABLE, ENDPOINT_VARIABLE, Setup};
