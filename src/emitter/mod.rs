//! The durable outbox: messages for the world outside, delivered at least once to Chip Ingress.
//!
//! Three ways lead into the outbox: a turn publishes, [`emit_in`] joins any transaction, and [`DurableEmitter::emit`] stores alone. One
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
#![doc = include_str!("retry_classes.md")]

mod auth;
mod batch;
mod batch_config;
mod breaker;
mod builder;
mod coalesce;
mod config;
mod connection;
mod dead_letter;
#[allow(clippy::module_inception)]
mod emitter;
mod error;
mod failures;
mod fallback;
mod fate;
pub mod global;
mod grpc;
mod headers;
mod health;
mod insert;
mod instruments;
mod isolate;
mod leftover;
mod lifecycle;
mod metrics;
mod noop;
mod outbox;
mod outcome;
mod pace;
mod pem;
mod process;
mod refusal;
mod results;
mod retransmit;
mod retry_hint;
mod send;
mod seqnum;
mod settle;
mod setup;
mod sizing;
mod split;
mod stats;
mod struggling;
mod tls;
mod transport;
mod unsettled;
mod upkeep;
mod work;

pub use auth::{
    AUTH_HEADER, Auth, AuthError, AuthSettings, LazySigner, MIN_HEADERS_TTL, RotatingAuth, SIGNER_TIMEOUT, Signer,
};
pub use batch::{ABANDON_GRACE, BatchClient, BatchStop, Callback, Sent};
pub use batch_config::{BatchConfig, EmptyResults, FRAMING_RESERVE_BYTES, MIN_REQUEST_BYTES};
pub use breaker::{BreakerConfig, BreakerState, FLAP_OPENINGS, FLAP_WINDOW};
pub use builder::DurableEmitterBuilder;
pub use config::{Backoff, Config, Expiry, Hooks, MetricsConfig, Retain};
pub use connection::RECONNECT_AFTER;
pub use dead_letter::{
    DeadLetter, DeadLetterId, MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS, dead_letters, delete_dead_letters,
    replay_dead_letters,
};
pub use emitter::DurableEmitter;
pub use error::{AuthConfigError, ConfigError, EmitterError};
pub use fallback::MAX_FALLBACKS;
pub use fate::ATTEMPTS_CODE;
pub use grpc::{
    CONNECT_TIMEOUT, Destination, GrpcConfig, GrpcTransport, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, KeepAlive,
    MAX_RESPONSE_BYTES, TCP_KEEPALIVE, UNARY_ATTEMPTS,
};
pub use headers::{HeaderProvider, resource_headers};
pub use health::{HealthReport, SERVICE_NAME};
pub use instruments::{INSTRUMENTS, Instrument, Kind};
pub use lifecycle::StopReport;
pub use metrics::{MAX_LABEL_PAIRS, describe};
pub use noop::NoopTransport;
pub(crate) use outbox::write_outbox;
pub use outbox::{DEFAULT_HOLD, Handover, IdempotencyKey, Stored, emit_in};
pub use outcome::{EventErrorCode, RetryClass, SendError, error_code};
#[cfg(feature = "ingress")]
pub(crate) use pem::Pem;
pub use pem::{MAX_PEM_BYTES, TLS_READ_TIMEOUT, TLS_RELOAD_INTERVAL};
pub use retry_hint::MAX_RETRY_AFTER;
pub use seqnum::MAX_SEQUENCES;
pub use setup::{BATCH_VARIABLE, DURABLE_VARIABLE, ENDPOINT_VARIABLE, Setup};
pub use stats::Stats;
pub use struggling::STRUGGLES_AFTER;
pub use tls::Tls;
pub use transport::Transport;
pub use upkeep::{MAX_COUNTED, QueueStats};
