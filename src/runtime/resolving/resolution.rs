//! The answer of a resolver.

use std::fmt;

use uuid::Uuid;

use super::options::ResolveOptions;
use crate::eventbox::Status;

/// The process that holds a shard, as [`Resolver::resolve`](crate::runtime::Resolver::resolve) found it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolution {
    /// Result in a word.
    pub status: ResolveStatus,
    /// The shard, 0 to 255. For [`ResolveStatus::ShardNotFound`] the number that was asked for.
    pub shard: u16,
    /// Process that holds the shard. `None` when no process holds it.
    pub holder: Option<Holder>,
    /// Number of changes of the holder. A call that is sent on carries it
    /// ([`ResolveOptions::generation`](crate::runtime::ResolveOptions::generation)). 0 when leases are switched off.
    pub generation: i64,
    /// Last status of the event of
    /// [`ResolveOptions::read_through`](crate::runtime::ResolveOptions::read_through). `None` when no receipt of this
    /// shard was given, or when this process does not work on the shard.
    pub read_through: Option<Status>,
}

impl Resolution {
    /// Makes an answer without a holder.
    pub(super) fn new(shard: u16, status: ResolveStatus) -> Self {
        Resolution { status, shard, holder: None, generation: 0, read_through: None }
    }

    /// Returns whether a later look may find something else that the caller waits for.
    pub(super) fn may_change(&self, options: &ResolveOptions) -> bool {
        match self.status {
            ResolveStatus::NoPrimary => true,
            ResolveStatus::WrongGeneration => options.generation.is_some_and(|wanted| wanted > self.generation),
            ResolveStatus::NotReadThrough => {
                !matches!(self.read_through, Some(Status::Quarantined { .. } | Status::Paused))
            }
            _ => false,
        }
    }
}

/// A process that holds a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Id of the runtime among the members.
    pub worker: Uuid,
    /// Zone that it runs in; empty when it does not say, or is no member any more.
    pub zone: String,
    /// Where it is reached: [`RuntimeConfig::endpoint`](crate::runtime::RuntimeConfig::endpoint).
    pub endpoint: Option<String>,
    /// Whether it is the runtime of this resolver.
    pub is_local: bool,
}

/// Result of [`Resolver::resolve`](crate::runtime::Resolver::resolve) in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResolveStatus {
    /// This process holds the lease on the shard and works on it. A receipt that was given is read through.
    Ok,
    /// There is no shard of this number: shards are numbered 0 to 255.
    ShardNotFound,
    /// No process works on the shard at present: it is free, its lease has expired, or its holder has not begun or
    /// pauses after failures. Try again.
    NoPrimary,
    /// Another process holds the shard: call that one.
    NotPrimary,
    /// The call names another generation of the lease than the database has: resolve again where the call began.
    WrongGeneration,
    /// The runtime of this resolver was stopped, and no other process holds the shard.
    Stopped,
    /// This process works on the shard, and the event of the receipt was not processed: the wait was over, or the event
    /// or its recipient waits for an operator.
    NotReadThrough,
}

impl ResolveStatus {
    /// Returns the number of the status on the wire, 0 to 6. 0 to 5 are those of Gazette's consumers.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            ResolveStatus::Ok => 0,
            ResolveStatus::ShardNotFound => 1,
            ResolveStatus::NoPrimary => 2,
            ResolveStatus::NotPrimary => 3,
            ResolveStatus::WrongGeneration => 4,
            ResolveStatus::Stopped => 5,
            ResolveStatus::NotReadThrough => 6,
        }
    }
}

/// Writes the status as a sentence without a full stop.
impl fmt::Display for ResolveStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResolveStatus::Ok => "this process works on the shard",
            ResolveStatus::ShardNotFound => "no such shard: shards are numbered 0 to 255",
            ResolveStatus::NoPrimary => "no process works on the shard at present: try again",
            ResolveStatus::NotPrimary => "another process holds the shard",
            ResolveStatus::WrongGeneration => "the lease on the shard has another generation: resolve again",
            ResolveStatus::Stopped => "resolver has stopped serving local shards",
            ResolveStatus::NotReadThrough => "the event of the receipt is not processed yet",
        })
    }
}
