//! Poison: a batch that keeps failing is halved until one event fails alone, and that event goes into quarantine.

use std::error::Error as StdError;
use std::num::NonZeroU32;
use std::time::Duration;

use sqlx::Pool;
use uuid::Uuid;

use super::attempt::{Attempted, attempt_with_retries};
use super::kept_state::Keeper;
use super::options::TurnOptions;
use super::{Turn, Work};
use crate::clock::micros;
use crate::error::{Error, Result};
use crate::eventbox::metrics;
use crate::recipient::Recipient;
use crate::store::{Backend, Blame, Fault, Verdict, answered, begin_tx, blame_of, hold};
use crate::text::{Chain, fit};

/// Code of an event in quarantine that made every batch fail.
pub const POISON_CODE: &str = "POISON";

/// Most bytes of an error that are kept.
const MAX_ERROR_BYTES: usize = 2_048;

/// Policy for a batch that keeps failing by its own fault: an error of the processor, a panic, a wrong decision, a
/// deadline, data that the database never takes.
///
/// Errors of the infrastructure and of the schema count for no event: docs/errors.md has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoisonPolicy {
    /// The batch is retried, and the events behind it wait, in order, until the cause is repaired.
    Block,
    /// From the given number of failures in a row on, the batch is halved until one event fails alone; that one goes
    /// into quarantine with its error (see [`admin`](crate::admin)), and the rest proceeds.
    Isolate {
        /// Number of failures in a row before the search; counted in the database, for all processes together.
        after: NonZeroU32,
    },
}

/// Returns whether an event is to blame, so that a later retry does not help.
pub(super) fn is_poison(error: &Error) -> bool {
    match error {
        Error::Misuse { .. } | Error::Deadline { .. } => true,
        // Data that the database never accepts is the event's fault, also in a statement of the library.
        Error::Processor { source, .. } | Error::Database { source, .. } => blame_of(&**source) == Blame::Event,
        _ => false,
    }
}

/// Stores a failure, and isolates its cause when the recipient failed often enough.
pub(super) async fn failed<B: Backend>(
    work: Work<'_, B>,
    options: &TurnOptions,
    mut attempted: Attempted,
    mut error: Error,
) -> Result<Turn> {
    let Work { pool, to, .. } = work;
    if is_hindered(pool, to, options, &error).await || !counts(options, to, &error) {
        return Err(error);
    }
    let after = match options.poison_policy() {
        PoisonPolicy::Isolate { after } => after.get(),
        PoisonPolicy::Block if options.backoff().is_none() => return Err(error),
        PoisonPolicy::Block => u32::MAX,
    };
    let failures = match note(pool, to, &text_of(&error), options.backoff()).await {
        Ok(failures) => failures,
        Err(fault) => {
            tracing::warn!(recipient = %to, error = %fault.0, "a failure could not be noted");
            return Err(error);
        }
    };
    if let Some(jury) = options.jury() {
        jury.is_noted();
    }
    if failures < after {
        return Err(error);
    }
    while let Some(half) = attempted.events.checked_sub(1).and_then(|_| NonZeroU32::new(attempted.events / 2)) {
        tracing::debug!(recipient = %to, half, "a batch keeps failing: trying half of it");
        let options = options.searching(half);
        let (done, smaller) = attempt_with_retries(work, &options, &mut Keeper::off()).await;
        match done {
            Ok(turn) if turn.number.is_some() => {
                go_on_at_once(pool, to).await;
                return Ok(Turn { more_remain: true, ..turn });
            }
            // The processor decides nothing on half of the batch, so no single event can be blamed.
            Ok(_) => return Err(error),
            Err(smaller_error) if is_poison(&smaller_error) => {
                // The search would not end if the half were no smaller than the batch.
                if smaller.events >= attempted.events {
                    return Err(smaller_error);
                }
                (attempted, error) = (smaller, smaller_error);
            }
            Err(other) => return Err(other),
        }
    }
    let Some(event) = attempted.first else {
        // The batch fails without events.
        return Err(error);
    };
    let text = text_of(&error);
    let verdict = Verdict { code: POISON_CODE, reason: &text, attempts: count(failures) };
    take_aside(pool, to, options, attempted.turn, &[event], verdict).await?;
    Ok(Turn { number: Some(attempted.turn + 1), quarantined: 1, more_remain: true, ..Turn::default() })
}

/// Ends the back-off of the failure that began the search, so that the next turn searches the rest of the batch.
async fn go_on_at_once<B: Backend>(pool: &Pool<B>, to: &Recipient) {
    let ended =
        answered(pool, async { B::end_back_off(&mut *hold(pool).await?, to.shard().into(), to.as_str()).await });
    if let Err(fault) = ended.await {
        tracing::debug!(recipient = %to, error = %fault.0, "the search for a bad event waits for the back-off");
    }
}

