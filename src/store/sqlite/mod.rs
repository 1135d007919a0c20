//! Embedded SQLite, one file, one writer at a time.

mod connect;
mod inbox;
mod operate;
mod outgoing;
pub(in crate::store) mod params;
mod shards;
mod turns;
mod writer;

/// The text of the database's clock: microseconds since 1970.
macro_rules! now_us {
    () => {
        "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
    };
}
pub(in crate::store) use now_us;

/// The text of the kind of a recipient.
macro_rules! kind {
    ($recipient:literal) => {
        concat!("substr(", $recipient, ", 1, instr(", $recipient, " || '/', '/') - 1)")
    };
}
pub(in crate::store) use kind;

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
