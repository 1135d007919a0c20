//! The calls of an operator: they ask and repair, and return plain data.
//!
//! The library, the command line, the page and the metrics all stand on this module, so they say the same.
//!
//! Ask:
//!
//! | call | answers |
//! | --- | --- |
//! | [`overview`] | what waits, fails, is paused and is in quarantine, by kind |
//! | [`why`] | why a recipient's events are not processed, and what to do |
//! | [`recipients`] | which recipients wait, fail, are paused; which are the longest and the oldest |
//! | [`inspect`] | everything about one recipient |
//! | [`members`], [`shards`] | which processes work, and on what |
//! | [`list_shards`] | the specs of shards, their holders, standbys, states and failures |
//! | [`peers`], [`streams`], [`stream`] | which peers run, their open streams, and what waits to be sent |
//! | [`checkpoints`] | how far sources were read |
//! | [`message_groups`], [`messages`] | what waits in the outbox, and why |
//! | [`paused_destinations`] | which messages are not sent, because an operator said so |
//! | [`dead`], [`count_dead`], [`dead_value`] | dead letters of both sides |
//! | [`operations`] | which repairs were made, by whom and why |
//! | [`history`], [`fate`] | what became of the events of a recipient, and of one event |
//! | [`audit()`], [`audit_kind`] | whether every event has exactly one fate |
//! | [`doctor`] | what is wrong with the database itself, and what to do |
//!
//! Repair in the name of an [`Operator`], who can rehearse each repair first. The plain functions do the same for
//! programs:
//!
//! | call | purpose |
//! | --- | --- |
//! | [`standing`] | show the turn of a recipient, its pause and its failures |
//! | [`events`], [`backlog`] | list the events of a box, a page at a time; count them exactly |
//! | [`purge`], [`purge_all`] | delete events |
//! | [`quarantine`], [`quarantined`] | take events aside with a reason, list them |
//! | [`replay`], [`discard`] | put quarantined events back, or delete them |
//! | [`pause`], [`resume`] | stop the processing of a recipient, and go on |
//! | [`pause_kind`], [`resume_kind`], [`paused_kinds`] | the same for all recipients of a kind |
//! | [`stored_state`] | show the state that the library keeps, even if it cannot be decoded |
//! | [`set_state`], [`reset_state`] | edit or clear that state |
//! | [`forget`] | delete the last rows of a recipient that is gone for good |
//!
//! Every call that changes something moves the recipient's turn in the same transaction. So a turn in flight, which
//! decided on the rows before the change, fails as contention and starts again. It never applies an event that was just
//! taken away, and it never overwrites an edited state. A call that changes nothing moves no turn.
//!
//! # Examples
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
//! # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
//! # eventbox::migrate(&pool).await?;
//! use eventbox::{Event, Recipient, admin};
//!
//! let aircraft = Recipient::new("aircraft", "N14228")?;
//! eventbox::emit(&pool, &aircraft, Event::new("not what it should be")).await?;
//! let bad = admin::events(&pool, &aircraft, None, 10).await?;
//! assert_eq!(admin::quarantine(&pool, &aircraft, &[bad[0].id()], "no flight number").await?, 1);
//! assert_eq!(admin::quarantined(&pool, &aircraft, None, 10).await?[0].reason, "no flight number");
//! assert_eq!(admin::replay(&pool, &aircraft, &[bad[0].id()]).await?, 1);
//! # Ok(()) }
//! ```

mod audit;
mod doctor;
mod events;
mod gauges;
mod journal;
mod kind;
mod operator;
mod quarantine;
mod recipient;
mod view;
mod why;

pub use audit::{Audit, AuditedEvent, MAX_NAMED, Place, audit, audit_kind};
pub use doctor::{DoctorOptions, Finding, Severity, doctor};
pub use events::{Backlog, MAX_IDS, MAX_LISTED, MAX_LISTED_BYTES, PURGE_SLICE, backlog, events, purge, purge_all};
pub use gauges::{Gauges, INSTRUMENTS};
pub use journal::{EventRef, Fate, JournalEntry, JournalOutcome, MAX_AHEAD, MAX_HISTORY, MAX_SEARCHED, fate, history};
pub use kind::{PausedKind, pause_kind, paused_kinds, resume_kind};
pub use operator::{
    ANY_REVISION, BURIED, DEAD_SLICE, Done, MAX_OPERATIONS, MAX_WHO_BYTES, MOVED_LEASE_TTL, OPERATION_RETENTION,
    Operation, Operator, ShardChange, Unassigned, operations,
};
pub use quarantine::{MAX_REASON_BYTES, QUARANTINED, Quarantined, discard, quarantine, quarantined, replay};
pub use recipient::{
    FORGET_AFTER, Forgotten, MAX_EDIT_BYTES, Standing, StoredState, forget, pause, reset_state, resume, set_state,
    standing, stored_state,
};
pub use view::checkpoints::{MAX_CHECKPOINTS, SourceCheckpoint, checkpoints};
pub use view::count::Count;
pub use view::dead::{DeadFilter, DeadView, MAX_COUNTED_DEAD, MAX_DEAD, Side, count_dead, dead, dead_value};
pub use view::destination::{Destination, MAX_DESTINATION_BYTES, PausedDestination, paused_destinations};
pub use view::inspect::{
    Detail, EventView, InspectOptions, MAX_INSPECTED, MAX_SHOWN_STATE_BYTES, NameView, QuarantinedView, StateView,
    TimerView, inspect,
};
pub use view::members::{Busy, Failing, Held, HeldByRate, Member, OpenBreaker, RatedKind, ShardLease, members, shards};
pub use view::messages::{
    MAX_GROUPED, MAX_GROUPS, MAX_MESSAGES, MessageFilter, MessageView, OutboxGroup, OutboxGroups, message_groups,
    messages,
};
pub use view::overview::{KindOverview, MAX_KIND_COUNT, MAX_KINDS, OutboxOverview, Overview, overview};
pub use view::peers::{
    MAX_COUNTED_STREAMS, MAX_PEERS, MAX_STREAMS, PeerProcess, PeerView, STREAM_SILENT_AFTER, StreamView, peers, stream,
    streams,
};
#[cfg(feature = "peer")]
pub(crate) use view::recipients::waiting_boxes;
pub use view::recipients::{
    MAX_LISTED_COUNT, MAX_RANKED, MAX_RECIPIENTS, Only, Order, RecipientPage, RecipientQuery, RecipientRow, recipients,
};
pub use view::shards::{ShardSelector, ShardSpec, ShardState, ShardStatus, ShardView, list_shards};
pub use why::{Reason, Why, why};

pub use crate::shard::{MAX_ENDPOINT_BYTES, MAX_LABEL_BYTES, MAX_LABELS};

use std::time::{Duration, SystemTime};

/// Returns the time of a column.
fn time_of(since_us: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(since_us).unwrap_or(0))
}
