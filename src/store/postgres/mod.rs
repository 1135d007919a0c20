//! Postgres, shared by many processes.

mod connect;
mod inbox;
pub(in crate::store) mod operate;
mod outgoing;
mod shards;
mod turns;

/// The text of the database's clock: microseconds since 1970.
macro_rules! now_us {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"
    };
}
pub(in crate::store) use now_us;

/// The text of the kind of a recipient.
macro_rules! kind {
    ($recipient:literal) => {
        concat!("split_part(", $recipient, ", '/', 1)")
    };
}
pub(in crate::store) use kind;

/// The text of the number of the session.
macro_rules! session_id {
    () => {
        "pg_backend_pid()"
    };
}
pub(in crate::store) use session_id;

/// The text that makes a reading statement wait for the synchronous standbys, if there are any. Then they have
/// everything that the statement saw.
macro_rules! replicated {
    () => {
        "CASE WHEN current_setting('synchronous_standby_names') <> '' AND NOT pg_is_in_recovery()
                   AND current_setting('transaction_read_only') = 'off'
              THEN pg_logical_emit_message(true, 'eventbox', '')::text END"
    };
}
pub(in crate::store) use replicated;

/// The same for the start of the statement, which an index can look up.
macro_rules! statement_us {
    () => {
        "(extract(epoch FROM statement_timestamp()) * 1000000)::int8"
    };
}
use statement_us;
