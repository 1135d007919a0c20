//! Commands for what could not be processed or sent: dead letters and the outbox.

mod dead;
mod dead_filter;
mod dead_list;
mod outbox;
mod outbox_list;

pub(crate) use dead::DeadArgs;
pub(crate) use outbox::OutboxArgs;
