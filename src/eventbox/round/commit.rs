//! Commits a round in one transaction.

use bytes::Bytes;
use sqlx::Pool;
use uuid::Uuid;

use super::{KnownState, Ready};
use crate::cloudevent::{CloudEvent, turn_key};
use crate::error::{Error, Result};
use crate::eventbox::decide::reducer::Next;
use crate::eventbox::emit::wake_up::in_transaction;
use crate::eventbox::emit::{MAX_EMIT_EVENTS, emit_slice_in};
use crate::eventbox::metrics;
use crate::eventbox::turn::Turn;
use crate::eventbox::turn::read_back::read_back;
use crate::outbox::{Caused, FIRST_CLAIM_TTL, Stored, Writer, publish_all_in};
use crate::store::{
    Backend, Fault, JournalOutcome, JournalWrite, Removed, RoundWrite, StateWrite, answered, hold, in_time,
};

/// Time for which a round waits for the locks of another transaction before its recipients get their own turns, in
/// milliseconds.
const LOCK_WAIT_MS: u32 = 200;

/// Result of the transaction of a round.
enum Written {
    /// The recipients whose turns committed.
    Committed(Vec<Won>),
    /// Events to remove were missing for one recipient: nothing was committed.
    Shortfall,
    /// The answer to the commit was lost. These recipients won if it committed.
    Unknown(Vec<usize>),
}

/// A recipient whose turn committed: its index among the ready ones, and its published messages.
struct Won {
    at: usize,
    published: Vec<Stored>,
}

/// Commits the ready decisions. Returns the recipients whose turns committed, with their work after the commit.
pub(super) async fn commit<B: Backend>(pool: &Pool<B>, mut ready: Vec<Ready>) -> Result<Vec<Committed>> {
    let attempt = format!("commit a round of {} recipients", ready.len());
    let token = Uuid::new_v4();
    let adds = ready.iter().any(Ready::adds);
    let mut written = write(pool, &mut ready, token, adds, Removal::Ranges).await;
    if matches!(written, Ok(Written::Shortfall)) && ready.iter().any(|ready| ready.range.is_some()) {
        tracing::debug!(attempt, "an event committed late between those that were listed: removing one by one");
        written = write(pool, &mut ready, token, adds, Removal::Ids).await;
    }
    let won = match written {
        Ok(Written::Committed(won)) => won,
        Ok(Written::Shortfall) => return Ok(Vec::new()),
        Ok(Written::Unknown(candidates)) => read_back_won(pool, &ready, candidates, token).await,
        // Another transaction holds a recipient or a name for long, or the database refuses an emit or a message: each
        // recipient gets its own turn, so that it delays only itself.
        Err(Error::Contention { .. } | Error::Database { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    tracing::trace!(attempt, won = won.len(), "a round is committed");
    let mut ready: Vec<Option<Ready>> = ready.into_iter().map(Some).collect();
    let committed = |won: Won| Some(ready.get_mut(won.at)?.take()?.committed(won.published, token));
    Ok(won.into_iter().filter_map(committed).collect())
}

/// Method of removing events: as ranges where possible, or all by ids.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    Ranges,
    Ids,
}

/// A turn that committed, with the index of its recipient.
pub(super) struct Committed {
    pub(super) index: usize,
    pub(super) known: KnownState,
    pub(super) turn: Turn,
}

impl Ready {
    /// Returns whether its turn adds rows to other tables: messages, emits or rows of the journal.
    fn adds(&self) -> bool {
        if !self.decided.published.is_empty() || self.journal.is_some() {
            return true;
        }
        !self.decided.emitted.is_empty()
    }

    /// Returns the rows of the journal for the events that it removes.
    fn journal_rows(&self) -> impl Iterator<Item = JournalWrite<'_>> {
        let (turn, removed) = (self.turn + 1, &self.decided.removed);
        // Consumed events come before the garbage.
        let kinds = removed.split_at_checked(removed.len() - self.decided.garbage).unwrap_or_default();
        self.journal.iter().flat_map(move |names| {
            let consumed = names.rows(&self.to, turn, kinds.0, JournalOutcome::Consumed);
            consumed.chain(names.rows(&self.to, turn, kinds.1, JournalOutcome::Garbage))
        })
    }

    /// Returns the bytes of its state, emitted events and messages.
    pub(super) fn written_bytes(&self) -> usize {
        let state = if let Next::To(state) = &self.decided.state { state.len() } else { 0 };
        let emitted: usize = self.decided.emitted.iter().map(|(_, event)| event.value().len()).sum();
        let published: usize = self.decided.published.iter().map(CloudEvent::encoded_len).sum();
        state + emitted + published
    }

    fn write(&self, removal: Removal) -> RoundWrite<'_> {
        let removed = match self.range {
            Some((first, last)) if removal == Removal::Ranges => {
                Removed::Range { first: first.0, last: last.0, count: self.listed }
            }
            _ => Removed::Ids(&self.decided.removed),
        };
        RoundWrite {
            shard: self.to.shard().into(),
            recipient: self.to.as_str(),
            turn: self.turn,
            token: self.token,
            state: match &self.decided.state {
                Next::Stay => StateWrite::Keep,
                Next::To(state) => StateWrite::Set(state),
                Next::Gone => StateWrite::Remove,
            },
            removed,
        }
    }

    fn committed(self, published: Vec<Stored>, token: Uuid) -> Committed {
        let (removed, garbage) = (self.decided.removed.len(), self.decided.garbage);
        metrics::committed(self.to.kind(), self.listed, 1, removed - garbage, garbage);
        // Consumed events come before the garbage.
        metrics::consumed(self.to.kind(), self.decided.removed.iter().take(removed - garbage).copied());
        let turn = Turn {
            number: Some(self.turn + 1),
            consumed: removed - garbage,
            garbage,
            more_remain: self.more_listed || self.listed > removed,
            left_listed: self.listed > removed,
            published,
            last: Some(self.last),
            ..Turn::default()
        };
        let state = match self.decided.state {
            Next::Stay => self.before,
            Next::To(state) => Some(Bytes::from(state)),
            Next::Gone => None,
        };
        let known = KnownState { turn: self.turn + 1, token, state };
        Committed { index: self.index, known, turn }
    }
}