fn counts(options: &TurnOptions, to: &Recipient, error: &(dyn StdError + 'static)) -> bool {
    options.jury().is_none_or(|jury| jury.counts(to, error))
}

/// Returns whether a deadline passed while the code waited for a lock of another transaction.
async fn is_hindered<B: Backend>(pool: &Pool<B>, to: &Recipient, options: &TurnOptions, error: &Error) -> bool {
    if !matches!(error, Error::Deadline { .. }) {
        return false;
    }
    // The lock took at least half of the deadline, so that the code alone would have been in time.
    let most = options.deadline_of_attempt() / 2;
    let waits = B::waits_for_a_lock(pool, micros(most)).await;
    waits.unwrap_or_else(|fault| {
        tracing::debug!(recipient = %to, error = %fault.0, "the server could not be asked about locks");
        false
    })
}

/// Stores that independent transitions of a committed turn failed. Moves the events of the oldest failed transition
/// into quarantine when it failed often enough.
pub(crate) async fn failed_in_part<B: Backend>(
    pool: &Pool<B>,
    to: &Recipient,
    options: &TurnOptions,
    mut turn: Turn,
) -> Turn {
    let PoisonPolicy::Isolate { after } = options.poison_policy() else { return turn };
    let own = turn.failures.iter().filter(|failure| blame_of(&*failure.error) == Blame::Event);
    let (Some(number), Some(oldest)) = (turn.number, own.min_by_key(|failure| failure.events.first())) else {
        return turn;
    };
    if !counts(options, to, &*oldest.error) {
        return turn;
    }
    let text = text_of(&*oldest.error);
    let events: Vec<Uuid> = oldest.events.iter().map(|event| event.0).collect();
    let isolated = async {
        let failures =
            note(pool, to, &text, None).await.map_err(|fault| fault.during(format!("note a failure of {to}")))?;
        if failures < after.get() || events.is_empty() {
            return Ok(0);
        }
        let verdict = Verdict { code: POISON_CODE, reason: &text, attempts: count(failures) };
        take_aside(pool, to, options, number, &events, verdict).await?;
        Ok::<_, Error>(events.len())
    };
    // The turn has committed. A later turn quarantines events for which it failed here.
    match isolated.await {
        Ok(quarantined) => turn.quarantined = quarantined,
        Err(error) => tracing::debug!(recipient = %to, %error, "a failed transition could not be noted"),
    }
    turn
}

/// Moves the events into quarantine in their own turn, which commits only if the recipient is still at `turn`.
async fn take_aside<B: Backend>(
    pool: &Pool<B>,
    to: &Recipient,
    options: &TurnOptions,
    turn: i64,
    events: &[Uuid],
    verdict: Verdict<'_>,
) -> Result<()> {
    let shard = to.shard().into();
    let attempt = || format!("quarantine what keeps failing at {to}");
    let during = |fault: Fault| fault.during(attempt());
    let (reason, attempts) = (verdict.reason, verdict.attempts);

    let moving = answered(pool, async {
        let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
        let mut is_done = B::advance_turn(&mut tx, shard, to.as_str(), turn, Uuid::new_v4()).await?;
        if is_done {
            let moved = match options.is_journaled() {
                true => B::quarantine_noted(&mut tx, shard, to.as_str(), events, verdict, turn + 1).await?,
                false => B::quarantine_events(&mut tx, shard, to.as_str(), events, verdict).await?,
            };
            is_done = moved == events.len() as u64;
        }
        if is_done {
            B::clear_failures(&mut tx, shard, to.as_str()).await?;
        }
        Ok(is_done.then_some(tx))
    });
    let Some(tx) = moving.await.map_err(during)? else { return Err(Error::contention(attempt())) };
    tx.commit().await.map_err(|lost| lost.during_commit(attempt()))?;
    tracing::warn!(recipient = %to, ?events, attempts, error = %reason, "what keeps failing is in quarantine");
    metrics::quarantined(to.kind(), events.len());
    Ok(())
}

fn count(failures: u32) -> i32 {
    i32::try_from(failures).unwrap_or(i32::MAX)
}

async fn note<B: Backend>(
    pool: &Pool<B>,
    to: &Recipient,
    error: &str,
    backoff: Option<(Duration, Duration)>,
) -> Result<u32, Fault> {
    let (base, cap) = backoff.unwrap_or_default();
    let pauses_us = (micros(base), micros(cap));
    let counting = answered(pool, async {
        B::count_failure(&mut *hold(pool).await?, to.shard().into(), to.as_str(), error, pauses_us).await
    });
    let failures = counting.await?;
    Ok(u32::try_from(failures).unwrap_or(u32::MAX))
}

/// Returns the text of an error with its causes, cut to [`MAX_ERROR_BYTES`].
fn text_of(error: &(dyn StdError + 'static)) -> String {
    fit(&Chain(error).to_string(), MAX_ERROR_BYTES)
}
