//! The durable outbox: messages for the world outside, delivered at least once to Chip Ingress.
//!
//! Three ways lead into the outbox: a turn publishes, [`outbox::publish_in`](crate::outbox::publish_in) joins any transaction, and [`DurableEmitter::publish`] stores alone. One
//! way leads out: a [`DurableEmitter`] sends the row, from memory if it was just written, and settles it by what the server
//! answered: delivered (the row is deleted), to be tried later, or a dead letter with a code and a reason, from where it can be
//! replayed. Nothing leaves the outbox without an outcome.
//!
//! # The claim
//!
//! A row belongs to whoever inserted or claimed it until `next_attempt_at_us`, by the database's clock; each claim counts an attempt.
//! A message whose request could end after its claim is not sent, and whoever settles a row changes it only if its attempts are
//! still those of his claim. So any number of hosts and plugins share one table, and a row is sent by one of them at a time.
//!
//! # What a failure means
//!
//! [`chip`](crate::chip) tells the classes of failures.

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
