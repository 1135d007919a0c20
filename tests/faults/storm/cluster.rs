//! What the storm wants of the servers that it breaks.

use std::time::Instant;

use super::super::report::{Report, Result};
use super::schedule::Step;

/// Servers with a cluster manager, and the network before them.
pub(crate) trait Cluster {
    /// Returns the address that leads the service to the primary.
    fn url(&self) -> String;

    /// Returns the longest time after a fault until the service works again, seconds.
    fn bound_s(&self) -> f64;

    /// Breaks something. Returns the moment from which on the service should work again: that of the fault, or its end
    /// where the fault lasts a given time.
    async fn break_something(&mut self, step: &Step, report: &mut Report) -> Result<Instant>;

    /// Repairs what the fault has left, and waits until the next fault may come.
    async fn repair(&mut self, step: &Step, report: &mut Report) -> Result<()>;

    /// Returns what a table tells of the servers, in one line.
    fn about(&self) -> Option<String>;

    /// Tells what the run has seen of the servers.
    fn tell(&self, report: &mut Report);
}
