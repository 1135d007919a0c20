//! Postgres: the twins of `store/turns`.

pub(in crate::store::postgres) mod round;
pub(in crate::store::postgres) mod round_of_one;
pub(in crate::store::postgres) mod turn;
