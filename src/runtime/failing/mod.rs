//! What follows from failures: back-off, outages, and what health reports.

pub(super) mod backoffs;
pub(super) mod complaints;
pub(super) mod outage;
pub(super) mod outcome;
pub(super) mod trouble;
