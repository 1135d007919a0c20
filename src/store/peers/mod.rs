//! What peers keep: their open streams, and how far they have read.

pub(in crate::store) mod checkpoint;
pub(in crate::store) mod stream;
