//! Old transactions make scans slow: the log names them after a slow scan, so that a person can end them.
//!
//! This loop asks the server concurrently with the scans. No scan waits for the answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::micros;
use crate::runtime::shared::Shared;
use crate::store::Backend;

/// Time of a slow scan, for each recipient that it finds.
const SLOW_SCAN: Duration = Duration::from_millis(100);

/// Age of an old transaction.
const OLD_TRANSACTION: Duration = Duration::from_secs(5);

/// Number of transactions by which an old replication slot, or the snapshot of a standby, is behind.
const OLD_SNAPSHOT: i64 = 10_000;

/// Most old transactions in one line of the log.
const MAX_NAMED: i64 = 5;

/// Shortest time between two questions to the server.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Time of a slow scan, and the number of recipients that it found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SlowScan {
    took: Duration,
    brought: usize,
}

/// Reports a scan that was slow.
pub(crate) fn scanned(slow_scans: &watch::Sender<SlowScan>, took: Duration, brought: usize) {
    let enough = u32::try_from(brought).unwrap_or(u32::MAX).max(1);
    if took >= SLOW_SCAN.saturating_mul(enough) {
        slow_scans.send_replace(SlowScan { took, brought });
    }
}

/// Asks for old transactions after a slow scan, and warns when there are some; until `stopping`.
pub(crate) async fn run<B: Backend>(
    shared: Arc<Shared<B>>,
    mut slow_scans: watch::Receiver<SlowScan>,
    stopping: CancellationToken,
) {
    let work = async {
        while slow_scans.changed().await.is_ok() {
            let slow = *slow_scans.borrow_and_update();
            warn_of(&shared, slow).await;
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    let _ = stopping.run_until_cancelled(work).await;
}

async fn warn_of<B: Backend>(shared: &Shared<B>, slow: SlowScan) {
    let older_than_us = micros(OLD_TRANSACTION);
    let old = match B::old_transactions(&shared.reserved, older_than_us, OLD_SNAPSHOT, MAX_NAMED).await {
        Ok(old) => old,
        Err(fault) => {
            return tracing::debug!(error = %fault.0, "the server did not answer a question for old transactions");
        }
    };
    if old.is_empty() {
        return;
    }
    let held_by = old.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    tracing::warn!(
        took_ms = slow.took.as_millis(),
        brought = slow.brought,
        held_by,
        "looking for work takes long, and an old transaction makes the database keep removed rows: end that transaction"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_slow_by_its_time_for_each_recipient() {
        let slow_scans = watch::Sender::default();
        let mut told = slow_scans.subscribe();
        let ms = Duration::from_millis;
        for (took, brought, is_slow) in
            [(ms(99), 0, false), (ms(100), 0, true), (ms(100), 1, true), (ms(900), 10, false), (ms(1_000), 10, true)]
        {
            scanned(&slow_scans, took, brought);
            assert_eq!(told.has_changed().unwrap(), is_slow, "{took:?} for {brought}");
            told.mark_unchanged();
        }
    }
}
