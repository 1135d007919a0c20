//! Finding recipients with events: scans at intervals, and wake-ups in between.

pub(super) mod announcer;
pub(super) mod notify;
pub(super) mod old_transactions;
pub(super) mod poll;
pub(super) mod position;
pub(super) mod roles;
pub(super) mod scan;
pub(super) mod warnings;