async fn write<B: Backend>(
    pool: &Pool<B>,
    ready: &mut [Ready],
    token: Uuid,
    adds: bool,
    removal: Removal,
) -> Result<Written> {
    let is_one_statement = !adds && B::is_one_statement(ready.len());
    match is_one_statement.then(|| B::try_write_now(pool)).flatten() {
        Some(_lead) => write_at_once(pool, ready, token, removal).await,
        None => in_transaction(Box::pin(write_in_group(pool, ready, token, removal))).await,
    }
}

/// Writes the round as one statement that is the whole transaction.
async fn write_at_once<B: Backend>(pool: &Pool<B>, ready: &[Ready], token: Uuid, removal: Removal) -> Result<Written> {
    let during = |fault: Fault| fault.during(format!("commit a round of {} recipients", ready.len()));
    let writes: Vec<_> = ready.iter().map(|ready| ready.write(removal)).collect();
    let written = answered(pool, async { B::write_round(&mut *hold(pool).await?, &writes, token, LOCK_WAIT_MS).await });
    match written.await {
        Ok(Some(won)) => Ok(Written::Committed(won.into_iter().map(|at| Won { at, published: Vec::new() }).collect())),
        Ok(None) => Ok(Written::Shortfall),
        Err(fault) if fault.lost_the_answer() => Ok(Written::Unknown((0..ready.len()).collect())),
        Err(fault) => Err(during(fault)),
    }
}

/// Writes the statement, and the rows of the journal, the emits and the messages of the winners, in one transaction.
async fn write_in_group<B: Backend>(
    pool: &Pool<B>,
    ready: &mut [Ready],
    token: Uuid,
    removal: Removal,
) -> Result<Written> {
    let attempt = format!("commit a round of {} recipients", ready.len());
    let during = |fault: Fault| fault.during(&attempt);
    let mut part = B::begin_shared(pool).await.map_err(during)?;
    let won = match write_part::<B>(&mut part, ready, token, removal, during).await {
        Ok(Some(written)) => written,
        Ok(None) => {
            B::roll_back_shared(part).await;
            return Ok(Written::Shortfall);
        }
        Err(error) => {
            B::roll_back_shared(part).await;
            return Err(error);
        }
    };
    match B::commit_shared(part).await {
        Ok(()) => Ok(Written::Committed(won)),
        Err(fault) if fault.lost_the_answer() => Ok(Written::Unknown(won.into_iter().map(|won| won.at).collect())),
        Err(fault) => Err(during(fault)),
    }
}

