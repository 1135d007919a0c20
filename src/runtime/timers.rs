//! The loop that moves due timers of this process's shards into their boxes.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::eventbox::move_due;
use crate::heartbeat::Beat;
use crate::shard::ShardSet;
use crate::store::Backend;

/// Most timers of one transaction.
const MOVE_AT_ONCE: NonZeroU32 = match NonZeroU32::new(1_000) {
    Some(timers) => timers,
    None => NonZeroU32::MIN,
};

/// Shortest pause between two moves, so that timers that become due one after the other move together.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// Moves timers until `stopping`. Every process that works on a shard does it; each timer moves once.
pub(super) async fn run<B: Backend>(
    shared: Arc<Shared<B>>,
    mut owned: watch::Receiver<ShardSet>,
    stopping: CancellationToken,
    beat: Beat,
) {
    while !stopping.is_cancelled() {
        let shards: Vec<u8> = owned.borrow_and_update().iter().collect();
        let pause = if shards.is_empty() {
            shared.config.poll_interval
        } else {
            let _busy = beat.busy();
            match move_due(&shared.pool, &shards, MOVE_AT_ONCE).await {
                // Another process may emit an earlier one, so the pause is never longer than a poll interval.
                Ok(moved) => moved.next_in.unwrap_or(shared.config.poll_interval),
                Err(error) => {
                    shared.complaints.raise("timers", &error, shared.config.poll_interval);
                    shared.config.poll_interval
                }
            }
        };
        tokio::select! {
            () = stopping.cancelled() => {}
            Ok(()) = owned.changed() => {}
            () = tokio::time::sleep(pause.clamp(MIN_PAUSE, shared.config.poll_interval)) => {}
        }
    }
}
