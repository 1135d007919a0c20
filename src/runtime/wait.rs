//! Waits until an emitted event was consumed: a service reads its own writes.

use std::time::Duration;

use tokio::time::Instant;

use super::handle::Runtime;
use crate::error::Result;
use crate::eventbox::{Receipt, Status, status};
use crate::retry::endless_pauses;
use crate::store::Backend;

/// First and longest pause between two reads of the status.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

impl<B: Backend> Runtime<B> {
    /// Waits until a turn has consumed the event of a receipt, in whatever process.
    ///
    /// Emit, wait, and read the state: at the returned turn or a later one, the state includes the event. The receipt
    /// may come from another process.
    ///
    /// # Result
    ///
    /// * [`Status::Done`] with the turn.
    /// * [`Status::Quarantined`] and [`Status::Paused`] at once, because waiting does not help.
    /// * At the deadline the status at that time: still waiting, due later, or failing, with the error.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    pub async fn wait_processed(&self, receipt: &Receipt, deadline: Duration) -> Result<Status> {
        let until = Instant::now() + deadline;
        let mut pauses = endless_pauses(LOOKS.0, LOOKS.1);
        loop {
            let now = status(&self.shared().pool, receipt).await?;
            let is_final = matches!(now, Status::Done { .. } | Status::Quarantined { .. } | Status::Paused);
            let left = until.saturating_duration_since(Instant::now());
            if is_final || left.is_zero() {
                return Ok(now);
            }
            tokio::time::sleep(pauses.next().unwrap_or(LOOKS.1).min(left)).await;
        }
    }
}
