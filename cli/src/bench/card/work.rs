//! The work of a path, in an order that does not depend on time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use eventbox::chip::{NoopTransport, Transport};
use eventbox::emitter::DurableEmitter;
use eventbox::runtime::{Runtime, RuntimeConfig};
use eventbox::{Event, Sender};
use futures_util::future::try_join_all;
use sqlx::Pool;

use crate::bench::HANG_GUARD;
use crate::bench::drains::{Variant, until_consumed};
use crate::bench::engine::{BATCH, Engine, Key};
use crate::bench::entities::message;
use crate::bench::load::{self, CONNECTIONS, VALUE_BYTES, keys};
use crate::bench::yardstick::outbox::Message;

/// Number of recipients of the emits.
const RECIPIENTS: usize = 100;

/// A time longer than a run: what would happen after it does not happen.
const NEVER: Duration = Duration::from_secs(60 * 60);

/// Number of shards, and of messages that lie together in one, as one insert lays them.
const SHARDS: usize = 256;
const TOGETHER: usize = 50;

/// Number of messages of a claim, of a request and of a delete. The amounts are multiples of it.
const PAGE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(499);

/// Pause between two looks at the number of delivered messages.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a path does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Single emits.
    Plain,
    /// Single emits with names.
    Named,
    /// Single emits for later.
    Timed,
    /// Emits of as many tasks as events, through a `Sender`.
    Sender,
    /// Emits in batches of 500.
    Batches,
    /// A drain of events that wait, of this many recipients at most.
    Drain { variant: Variant, recipients: usize },
    /// A delivery of messages that wait in the outbox, to a receiver that costs nothing.
    Delivery,
}

/// Returns event `number`, the same in each run.
fn event(number: usize) -> Event {
    Event::new(format!("{number:0VALUE_BYTES$}").into_bytes())
}

impl Work {
    /// Returns the number of connections that the work may hold at once.
    pub(crate) const fn connections(self) -> u32 {
        match self {
            Work::Drain { .. } | Work::Delivery => CONNECTIONS,
            Work::Plain | Work::Named | Work::Timed | Work::Sender | Work::Batches => 2,
        }
    }

    /// Fills the tables.
    pub(crate) async fn prepare<B: Engine>(self, admin: &Pool<B>, events: usize) -> Result<()> {
        match self {
            Work::Drain { recipients, .. } => load::fill(admin, &keys("order", recipients.min(events))?, events).await,
            Work::Delivery => leave_due(admin, events).await,
            _ => Ok(()),
        }
    }

    /// Does the work that is counted.
    pub(crate) async fn run<B: Engine>(self, pool: &Pool<B>, events: usize) -> Result<()> {
        let named = |number| event(number).named(format!("click-{number:030}"));
        match self {
            Work::Plain => singly(pool, events, event).await,
            Work::Named => singly(pool, events, named).await,
            Work::Timed => singly(pool, events, |number| event(number).due_in(24 * NEVER)).await,
            Work::Sender => at_once(pool, events).await,
            Work::Batches => load::emit_batches(pool, &keys("order", RECIPIENTS)?, events, BATCH, 1).await,
            Work::Drain { variant, .. } => {
                let builder = variant.on(Runtime::builder(pool.clone())).config(undisturbed());
                until_consumed(builder, events).await
            }
            Work::Delivery => deliver(pool, events).await,
        }
    }

    /// Fails if not all events were counted, or are where they belong.
    pub(crate) async fn check<B: Engine>(self, admin: &Pool<B>, events: usize) -> Result<()> {
        let is_right = match self {
            Work::Drain { variant, .. } => variant.sums(admin).await?.are(events),
            Work::Delivery => B::outbox_left(admin).await? == 0,
            // A timer is in another table.
            Work::Timed => B::reducer_sums(admin).await?.left == 0,
            _ => usize::try_from(B::reducer_sums(admin).await?.left) == Ok(events),
        };
        ensure!(is_right, "not all of {events} events are where they belong");
        Ok(())
    }
}

async fn singly<B: Engine>(pool: &Pool<B>, events: usize, event: impl Fn(usize) -> Event) -> Result<()> {
    let keys = keys("order", RECIPIENTS)?;
    for (number, key) in keys.iter().cycle().take(events).enumerate() {
        B::emit(pool, &key.to, event(number)).await?;
    }
    Ok(())
}

/// Queues all events before the first group is sent, because one thread does both.
async fn at_once<B: Engine>(pool: &Pool<B>, events: usize) -> Result<()> {
    let (sender, keys) = (Sender::new(pool.clone()), keys("order", RECIPIENTS)?);
    let emit = |(number, key): (usize, &Key)| {
        let (sender, to) = (sender.clone(), key.to.clone());
        async move { sender.emit(&to, event(number)).await }
    };
    try_join_all(keys.iter().cycle().take(events).enumerate().map(emit)).await?;
    sender.stop(HANG_GUARD).await;
    Ok(())
}

/// Returns settings with which a runtime looks for work once, finds all of it, and does one round at a time.
fn undisturbed() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    (config.leases, config.pruner) = (None, None);
    (config.local_wake_ups, config.remote_wake_ups) = (false, false);
    (config.poll_interval, config.min_poll_interval) = (NEVER, NEVER);
    // A slow machine must not make the rounds smaller.
    (config.rounds, config.processor_round_time) = (NonZeroUsize::MIN, NEVER);
    config
}

/// Fills the outbox as processes that ended have left it.
async fn leave_due<B: Engine>(admin: &Pool<B>, messages: usize) -> Result<()> {
    let made = (0..messages).map(|number| {
        let event = message(event(number).value()).map_err(|error| anyhow!(error))?;
        Ok(Message::new(i16::try_from(number / TOGETHER * 97 % SHARDS)?, event))
    });
    let mut tx = eventbox::begin(admin).await?;
    B::lay_out(&mut tx, &made.collect::<Result<Vec<_>>>()?).await?;
    B::leave_due(&mut tx).await?;
    Ok(tx.commit().await?)
}

async fn deliver<B: Engine>(pool: &Pool<B>, messages: usize) -> Result<()> {
    let receiver: Arc<dyn Transport> = Arc::new(NoopTransport);
    let emitter = DurableEmitter::builder(pool.clone(), receiver).configure(|config| {
        // One page after the other, and all of one size, however long the messages take.
        config.retransmit_batch_size = PAGE;
        (config.batch.batch_size, config.batch.message_buffer) = (PAGE, PAGE);
        (config.batch.max_concurrent_sends, config.batch.batch_interval) = (NonZeroUsize::MIN, NEVER);
        (config.delete_batch_size, config.delete_flush_interval) = (PAGE.get(), NEVER);
    });
    let emitter = emitter.start().await?;
    let (wanted, deadline) = (u64::try_from(messages)?, Instant::now() + HANG_GUARD);
    while emitter.stats().delivered < wanted && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    ensure!(emitter.close().await.complete, "the emitter did not stop");
    Ok(())
}
