//! The module `testing`, which users have for their own tests.

mod clock;
mod conformance;
mod parallel;
mod reducers;
mod timers;
mod turns;
