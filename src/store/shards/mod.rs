//! The shards between the processes: members, leases, wake-ups.

pub(in crate::store) mod lease;
pub(in crate::store) mod report;
pub(in crate::store) mod wake;
