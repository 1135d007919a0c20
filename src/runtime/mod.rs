//! Workers for every eventbox: a service starts a [`Runtime`] in each of its processes, and the living processes share
//! the work.
//!
//! A runtime finds recipients that have events and takes them through turns. Recipients of a
//! [`Reducer`](crate::Reducer) are taken many at a time, in rounds of one listing and one commit. Recipients of a
//! [`Processor`](crate::Processor) are taken one at a time, in concurrent turns. Any number of runtimes, in one process
//! or in many, share a database. Leases on shards avoid double work. Correctness rests on the compare-and-set of the
//! turn, and never on a lease, a clock or a wake-up.
//!
//! # The parts
//!
//! | Part | Task |
//! | --- | --- |
//! | `shards` | decides which shards this process works on |
//! | `finding` | looks for recipients with events, and sends wake-ups to other processes |
//! | `working` | gives the recipients to rounds and turns |
//! | `failing` | backs off after failures, and reports them to health |
//! | `timers` | moves due timers into their eventboxes |
//! | `attended` | recipients that this process works on whoever holds their shards |
//! | `wait`, `published` | waits until an emitted event was processed, and until what it caused was delivered |
//! | `resolving` | finds the process that works on a recipient |
//!
//! The ideas are Gazette's (a consumer that reads transaction N+1 while N commits, allocation by leases) on rows
//! instead of journals.

mod attended;
mod backlog;
mod builder;
mod config;
mod failing;
mod finding;
mod handle;
mod metrics;
mod pruning;
mod published;
mod reserve;
mod resolving;
mod shards;
mod shared;
mod stats;
mod timers;
mod upkeep;
mod wait;
mod working;

#[cfg(feature = "peer")]
pub(crate) use attended::Attended;
pub use builder::RuntimeBuilder;
pub use config::{BackoffConfig, LeaseConfig, ROUND_PATIENCE, RuntimeConfig};
pub use finding::announcer::Announcer;
pub use handle::Runtime;
pub use metrics::INSTRUMENTS;
pub use published::{MAX_NAMED_LETTERS, Published};
pub use resolving::Resolver;
pub use resolving::options::ResolveOptions;
pub use resolving::resolution::{Holder, Resolution, ResolveStatus};
pub use shards::owner::ShardOwner;
pub use stats::RuntimeStats;
pub use working::rates::{KindRates, MAX_RATE_PERIOD, MAX_RATE_PREFIXES, Rate};

pub use crate::eventbox::{Round, RoundHooks, RoundResult};
