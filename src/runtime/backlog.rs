//! The loop that counts the events of the registered kinds, for the gauges.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::metrics::waiting;
use super::shared::Shared;
use crate::clock;
use crate::eventbox::backlog;
use crate::store::Backend;

/// Time between two counts.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Counts at once, and then every [`COUNT_INTERVAL`], until `stopping`.
pub(super) async fn run<B: Backend>(shared: Arc<Shared<B>>, stopping: CancellationToken) {
    let kinds: Vec<&str> = shared.handlers.keys().map(AsRef::as_ref).collect();
    let counting = async {
        loop {
            match backlog(&shared.reserved, &kinds).await {
                Ok(counted) => counted.iter().for_each(|kind| waiting(kind, clock::now())),
                Err(error) => {
                    shared.complaints.raise("count of waiting events", &error, COUNT_INTERVAL);
                }
            }
            tokio::time::sleep(COUNT_INTERVAL).await;
        }
    };
    stopping.run_until_cancelled(counting).await;
}
