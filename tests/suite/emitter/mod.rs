//! The durable emitter and the client of Chip Ingress.

mod batch;
mod bytes;
mod certificates;
mod counting;
mod credentials;
mod delivery;
mod events;
mod gauges;
mod grpc;
mod hosts;
mod instruments;
mod lifecycle;
mod setup;
mod slow;
pub(crate) mod support;
mod survivors;
pub(crate) mod told;
mod validity;
mod verdicts;
