//! What holds for every connector.

mod answering;
mod arriving;
mod bounds;
mod ending;
mod sending;
mod tap;
