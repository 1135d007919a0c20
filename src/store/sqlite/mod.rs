//! Embedded SQLite, one file, one writer at a time.

mod backlog;
mod blocked;
mod dead_letter;
mod event;
mod item;
mod old_transaction;
mod outbox;
pub(in crate::store) mod params;
mod quarantine;
mod round;
mod round_of_one;
mod schema;
mod session;
mod timer;
mod tombstone;
mod turn;
mod wake;
mod watch;
mod writer;

/// The text of the database's clock: microseconds since 1970.
macro_rules! now_us {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}
pub(in crate::store) use now_us;

/// There is no server.
macro_rules! session_id {
    () => {
        "NULL"
    };
}
pub(in crate::store) use session_id;

/// There is no standby.
macro_rules! replicated {
    () => {
        "NULL"
    };
}
pub(in crate::store) use replicated;
