//! Work on many recipients at once: which have events, what a round of them is decided on, and its commit.

use std::collections::HashMap;

use sqlx::{Database, Pool};
use uuid::Uuid;

use crate::store::bound::{Bound, Missing, Weighing};
use crate::store::fault::Fault;
use crate::store::inbox::event::ListedRow;

/// Where a walk over the recipients of a shard goes on.
#[derive(Debug, Clone)]
pub struct WalkFrom {
    pub shard: i16,
    /// Behind this recipient; the empty text is before all and begins a pass.
    pub after: String,
    /// The last recipient of the pass, inclusive; `None` in its first walk.
    pub last: Option<String>,
}

/// A recipient that has events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkedRow {
    pub shard: i16,
    pub recipient: String,
    /// The first of its events.
    pub first: Uuid,
    /// The last recipient of the pass, as it was found when the pass began; known when the walk is at its limit, or
    /// when it was given.
    pub last: Option<String>,
    pub paused: bool,
    /// Time until a failing recipient is due, microseconds; not positive when it is due.
    pub wait_us: i64,
}

/// A recipient that a round is about.
#[derive(Debug, Clone)]
pub struct RoundFrom<'a> {
    pub shard: i16,
    pub recipient: &'a str,
    /// Only events behind this one; the nil id is before all.
    pub after: Uuid,
    /// Whether the turn and the state are known and need not be read.
    pub is_known: bool,
}

/// Data on which a recipient's part of a round is decided.
#[derive(Debug, Default)]
pub struct RoundRow {
    /// The place of the recipient among those that were asked for, from 0.
    pub place: usize,
    pub turn: i64,
    pub state: Option<Vec<u8>>,
    /// Paused, or left alone after a failure: nothing is to be done about it now.
    pub hindered: bool,
    /// Failures are noted for it: a turn of its own takes them back, or goes on to count them.
    pub failing: bool,
    /// Oldest first, one more than the limit when there are more.
    pub events: Vec<ListedRow>,
    /// Whether events, or the state and with it all events, were left out because of their bytes.
    pub is_cut: bool,
}

/// A part of a round while it is listed.
#[derive(Default)]
pub(in crate::store) struct ListedPart {
    pub(in crate::store) row: RoundRow,
    /// Whether there is a state, which may be among what was left out.
    pub(in crate::store) has_state: bool,
    pub(in crate::store) events: Weighing<ListedRow>,
}

/// As many parts as there are recipients, each in its place.
pub(in crate::store) fn empty_parts(recipients: usize) -> Vec<ListedPart> {
    let empty = |place| ListedPart { row: RoundRow { place, ..RoundRow::default() }, ..ListedPart::default() };
    (0..recipients).map(empty).collect()
}

/// Leaves out what does not fit into the bound, of the last recipients first; returns the values that are still to be
/// read, by place.
pub(in crate::store) fn cut_parts(parts: &mut [ListedPart], bound: Bound) -> Vec<(usize, Missing)> {
    let of_states = parts.iter().filter_map(|part| part.row.state.as_ref()).map(Vec::len).sum::<usize>();
    let mut left = bound.bytes().saturating_sub_unsigned(of_states as u64);
    let (mut is_first, mut missing) = (true, Vec::new());
    for part in parts {
        let lacks_state = part.has_state && part.row.state.is_none();
        if part.row.hindered || lacks_state {
            part.row.is_cut = lacks_state;
            part.events = Weighing::default();
            continue;
        }
        part.events.sort();
        part.events.cut(&mut left, is_first);
        is_first &= part.events.is_empty();
        missing.extend(part.events.missing().map(|missing| (part.row.place, missing)));
    }
    missing
}

impl ListedPart {
    /// Returns the row with the values that were still to be read.
    pub(in crate::store) fn filled(self, values: HashMap<Uuid, Vec<u8>>) -> RoundRow {
        let page = self.events.filled(values);
        RoundRow { is_cut: self.row.is_cut || page.is_cut, events: page.rows, ..self.row }
    }
}

/// Returns whether a recipient is hindered, and whether it is failing. `noted` is `None` when no failure is noted.
pub(in crate::store) fn hindrance(noted: Option<bool>) -> (bool, bool) {
    (noted == Some(true), noted.is_some())
}

