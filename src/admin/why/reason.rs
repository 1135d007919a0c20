//! The reasons of `why`.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use uuid::Uuid;

use crate::admin::view::count::Count;
use crate::admin::view::destination::Destination;

/// Reasons, in the order in which [`why`](crate::admin::why()) looks for them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// No event waits, no timer, and the recipient never had a turn.
    NothingPending {
        /// Events of the recipient in quarantine.
        quarantined: u64,
    },
    /// No event waits; the first timer is due later.
    TimerNotDue {
        /// Time at which it is due, by the database's clock.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        due_at: SystemTime,
    },
    /// Processes work, but none of them registered the kind, or the one that holds the shard did not.
    NotRegistered {
        /// The kind.
        kind: String,
        /// The member that holds the shard, when another member registered the kind.
        holder: Option<Uuid>,
    },
    /// The recipient or its whole kind is paused.
    Paused {
        /// Whether it is the kind that is paused.
        is_kind: bool,
    },
    /// The last turn failed, and the next retry is later.
    BackingOff {
        /// Number of failures in a row.
        attempts: u32,
        /// Time of the next retry, by the database's clock.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        next_attempt_at: SystemTime,
        /// Last error.
        error: String,
    },
    /// An operator disabled the recipient's shard: no process works on it.
    ShardDisabled {
        /// The shard.
        shard: u8,
    },
    /// The recipient's shard has failed: its rounds failed as a whole, and no process works on it now.
    ShardFailed {
        /// The shard.
        shard: u8,
        /// Number of failures in a row.
        attempts: u32,
        /// Time of the next try, by the database's clock. `None` when the shard waits for an operator who unassigns it.
        #[serde(serialize_with = "crate::admin::view::text::time_if_any")]
        next_attempt_at: Option<SystemTime>,
        /// Error of the last failure.
        error: String,
    },
    /// No process holds the recipient's shard.
    NoHolder {
        /// The shard.
        shard: u8,
    },
    /// The process that holds the shard did not renew its lease.
    SilentHolder {
        /// The shard.
        shard: u8,
        /// The process.
        worker: Uuid,
        /// Time since its last heartbeat. `None` when the process is not a member any more.
        #[serde(skip)]
        silent_for: Option<Duration>,
    },
    /// The process that holds the shard does not work on the kind, because the outbox is over its quota.
    Throttled {
        /// The kind.
        kind: String,
        /// The process.
        worker: Uuid,
    },
    /// The process that holds the shard tries one recipient of the kind at a time, because many of them fail alike.
    Held {
        /// The process.
        worker: Uuid,
        /// Error that the recipients fail with.
        error: String,
    },
    /// The process that holds the shard keeps the rates of the kind, and the recipient, or others of the kind, may not
    /// begin a turn yet: [`RuntimeBuilder::rates`](crate::runtime::RuntimeBuilder::rates).
    HeldByRate {
        /// The process.
        worker: Uuid,
        /// Bound that holds the recipient: `min_interval`, `max_concurrent` or `rate`. `None` when the process holds
        /// more recipients of the kind than it names, so that this one may be among them.
        by: Option<String>,
        /// Time at which the next turn may begin, by the database's clock. `None` when that depends on other
        /// recipients.
        #[serde(serialize_with = "crate::admin::view::text::time_if_any")]
        until: Option<SystemTime>,
    },
    /// The last turn failed in the process that holds the shard, for a reason that is no event's fault.
    Failing {
        /// The process.
        worker: Uuid,
        /// Error of the turn.
        error: String,
    },
    /// No event waits, but messages of the outbox do, and were refused.
    OutboxStuck {
        /// Messages that were sent at least twice.
        struggling: Count,
        /// Error of one of them.
        last_error: String,
    },
    /// No event waits, but messages of the outbox do, and a process sends nothing, because its endpoint fails.
    BreakerOpen {
        /// The process.
        worker: Uuid,
        /// Endpoint of its emitter.
        endpoint: String,
        /// Messages that wait.
        waiting: Count,
        /// Last error of a request.
        last_error: Option<String>,
    },
    /// No event waits, but messages of the outbox do, whose destination an operator paused.
    DestinationPaused {
        /// The destination.
        destination: Destination,
        /// Time of the pause, by the database's clock.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        since: SystemTime,
        /// Who paused it.
        who: String,
        /// Messages that wait for it.
        waiting: Count,
    },
    /// A turn of a processor has been working on the recipient for over a second.
    BeingWorkedOn {
        /// The process.
        worker: Uuid,
        /// Age of the turn at the last heartbeat of the process.
        #[serde(rename = "seconds", serialize_with = "crate::admin::view::text::seconds")]
        since: Duration,
    },
    /// A transaction that was begun long ago makes every list of events slow.
    OldTransaction {
        /// The transaction.
        transaction: String,
    },
    /// The process that holds the shard lives, knows the kind, and has not processed the events for over 10 s. It has
    /// too much to do, or it has died and its lease is long.
    Overdue {
        /// The process.
        worker: Uuid,
        /// Events that wait.
        waiting: Count,
        /// Time of the emit of the oldest of them.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        oldest_at: SystemTime,
    },
    /// Nothing is wrong: the process that holds the shard takes the recipient in its turn.
    InLine {
        /// The process.
        worker: Uuid,
        /// Events that wait.
        waiting: Count,
        /// Time of the emit of the oldest of them.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        oldest_at: SystemTime,
    },
    /// No living process runs the peer, whose stream has events to send.
    PeerNotRunning {
        /// The peer.
        peer: String,
    },
    /// Processes run the peer, and the stream is not open. The mapping of the peer says what becomes of its events.
    StreamClosed {
        /// The peer.
        peer: String,
    },
    /// The process that has the connection of the stream is silent.
    StreamSilent {
        /// The process.
        worker: Uuid,
        /// Time since its last heartbeat. `None` when the process is not a member any more.
        #[serde(skip)]
        silent_for: Option<Duration>,
    },
    /// The stream is open, and its last batches failed: its breaker lets single batches pass as probes.
    StreamFailing {
        /// The process that has the connection.
        worker: Uuid,
        /// Events that wait.
        waiting: Count,
        /// Time of the emit of the oldest of them.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        oldest_at: SystemTime,
        /// Error of the last batch.
        error: String,
    },
    /// The stream is open, and its events were not acknowledged for over 10 s: the other side is slow.
    StreamSlow {
        /// The process that has the connection.
        worker: Uuid,
        /// Start of the stream, by the database's clock.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        started_at: SystemTime,
        /// Events that wait.
        waiting: Count,
        /// Time of the emit of the oldest of them.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        oldest_at: SystemTime,
    },
    /// Nothing is wrong: the process that has the connection of the stream sends its events.
    StreamSending {
        /// The process.
        worker: Uuid,
        /// Events that wait.
        waiting: Count,
        /// Time of the emit of the oldest of them.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        oldest_at: SystemTime,
    },
    /// Nothing is wrong: everything was processed.
    Processed {
        /// Last turn.
        turn: i64,
        /// Time of that turn, by the database's clock.
        #[serde(serialize_with = "crate::admin::view::text::time")]
        at: SystemTime,
    },
}
