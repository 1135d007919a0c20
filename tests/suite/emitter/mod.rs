//! The durable emitter and the client of Chip Ingress.

mod batch;
mod counting;
mod credentials;
mod delivery;
mod events;
mod grpc;
mod hosts;
mod instruments;
mod lifecycle;
mod slow;
pub(crate) mod support;
mod told;
mod validity;
mod verdicts;
