//! The queue of the writers of a pool. In the order of the queue, each writer gets the slot, or joins the transaction
//! of the writer with the slot.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// Longest wait in the queue. After it the writer goes to the file without the queue, where the connection's busy
/// timeout bounds the wait.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// A queue in the order of arrival. A writer that joins gets a `T`.
pub(super) struct WriterQueue<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    /// Whether a writer has the slot.
    taken: bool,
    waiting: VecDeque<Waiting<T>>,
}

struct Waiting<T> {
    may_join: bool,
    call: oneshot::Sender<Call<T>>,
}

/// Answer to a waiting writer.
pub(super) enum Call<T> {
    Write(WriterSlot<T>),
    Join(T),
}

/// Right to write. Its drop passes it to the next writer of the queue. Empty after it was passed on.
pub(super) struct WriterSlot<T>(Option<Arc<WriterQueue<T>>>);

impl<T> Default for WriterQueue<T> {
    fn default() -> Self {
        WriterQueue { state: Mutex::new(State { taken: false, waiting: VecDeque::new() }) }
    }
}

impl<T> WriterQueue<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits in the queue. Returns `None` after [`MAX_WAIT`].
    pub(super) async fn wait(self: &Arc<Self>, may_join: bool) -> Option<Call<T>> {
        let mut called = {
            let mut state = self.state();
            if !std::mem::replace(&mut state.taken, true) {
                return Some(Call::Write(WriterSlot(Some(Arc::clone(self)))));
            }
            let (call, called) = oneshot::channel();
            state.waiting.push_back(Waiting { may_join, call });
            called
        };
        match tokio::time::timeout(MAX_WAIT, &mut called).await {
            Ok(call) => call.ok(),
            Err(_) => {
                called.close();
                called.try_recv().ok()
            }
        }
    }

    /// Returns the slot, if it is free.
    pub(super) fn try_write_now(self: &Arc<Self>) -> Option<WriterSlot<T>> {
        let is_free = !std::mem::replace(&mut self.state().taken, true);
        is_free.then(|| WriterSlot(Some(Arc::clone(self))))
    }

    /// Returns the number of waiting writers.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }
}

impl<T> WriterSlot<T> {
    /// Takes the next writer of the queue, if this writer may join.
    pub(super) fn next_to_join(&self) -> Option<oneshot::Sender<Call<T>>> {
        let mut state = self.0.as_ref()?.state();
        match state.waiting.front() {
            Some(waiting) if waiting.may_join => state.waiting.pop_front().map(|waiting| waiting.call),
            _ => None,
        }
    }
}

impl<T> Drop for WriterSlot<T> {
    fn drop(&mut self) {
        let Some(line) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = line.state();
                let next = state.waiting.pop_front();
                state.taken = next.is_some();
                next
            };
            let Some(next) = next else { return };
            match next.call.send(Call::Write(WriterSlot(Some(Arc::clone(&line))))) {
                Ok(()) => return,
                // This writer has given up. Its slot is emptied, so that its drop does not call another writer too.
                Err(Call::Write(mut back)) => drop(back.0.take()),
                Err(Call::Join(_)) => return,
            }
        }
    }
}
