//! The tasks of a running server, and their end.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service::StopReport;

/// A running server. Its drop cuts all connections.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) local_addr: SocketAddr,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    pub(crate) cut_all: CancellationToken,
}

impl Running {
    /// Answers the calls in flight, and cuts off those that are still open after `limit`.
    pub(crate) async fn stop(&self, limit: Duration) -> StopReport {
        self.stopping.cancel();
        let in_time = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        if !in_time {
            self.cut_all.cancel();
            self.tasks.wait().await;
        }
        StopReport::in_time(in_time)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.cut_all.cancel();
    }
}
