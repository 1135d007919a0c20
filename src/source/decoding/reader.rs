//! Reads the changes of a slot, a round at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::timeout;

use super::change::{Change, ChangeKind};
use super::message::{self, Field, Message, Relation};
use super::pace::{Pace, Seen};
use super::place::Place;
use super::session::Session;
use super::{DECODING_LIMIT, Slot};
use crate::error::BoxError;
use crate::source::contract::{Page, Room, SourceReader};
use crate::store::{Fault, decoding};

/// Microseconds from 1970 to 2000, where the clock of Postgres begins.
const EPOCH_US: i64 = 946_684_800_000_000;

/// Messages of a transaction besides its changes: its begin, its end, and descriptions of tables.
const MESSAGES_BESIDE: usize = 100;

/// A reader of the slot.
pub(super) struct Reader {
    slot: Arc<Slot>,
    /// Place behind everything that was returned.
    place: Option<Place>,
    /// Whether `place` was returned, and its commit is still to come.
    waits: bool,
    /// Place that the server was told last.
    confirmed: Option<Place>,
    pace: Pace,
}

impl Reader {
    pub(super) fn new(slot: Arc<Slot>, from: Option<Place>) -> Self {
        Reader { slot, place: from, waits: false, confirmed: None, pace: Pace::default() }
    }

    /// Waits for the commit of what was returned: until then a read would bring it again.
    async fn settle(&mut self) -> Result<(), BoxError> {
        if self.waits {
            let mut committed = self.slot.committed.subscribe();
            committed.wait_for(|committed| *committed == self.place).await?;
            self.waits = false;
        }
        Ok(())
    }

    async fn read_slot(&mut self, room: Room) -> Result<(Page, Option<Place>), BoxError> {
        let of = Arc::clone(&self.slot);
        let Slot { slot, publication, .. } = &*of;
        let (mut session, log) = Session::begin(&of).await.map_err(|fault| fault.0)?;
        if let Some(from) = self.place.filter(|from| from.lsn > log.end) {
            // Later changes would have earlier places, and would be left out.
            session.finish();
            return Err(LogIsShort { end: Place::at(log.end), from }.into());
        }
        // Within a transaction this confirms what was committed before it: its own end is not before its place.
        let confirmed = self.confirmed.map(|place| place.lsn);
        if let Some(place) = self.place.filter(|place| confirmed != Some(place.lsn)) {
            let to = place.lsn_text();
            let advancing = decoding::advance_slot(&mut session.conn, slot, &to);
            advancing.await.map_err(|fault| of.error_of(fault))?;
            self.confirmed = Some(place);
        }
        if !self.pace.may_read(log) {
            session.finish();
            return Ok((Page::new(), None));
        }
        let limit = i32::try_from(room.events.saturating_add(MESSAGES_BESIDE)).unwrap_or(i32::MAX);
        let mut round = Round::new(&self.slot, self.place, room);
        let peeking = decoding::peek(&mut session.conn, slot, publication, limit, |message| round.take(&message));
        let peeked = peeking.await;
        if !matches!(&peeked, Err(Failed::Database(fault)) if fault.lost_the_answer()) {
            session.finish();
        }
        let count = peeked.map_err(|failed| match failed {
            Failed::Database(fault) => of.error_of(fault),
            Failed::Change(error) => error,
        })?;
        let Round { page, place, .. } = round;
        if let Some(from) = self.place {
            // The changes that another reader has confirmed are not among those that came.
            let now = decoding::slot(&mut session.conn, slot).await.map_err(|fault| fault.0)?;
            let confirmed = now.and_then(|now| u64::try_from(now.confirmed).ok());
            if confirmed.is_none_or(|confirmed| confirmed > from.lsn) {
                let problem =
                    format!("the slot {slot} was removed, or another reader has moved it: it is opened again");
                return Err(problem.into());
            }
        }
        if place.is_none() && count.is_some_and(|count| count > 0) && self.place.is_some_and(|from| from.done > 0) {
            return Err(format!("the slot {slot} brings only changes that were read before").into());
        }
        let is_whole = count.and_then(|count| i32::try_from(count).ok()).is_some_and(|count| count < limit);
        let moves_to = self.pace.after(self.place, Seen { has_events: !page.is_empty(), is_whole, place, log });
        Ok((page, moves_to))
    }
}

#[async_trait]
impl SourceReader for Reader {
    async fn read(&mut self, room: Room) -> Result<Page, BoxError> {
        self.settle().await?;
        let read = timeout(DECODING_LIMIT, self.read_slot(room)).await;
        let late = |_| format!("the slot was not read within {DECODING_LIMIT:?}");
        let (page, place) = read.map_err(late)??;
        let Some(place) = place else { return Ok(page) };
        (self.place, self.waits) = (Some(place), true);
        Ok(page.up_to(place.to_string()))
    }
}

/// Why a read of the slot ended.
enum Failed {
    Database(Fault),
    Change(BoxError),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Failed::Database(fault)
    }
}

/// The transaction whose changes come.
#[derive(Debug, Clone, Copy)]
struct Open {
    commit_lsn: u64,
    committed_at: SystemTime,
    transaction: u32,
    /// Changes that came.
    count: u64,
}

