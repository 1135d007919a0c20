//! Embedded SQLite, one file, one writer at a time.

mod blocked;
mod dead_letter;
mod emits;
mod event;
mod group;
mod item;
mod line;
mod lists;
mod outbox;
pub(in crate::store) mod packed;
mod quarantine;
mod round;
mod round_of_one;
mod schema;
mod session;
mod statement;
mod timer;
mod tombstone;
mod turn;
mod wake;
mod watch;
mod writers;

/// The text of the database's clock: microseconds since 1970.
macro_rules! now_us {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}
pub(in crate::store) use now_us;
