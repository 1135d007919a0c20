//! The pruner of names, which runs next to the workers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::dsset::Pruner;
use crate::store::Backend;

/// Time for the transaction of the pruner that is in flight at a stop.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Prunes until `stopping`, if the settings say so; ends after the transaction in flight.
pub(super) async fn run<B: Backend>(shared: Arc<Shared<B>>, stopping: CancellationToken) {
    let Some(config) = shared.config.pruner else { return };
    let pruner = Pruner::new(shared.pool.clone(), config);
    pruner.start();
    stopping.cancelled().await;
    let _ = pruner.stop(STOP_WAIT).await;
}
