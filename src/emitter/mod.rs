//! The durable outbox: messages for the world outside, delivered at least once to Chip Ingress.

mod outbox;

pub(crate) use outbox::write_outbox;
pub use outbox::{DEFAULT_HOLD, IdempotencyKey, Stored, emit_in};
