//! Views of an operator: they only read, and each has a bound.

pub(in crate::store) mod boxes;
pub(in crate::store) mod dead;
pub(in crate::store) mod kinds;
pub(in crate::store) mod messages;
pub(in crate::store) mod one_shard;
pub(in crate::store) mod recipient;
