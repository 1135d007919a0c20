//! The shards between the processes: members, leases, specs, wake-ups.

pub(in crate::store) mod lease;
pub(in crate::store) mod report;
pub(in crate::store) mod spec;
pub(in crate::store) mod wake;
