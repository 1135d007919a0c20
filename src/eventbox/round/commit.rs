//! Commits a round in one transaction.

use sqlx::Pool;
use uuid::Uuid;

use super::at_once;
use super::ready::{Ready, Removal};
use super::{Done, Way};
use crate::error::{Error, Misuse, Result};
use crate::eventbox::decide::hooks::RoundResult;
use crate::eventbox::emit::wake_up::in_transaction;
use crate::eventbox::emit::{MAX_EMIT_EVENTS, emit_slice_in};
use crate::eventbox::turn::hooked::{Begun, of_hook};
use crate::eventbox::turn::read_back::read_back;
use crate::outbox::{FIRST_CLAIM_TTL, Stored, publish_all_in};
use crate::store::{Backend, Fault, Intact, in_time, is_of_one_statement};

/// Time for which a round waits for the locks of another transaction before its recipients get their own turns, in
/// milliseconds. Where an engine has many writers, it bounds the statements of the user's code, too.
pub(super) const LOCK_WAIT_MS: u32 = 200;

/// Recipients that commit together. What the library writes stands beside what code of the user brings, because only
/// the former can be shared between threads.
pub(crate) struct Slice<P> {
    pub(super) ready: Vec<Ready>,
    /// One for each of `ready`.
    pub(super) parts: Vec<P>,
}

impl<P> Slice<P> {
    pub(super) fn of(ready: Ready, part: P) -> Self {
        Slice { ready: vec![ready], parts: vec![part] }
    }

    /// Returns the shard of the last recipient.
    pub(super) fn shard(&self) -> Option<u8> {
        self.ready.last().map(|ready| ready.to.shard())
    }

    pub(super) fn push(&mut self, ready: Ready, part: P) {
        self.ready.push(ready);
        self.parts.push(part);
    }
}

/// The end of a transaction that cannot commit.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The code of the recipient with this index failed, or its entity moved: the others go again without it.
    One(usize, Error),
    /// Code of the user failed that runs for all recipients: each gets a turn of its own.
    Code(Error),
    /// A statement of the library failed.
    Statement(Error),
}

impl Halt {
    fn error(&self) -> &Error {
        let (Halt::One(_, error) | Halt::Code(error) | Halt::Statement(error)) = self;
        error
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Halt::Statement(error)
    }
}

/// Result of the transaction of a round.
pub(super) enum Written {
    /// The recipients whose turns committed.
    Committed(Vec<Won>),
    /// Events to remove were missing for one recipient: nothing was committed.
    Shortfall,
    /// The answer to the commit was lost. These recipients won if it committed.
    Unknown(Vec<usize>),
}

/// A recipient whose turn committed: its index in the slice, and its published messages.
pub(super) struct Won {
    at: usize,
    published: Vec<Stored>,
}

impl Won {
    /// Makes a winner that has published nothing.
    pub(super) fn silently(at: usize) -> Self {
        Won { at, published: Vec::new() }
    }
}

/// Result of a commit.
pub(super) struct Committed<K> {
    /// Results by the indexes of the recipients. The other recipients have lost.
    pub(super) done: Vec<(usize, Done<K>)>,
    /// Whether the transaction was given up because of the code of a recipient.
    pub(super) was_given_up: bool,
}

/// Commits the ready decisions.
pub(super) async fn commit<B: Backend, W: Way<B>>(
    pool: &Pool<B>,
    way: &W,
    mut slice: Slice<W::Part>,
    mut begun: Option<&mut Begun<'_, B>>,
) -> Result<Committed<W::Left>> {
    let attempt = attempt_of(&slice);
    let token = Uuid::new_v4();
    let mut written = write(pool, way, &mut slice, token, Removal::Ranges, begun.as_deref_mut()).await;
    if matches!(written, Ok(Written::Shortfall)) && slice.ready.iter().any(|ready| ready.range.is_some()) {
        tracing::debug!(attempt, "an event committed late between those that were listed: removing one by one");
        written = write(pool, way, &mut slice, token, Removal::Ids, begun.as_deref_mut()).await;
    }
    if let Some(begun) = &mut begun {
        settle(begun, &written);
    }
    let won = match written {
        Ok(Written::Committed(won)) => won,
        Ok(Written::Shortfall) => return Ok(Committed { done: Vec::new(), was_given_up: false }),
        Ok(Written::Unknown(candidates)) => {
            let (won, result) = read_back_won(pool, &slice.ready, candidates, token).await;
            if let Some(begun) = &mut begun {
                begun.settle(result);
            }
            won
        }
        Err(Halt::One(at, error)) => return Ok(without(&slice.ready, at, &error)),
        Err(Halt::Statement(error)) if is_of_the_database(&error) => return Err(error),
        // Another transaction holds a recipient or a name for long, the database refuses an emit or a message, or code
        // of the user has ended the transaction: each recipient gets its own turn, so that it delays only itself.
        Err(halt) => {
            tracing::debug!(attempt, error = %halt.error(), "a round is given up: its recipients get their own turns");
            return Ok(Committed { done: Vec::new(), was_given_up: W::RUNS_CODE || begun.is_some() });
        }
    };
    tracing::trace!(attempt, won = won.len(), "a round is committed");
    let mut turns: Vec<_> = slice.ready.into_iter().zip(slice.parts).map(Some).collect();
    let committed = |won: Won| {
        let (mut ready, part) = turns.get_mut(won.at)?.take()?;
        let (index, ended) = (ready.index, way.ended(&mut ready, part, token));
        let (turn, left) = ready.committed(won.published, ended);
        Some((index, Done::Committed { turn: Box::new(turn), left }))
    };
    Ok(Committed { done: won.into_iter().filter_map(committed).collect(), was_given_up: false })
}

