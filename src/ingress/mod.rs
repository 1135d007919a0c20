//! A Chip Ingress server for development, tests and rehearsals, with real gRPC and a store of its events.
//!
//! The server implements the whole service: Publish, PublishBatch, Ping, StreamEvents and RegisterSchema. It validates
//! each event and keeps the accepted events in SQLite tables of its own (`ingress_…`), which it creates at the start.
//! It answers a call only after the commit.
//!
//! The server recognises copies of an event by the `idempotencykey`. It answers all of these events as success:
//!
//! | event | outcome |
//! | --- | --- |
//! | the first copy under a key, or an event without a key | kept in the log |
//! | a further copy with the same content | counted as a duplicate |
//! | other content under a key in use | kept apart as a conflict, see [`IngressLog::conflicts`] |
//!
//! A server on the file of an earlier server continues with the events in that file.
//!
//! This is **not** a production ingress: it has one process, one file, no Kafka, and switches that make it fail. With a
//! [`Sink`] of your own the service is a door into something else, such as eventboxes.
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

mod builder;
mod call;
mod content;
mod error;
mod faults;
mod handle;
mod json;
mod log;
mod publish;
mod service;
mod sink;
mod store;
mod validate;
mod writer;

pub use builder::{DEFAULT_MAX_REQUEST_BYTES, Ingress, IngressBuilder};
pub use error::IngressError;
pub use faults::{Fault, FaultSwitch, Faults, MAX_HANG, When};
pub use handle::IngressHandle;
pub use log::{IngressLog, KeptEvent};
pub use publish::schema_subject;
pub use sink::{NotTaken, Sink, Taken};
pub use store::Counts;
pub use writer::{MAX_GROUP_BYTES, MAX_QUEUE_WAIT, MAX_QUEUED_BATCHES};

pub use crate::grpc::{
    Credential, DEFAULT_MAX_AGE, InvalidPublicKey, Listen, MAX_CLOCK_SKEW, MAX_CONNECTIONS, MAX_STREAMS_PER_CONNECTION,
    MAX_TLS_HANDSHAKE, SIGNED_HEADER, Tls, parse_public_key,
};
