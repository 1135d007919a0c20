//! What users have for their own tests.

mod clock;
mod conformance;
mod parallel;
mod timers;
mod turns;
