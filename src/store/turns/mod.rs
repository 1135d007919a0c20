//! The turn of a recipient: its events, its state, its failures, alone or in a round.

pub(in crate::store) mod failure;
pub(in crate::store) mod round;
pub(in crate::store) mod round_of_one;
pub(in crate::store) mod state;
pub(in crate::store) mod step;
pub(in crate::store) mod turn;
