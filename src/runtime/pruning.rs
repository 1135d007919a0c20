//! The loops that forget: the pruner of names, and that of the record of operations.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::admin::prune_operations;
use crate::dsset::Pruner;
use crate::store::Backend;

/// Time for the transaction of the pruner that is in flight at a stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Interval at which old operations are deleted.
const OPERATIONS_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Number of operations that one statement deletes.
const OPERATIONS_SLICE: u32 = 1_000;

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
        match prune_operations(&shared.reserved, OPERATIONS_SLICE).await {
            Ok(pruned) if pruned >= u64::from(OPERATIONS_SLICE) => continue,
            Ok(_) => {}
            Err(fault) => {
                shared.complaints.raise("old operations", &fault.0, OPERATIONS_INTERVAL);
            }
        }
        tokio::time::sleep(OPERATIONS_INTERVAL).await;
    }
}
