//! The inbox: emits and turns.

mod emit;