/// Writes everything before the commit. Returns the winners; `None` when events of one recipient are missing.
async fn write_part<B: Backend>(
    tx: &mut B::Connection,
    ready: &mut [Ready],
    token: Uuid,
    removal: Removal,
    during: impl Fn(Fault) -> Error,
) -> Result<Option<Vec<Won>>> {
    let writes: Vec<_> = ready.iter().map(|ready| ready.write(removal)).collect();
    let written = in_time::<B, _>(B::write_round(tx, &writes, token, LOCK_WAIT_MS)).await;
    let Some(won) = written.map_err(&during)? else {
        return Ok(None);
    };
    note::<B>(tx, ready, &won).await.map_err(&during)?;
    let mut emitted = Vec::new();
    for at in &won {
        emitted.extend(ready.get_mut(*at).map(|ready| std::mem::take(&mut ready.decided.emitted)).unwrap_or_default());
    }
    for slice in emitted.chunks(MAX_EMIT_EVENTS) {
        emit_slice_in::<B>(tx, slice).await?;
    }
    publish::<B>(tx, ready, won).await.map_err(during).map(Some)
}

/// Writes the rows of the journal for what the winners removed, in one statement.
async fn note<B: Backend>(tx: &mut B::Connection, ready: &[Ready], won: &[usize]) -> Result<(), Fault> {
    let rows: Vec<_> = won.iter().filter_map(|at| ready.get(*at)).flat_map(Ready::journal_rows).collect();
    if rows.is_empty() {
        return Ok(());
    }
    in_time::<B, _>(B::note_journal(tx, &rows)).await
}

/// Writes the messages of the winners, with keys made from their positions in their turns.
async fn publish<B: Backend>(tx: &mut B::Connection, ready: &mut [Ready], won: Vec<usize>) -> Result<Vec<Won>, Fault> {
    let (mut messages, mut counts) = (Vec::new(), Vec::with_capacity(won.len()));
    for at in won {
        let Some(ready) = ready.get_mut(at) else { continue };
        let published = std::mem::take(&mut ready.decided.published);
        counts.push((at, published.len()));
        if published.is_empty() {
            continue;
        }
        let writer = Writer::new(&ready.to, ready.decided.removed.iter());
        for (ordinal, mut message) in (0..).zip(published) {
            message.default_key(|message| turn_key(ready.to.as_str(), ready.turn + 1, ordinal, message));
            messages.push(Caused { message, writer, origin: ready.decided.origin.clone() });
        }
    }
    let mut stored = in_time::<B, _>(publish_all_in::<B>(tx, messages, FIRST_CLAIM_TTL)).await?.into_iter();
    let won = counts.into_iter().map(|(at, count)| Won { at, published: stored.by_ref().take(count).collect() });
    Ok(won.collect())
}

/// Returns the candidates whose turn this round made, reading them back singly.
///
/// Their messages are not delivered from memory, because the lost answer hides which rows are whose. A delivery process
/// claims them later.
async fn read_back_won<B: Backend>(pool: &Pool<B>, ready: &[Ready], candidates: Vec<usize>, token: Uuid) -> Vec<Won> {
    let mut won = Vec::new();
    for at in candidates {
        let Some(ready) = ready.get(at) else { continue };
        let lost = Fault(sqlx::Error::Protocol("the answer to the commit of a round was lost".to_owned()));
        match read_back(pool, &ready.to, ready.turn, token, lost).await {
            Ok(()) => won.push(Won { at, published: Vec::new() }),
            Err(error) => tracing::debug!(recipient = %ready.to, %error, "not known to be of this round"),
        }
    }
    won
}
