//! What holds for every connector.

mod arriving;
mod ending;
mod sending;
