//! Waits until an emitted event was consumed, and until the messages that it caused were delivered: a service reads its
//! own writes.

use std::time::Duration;

use tokio::time::Instant;

use super::handle::Runtime;
use super::published::{self, Published};
use crate::clock::from_now;
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
        self.processed_until(receipt, from_now(deadline)).await
    }

    /// Waits until the messages that the event of a receipt caused were delivered, by whatever process.
    ///
    /// Emit, wait, and ask the receiver: it has what the event made its recipient publish. First it waits until a turn
    /// has consumed the event, as [`wait_processed`](Self::wait_processed) does. Then it looks for messages of the
    /// recipient in the outbox, and waits until the server has acknowledged all of them or they are dead letters.
    ///
    /// # What is waited for
    ///
    /// * Messages of turns: those of decisions, and those that side effects and `save_state` publish. Messages of
    ///   post-process hooks are published after the turn, and are not waited for.
    /// * Messages of the recipient itself. When its turn emits events to other recipients, wait for these with receipts
    ///   of their own.
    /// * All undelivered messages of the recipient whose ids are greater than the event's, when the event is seen
    ///   consumed: also those of other events. Messages of later turns do not prolong the wait. Another recipient has
    ///   the same 32-bit mark with a chance of 1 in 4 billion; its messages are waited for, too.
    /// * The receipt of a duplicate or tombstoned event has no id: then all undelivered messages and dead letters of the
    ///   recipient count.
    ///
    /// # Units and limits
    ///
    /// Each look is one statement, which reads the messages of all senders that are younger than the event. The pauses
    /// between looks grow up to 250 ms, and are at least four times as long as the last look took. A turn without
    /// messages costs one look.
    ///
    /// A dead letter that was deleted, by hand or by its retention, looks as if it was delivered. Messages of processes
    /// with a version before this function existed carry no mark, and are not seen: upgrade all of them first.
    ///
    /// # Errors
    ///
    /// Transient and database errors.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    ///
    /// # Examples
    ///
    /// ```
    /// # use eventbox::{BoxError, CloudEvent, Event, Outcome, Recipient, Reducer};
    /// # use std::time::Duration;
    /// struct Departures;
    ///
    /// impl Reducer for Departures {
    ///     type State = u64;
    ///
    ///     fn reduce(&self, _to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
    ///         let message = CloudEvent::builder("flights", "flight.departed").payload("UA 1545").build()?;
    ///         Ok(Outcome::to(count + 1).consuming(events).publishing([message]))
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
    /// # let directory = tempfile::tempdir()?;
    /// # let file = directory.path().join("boxes.db");
    /// # let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&file)).await?;
    /// # eventbox::migrate(&pool).await?;
    /// use eventbox::runtime::{Published, Runtime};
    ///
    /// let runtime = Runtime::builder(pool.clone()).reducer("airport", Departures).start().await?;
    /// let airport = Recipient::new("airport", "JFK")?;
    /// let receipt = eventbox::emit(&pool, &airport, Event::new("departed")).await?;
    /// // No emitter runs here, so the message stays in the outbox.
    /// let found = runtime.wait_published(&receipt, Duration::from_millis(300)).await?;
    /// assert!(matches!(found, Published::Undelivered { .. } | Published::NotProcessed(_)));
    /// # runtime.stop(Duration::from_secs(5)).await;
    /// # Ok(()) }
    /// ```
    pub async fn wait_published(&self, receipt: &Receipt, deadline: Duration) -> Result<Published> {
        let until = from_now(deadline);
        match self.processed_until(receipt, until).await? {
            Status::Done { turn } => published::wait(&self.shared().pool, receipt, turn, until).await,
            other => Ok(Published::NotProcessed(other)),
        }
    }

    async fn processed_until(&self, receipt: &Receipt, until: Instant) -> Result<Status> {
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
