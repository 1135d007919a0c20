//! Views: what an operator may ask. They only read, and each has a bound.

pub(super) mod checkpoints;
pub(super) mod count;
pub(super) mod dead;
pub(super) mod destination;
pub(super) mod inspect;
pub(super) mod members;
pub(super) mod messages;
pub(super) mod overview;
pub(super) mod peers;
pub(super) mod recipients;
pub(super) mod shards;
pub(super) mod text;
