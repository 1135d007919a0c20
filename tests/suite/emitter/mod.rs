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
pub(crate) mod support;
mod validity;
