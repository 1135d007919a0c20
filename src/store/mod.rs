//! Every SQL statement of the crate, and the seam between the two engines.
//!
//! [`Backend`] is the whole list of the crate's statements, implemented on `sqlx::Postgres` and `sqlx::Sqlite`
//! themselves. The traits of a table have their names by one rule:
//!
//! * `XTable` is written once for both engines, by `on_both_engines!` in `macros.rs`.
//! * `XDialect` holds the statements that differ, and is implemented in `postgres/` and in `sqlite/`, in a file of the
//!   same folder and name. Each statement of SQLite that differs says why.
//!
//! [`Session`](connect::session::Session), [`Schema`](connect::schema::Schema) and
//! [`GroupCommit`](connect::group::GroupCommit) belong to the connection and not to a table. Each engine implements
//! them.
//!
//! Functions take `conn` outside a transaction, `tx` inside a write transaction, and `executor` for either.

#![cfg_attr(
    not(all(feature = "emitter", feature = "runtime", feature = "sqlite", feature = "testing")),
    allow(
        dead_code,
        unused_imports,
        reason = "it is the whole list of statements, and a build without some features uses fewer"
    )
)]

mod bound;
mod connect;
mod fault;
mod inbox;
mod macros;
mod operate;
mod outgoing;
mod peers;
#[cfg(feature = "postgres")]
mod postgres;
mod shards;
#[cfg(feature = "sqlite")]
mod sqlite;
mod turns;
#[cfg(test)]
#[cfg(all(feature = "postgres", feature = "sqlite"))]
mod twins;

pub(crate) use bound::Bound;
pub use connect::connection::{ANSWER_WAIT, IDLE_LIMIT, RELEASE_WAIT};
pub(crate) use connect::connection::{Held, answered, hold, hold_for_user, in_time, while_alive};
pub use connect::executor::EmitExecutor;
pub(crate) use connect::executor::Place;
pub(crate) use connect::group::Intact;
pub use connect::layout::Layout;
pub(crate) use connect::takeover::Gone;
pub(crate) use connect::transaction::{Tx, begin as begin_tx};
pub(crate) use fault::{Blame, Class, Fault, blame_of, class_of, is_of_one_statement, retry_after};
pub(crate) use inbox::depth::{DepthBound, Measured};
pub(crate) use inbox::event::{DueRow, Durability, EventRow, ListedRow};
pub use inbox::event::{Emitted, NAME_WAIT};
pub(crate) use inbox::status::Location;
pub(crate) use inbox::timer::{MovedShard, TimerRow};
pub(crate) use inbox::tombstone::{PrunedSlice, Slice};
pub(crate) use operate::backlog::BacklogRow;
pub(crate) use operate::destination::{Looked, PausedDestinationRow};
pub(crate) use operate::diagnosis::{FoundObject, MadeObject, OldestMessage, RowSecurity, Sees, VacuumedTable};
pub(crate) use operate::fate::{AuditFrom, EventKey, FateLimits, Places};
pub use operate::journal::JournalOutcome;
pub(crate) use operate::journal::{JournalRow, JournalWrite, PRUNED_TOGETHER, PurgedFrom};
pub(crate) use operate::old_transaction::OldTransaction;
pub use operate::operation::OPERATION_RETENTION;
pub(crate) use operate::operation::OperationRow;
pub(crate) use operate::quarantine::{QuarantinedRow, Verdict};
pub(crate) use operate::view::boxes::{BoxRow, BoxesFrom, Listed, NEXT};
pub(crate) use operate::view::dead::{DeadHead, DeadWanted};
pub(crate) use operate::view::kinds::KindCounts;
pub(crate) use operate::view::messages::{MessageGroup, MessageHead, MessagesWanted};
pub(crate) use operate::view::recipient::{EventHead, TimerHead};
pub(crate) use outgoing::dead_letter::DeadRow;
pub(crate) use outgoing::marked::{MarkedMessage, MarkedWanted};
pub(crate) use outgoing::outbox::MAX_COUNTED_ROWS;
pub(crate) use outgoing::outbox::{
    Claim, ClaimedRow, Longest, OutboxKey, OutboxRow, OutboxSample, Reschedule, RowCount, ToDeadLetter,
};
pub(crate) use peers::checkpoint::{CheckpointRow, MAX_POSITION_BYTES, SOURCE_PREFIX};
pub(crate) use peers::stream::{OpeningStream, StreamCounts, StreamRow};
#[cfg(feature = "postgres")]
pub(crate) use postgres::operate::decoding;
pub(crate) use shards::lease::{HolderRow, LeaseRow, MemberRow, ShardMask};
pub(crate) use shards::report::{
    BusyTurn, FailingRecipient, HeldKind, HeldRecipient, MemberReport, RatedKind, ReportedBreaker,
};
pub(crate) use shards::spec::{FailureWrite, ShardOrder, ShardRow, SpecWrite};
pub(crate) use shards::wake::Notification;
#[cfg(feature = "ingress")]
pub(crate) use sqlite::params::json::Packed;
pub use turns::failure::Forgotten;
pub(crate) use turns::round::{Removed, RoundFrom, RoundRow, RoundWrite, StateWrite, WalkFrom, WalkedRow};
pub(crate) use turns::state::{KeptRow, Settled};
pub(crate) use turns::turn::Claimed;

/// A future of a statement that runs on any executor.
pub(crate) type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Returns the arguments of a query without the lifetimes of the bound values, for a future that must not borrow them.
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
    + connect::schema::Schema
    + operate::backlog::BacklogDialect
    + operate::blocked::BlockedDialect
    + operate::diagnosis::DiagnosisDialect
    + connect::group::GroupCommit
    + inbox::event::EventTable
    + inbox::depth::DepthDialect
    + inbox::item::ItemTable
    + inbox::status::StatusTable
    + turns::step::StepTable
    + inbox::timer::TimerTable
    + inbox::tombstone::TombstoneTable
    + turns::state::StateTable
    + turns::turn::TurnTable
    + turns::failure::FailureTable
    + operate::kind::KindTable
    + operate::destination::DestinationTable
    + operate::fate::FateTable
    + operate::journal::JournalTable
    + operate::quarantine::QuarantineTable
    + operate::old_transaction::OldTransactionDialect
    + outgoing::outbox::OutboxTable
    + outgoing::dead_letter::DeadLetterTable
    + outgoing::marked::MarkedDialect
    + peers::checkpoint::CheckpointTable
    + peers::stream::StreamTable
    + shards::lease::LeaseTable
    + shards::spec::SpecTable
    + turns::round::RoundDialect
    + turns::round_of_one::RoundOfOneTable
    + shards::wake::WakeUpDialect
    + operate::inspect::InspectTable
    + operate::operation::OperationTable
    + operate::view::boxes::BoxesTable
    + operate::view::dead::DeadViewTable
    + operate::view::kinds::KindViewTable
    + operate::view::messages::MessageViewTable
    + operate::view::recipient::RecipientViewTable
{
}

#[cfg(feature = "postgres")]
impl Backend for sqlx::Postgres {}

#[cfg(feature = "sqlite")]
impl Backend for sqlx::Sqlite {}
