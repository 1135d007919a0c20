//! Work that one task does for many: when the task goes away with its runtime, one of those who wait begins another.

use tokio::sync::Notify;
use tokio::sync::oneshot::{Receiver, error::RecvError};

/// Tells those who wait that a task is gone which had not ended by itself.
#[derive(Debug, Default)]
pub(crate) struct Gone(Notify);

impl Gone {
    /// Wakes all who wait.
    pub(crate) fn tell(&self) {
        self.0.notify_waiters();
    }

    /// Waits for an answer. `see_to_it` begins the task that is to give it, if there is none: at once, and whenever one
    /// is gone.
    ///
    /// The error means that the task that had the request is gone.
    pub(crate) async fn answer<T>(&self, mut answer: Receiver<T>, see_to_it: impl Fn()) -> Result<T, RecvError> {
        loop {
            let gone = self.0.notified();
            tokio::pin!(gone);
            // A task that is gone from here on is heard of, and one that was gone before is seen.
            gone.as_mut().enable();
            see_to_it();
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                () = gone => {}
            }
        }
    }
}
