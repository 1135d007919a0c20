//! The workers: each walks over all shards and processes what it finds. They are not told of each other, so they race.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use eventbox::{Recipient, Turn};
use sqlx::Pool;

use super::processors::{Aircraft, Airport};
use super::tables::DemoTables;

/// The most events of one turn.
const MAX_EVENTS: NonZeroU32 = match NonZeroU32::new(1_000) {
    Some(events) => events,
    None => NonZeroU32::MIN,
};

/// How many recipients a worker takes from a shard at once.
const RECIPIENTS_A_LISTING: u32 = 100;

/// How long a worker rests after a walk that found nothing.
const IDLE_PAUSE: Duration = Duration::from_millis(10);

/// How often in a row a worker bears that the database is not available.
const MAX_OUTAGES: u32 = 50;

/// What the workers share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) aircraft: Aircraft,
    pub(crate) airport: Airport,
    /// Events consumed by this process.
    pub(crate) consumed: AtomicI64,
    /// How often another worker came first.
    pub(crate) contention: AtomicI64,
    /// Set when nothing more will be sent.
    pub(crate) all_sent: AtomicBool,
}

/// Walks until everything was sent and a whole walk found nothing; hands what turns published to `published`.
pub(crate) async fn run<B: DemoTables>(
    pool: &Pool<B>,
    shared: &Shared,
    first_shard: u8,
    published: impl Fn(Turn),
) -> Result<()> {
    let mut outages = 0;
    loop {
        let all_sent = shared.all_sent.load(Ordering::Acquire);
        match walk(pool, shared, first_shard, &published).await {
            Ok(0) if all_sent => return Ok(()),
            Ok(0) => tokio::time::sleep(IDLE_PAUSE).await,
            Ok(_) => outages = 0,
            Err(error) if error.is_transient() && outages < MAX_OUTAGES => {
                outages += 1;
                tokio::time::sleep(IDLE_PAUSE * outages).await;
            }
            Err(error) => return Err(error).context("process the events"),
        }
    }
}

/// One walk over all shards; answers how many recipients had something to do.
async fn walk<B: DemoTables>(
    pool: &Pool<B>,
    shared: &Shared,
    first_shard: u8,
    published: &impl Fn(Turn),
) -> eventbox::Result<usize> {
    let mut found = 0;
    for step in 0..=u8::MAX {
        let shard = first_shard.wrapping_add(step);
        let mut after = None;
        loop {
            let recipients = eventbox::pending(pool, shard, after.as_ref(), RECIPIENTS_A_LISTING).await?;
            found += recipients.len();
            for to in &recipients {
                process(pool, shared, to, published).await?;
            }
            match recipients.into_iter().last() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
    }
    Ok(found)
}

/// Processes a recipient until its box is empty, or until another worker is at it.
async fn process<B: DemoTables>(
    pool: &Pool<B>,
    shared: &Shared,
    to: &Recipient,
    published: &impl Fn(Turn),
) -> eventbox::Result<()> {
    loop {
        let processed = match to.kind() {
            "aircraft" => eventbox::process_batch(pool, to, &shared.aircraft, MAX_EVENTS).await,
            _ => eventbox::reduce_batch(pool, to, &shared.airport, MAX_EVENTS).await,
        };
        let mut turn = match processed {
            Ok(turn) => turn,
            Err(error) if error.is_contention() => {
                shared.contention.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(eventbox::Error::Unknown { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        shared.contention.fetch_add(i64::try_from(turn.contention).unwrap_or(i64::MAX), Ordering::Relaxed);
        shared.consumed.fetch_add(i64::try_from(turn.consumed).unwrap_or(i64::MAX), Ordering::Relaxed);
        for hook in turn.post_process.drain(..) {
            if let Err(error) = hook.run().await {
                tracing::warn!(recipient = %to, error, "a hook failed; its turn stands");
            }
        }
        let more_remain = turn.more_remain;
        published(turn);
        if !more_remain {
            return Ok(());
        }
    }
}
