//! SQLite: the twins of `store/turns`.

pub(in crate::store::sqlite) mod round;
pub(in crate::store::sqlite) mod round_of_one;
pub(in crate::store::sqlite) mod turn;
