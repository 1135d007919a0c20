//! Which shards this process works on, and where the others are.

pub(super) mod assignment;
pub(super) mod failed;
pub(super) mod gauges;
pub(super) mod membership;
pub(super) mod owner;
pub(super) mod passing;
mod plan;
