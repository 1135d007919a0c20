//! A batch that keeps failing: the event that makes it fail is found by halving, and taken aside.

use std::error::Error as StdError;
use std::num::NonZeroU32;

use sqlx::Pool;
use uuid::Uuid;

use super::metrics;
use super::process::{Attempted, Turn, TurnOptions, attempt_with_retries};
use super::processor::Processor;
use crate::error::{Error, Result};
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, Verdict};

/// The code of an event in quarantine that made every batch fail.
pub const POISON: &str = "POISON";

/// The most bytes of an error that are kept.
const MAX_ERROR_BYTES: usize = 2_048;

/// What is done with a batch that keeps failing by its own fault: an error of the processor, a panic, a wrong decision, a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Poison {
    /// The batch fails again and again, and the events behind it wait, in order, until somebody mends it.
    Block,
    /// From the given number of failures in a row on, the batch is halved until one event fails alone; that one goes into quarantine
    /// with its error (see [`admin`](crate::admin)), and the rest proceeds.
    Isolate {
        /// Failures in a row before that; counted in the database, for all processes together.
        after: NonZeroU32,
    },
}

/// True when trying again later is not what helps.
pub(super) fn is_poison(error: &Error) -> bool {
    matches!(error, Error::Processor { .. } | Error::Misuse { .. } | Error::Deadline { .. } | Error::State { .. })
}

/// Notes a failure, and isolates its cause when there were enough.
pub(super) async fn failed<B, P>(
    pool: &Pool<B>,
    to: &Recipient,
    processor: &P,
    options: &TurnOptions,
    mut attempted: Attempted,
    mut error: Error,
) -> Result<Turn>
where
    B: Backend,
    P: Processor<B>,
{
    let Poison::Isolate { after } = options.poison_policy() else { return Err(error) };
    let failures = match note(pool, to, &text_of(&error)).await {
        Ok(failures) => failures,
        Err(fault) => {
            tracing::warn!(recipient = %to, error = %fault.0, "a failure could not be noted");
            return Err(error);
        }
    };
    if failures < after.get() {
        return Err(error);
    }
    while let Some(half) = attempted.events.checked_sub(1).and_then(|_| NonZeroU32::new(attempted.events / 2)) {
        tracing::debug!(recipient = %to, half, "a batch keeps failing: trying half of it");
        let (done, smaller) = attempt_with_retries(pool, to, processor, &options.clone().max_events(half)).await;
        match done {
            Ok(turn) if turn.number.is_some() => return Ok(Turn { more_remain: true, ..turn }),
            // Half of it is nothing to decide on, so no single event can be blamed.
            Ok(_) => return Err(error),
            Err(smaller_error) if is_poison(&smaller_error) => {
                // A smaller batch that is no smaller would go on for ever.
                if smaller.events >= attempted.events {
                    return Err(smaller_error);
                }
                (attempted, error) = (smaller, smaller_error);
            }
            Err(other) => return Err(other),
        }
    }
    match attempted.first {
        Some(event) => take_aside(pool, to, &attempted, event, failures, &error).await,
        // It fails without events.
        None => Err(error),
    }
}

/// Moves the event into quarantine, in a turn of its own that only counts if nothing moved since the failure.
async fn take_aside<B: Backend>(
    pool: &Pool<B>,
    to: &Recipient,
    attempted: &Attempted,
    event: Uuid,
    failures: u32,
    error: &Error,
) -> Result<Turn> {
    let (shard, turn) = (to.shard().into(), attempted.turn);
    let attempt = || format!("quarantine event {event} of {to}");
    let during = |fault: Fault| fault.during(attempt());
    let reason = text_of(error);
    let attempts = i32::try_from(failures).unwrap_or(i32::MAX);
    let verdict = Verdict { code: POISON, reason: &reason, attempts };

    let mut tx = B::begin_write(pool).await.map_err(during)?;
    let advanced = B::advance_turn(&mut tx, shard, to.as_str(), turn, Uuid::new_v4()).await.map_err(during)?;
    if !advanced || B::quarantine_events(&mut tx, shard, to.as_str(), &[event], verdict).await.map_err(during)? != 1 {
        return Err(Error::contention(attempt()));
    }
    B::clear_failures(&mut tx, shard, to.as_str()).await.map_err(during)?;
    tx.commit().await.map_err(|lost| Fault::from(lost).during_commit(attempt()))?;
    tracing::warn!(recipient = %to, %event, error = %reason, "an event makes every batch fail: it is in quarantine");
    metrics::quarantined(to.kind());
    Ok(Turn { number: Some(turn + 1), quarantined: 1, more_remain: true, ..Turn::default() })
}

async fn note<B: Backend>(pool: &Pool<B>, to: &Recipient, error: &str) -> Result<u32, Fault> {
    let mut conn = pool.acquire().await?;
    let failures = B::count_failure(&mut conn, to.shard().into(), to.as_str(), error).await?;
    Ok(u32::try_from(failures).unwrap_or(u32::MAX))
}

/// The whole chain of an error, cut to what may be kept.
fn text_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text.push_str(": ");
        text.push_str(&current.to_string());
        cause = current.source();
    }
    let end = text.floor_char_boundary(MAX_ERROR_BYTES);
    text.truncate(end);
    // Postgres cannot store a NUL.
    text.replace('\0', "\u{fffd}")
}
