//! Statements on many recipients: the scan for recipients with events, and the listing and the commit of a round.

use std::collections::HashMap;

use sqlx::{Database, Pool};
use uuid::Uuid;

use crate::store::bound::{Bound, Missing, Weighing};
use crate::store::fault::Fault;
use crate::store::inbox::event::ListedRow;

/// Place at which a scan of a shard continues.
#[derive(Debug, Clone)]
pub struct WalkFrom {
    pub shard: i16,
    /// The scan continues behind this recipient. The empty text is before all recipients, and begins a pass.
    pub after: String,
    /// The last recipient of the pass, inclusive; `None` in its first scan.
    pub last: Option<String>,
}

/// A recipient that has events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkedRow {
    pub shard: i16,
    pub recipient: String,
    /// The first event of the recipient.
    pub first: Uuid,
    /// The last recipient of the pass, found when the pass began. Known when the scan is at its limit, or when it was
    /// given.
    pub last: Option<String>,
    pub paused: bool,
    /// Time until a failing recipient is due, in microseconds. Not positive when it is due.
    pub wait_us: i64,
}

/// A recipient of a round.
#[derive(Debug, Clone)]
pub struct RoundFrom<'a> {
    pub shard: i16,
    pub recipient: &'a str,
    /// Only events behind this id are listed; the nil id is before all.
    pub after: Uuid,
    /// Whether the turn and the state are known and need not be read.
    pub is_known: bool,
}

/// Data for the decision on a recipient's part of a round.
#[derive(Debug, Default)]
pub struct RoundRow {
    /// Index of the recipient in the request.
    pub place: usize,
    pub turn: i64,
    pub state: Option<Vec<u8>>,
    /// Whether the recipient is paused or backs off after a failure, so that the round skips it.
    pub hindered: bool,
    /// Whether failures are noted for the recipient. A turn of its own clears them, or continues to count them.
    pub failing: bool,
    /// The events, oldest first, and one more than the limit when there are more.
    pub events: Vec<ListedRow>,
    /// Whether events, or the state and with it all events, were left out because of their bytes.
    pub is_cut: bool,
}

/// A part of a round while the listing is read.
#[derive(Default)]
pub(in crate::store) struct ListedPart {
    pub(in crate::store) row: RoundRow,
    /// Whether there is a state, which may be left out because of its bytes.
    pub(in crate::store) has_state: bool,
    pub(in crate::store) events: Weighing<ListedRow>,
}

/// Returns one empty part for each recipient, at the recipient's index.
pub(in crate::store) fn empty_parts(recipients: usize) -> Vec<ListedPart> {
    let empty = |place| ListedPart { row: RoundRow { place, ..RoundRow::default() }, ..ListedPart::default() };
    (0..recipients).map(empty).collect()
}

/// Leaves out the rows that do not fit into the bound, those of the last recipients first. Returns the missing values
/// by index.
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
    /// Returns the row, with the missing values filled in.
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
    /// The turn at the listing.
    pub turn: i64,
    /// Token of the commit that made this turn, when it is known. The stored token must be the same.
    pub token: Option<Uuid>,
    pub state: StateWrite<'a>,
    pub removed: Removed<'a>,
}

/// The change of the stored state.
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
    /// All events from the first to the last, which must be this many. This is far faster. The number is wrong when
    /// another event was committed late between them.
    Range {
        first: Uuid,
        last: Uuid,
        count: usize,
    },
}

impl Removed<'_> {
    /// Returns the number of events that must be removed.
    pub(in crate::store) fn count(&self) -> usize {
        match self {
            Removed::Ids(ids) => ids.len(),
            Removed::Range { count, .. } => *count,
        }
    }

    /// Returns the removed ids between the [bounds](Self::bounds); `None` when all events between them are removed.
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
    /// Returns whether [`write_round`](RoundDialect::write_round) of this many recipients is one statement, and so is a
    /// transaction of its own.
    fn is_one_statement(recipients: usize) -> bool;

    /// Returns the next recipients with events of each shard: the first recipient of every shard, then the second of
    /// every shard, and so on.
    ///
    /// A pass over a shard ends at the recipient that is last when the pass begins, so that new recipients cannot
    /// starve old ones. Of a kind that is not in `kinds` only the first recipient is returned, so that recipients
    /// without a worker here take no time.
    fn walk_recipients(
        pool: &Pool<Self>,
        from: &[WalkFrom],
        per_shard: i64,
        kinds: &[&str],
    ) -> impl Future<Output = Result<Vec<WalkedRow>, Fault>> + Send;

    /// Returns turn, state and the oldest events of each recipient. State and turn are never newer than the events; for
    /// a known recipient they are 0 and `None`. A failing recipient is hindered if its wait is at most
    /// `longest_wait_us`; a longer wait does not count. The rows of each recipient and the bytes of all recipients are
    /// bounded; the first recipients get their bytes first.
    fn list_round(
        conn: &mut Self::Connection,
        from: &[RoundFrom<'_>],
        bound: Bound,
        longest_wait_us: i64,
    ) -> impl Future<Output = Result<Vec<RoundRow>, Fault>> + Send;

    /// Moves the turns, writes the states and removes the events of many recipients, which are sorted by (shard,
    /// recipient) and distinct.
    ///
    /// A recipient whose turn has moved drops out alone. Returns the indexes of the others, in no order. `None` when
    /// one of them does not have the events to be removed: then the transaction must not be committed.
    fn write_round(
        tx: &mut Self::Connection,
        writes: &[RoundWrite<'_>],
        token: Uuid,
        lock_wait_ms: u32,
    ) -> impl Future<Output = Result<Option<Vec<usize>>, Fault>> + Send;
}
