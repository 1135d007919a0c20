//! The inbox: emits and turns.

mod emit;
#[cfg(feature = "postgres")]
mod lost_answer;
mod model;
mod payload;
mod poison;
mod race;
mod reducer;
mod sender;
mod status;
mod timer;
mod turn;
mod user_code;
