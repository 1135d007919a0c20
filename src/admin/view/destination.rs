//! Destinations of messages, and those that are paused.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use sqlx::Pool;

use crate::admin::time_of;
use crate::error::{Misuse, Result};
use crate::store::{Backend, Fault, PausedDestinationRow, answered, hold};

/// Largest number of bytes of the source, and of the type, of a [`Destination`].
pub const MAX_DESTINATION_BYTES: usize = 1_024;

/// Messages that are paused and resumed together: those of a source, of a type, of both, or all messages.
///
/// A message goes to the endpoint of whichever emitter sends it, so the endpoint is no part of it.
///
/// # Examples
///
/// ```
/// use eventbox::admin::Destination;
///
/// let one = Destination::all().source("shop").event_type("order.paid");
/// assert_eq!(one.to_string(), "messages with source=shop type=order.paid");
/// assert_eq!(Destination::all().to_string(), "all messages");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Destination {
    source: Option<String>,
    event_type: Option<String>,
}

impl Destination {
    /// Makes the destination of all messages.
    #[must_use]
    pub fn all() -> Self {
        Destination::default()
    }

    /// Leaves only messages with this source.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Leaves only messages of this type.
    #[must_use]
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_type = Some(event_type.into());
        self
    }

    /// Returns the source, unless the destination has messages of all sources.
    #[must_use]
    pub fn of_source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// Returns the type, unless the destination has messages of all types.
    #[must_use]
    pub fn of_type(&self) -> Option<&str> {
        self.event_type.as_deref()
    }

    /// Returns whether a message of this source and type is one of the destination's.
    #[must_use]
    pub fn has(&self, source: &str, event_type: &str) -> bool {
        self.of_source().is_none_or(|of| of == source) && self.of_type().is_none_or(|of| of == event_type)
    }

    pub(in crate::admin) fn check(&self) -> std::result::Result<(), Misuse> {
        let check = |what: &'static str, text: &Option<String>| match text {
            Some(text) => crate::admin::operator::check_text(what, text, MAX_DESTINATION_BYTES),
            None => Ok(()),
        };
        check("source", &self.source).and(check("type", &self.event_type))
    }

    /// The columns of the table, in which an empty text stands for all.
    pub(in crate::admin) fn columns(&self) -> (&str, &str) {
        (self.of_source().unwrap_or_default(), self.of_type().unwrap_or_default())
    }
}

/// Shown in the record of operations: `all messages`, or `messages with source=shop type=order.paid`.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::dead::write_filter(f, "messages", [("source", &self.source), ("type", &self.event_type)])
    }
}

/// A destination that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PausedDestination {
    /// The destination.
    #[serde(flatten)]
    pub destination: Destination,
    /// Time of the pause, by the database's clock.
    #[serde(serialize_with = "super::text::time")]
    pub paused_at: SystemTime,
    /// Who paused it: [`Operator::new`](crate::admin::Operator::new).
    pub who: String,
    /// Why: [`Operator::because`](crate::admin::Operator::because).
    pub why: Option<String>,
}

impl PausedDestination {
    pub(in crate::admin) fn of(row: PausedDestinationRow) -> Self {
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        PausedDestination {
            destination: Destination { source: text(row.source), event_type: text(row.r#type) },
            paused_at: time_of(row.paused_at_us),
            who: row.who,
            why: row.why,
        }
    }
}

/// Lists the paused destinations, sorted by source and type.
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
/// See [`Operator::pause_destination`](crate::admin::Operator::pause_destination).
pub async fn paused_destinations<B: Backend>(pool: &Pool<B>) -> Result<Vec<PausedDestination>> {
    let read = answered(pool, async { B::list_paused_destinations(&mut *hold(pool).await?).await });
    let rows = read.await.map_err(|fault: Fault| fault.during("list the paused destinations"))?;
    Ok(rows.into_iter().map(PausedDestination::of).collect())
}
