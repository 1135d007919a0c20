//! The inbox: emits and turns.

mod emit;
mod race;
mod turn;
