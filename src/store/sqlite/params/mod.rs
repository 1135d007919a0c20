//! Many rows as parameters of one statement, in two forms: SQLite has no arrays.

pub(in crate::store) mod json;
pub(super) mod values;
