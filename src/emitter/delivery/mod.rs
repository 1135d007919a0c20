//! The loops that deliver: claims of due rows, releases, expiry, and their start and stop.

pub(crate) mod claim_budget;
pub(crate) mod lifecycle;
pub(crate) mod release_queue;
pub(crate) mod retransmit;
pub(crate) mod upkeep;
