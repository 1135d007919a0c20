//! The shard API on gRPC: which process works on which shard, and requests that any process may get.
//!
//! | part | purpose |
//! | --- | --- |
//! | [`ShardService`] | serves `consumer.Shard` (`proto/consumer.proto`), in a server of yours or alone |
//! | [`Shards`] | the functions behind it, on the tables of a database |
//! | [`ShardApi`] | wraps or replaces these functions |
//! | [`ShardClient`] | calls it: list, stat, apply in batches, unassign, wait until ready |
//! | [`Proxy`] | sends requests of your own service to the process that works on a recipient |
//!
//! Names and numbers are those of Gazette's consumer framework. The guide `docs/leases.md` says where the two differ.
//! Leases still decide nothing but who works: each call may find an outdated holder, and costs time then.
//!
//! # Examples
//!
//! ```
//! # use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};
//! # use std::time::Duration;
//! # struct Counter;
//! # impl Reducer for Counter {
//! #     type State = u64;
//! #     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
//! #         Ok(Outcome::to(count + events.len() as u64).consuming(events))
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
//! # let directory = tempfile::tempdir()?;
//! # let file = directory.path().join("boxes.db");
//! # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&file)).await?;
//! # eventbox::migrate(&pool).await?;
//! use eventbox::runtime::Runtime;
//! use eventbox::shard_api::{ShardClient, ShardService, Shards, shard_id};
//!
//! let runtime = Runtime::builder(pool.clone()).reducer("airport", Counter).start().await?;
//! let server = ShardService::new(Shards::new(pool.clone()).on(&runtime)).serve("127.0.0.1:0").await?;
//! let client = ShardClient::connect(server.local_addr().to_string()).await?;
//! client.wait_until_ready(Default::default(), Duration::from_secs(10)).await?;
//!
//! let airport = Recipient::new("airport", "JFK")?;
//! let receipt = eventbox::emit(&pool, &airport, Event::new("departed")).await?;
//! let key = receipt.to_string();
//! let stat = client.stat(shard_id(airport.shard()), [(key.clone(), 0)].into()).await?;
//! assert_eq!(stat.read_through[&key], 1, "the first turn has consumed the event");
//! # server.stop(Duration::from_secs(5)).await;
//! # runtime.stop(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```

mod api;
mod channels;
mod client;
mod convert;
mod error;
mod id;
mod proxy;
mod select;
mod service;
mod shards;
mod stat;

pub use api::ShardApi;
pub use channels::CONNECT_TIMEOUT;
pub use client::{MAX_BATCH, ShardClient};
pub use error::ShardClientError;
pub use id::{shard_id, shard_number};
pub use proxy::{GENERATION_HEADER, PROXIED_BY_HEADER, PROXY_TIMEOUT, Proxy, ProxyError, Routed};
pub use service::{ShardServerHandle, ShardService};
pub use shards::{Shards, WHO_HEADER, WHY_HEADER};
pub use stat::{MAX_PUBLISHED_AGE, MAX_STAT_KEYS, MAX_STAT_WAIT, MAX_WAITING_STATS};

pub use crate::grpc::{
    Credential, DEFAULT_MAX_AGE, InvalidPublicKey, Listen, MAX_CLOCK_SKEW, MAX_CONNECTIONS, MAX_STREAMS_PER_CONNECTION,
    MAX_TLS_HANDSHAKE, SIGNED_HEADER, ServeError, Tls, parse_public_key,
};
