//! What holds for every connector.

mod arriving;
mod bounds;
mod ending;
mod sending;
mod tap;
