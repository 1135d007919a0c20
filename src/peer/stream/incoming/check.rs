//! The check of an arrival without an emit.

use super::{Data, Incoming};
use crate::error::Error;
use crate::eventbox::check_all;
use crate::peer::error::PeerError;
use crate::peer::framing::Decoded;
use crate::peer::stream::arrival::Arrival;

impl Incoming {
    /// Returns whether the mapping names a recipient for the value of an arrival, and the eventboxes may take it. For a
    /// connector that answers each part of a request by itself, or takes all of it or nothing.
    ///
    /// Nothing is emitted, and nothing goes to the *err* port. Bytes are not looked at.
    ///
    /// # Errors
    ///
    /// [`PeerError::Mapping`] with the problem.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::{Arrival, Incoming};
    ///
    /// /// Takes all of a request, or nothing.
    /// fn is_fit(incoming: &Incoming, request: &[Arrival]) -> bool {
    ///     request.iter().all(|arrival| incoming.check(arrival).is_ok())
    /// }
    /// ```
    pub fn check(&self, arrival: &Arrival) -> Result<(), PeerError> {
        let Data::Value(value) = &arrival.data else { return Ok(()) };
        let emission = self.emission(&Decoded::new(value.clone(), 0), arrival.id.as_deref(), 0, 0, arrival);
        let checked = emission.and_then(|emission| {
            check_all(&[emission]).map_err(|error| match error {
                Error::Misuse { misuse, .. } => misuse.to_string(),
                other => other.to_string(),
            })
        });
        let (peer, stream) = (self.core.id().to_owned(), self.id.to_string());
        checked.map_err(|problem| PeerError::Mapping { peer, stream, problem })
    }
}
