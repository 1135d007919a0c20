//! The turns of streams: the eventbox of a stream gives its oldest events to the connection, and a turn consumes
//! exactly what the connection has acknowledged.

use std::sync::Arc;

use crate::error::BoxError;
use crate::eventbox::{Event, Outcome, Reducer};
use crate::peer::core::Core;
use crate::recipient::Recipient;

/// The reducer of the eventboxes of a peer's streams.
pub(in crate::peer) struct StreamTurns(pub(in crate::peer) Arc<Core>);

impl Reducer for StreamTurns {
    type State = ();

    fn reduce(&self, to: &Recipient, events: &[Event], (): ()) -> Result<Outcome<()>, BoxError> {
        let consumed = match self.0.stream(to.key()) {
            Some(stream) => stream.delivery.offer(events),
            // The stream has ended meanwhile.
            None => Vec::new(),
        };
        Ok(Outcome::stay().consuming(consumed))
    }
}
