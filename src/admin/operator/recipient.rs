//! Repairs of one recipient.

use std::fmt;

use uuid::Uuid;

use super::{Done, Operator, check_text, journal};
use crate::admin::events::check_ids;
use crate::admin::{FORGET_AFTER, MAX_EDIT_BYTES, MAX_REASON_BYTES, PURGE_SLICE, QUARANTINED};
use crate::clock::micros;
use crate::error::{Error, Misuse, Result};
use crate::eventbox::{Emitted, Event, EventId, emit_all_in, wake_shard};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, Forgotten, PurgedFrom, Verdict, answered, begin_tx, hold};

/// Longest wait of a replay for a name that another open transaction holds, in milliseconds. After it the replay fails
/// as contention.
const REPLAY_NAME_WAIT_MS: u32 = 5_000;

/// Some events of a recipient, as the record and errors name them.
struct EventsOf<'a>(usize, &'a Recipient);

impl fmt::Display for EventsOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EventsOf(count, of) = self;
        write!(f, "{count} {} of {of}", if *count == 1 { "event" } else { "events" })
    }
}

/// Makes a repair of a recipient in one transaction, which moves the recipient's turn and records the repair. The block
/// has the transaction, and its value is the number of things that it changed.
macro_rules! repair {
    ($operator:ident, $entry:expr, $of:ident, |$tx:ident| $work:block) => {{
        let write = async {
            let mut $tx = $operator.begin_moving($of).await?;
            let touched: u64 = $work;
            $operator.record(&mut $tx, $entry, touched).await?;
            Ok(($tx, touched))
        };
        let (tx, touched) = write.await.map_err(|fault: Fault| fault.during($entry))?;
        $operator.end(tx, $entry, touched).await
    }};
}

impl<B: Backend> Operator<B> {
    /// Pauses a recipient, as [`admin::pause`](crate::admin::pause).
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn pause(&self, of: &Recipient) -> Result<Done> {
        let entry = self.entry("pause", of)?;
        repair!(self, &entry, of, |tx| { B::pause_recipient(&mut tx, of.shard().into(), of.as_str()).await?.into() })
    }

    /// Resumes a recipient, as [`admin::resume`](crate::admin::resume).
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn resume(&self, of: &Recipient) -> Result<Done> {
        let entry = self.entry("resume", of)?;
        let done = repair!(self, &entry, of, |tx| {
            B::resume_recipient(&mut tx, of.shard().into(), of.as_str()).await?.into()
        })?;
        wake_shard(of.shard());
        Ok(done)
    }

