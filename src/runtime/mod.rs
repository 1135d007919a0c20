//! Workers for every box: a service starts a [`Runtime`] in each of its processes, and every event is processed by whoever is alive.
//!
//! A runtime finds recipients that have events and takes them through turns: those of a [`Reducer`](crate::Reducer) many at a time, in rounds
//! of one listing and one commit; those of a [`Processor`](crate::Processor) one at a time, several beside each other. Any number of
//! runtimes, in one process or in many, share a database. Leases on shards keep them out of each other's way; what is right never rests
//! on a lease, a clock or a hint, but on the compare-and-set of the turn.
//!
//! # The parts
//!
//! `shards` decides which shards this process works on. `finding` looks for recipients with events, and lets processes wake each other
//! up. `working` gives them to rounds and turns. `failing` is what follows from failures. `timers` moves timers that are due; `wait`
//! waits for what was emitted.
//!
//! The ideas are Gazette's (a consumer that reads transaction N+1 while N commits, allocation by leases) on rows instead of journals.

mod backlog;
mod builder;
mod config;
mod failing;
mod finding;
mod handle;
mod metrics;
mod pruning;
mod reserve;
mod shards;
mod shared;
mod stats;
mod timers;
mod upkeep;
mod wait;
mod working;

pub use builder::RuntimeBuilder;
pub use config::{BackoffConfig, LeaseConfig, RuntimeConfig};
pub use finding::announcer::Announcer;
pub use handle::Runtime;
pub use metrics::INSTRUMENTS;
pub use shards::owner::ShardOwner;
pub use stats::RuntimeStats;
