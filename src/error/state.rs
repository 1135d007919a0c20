//! Faults of the states that the library keeps.

use super::BoxError;
use crate::recipient::Recipient;

/// A fault of a state that the library keeps for a [`Reducer`](crate::Reducer). The events stay in their box.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The codec could not encode the new state.
    #[error("the new state of {recipient} cannot be encoded")]
    #[non_exhaustive]
    Encode {
        /// Recipient of the state.
        recipient: Recipient,
        /// Error of the codec.
        source: BoxError,
    },
    /// The codec encoded the new state, and cannot read back what it wrote.
    #[error("the new state of {recipient} would not come back as it is")]
    #[non_exhaustive]
    NotReadBack {
        /// Recipient of the state.
        recipient: Recipient,
        /// The part that does not come back.
        source: BoxError,
    },
    /// The codec could not decode the stored state: another type, another codec, or an older form of it.
    #[error(
        "the stored state of {recipient} cannot be decoded: use the type and the codec that wrote it, or look at it \
         and repair it with eventbox::admin (stored_state, set_state, reset_state)"
    )]
    #[non_exhaustive]
    Decode {
        /// Recipient of the state.
        recipient: Recipient,
        /// Error of the codec.
        source: BoxError,
    },
    /// The new state is over the limit of its reducer.
    #[error("the new state of {recipient} has {bytes} bytes, over the limit of {limit}")]
    #[non_exhaustive]
    TooLarge {
        /// Recipient of the state.
        recipient: Recipient,
        /// Its size when encoded.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}
