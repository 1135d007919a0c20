//! Every SQL statement of the crate, and the seam between the two engines.
//!
//! [`Backend`] is the whole list of what we ask of a database: one trait per table group, implemented on `sqlx::Postgres` and
//! `sqlx::Sqlite` themselves. Text that both engines accept is written once, in `macros.rs`; where SQLite must differ, the statement
//! says why. Functions take `conn` outside a transaction, `tx` inside a write transaction, and `executor` for either.

#![cfg_attr(
    not(all(feature = "emitter", feature = "runtime", feature = "sqlite", feature = "testing")),
    allow(
        dead_code,
        unused_imports,
        reason = "it is the whole list of statements, and a build without some features uses fewer"
    )
)]

mod backlog;
mod blocked;
mod bound;
mod connection;
mod dead_letter;
mod event;
mod executor;
mod failure;
mod fault;
mod group;
mod inspect;
mod item;
mod kind;
mod lease;
mod macros;
mod old_transaction;
mod outbox;
#[cfg(feature = "postgres")]
mod postgres;
mod quarantine;
mod round;
mod round_of_one;
mod schema;
mod session;
#[cfg(feature = "sqlite")]
mod sqlite;
mod state;
mod status;
mod step;
mod takeover;
mod timer;
mod tombstone;
mod turn;
#[cfg(test)]
#[cfg(all(feature = "postgres", feature = "sqlite"))]
mod twins;
mod wake;

pub(crate) use bound::Bound;
pub use connection::{ANSWER_WAIT, IDLE_LIMIT, RELEASE_WAIT};
pub(crate) use connection::{Held, Tx, answered, begin as begin_tx, hold, hold_for_user, in_time, while_alive};
pub(crate) use dead_letter::DeadRow;
pub use event::NAME_WAIT;
pub(crate) use event::{DueRow, EventRow, ListedRow, Noted};
pub use executor::EmitExecutor;
pub(crate) use failure::Forgetting;
pub(crate) use fault::{Blame, Class, Fault, blame_of, class_of, is_of_one_statement, retry_after};
pub(crate) use group::Intact;
pub(crate) use lease::{LeaseRow, MemberRow, ShardMask};
pub(crate) use outbox::MAX_COUNTED_ROWS;
pub(crate) use outbox::{Burial, Claim, ClaimedRow, Longest, OutboxKey, OutboxRow, OutboxSample, Reschedule, Tally};
pub(crate) use quarantine::{QuarantinedRow, Verdict};
pub(crate) use round::{Removed, RoundFrom, RoundRow, RoundWrite, WalkFrom, WalkedRow};
#[cfg(feature = "ingress")]
pub(crate) use sqlite::params::json::Packed;
pub(crate) use state::{KeptRow, Settled};
pub(crate) use status::Whereabouts;
pub(crate) use takeover::Gone;
pub(crate) use timer::{MovedShard, TimerRow};
pub(crate) use tombstone::{PrunedSlice, Slice};
pub(crate) use turn::Claimed;
pub(crate) use wake::Told;

/// A future of a statement that runs on any executor.
pub(crate) type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The arguments of a query without the lifetimes of what was bound, for a future that must not borrow it.
fn arguments_of<'q, DB: sqlx::Database>(mut query: impl sqlx::Execute<'q, DB>) -> Result<DB::Arguments, Fault> {
    let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
    Ok(arguments.unwrap_or_default())
}

/// A database engine that can hold eventboxes: [`sqlx::Postgres`] or [`sqlx::Sqlite`].
///
/// Sealed: its methods are the crate's own statements.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot hold eventboxes",
    label = "expected `sqlx::Postgres` or `sqlx::Sqlite`",
    note = "is the feature of the engine (`postgres`, `sqlite`) switched on?"
)]
pub trait Backend:
    sqlx::Database
    + schema::Schema
    + backlog::BacklogTable
    + blocked::Blocked
    + group::GroupCommit
    + event::EventTable
    + item::ItemTable
    + status::StatusTable
    + step::StepTable
    + timer::TimerTable
    + tombstone::TombstoneTable
    + state::StateTable
    + turn::TurnTable
    + failure::ControlTable
    + kind::KindTable
    + quarantine::QuarantineTable
    + old_transaction::OldTransactions
    + outbox::OutboxShared
    + dead_letter::DeadLetterTable
    + lease::LeaseTable
    + round::RoundTable
    + round_of_one::RoundOfOne
    + wake::WakeUp
    + inspect::WrittenRows
{
}

#[cfg(feature = "postgres")]
impl Backend for sqlx::Postgres {}

#[cfg(feature = "sqlite")]
impl Backend for sqlx::Sqlite {}
