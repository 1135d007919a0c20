//! The durable emitter and the client of Chip Ingress.

mod batch;
mod bytes;
mod certificates;
mod counting;
mod credentials;
mod delivery;
mod events;
mod failure_log;
mod gauges;
mod grpc;
mod hosts;
mod instruments;
mod lifecycle;
mod outcomes;
mod pausing;
mod refusals;
mod results;
mod retransmission;
mod rig;
mod setup;
mod slow_server;
mod validity;

use crate::support::receiver as support;
