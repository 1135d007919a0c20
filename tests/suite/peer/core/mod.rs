//! What holds for every connector.

mod answering;
mod arriving;
mod ending;
mod sending;