/// Returns whether the whole database fails. A statement that was cancelled may be too long for one transaction only.
fn is_of_the_database(error: &Error) -> bool {
    error.is_transient() && !error.is_contention() && !is_of_one_statement(error)
}

/// Sends all recipients but one into the next round, and that one into a turn of its own.
fn without<K>(ready: &[Ready], at: usize, error: &Error) -> Committed<K> {
    let result = |place: usize, ready: &Ready| match place == at {
        false => Done::Deferred,
        true if error.is_contention() => Done::Lost,
        true => {
            tracing::debug!(recipient = %ready.to, %error, "a member of a round failed: it gets its own turn");
            Done::NeedsOwnTurn
        }
    };
    let done = ready.iter().enumerate().map(|(place, ready)| (ready.index, result(place, ready))).collect();
    Committed { done, was_given_up: true }
}

/// Notes the result of a transaction for the hooks, unless it has to be read back.
fn settle<B: Backend>(begun: &mut Begun<'_, B>, written: &Result<Written, Halt>) {
    match written {
        Ok(Written::Committed(won)) if won.is_empty() => begun.settle(RoundResult::Nothing),
        Ok(Written::Committed(_)) => begun.settle(RoundResult::Committed),
        Ok(Written::Shortfall) => begun.settle(RoundResult::Failed("an event to remove was gone".to_owned())),
        Ok(Written::Unknown(_)) => {}
        Err(halt) => begun.failed(halt.error()),
    }
}

fn attempt_of<P>(slice: &Slice<P>) -> String {
    format!("commit a round of {} recipients", slice.ready.len())
}

async fn write<B: Backend, W: Way<B>>(
    pool: &Pool<B>,
    way: &W,
    slice: &mut Slice<W::Part>,
    token: Uuid,
    removal: Removal,
    begun: Option<&mut Begun<'_, B>>,
) -> Result<Written, Halt> {
    let runs_code = W::RUNS_CODE || begun.is_some();
    if !runs_code && let Some(written) = at_once::write(pool, &slice.ready, token, removal).await? {
        return Ok(written);
    }
    in_transaction(Box::pin(write_in_group(pool, way, slice, token, removal, begun))).await
}

/// Writes the statement, the work of the user's code, and the rows of the journal, the emits and the messages of the
/// winners, in one transaction.
async fn write_in_group<B: Backend, W: Way<B>>(
    pool: &Pool<B>,
    way: &W,
    slice: &mut Slice<W::Part>,
    token: Uuid,
    removal: Removal,
    mut begun: Option<&mut Begun<'_, B>>,
) -> Result<Written, Halt> {
    let attempt = attempt_of(slice);
    let during = |fault: Fault| fault.during(&attempt);
    let runs_code = W::RUNS_CODE || begun.is_some();
    let opened = match runs_code {
        true => B::begin_exclusive(pool, None).await,
        false => B::begin_shared(pool).await,
    };
    let mut part = opened.map_err(during)?;
    let won = match write_part(pool, way, &mut part, slice, (token, removal), begun.as_deref_mut()).await {
        Ok(Some(written)) => written,
        Ok(None) => {
            B::roll_back_shared(part).await;
            return Ok(Written::Shortfall);
        }
        Err(halt) if runs_code => {
            // The drop rolls back, also when the code has left an unfinished statement.
            B::close_if_left_unfit(&mut part, halt.error());
            return Err(halt);
        }
        Err(halt) => {
            B::roll_back_shared(part).await;
            return Err(halt);
        }
    };
    if runs_code {
        let whole = require_whole::<B>(&attempt, B::check_to_commit(&mut part)).await;
        match begun {
            // The transaction was whole before its last code.
            Some(begun) => {
                whole.map_err(of_hook)?;
                begun.commits();
            }
            None => whole?,
        }
    }
    match B::commit_shared(part).await {
        Ok(()) => Ok(Written::Committed(won)),
        Err(fault) if fault.lost_the_answer() => Ok(Written::Unknown(won.into_iter().map(|won| won.at).collect())),
        Err(fault) => Err(during(fault).into()),
    }
}

