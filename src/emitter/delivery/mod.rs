//! Delivery: the core with its start and stop, the hand-over to the client, and the loops that claim, release, read
//! pauses and tidy up.

pub(crate) mod claim_budget;
pub(crate) mod core;
pub(crate) mod handoff;
pub(crate) mod overflow;
pub(crate) mod paused;
pub(crate) mod retransmit;
pub(crate) mod signals;
pub(crate) mod upkeep;
