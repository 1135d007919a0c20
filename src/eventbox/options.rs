//! The bounds of a turn.

use std::num::NonZeroU32;
use std::time::Duration;

use super::event::EventId;
use super::poison::Poison;

/// How long the user's code and the locks of one attempt may take, unless [`TurnOptions::deadline`] says otherwise.
pub const DEFAULT_TURN_DEADLINE: Duration = Duration::from_secs(60);

/// How [`process_batch_with`](crate::process_batch_with) processes.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// use eventbox::{Poison, TurnOptions};
///
/// let three = NonZeroU32::new(3).ok_or("three is not zero")?;
/// let options = TurnOptions::new(100.try_into()?)
///     .deadline(Duration::from_secs(5))
///     .poison(Poison::Isolate { after: three });
/// # let _ = options;
/// # Ok::<(), eventbox::BoxError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct TurnOptions {
    max_events: NonZeroU32,
    deadline: Duration,
    poison: Poison,
    /// The first and the longest pause of a failing recipient; `None` when its failures are not the caller's to note.
    backoff: Option<(Duration, Duration)>,
    searching: bool,
    /// The event behind which the listing begins; the nil id lists from the start.
    after: EventId,
}

impl TurnOptions {
    /// Turns of up to `max_events` events, with the defaults for everything else.
    pub fn new(max_events: NonZeroU32) -> Self {
        TurnOptions {
            max_events,
            deadline: DEFAULT_TURN_DEADLINE,
            poison: Poison::Block,
            backoff: None,
            searching: false,
            after: EventId::NIL,
        }
    }

    /// How long the user's code and the locks of one attempt may take together, before it is rolled back with
    /// [`Error::Deadline`](crate::Error::Deadline). Code that blocks its thread cannot be stopped.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What is done with a batch that keeps failing; [`Poison::Block`] when nothing is said.
    pub fn poison(mut self, poison: Poison) -> Self {
        self.poison = poison;
        self
    }

    /// The same for a part of a batch that keeps failing: its success does not take the failures back, so that the search goes on at once.
    pub(super) fn searching(&self, max_events: NonZeroU32) -> Self {
        TurnOptions { max_events, searching: true, ..self.clone() }
    }

    /// Notes every failure, and leaves the recipient alone for the first pause, doubled with every failure in a row up to the second.
    #[cfg(feature = "runtime")]
    pub(crate) fn backing_off(mut self, base: Duration, cap: Duration) -> Self {
        self.backoff = Some((base, cap));
        self
    }

    /// Begins to list behind an event.
    #[cfg(feature = "runtime")]
    pub(crate) fn behind(mut self, after: EventId) -> Self {
        self.after = after;
        self
    }

    pub(super) fn after(&self) -> EventId {
        self.after
    }

    /// Whether a recipient whose failures are noted is left alone until its pause is over.
    pub(super) fn leaves_alone(&self) -> bool {
        self.backoff.is_some() && !self.searching
    }

    pub(super) fn max_events(&self) -> NonZeroU32 {
        self.max_events
    }

    pub(super) fn is_searching(&self) -> bool {
        self.searching
    }

    pub(super) fn backoff(&self) -> Option<(Duration, Duration)> {
        self.backoff
    }

    pub(super) fn deadline_of_attempt(&self) -> Duration {
        self.deadline
    }

    pub(super) fn poison_policy(&self) -> Poison {
        self.poison
    }
}
