//! Work that one task does for many callers. When the task ends with its runtime, a waiting caller begins another task.

use tokio::sync::Notify;
use tokio::sync::oneshot::{Receiver, error::RecvError};

/// Notifies the waiting callers that a task ended with its runtime.
#[derive(Debug, Default)]
pub(crate) struct Gone(Notify);

impl Gone {
    /// Wakes up all waiting callers.
    pub(crate) fn tell(&self) {
        self.0.notify_waiters();
    }

    /// Waits for an answer. `see_to_it` begins the task that gives the answer, if there is none: at once, and whenever
    /// a task has gone.
    ///
    /// The error means that the task that had the request is gone.
    pub(crate) async fn answer<T>(&self, mut answer: Receiver<T>, see_to_it: impl Fn()) -> Result<T, RecvError> {
        loop {
            let gone = self.0.notified();
            tokio::pin!(gone);
            // The notification reports a task that ends from here on. `see_to_it` finds that an earlier task has gone.
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
