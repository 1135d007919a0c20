//! The handle of a running server.

use std::net::SocketAddr;
use std::time::Duration;

use super::faults::FaultSwitch;
use super::log::IngressLog;
use crate::grpc::Running;
use crate::service::StopReport;

/// A running server.
///
/// Dropping the handle cuts all connections and ends the server. [`stop`](Self::stop) first answers the calls in
/// flight.
#[derive(Debug)]
pub struct IngressHandle {
    running: Running,
    log: IngressLog,
    faults: FaultSwitch,
}

impl IngressHandle {
    pub(super) fn new(running: Running, log: IngressLog, faults: FaultSwitch) -> Self {
        IngressHandle { running, log, faults }
    }

    /// Returns the address that the server listens on, with its actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.running.local_addr
    }

    /// Returns the log of the events. The log stays readable after the stop.
    #[must_use]
    pub fn log(&self) -> &IngressLog {
        &self.log
    }

    /// Returns the switch of the server's faults.
    #[must_use]
    pub fn faults(&self) -> &FaultSwitch {
        &self.faults
    }

    /// Stops listening, answers the calls in flight, and ends the server.
    ///
    /// After `limit` it cuts off the calls that are still open.
    ///
    /// Returns when all tasks of the server have ended, at most one transaction after the limit. A second call waits
    /// for the same end. The report is complete when the server cut off no call.
    ///
    /// # Cancel safety
    ///
    /// Safe: the server continues to stop, but cuts off no call after `limit`.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.running.stop(limit).await
    }
}
