//! The batch client: a bounded queue, requests that are split and numbered, and one callback for each event.

pub(crate) mod batch;
pub(crate) mod breaker;
pub(crate) mod config;
pub(crate) mod failures;
pub(crate) mod isolate;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod seqnum;
pub(crate) mod sizing;