/// Writes everything before the commit. Returns the winners; `None` when events of one recipient are missing.
async fn write_part<B: Backend, W: Way<B>>(
    pool: &Pool<B>,
    way: &W,
    tx: &mut B::SharedTx,
    slice: &mut Slice<W::Part>,
    (token, removal): (Uuid, Removal),
    begun: Option<&mut Begun<'_, B>>,
) -> Result<Option<Vec<Won>>, Halt> {
    let attempt = attempt_of(slice);
    let during = |fault: Fault| fault.during(&attempt);
    let writes: Vec<_> = slice.ready.iter().map(|ready| ready.write(removal)).collect();
    let written = in_time::<B, _>(B::write_round(tx, &writes, token, LOCK_WAIT_MS)).await;
    let Some(mut won) = written.map_err(during)? else {
        return Ok(None);
    };
    drop(writes);
    won.sort_unstable();
    note::<B>(tx, &slice.ready, &won).await.map_err(during)?;
    way.run(pool, tx, slice, &won).await?;
    let mut emitted = Vec::new();
    for at in &won {
        emitted.extend(slice.ready.get_mut(*at).map(|ready| std::mem::take(&mut ready.emitted)).unwrap_or_default());
    }
    let publishes = slice.ready.iter().any(|ready| !ready.published.is_empty());
    if W::RUNS_CODE && (publishes || !emitted.is_empty() || begun.is_some()) {
        require_whole::<B>(&attempt, B::check_intact(tx)).await?;
    }
    for slice in emitted.chunks(MAX_EMIT_EVENTS) {
        emit_slice_in::<B>(tx, slice).await?;
    }
    let won = publish::<B>(tx, &mut slice.ready, won).await.map_err(during)?;
    if let Some(begun) = begun {
        let of = won.iter().filter_map(|won| slice.ready.get(won.at)).map(|ready| ready.to.clone()).collect();
        begun.finalize_round(pool, tx, of).await.map_err(Halt::Code)?;
    }
    Ok(Some(won))
}

/// Returns an error when code of the user ended the transaction, or hid an error, so that the transaction cannot
/// commit.
pub(super) async fn require_whole<B: Backend>(
    attempt: &str,
    found: impl Future<Output = Result<Intact, Fault>>,
) -> Result<()> {
    match in_time::<B, _>(found).await.map_err(|fault| fault.during(attempt))? {
        Intact::Whole => Ok(()),
        Intact::Ended => Err(Error::misuse(attempt, Misuse::EndedTransaction)),
        Intact::Failed => Err(Error::misuse(attempt, Misuse::SwallowedError)),
    }
}

/// Writes the rows of the journal for what the winners removed, in one statement.
async fn note<B: Backend>(tx: &mut B::Connection, ready: &[Ready], won: &[usize]) -> Result<(), Fault> {
    let rows: Vec<_> = won.iter().filter_map(|at| ready.get(*at)).flat_map(Ready::journal_rows).collect();
    if rows.is_empty() {
        return Ok(());
    }
    in_time::<B, _>(B::note_journal(tx, &rows)).await
}

/// Writes the messages of the winners.
async fn publish<B: Backend>(tx: &mut B::Connection, ready: &mut [Ready], won: Vec<usize>) -> Result<Vec<Won>, Fault> {
    let (mut messages, mut counts) = (Vec::new(), Vec::with_capacity(won.len()));
    for at in won {
        let Some(ready) = ready.get_mut(at) else { continue };
        counts.push((at, ready.published.len()));
        messages.append(&mut ready.published);
    }
    let mut stored = in_time::<B, _>(publish_all_in::<B>(tx, messages, FIRST_CLAIM_TTL)).await?.into_iter();
    let won = counts.into_iter().map(|(at, count)| Won { at, published: stored.by_ref().take(count).collect() });
    Ok(won.collect())
}

/// Returns the candidates whose turn this round made, reading them back singly, and what that says about the round.
///
/// Their messages are not delivered from memory, because the lost answer hides which rows are whose. A delivery process
/// claims them later.
async fn read_back_won<B: Backend>(
    pool: &Pool<B>,
    ready: &[Ready],
    candidates: Vec<usize>,
    token: Uuid,
) -> (Vec<Won>, RoundResult) {
    let (mut won, mut result) = (Vec::new(), RoundResult::Nothing);
    for at in candidates {
        let Some(ready) = ready.get(at) else { continue };
        let lost = Fault(sqlx::Error::Protocol("the answer to the commit of a round was lost".to_owned()));
        match read_back(pool, &ready.to, ready.turn, token, lost).await {
            Ok(()) => {
                won.push(Won { at, published: Vec::new() });
                result = RoundResult::Committed;
            }
            Err(error) => {
                tracing::debug!(recipient = %ready.to, %error, "not known to be of this round");
                // All of the round committed, or none: a recipient that is known speaks for those that are not.
                match (&result, error.is_contention()) {
                    (RoundResult::Committed, _) => {}
                    (_, true) => result = RoundResult::Failed(error.to_string()),
                    (RoundResult::Nothing, false) => result = RoundResult::Unknown(error.to_string()),
                    (_, false) => {}
                }
            }
        }
    }
    (won, result)
}
