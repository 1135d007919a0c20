//! The durable outbox: messages to the outside, stored in the transaction that decided them.
//!
//! Turns publish into it, and [`publish_in`] joins any transaction. A `DurableEmitter` (feature `emitter`) delivers the
//! rows and deletes each when the server has it, or moves it to the dead letters with a code and a reason.
//! [`replay_dead_letters`] moves dead letters back. No row leaves the outbox without an outcome.
//!
//! # The claim
//!
//! The insert is the first claim of a row: for [`FIRST_CLAIM_TTL`] only the process that wrote the row sends it. After
//! that any host may claim it, by the database's clock. Each claim counts an attempt.

pub(crate) mod counts;
pub(crate) mod dead_letter;
pub(crate) mod publish;
pub(crate) mod row;
pub(crate) mod writer;

pub use counts::{MAX_COUNTED, QueueStats, queue_stats};
pub use dead_letter::{
    DeadLetter, DeadLetterId, MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS, dead_letters, delete_dead_letters,
    replay_dead_letters,
};
pub(crate) use publish::{Caused, publish_all_in};
pub use publish::{MAX_OUTBOX_BYTES, MAX_PUBLISHED_BYTES, publish_in};
pub use row::{FIRST_CLAIM_TTL, IdempotencyKey, Stored};
pub(crate) use writer::Writer;
#[cfg(feature = "runtime")]
pub(crate) use writer::mark_of;
