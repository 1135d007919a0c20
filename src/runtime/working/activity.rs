//! What the loop of the workers does with a recipient now.

use tokio::time::Instant;

use crate::eventbox::EventId;

/// State of a recipient. A recipient has one state, so at most one round or turn of this process works on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    Waiting,
    /// In flight. If it is found meanwhile, it becomes ready again, and is listed from the front when events are there.
    AtWork {
        again: Again,
        from_start: bool,
    },
    /// Resting: a turn found nothing to do with the events in the box.
    Resting(Instant),
}

/// Whether a recipient in flight was found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// A scan saw this event. The task in flight may be consuming it.
    Seen(EventId),
    WokenUp,
}