    /// Lets a failing recipient be tried at once, and forgets its failures. A paused recipient stays as it is.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn try_now(&self, of: &Recipient) -> Result<Done> {
        let entry = self.entry("retry", of)?;
        let (shard, recipient) = (of.shard().into(), of.as_str());
        let done = repair!(self, &entry, of, |tx| {
            let standing = B::read_standing(&mut tx, shard, recipient).await?;
            let touched = u64::from(standing.attempts > 0 && !standing.paused);
            B::clear_failures(&mut tx, shard, recipient).await?;
            touched
        })?;
        wake_shard(of.shard());
        Ok(done)
    }

    /// Moves events of a box into the quarantine, as [`admin::quarantine`](crate::admin::quarantine()).
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] for too many ids or a wrong reason.
    pub async fn quarantine(&self, of: &Recipient, ids: &[EventId], reason: &str) -> Result<Done> {
        let entry = self.entry("quarantine", EventsOf(ids.len(), of))?;
        check_text("reason", reason, MAX_REASON_BYTES).map_err(|misuse| Error::misuse(&entry, misuse))?;
        let ids = check_ids(ids).map_err(|misuse| Error::misuse(&entry, misuse))?;
        let verdict = Verdict { code: QUARANTINED, reason, attempts: 0 };
        repair!(self, &entry, of, |tx| { journal::quarantine(&mut tx, of, &ids, verdict).await? })
    }

    /// Moves events of a recipient from the quarantine back into its box, as [`admin::replay`](crate::admin::replay).
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] for too many ids.
    pub async fn replay(&self, of: &Recipient, ids: &[EventId]) -> Result<Done> {
        let entry = self.entry("replay", EventsOf(ids.len(), of))?;
        let ids = check_ids(ids).map_err(|misuse| Error::misuse(&entry, misuse))?;
        self.replay_as(&entry, of, &ids).await
    }

    pub(super) async fn replay_as(&self, entry: &super::Entry, of: &Recipient, ids: &[Uuid]) -> Result<Done> {
        let done = repair!(self, entry, of, |tx| {
            B::limit_lock_wait(&mut tx, REPLAY_NAME_WAIT_MS).await?;
            B::replay_events(&mut tx, of.shard().into(), of.as_str(), ids).await?
        })?;
        wake_shard(of.shard());
        Ok(done)
    }

    /// Deletes events of a recipient that are in quarantine, as [`admin::discard`](crate::admin::discard).
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] for too many ids.
    pub async fn discard(&self, of: &Recipient, ids: &[EventId]) -> Result<Done> {
        let entry = self.entry("discard", EventsOf(ids.len(), of))?;
        let ids = check_ids(ids).map_err(|misuse| Error::misuse(&entry, misuse))?;
        self.discard_as(&entry, of, &ids).await
    }

    pub(super) async fn discard_as(&self, entry: &super::Entry, of: &Recipient, ids: &[Uuid]) -> Result<Done> {
        repair!(self, entry, of, |tx| { journal::purge(&mut tx, of, &[PurgedFrom::Quarantine], ids).await? })
    }

    /// Deletes events for good, from the box and from the timers, as [`admin::purge`](crate::admin::purge).
    ///
    /// # Errors
    ///
    /// See [`Operator`]; also [`Error::Misuse`] for too many ids.
    pub async fn purge(&self, of: &Recipient, ids: &[EventId]) -> Result<Done> {
        let entry = self.entry("purge", EventsOf(ids.len(), of))?;
        let ids = check_ids(ids).map_err(|misuse| Error::misuse(&entry, misuse))?;
        repair!(self, &entry, of, |tx| {
            // The timers come first. The delete waits for a move of a timer in progress, and then finds its event in
            // the box.
            journal::purge(&mut tx, of, &[PurgedFrom::Timers, PurgedFrom::Box], &ids).await?
        })
    }

    /// Deletes for good all events of a box and all timers of its recipient, as
    /// [`admin::purge_all`](crate::admin::purge_all). Calls `progress` with the number of deleted events after each
    /// slice. A rehearsal counts.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn purge_all(&self, of: &Recipient, progress: impl FnMut(u64) + Send) -> Result<Done> {
        self.purge_of(of, true, progress).await
    }

    /// Deletes for good all timers of a recipient. Its events in the box stay.
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn cancel_timers(&self, of: &Recipient, progress: impl FnMut(u64) + Send) -> Result<Done> {
        self.purge_of(of, false, progress).await
    }

    async fn purge_of(&self, of: &Recipient, with_box: bool, mut progress: impl FnMut(u64) + Send) -> Result<Done> {
        let (action, target) =
            if with_box { ("purge", format!("all events of {of}")) } else { ("cancel", format!("the timers of {of}")) };
        let entry = self.entry(action, target)?;
        let (shard, recipient) = (of.shard().into(), of.as_str());
        let newest = answered(&self.pool, async {
            let conn = &mut *hold(&self.pool).await?;
            // The timers come first, here and below. The event of a timer that is moved in between is found in the box.
            let timer = B::newest_timer(conn, shard, recipient).await?;
            let event = if with_box { B::newest_event(conn, shard, recipient).await? } else { None };
            let mut there = 0;
            if self.is_rehearsal {
                there = B::count_timers(conn, shard, recipient).await?;
                there += if with_box { B::measure_box(conn, shard, recipient).await?.0 } else { 0 };
            }
            Ok((timer.max(event), there.unsigned_abs()))
        });
        let (newest, there) = newest.await.map_err(|fault: Fault| fault.during(&entry))?;
        let Some(newest) = newest.filter(|_| !self.is_rehearsal) else { return Ok(self.done(there)) };
        let mut total = 0;
        loop {
            let write = async {
                let mut tx = self.begin_moving(of).await?;
                let purged = journal::purge_slice(&mut tx, of, newest, with_box).await?;
                self.record(&mut tx, &entry, purged).await?;
                Ok((tx, purged))
            };
            let (tx, purged) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
            self.end(tx, &entry, purged).await?;
            total += purged;
            progress(total);
            if purged < u64::from(PURGE_SLICE) {
                return Ok(self.done(total));
            }
        }
    }

    /// Replaces the state that the library keeps, as [`admin::set_state`](crate::admin::set_state).
    ///
    /// # Errors
    ///
    /// See [`Operator`]; contention when the recipient is no longer at turn `at_turn`, also in a rehearsal.
    pub async fn set_state(&self, of: &Recipient, at_turn: i64, state: Option<&[u8]>) -> Result<Done> {
        let entry = self.entry("set the state of", format_args!("{of} at turn {at_turn}"))?;
        if let Some(bytes) = state.map(<[u8]>::len).filter(|bytes| *bytes > MAX_EDIT_BYTES) {
            return Err(Error::misuse(&entry, Misuse::TooLong { what: "state", bytes, limit: MAX_EDIT_BYTES }));
        }
        let (shard, recipient) = (of.shard().into(), of.as_str());
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let is_current = B::advance_turn(&mut tx, shard, recipient, at_turn, Uuid::new_v4()).await?
                && B::save_state(&mut tx, shard, recipient, state).await?;
            self.record(&mut tx, &entry, is_current.into()).await?;
            Ok((tx, is_current))
        });
        let (tx, is_current) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        let done = self.end(tx, &entry, is_current.into()).await?;
        if is_current { Ok(done) } else { Err(Error::contention(&entry)) }
    }

    /// Deletes the turn, the state and the failures of a recipient, as [`admin::forget`](crate::admin::forget).
    ///
    /// # Errors
    ///
    /// See [`Operator`].
    pub async fn forget(&self, of: &Recipient) -> Result<Forgotten> {
        let entry = self.entry("forget", of)?;
        let idle_us = micros(FORGET_AFTER);
        let write = answered(&self.pool, async {
            let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await?;
            let forgotten = B::forget_recipient(&mut tx, of.shard().into(), of.as_str(), idle_us).await?;
            self.record(&mut tx, &entry, (forgotten == Forgotten::Done).into()).await?;
            Ok((tx, forgotten))
        });
        let (tx, forgotten) = write.await.map_err(|fault: Fault| fault.during(&entry))?;
        self.end(tx, &entry, (forgotten == Forgotten::Done).into()).await?;
        Ok(forgotten)
    }

    /// Emits an event to a recipient. Returns its id and whether it was added.
    ///
    /// # Errors
    ///
    /// See [`Operator`], and as [`emit`](crate::emit).
    pub async fn emit(&self, to: &Recipient, event: Event) -> Result<Emitted> {
        let entry = self.entry("emit to", to)?;
        let mut tx = begin_tx(&self.pool, B::BEGIN_WRITE, false).await.map_err(|fault| fault.during(&entry))?;
        let events = [(to.clone(), event)];
        let noted = emit_all_in::<B>(&mut tx, &events).await?;
        let noted = noted.first().copied().unwrap_or(Emitted::Added);
        let touched = u64::from(noted == Emitted::Added);
        self.record(&mut tx, &entry, touched).await.map_err(|fault| fault.during(&entry))?;
        self.end(tx, &entry, touched).await?;
        wake_shard(to.shard());
        Ok(noted)
    }
}
