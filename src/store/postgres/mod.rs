//! Postgres, shared by many processes.
//!
//! A statement reads its arrays as `unnest((SELECT $1::int2[]), $2::text[])`. The sub-select hides the length of the
//! array from the planner, which then expects ten rows. With `unnest($1::int2[])` it would expect the real number for
//! each call, find the plan for any call more expensive than that for a short array, and so plan again at each call: a
//! named emit took ten times as long to plan as to run.

mod by_shard;
mod connect;
mod inbox;
pub(in crate::store) mod operate;
mod outgoing;
mod shards;
mod turns;

/// The text of the database's clock: microseconds since 1970, at the start of the statement.
///
/// It does not move during the statement. So an index can look it up, and Citus accepts it in a statement that writes,
/// but neither in `CASE` or `coalesce` nor behind `DO UPDATE`.
///
/// A prepared statement takes this time behind its wait for a table, and before its wait for a row. What it writes
/// after a wait for a row ends earlier by the wait: a term, a pause, a retention. A row that another transaction wrote
/// during the wait may have a later time, which is no sign of a clock that went back.
macro_rules! now_us {
    () => {
        "(extract(epoch FROM statement_timestamp()) * 1000000)::int8"
    };
}
pub(in crate::store) use now_us;

/// The text of the moving clock, for a time that must not lie before the snapshot of its statement. It stands in a
/// `SELECT` of its own, because Citus refuses it in the parts of a statement that write.
macro_rules! clock_us {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"
    };
}
use clock_us;

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
