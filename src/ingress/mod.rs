//! A Chip Ingress server for development, tests and rehearsals: real gRPC, and it keeps what it got.
//!
//! It answers the whole service (Publish, PublishBatch, Ping, StreamEvents, RegisterSchema), validates each event, keeps what it
//! accepted in SQLite tables of its own (`ingress_…`, created at the start), and answers only after the commit. Events are recognised by their
//! `idempotencykey`: the first copy is kept, further copies are answered as success and counted, and other content under a
//! key that is taken is kept apart, where it can be counted and seen ([`IngressLog::conflicts`]). A restart on the same file goes on.
//!
//! It is **not** a production ingress: one process, one file, no Kafka behind it, and switches to make it fail.
//!
//! # Examples
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use eventbox::ingress::Ingress;
//!
//! let server = Ingress::builder().serve("127.0.0.1:0").await?;
//! println!("publish to {}", server.local_addr());
//! assert_eq!(server.log().counts().await?.kept, 0);
//! server.stop(std::time::Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```

mod auth;
mod builder;
mod call;
mod connection;
mod content;
mod error;
mod faults;
mod handle;
mod json;
mod listening;
mod log;
mod publish;
mod service;
mod size;
mod store;
mod tls;
mod validate;
mod writer;

pub use auth::{Credential, DEFAULT_MAX_AGE, MAX_CLOCK_SKEW, SIGNED_HEADER, parse_public_key};
pub use builder::{DEFAULT_MAX_REQUEST_BYTES, Ingress, IngressBuilder, Listen};
pub use connection::MAX_CONNECTIONS;
pub use error::IngressError;
pub use faults::{Fault, FaultSwitch, Faults, MAX_HANG, When};
pub use handle::IngressHandle;
pub use log::{IngressLog, KeptEvent};
pub use publish::schema_subject;
pub use service::MAX_STREAMS_PER_CONNECTION;
pub use store::Counts;
pub use tls::{MAX_TLS_HANDSHAKE, Tls};
pub use writer::{MAX_GROUP_BYTES, MAX_QUEUE_WAIT, MAX_QUEUED_BATCHES};
