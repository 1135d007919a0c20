//! The loops that forget: the pruner of names, and that of the record of operations.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sqlx::Pool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::shared::Shared;
use crate::clock;
use crate::dsset::Pruner;
use crate::store::{Backend, Fault, OPERATION_RETENTION, answered, hold};

/// Time for the transaction of the pruner that is in flight at a stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Interval at which old operations are deleted.
const OPERATIONS_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Number of operations that one statement deletes.
const OPERATIONS_SLICE: i64 = 1_000;

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
