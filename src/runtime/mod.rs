//! Workers for every box: a service starts a [`Runtime`] in each of its processes, and every event is processed by whoever is alive.
//!
//! A runtime finds recipients that have events and takes them through turns: those of a [`Reducer`](crate::Reducer) many at a time, in rounds
//! of one listing and one commit; those of a [`Processor`](crate::Processor) one at a time, several beside each other. Any number of
//! runtimes, in one process or in many, share a database. Leases on shards keep them out of each other's way; what is right never rests
//! on a lease, a clock or a hint, but on the compare-and-set of the turn.
//!
//! # The parts
//!
//! `membership` and `assignment` decide which shards are ours, `walk` and `queue` what is next, `hold` what must wait, `work` gives it to rounds and turns, its
//! `tasks`.
//! `timers` moves what is due, `wake` lets processes wake each other up (`announcer` in one that only emits), `wait` waits for what was emitted.
//!
//! The ideas are Gazette's (a consumer that reads transaction N+1 while N commits, allocation by leases) on rows instead of journals.

mod announcer;
mod assignment;
mod backoffs;
mod complaints;
mod config;
mod handle;
mod hold;
mod idle;
mod kinds;
mod membership;
mod metrics;
mod outage;
mod outcome;
mod poll;
mod position;
mod pruning;
mod queue;
mod reserve;
mod resolve;
mod states;
mod stats;
mod tasks;
mod timers;
mod trouble;
mod wait;
mod wake;
mod walk;
mod warnings;
mod work;

pub use announcer::Announcer;
pub use config::{BackoffConfig, LeaseConfig, RuntimeConfig};
pub use handle::{Health, Runtime, RuntimeBuilder, RuntimeStopReport};
pub use metrics::INSTRUMENTS;
pub use resolve::Resolution;
pub use stats::RuntimeStats;
