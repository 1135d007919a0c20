//! The inbox: emits and turns.

mod emit;
mod race;
mod turn;
#[cfg(feature = "postgres")]
mod lost_answer;
