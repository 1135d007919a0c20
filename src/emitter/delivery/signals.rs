//! Signals between the handles and the loops of an emitter.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const NEW: u8 = 0;
const STARTED: u8 = 1;
const STOPPED: u8 = 2;

/// State of an emitter, and the signals that its loops wait for.
#[derive(Default)]
pub(crate) struct Signals {
    state: AtomicU8,
    /// Ends the loops.
    pub(crate) stopping: CancellationToken,
    /// Wakes the retransmission before its tick.
    pub(crate) retransmit: Notify,
}

impl Signals {
    /// Marks the emitter as started. Returns whether it was new.
    pub(crate) fn start(&self) -> bool {
        self.state.compare_exchange(NEW, STARTED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Marks the emitter as stopped. Returns whether it was running.
    pub(crate) fn stop(&self) -> bool {
        self.state.swap(STOPPED, Ordering::SeqCst) == STARTED
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state.load(Ordering::SeqCst) == STARTED
    }

    /// Returns why the emitter is not running.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self.state.load(Ordering::SeqCst) {
            NEW => Some("not started"),
            STOPPED => Some("stopped"),
            _ => None,
        }
    }
}
