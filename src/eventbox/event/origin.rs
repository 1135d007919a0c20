//! The origin of an event: given by its sender, or taken over from the event that caused it.

use super::Event;
use crate::origin::{Origin, SharedOrigin};

impl Event {
    /// Gives the event its origin: where it came from outside. The processor reads it with [`origin`](Event::origin).
    ///
    /// Peers use it for the events that arrive on their streams. An event that a turn emits gets the origin of the
    /// events that the turn consumes, unless it has one of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::{Event, Origin};
    ///
    /// let event = Event::new("hello").with_origin(Origin::new("chat", "room-1", 7)?);
    /// assert_eq!(event.origin().map(|origin| origin.to_string()).as_deref(), Some("chat:room-1:7"));
    /// # Ok::<(), eventbox::Error>(())
    /// ```
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        self.origin = Some(SharedOrigin::new(origin));
        self
    }

    /// Adds the origin of the event that caused this one. Use it where the library cannot know the cause: outside of
    /// turns, or for one of the events of a turn.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::{Event, Origin};
    ///
    /// let request = Event::new("hello").with_origin(Origin::new("chat", "room-1", 7)?);
    /// let answer = Event::new("hello yourself").caused_by(&request);
    /// assert_eq!(answer.origin(), request.origin());
    /// assert_eq!(Event::new("alone").caused_by(&Event::new("inside")).origin(), None);
    /// # Ok::<(), eventbox::Error>(())
    /// ```
    #[must_use]
    pub fn caused_by(mut self, cause: &Event) -> Self {
        self.origin = SharedOrigin::merged(self.origin.iter().chain(&cause.origin));
        self
    }

    /// Returns where the event came from outside; `None` for an event that no event from outside has caused.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref().map(SharedOrigin::origin)
    }

    pub(crate) fn shared_origin(&self) -> Option<&SharedOrigin> {
        self.origin.as_ref()
    }

    /// Gives the event an origin, if it has none.
    pub(crate) fn or_origin(mut self, origin: Option<&SharedOrigin>) -> Self {
        self.origin = self.origin.or_else(|| origin.cloned());
        self
    }
}
