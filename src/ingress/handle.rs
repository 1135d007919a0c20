//! A server that runs.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::faults::FaultSwitch;
use super::log::IngressLog;
use crate::service::StopReport;

/// A running server. Dropping it cuts all connections and ends the server; [`stop`](Self::stop) ends it in good order.
#[derive(Debug)]
pub struct IngressHandle {
    local_addr: SocketAddr,
    log: IngressLog,
    faults: FaultSwitch,
    tasks: TaskTracker,
    stopping: CancellationToken,
    cut_all: CancellationToken,
}

impl IngressHandle {
    pub(super) fn new(
        local_addr: SocketAddr,
        log: IngressLog,
        faults: FaultSwitch,
        tasks: TaskTracker,
        stopping: CancellationToken,
        cut_all: CancellationToken,
    ) -> Self {
        IngressHandle { local_addr, log, faults, tasks, stopping, cut_all }
    }

    /// The address it listens on, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it got; also readable after the stop.
    #[must_use]
    pub fn log(&self) -> &IngressLog {
        &self.log
    }

    /// The switch of its faults.
    #[must_use]
    pub fn faults(&self) -> &FaultSwitch {
        &self.faults
    }

    /// Listens no more, answers the calls in flight, and ends; cuts off calls that are still open after `limit`.
    ///
    /// Returns when everything has ended: at most one transaction after the limit. A second call waits for the same end.
    /// The report is complete when no call was cut off.
    ///
    /// # Cancel safety
    ///
    /// Safe: the server goes on ending, without the deadline.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.stopping.cancel();
        let in_time = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        if !in_time {
            self.cut_all.cancel();
            self.tasks.wait().await;
        }
        StopReport::in_time(in_time)
    }
}

impl Drop for IngressHandle {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.cut_all.cancel();
    }
}