/// The changes of a round, as they come.
struct Round<'a> {
    slot: &'a Slot,
    from: Option<Place>,
    room: Room,
    page: Page,
    /// Place behind the last change or transaction that was taken.
    place: Option<Place>,
    open: Option<Open>,
    relations: HashMap<u32, Relation>,
}

impl<'a> Round<'a> {
    fn new(slot: &'a Slot, from: Option<Place>, room: Room) -> Self {
        Round { slot, from, room, page: Page::new(), place: None, open: None, relations: HashMap::new() }
    }

    /// Takes a message. False when the round is full.
    fn take(&mut self, message: &[u8]) -> Result<bool, Failed> {
        let message = message::read(message).map_err(|error| Failed::Change(error.into()))?;
        match message {
            Message::Begin { commit_lsn, committed_at_us, transaction } => {
                let since = u64::try_from(committed_at_us.saturating_add(EPOCH_US)).unwrap_or_default();
                let since = Duration::from_micros(since);
                let committed_at = SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH);
                self.open = Some(Open { commit_lsn, committed_at, transaction, count: 0 });
            }
            Message::Commit { end_lsn } => {
                self.open = None;
                if self.from.is_none_or(|from| from.lsn < end_lsn) {
                    self.place = Some(Place::at(end_lsn));
                }
                return Ok(!self.page.is_full(self.room));
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.id, relation);
            }
            Message::Insert { relation, new } => return self.change(ChangeKind::Insert, relation, &[], &new),
            Message::Update { relation, old, new } => return self.change(ChangeKind::Update, relation, &old, &new),
            Message::Delete { relation, old } => return self.change(ChangeKind::Delete, relation, &old, &[]),
            Message::Truncate { relations } => {
                for relation in relations {
                    if !self.change(ChangeKind::Truncate, relation, &[], &[])? {
                        return Ok(false);
                    }
                }
            }
            Message::Other => {}
        }
        Ok(true)
    }

    /// Takes a change, unless it was taken before. False when the round is full, and when the change cannot be used and
    /// others go before it.
    fn change(&mut self, kind: ChangeKind, relation: u32, old: &[Field], new: &[Field]) -> Result<bool, Failed> {
        let unexpected = |what: &str| Failed::Change(format!("the server sent {what}").into());
        let open = self.open.as_mut().ok_or_else(|| unexpected("a change outside of a transaction"))?;
        let number = open.count;
        open.count += 1;
        let open = *open;
        let is_done = self
            .from
            .is_some_and(|from| open.commit_lsn < from.lsn || (open.commit_lsn == from.lsn && number < from.done));
        if is_done {
            return Ok(true);
        }
        if self.page.is_full(self.room) {
            return Ok(false);
        }
        let table = self.relations.get(&relation).ok_or_else(|| unexpected("a change of an unknown table"))?;
        let change = Change {
            schema: table.schema.clone(),
            table: table.table.clone(),
            kind,
            row: row_of(table, new),
            old: row_of(table, old),
            committed_at: open.committed_at,
            transaction: open.transaction,
            number,
        };
        let mut of_change = Page::new();
        let mapped = (self.slot.map)(&change).and_then(|events| {
            events.into_iter().try_for_each(|(to, event)| of_change.emit(to, event)).map_err(BoxError::from)
        });
        match mapped {
            Ok(()) => {
                self.page.append(of_change);
                self.place = Some(Place { lsn: open.commit_lsn, done: number + 1 });
                Ok(true)
            }
            // The changes before it go first.
            Err(_) if self.place.is_some() => Ok(false),
            Err(source) => {
                let at = Place { lsn: open.commit_lsn, done: number };
                let table = format!("{}.{}", change.schema, change.table);
                Err(Failed::Change(BadChange { table, at, source }.into()))
            }
        }
    }
}

/// A log that ends before the checkpoint.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log of the server ends at {end}, before the checkpoint at {from}: the server was restored, or a standby \
     without the last changes took over; compare both sides, and move the checkpoint"
)]
struct LogIsShort {
    end: Place,
    from: Place,
}

/// A slot that another session reads.
#[derive(Debug, thiserror::Error)]
#[error("another session uses the slot {slot}, of a reader that was cut off or of another process: it is tried again")]
struct InUse {
    slot: String,
    source: sqlx::Error,
}

impl Slot {
    /// Returns the error of a statement on the slot.
    fn error_of(&self, fault: Fault) -> BoxError {
        match fault.is_of_an_object_in_use() {
            true => InUse { slot: self.slot.clone(), source: fault.0 }.into(),
            false => fault.0.into(),
        }
    }
}

/// A change that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the change of {table} at {at} cannot be used")]
struct BadChange {
    table: String,
    at: Place,
    source: BoxError,
}

fn row_of(table: &Relation, fields: &[Field]) -> Vec<(String, Option<String>)> {
    let named = table.columns.iter().zip(fields);
    let named = named.filter_map(|(column, field)| match field {
        Field::Null => Some((column.clone(), None)),
        Field::Text(text) => Some((column.clone(), Some(text.clone()))),
        Field::Unchanged => None,
    });
    named.collect()
}
