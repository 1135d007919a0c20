//! Reads back after a lost answer whether a commit happened.

use std::time::{Duration, Instant};

use sqlx::Pool;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::recipient::Recipient;
use crate::retry::pauses;
use crate::store::{Backend, Class, Fault, Settled, begin_tx, in_time};

/// Time for which reading back waits for the old backend to end, in milliseconds; shorter than the wait for an answer.
const LOCK_WAIT_MS: u32 = 8_000;

/// Number of retries of reading back while the database is not available.
const ATTEMPTS: usize = 8;

/// Time after which reading back stops and the outcome is unknown.
const READ_BACK_WAIT: Duration = Duration::from_secs(60);

/// Pause before the first retry of reading back; it doubles, with jitter, so that the database may be away for seconds.
const PAUSE: Duration = Duration::from_millis(20);

/// Reads back which attempt made the turn after `turn`. Returns `Ok` when the attempt with `token` committed, and
/// contention when it did not.
pub(crate) async fn read_back<B: Backend>(
    pool: &Pool<B>,
    to: &Recipient,
    turn: i64,
    token: Uuid,
    lost: Fault,
) -> Result<()> {
    let attempt = || format!("commit turn {} of {to}", turn + 1);
    let mut pauses = pauses(PAUSE, ATTEMPTS);
    let began = Instant::now();
    let settled = loop {
        match (read_turn(pool, to, token).await, pauses.next()) {
            (Ok(settled), _) => break settled,
            (Err(fault), Some(pause)) if fault.class() != Class::Permanent && began.elapsed() < READ_BACK_WAIT => {
                tracing::debug!(recipient = %to, error = %fault.0, "reading back a commit: trying again");
                tokio::time::sleep(pause).await;
            }
            (Err(_), _) => return Err(Error::Unknown { attempt: attempt(), source: lost.0.into() }),
        }
    };
    match settled {
        Settled { ours: true, .. } => Ok(()),
        // Only our attempt or a competing one can have made this turn: not ours means that ours was rolled back.
        Settled { turn: now, .. } if now <= turn + 1 => Err(Error::contention(attempt())),
        Settled { .. } => Err(Error::Unknown { attempt: attempt(), source: lost.0.into() }),
    }
}

async fn read_turn<B: Backend>(pool: &Pool<B>, to: &Recipient, token: Uuid) -> Result<Settled, Fault> {
    let mut tx = begin_tx(pool, B::BEGIN_WRITE, false).await?;
    let settled = in_time::<B, _>(async {
        B::limit_lock_wait(&mut tx, LOCK_WAIT_MS).await?;
        B::settle_turn(&mut tx, to.shard().into(), to.as_str(), token).await
    });
    let settled = settled.await?;
    if settled.ours {
        // The read has written the row again, so its commit waits for the standbys that the turn must have reached
        // before its messages leave.
        tx.commit().await?;
    } else {
        tx.rollback().await;
    }
    Ok(settled)
}
