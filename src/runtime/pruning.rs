//! The loops that forget: the pruner of names, that of the record of operations, and that of the journal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sqlx::Pool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::shared::Shared;
use crate::clock;
use crate::dsset::Pruner;
use crate::store::{Backend, Fault, OPERATION_RETENTION, PRUNED_TOGETHER, answered, hold};

/// Time for the transaction of the pruner that is in flight at a stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Interval at which old operations are deleted.
const OPERATIONS_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Number of operations that one statement deletes.
const OPERATIONS_SLICE: i64 = 1_000;

/// Interval at which old rows of the journal are deleted.
const JOURNAL_INTERVAL: Duration = Duration::from_secs(60);

/// Prunes until `stopping`, if the settings say so; ends after the transaction in flight.
pub(super) async fn run<B: Backend>(shared: Arc<Shared<B>>, stopping: CancellationToken) {
    let Some(config) = shared.config.pruner else { return };
    let pruner = Pruner::new(shared.pool.clone(), config);
    pruner.start();
    stopping.run_until_cancelled(forget_operations(&shared)).await;
    let _ = pruner.stop(STOP_WAIT).await;
}

/// Deletes old operations, at once and then at every interval.
async fn forget_operations<B: Backend>(shared: &Shared<B>) {
    loop {
        match prune_operations(&shared.reserved).await {
            Ok(pruned) if pruned >= OPERATIONS_SLICE.unsigned_abs() => continue,
            Ok(_) => {}
            Err(fault) => {
                shared.complaints.raise("old operations", &fault.0, OPERATIONS_INTERVAL);
            }
        }
        tokio::time::sleep(OPERATIONS_INTERVAL).await;
    }
}

async fn prune_operations<B: Backend>(pool: &Pool<B>) -> Result<u64, Fault> {
    let age = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The first 48 bits of an id are milliseconds.
    let before = Uuid::from_u128(age.saturating_sub(OPERATION_RETENTION).as_millis() << 80);
    answered(pool, async { B::prune_operations(&mut *hold(pool).await?, before, OPERATIONS_SLICE).await }).await
}

/// Deletes old rows of the journal until `stopping`, at once and then at every interval. A runtime whose kinds keep no
/// journal does nothing.
pub(super) async fn run_journal<B: Backend>(shared: Arc<Shared<B>>, stopping: CancellationToken) {
    if shared.journals.is_empty() {
        return;
    }
    let forgetting = async {
        loop {
            if let Err(fault) = prune_journals(&shared.pool).await {
                shared.complaints.raise("old rows of the journal", &fault.0, JOURNAL_INTERVAL);
            }
            tokio::time::sleep(JOURNAL_INTERVAL).await;
        }
    };
    stopping.run_until_cancelled(forgetting).await;
}

/// Deletes the old rows of all kinds, also of those that only other processes work on.
async fn prune_journals<B: Backend>(pool: &Pool<B>) -> Result<(), Fault> {
    let kinds = answered(pool, async { B::list_journal_kinds(&mut *hold(pool).await?).await }).await?;
    for (kind, keep_us) in kinds {
        while prune_journal(pool, &kind, keep_us).await? >= PRUNED_TOGETHER {}
    }
    Ok(())
}

async fn prune_journal<B: Backend>(pool: &Pool<B>, kind: &str, keep_us: i64) -> Result<u64, Fault> {
    answered(pool, async { B::prune_journal(&mut *hold(pool).await?, kind, keep_us).await }).await
}