/// Data that a recipient's part of a round commits.
#[derive(Debug)]
pub struct RoundWrite<'a> {
    pub shard: i16,
    pub recipient: &'a str,
    /// The turn that was read.
    pub turn: i64,
    /// Whose commit made that turn, when that is known: it must still be the one that is stored.
    pub token: Option<Uuid>,
    pub state: StateWrite<'a>,
    pub removed: Removed<'a>,
}

/// The change of a stored state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateWrite<'a> {
    Keep,
    Set(&'a [u8]),
    Remove,
}

impl<'a> StateWrite<'a> {
    /// Returns whether the stored state stays.
    pub(in crate::store) fn keeps(self) -> bool {
        self == StateWrite::Keep
    }

    /// Returns the new state, if there is one.
    pub(in crate::store) fn bytes(self) -> Option<&'a [u8]> {
        match self {
            StateWrite::Set(bytes) => Some(bytes),
            StateWrite::Keep | StateWrite::Remove => None,
        }
    }
}

/// The events that a recipient's part of a round removes.
#[derive(Debug, Clone, Copy)]
pub enum Removed<'a> {
    Ids(&'a [Uuid]),
    /// All from the first to the last, which must be this many: far faster, and a shortfall when another event was
    /// committed late in between.
    Range {
        first: Uuid,
        last: Uuid,
        count: usize,
    },
}

impl Removed<'_> {
    /// Returns the number of events that must be there.
    pub(in crate::store) fn count(&self) -> usize {
        match self {
            Removed::Ids(ids) => ids.len(),
            Removed::Range { count, .. } => *count,
        }
    }

    /// Returns the ids between the [bounds](Self::bounds) that are removed; `None` when all of them are.
    pub(in crate::store) fn chosen(&self) -> Option<&[Uuid]> {
        match self {
            Removed::Ids(ids) => Some(ids),
            Removed::Range { .. } => None,
        }
    }

    /// Returns the first and the last id.
    pub(in crate::store) fn bounds(&self) -> Option<(Uuid, Uuid)> {
        match self {
            Removed::Ids(ids) => ids.iter().min().copied().zip(ids.iter().max().copied()),
            Removed::Range { first, last, .. } => Some((*first, *last)),
        }
    }

    pub(in crate::store) fn range(&self) -> Option<(Uuid, Uuid)> {
        match self {
            Removed::Ids(_) => None,
            Removed::Range { first, last, .. } => Some((*first, *last)),
        }
    }
}

/// Statements on many recipients.
pub trait RoundDialect: Database {
    /// Returns whether [`write_round`](RoundDialect::write_round) of this many recipients is one statement, and so a
    /// transaction of its own.
    fn is_one_statement(recipients: usize) -> bool;

    /// Returns the next recipients with events of each shard, the first of every shard first, then the second ones, and
    /// so on.
    ///
    /// A pass over a shard ends at the recipient that is last when it begins, so that new ones cannot starve old ones.
    /// Of a kind that is none of `kinds` only the first recipient comes, so that recipients without a worker here take
    /// no time.
    fn walk_recipients(
        pool: &Pool<Self>,
        from: &[WalkFrom],
        per_shard: i64,
        kinds: &[&str],
    ) -> impl Future<Output = Result<Vec<WalkedRow>, Fault>> + Send;

    /// Returns turn, state and the oldest events of each recipient. State and turn are never newer than the events; of
    /// one that is known, they are 0 and `None`. A failing recipient is hindered that waits no longer than
    /// `longest_wait_us`: a longer wait is none. The bound is of the rows of each and of the bytes of all; those who
    /// come first have theirs first.
    fn list_round(
        conn: &mut Self::Connection,
        from: &[RoundFrom<'_>],
        bound: Bound,
        longest_wait_us: i64,
    ) -> impl Future<Output = Result<Vec<RoundRow>, Fault>> + Send;

    /// Moves the turns, writes the states and removes the events of many recipients, sorted by (shard, recipient), each
    /// once.
    ///
    /// A recipient whose turn has moved drops out alone. Returns the positions of those that did not, in no order.
    /// `None` when one of them does not have the events that it removes: then the transaction must not be committed.
    fn write_round(
        tx: &mut Self::Connection,
        writes: &[RoundWrite<'_>],
        token: Uuid,
        lock_wait_ms: u32,
    ) -> impl Future<Output = Result<Option<Vec<usize>>, Fault>> + Send;
}
