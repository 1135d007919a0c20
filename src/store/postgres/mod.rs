//! Postgres, shared by many processes.

mod blocked;
mod check;
mod dead_letter;
mod event;
mod group;
mod item;
mod names;
mod outbox;
mod pooler;
mod quarantine;
mod round;
mod round_of_one;
mod schema;
mod session;
mod timer;
mod tombstone;
mod turn;
mod wake;

/// The text of the database's clock: microseconds since 1970.
macro_rules! now_us {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"
    };
}
pub(in crate::store) use now_us;

/// The same for the start of the statement, as an index can look it up.
macro_rules! statement_us {
    () => {
        "(extract(epoch FROM statement_timestamp()) * 1000000)::int8"
    };
}
use statement_us;
