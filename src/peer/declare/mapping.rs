//! The mapping of a peer: which recipients get what arrives, the signals of streams and errors, and what becomes of
//! events that a stream could not send.

use serde::Deserialize;
use serde_json::Value;

use crate::peer::declare::template::{Fields, Template};
use crate::peer::stream::facts::StreamFacts;
use crate::peer::stream::id::StreamId;

/// Says where the events of a peer go.
///
/// # Examples
///
/// ```
/// use eventbox::peer::{Mapping, Undelivered};
///
/// let mapping = Mapping::to("room/{/room}")?
///     .with_signals("session/{stream}")?
///     .with_errors("complaints/{peer}")?
///     .with_undelivered(Undelivered::DeadLetter);
/// assert!(Mapping::to("{room}/x").is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Mapping {
    /// Recipient of the events that arrive; a peer without it only sends.
    pub to: Option<Template>,
    /// Recipient of an event for each start and end of a stream; none by default.
    pub signals: Option<Template>,
    /// Recipient of an event for each arrival that could not be decoded or mapped, the *err* port; by default errors
    /// are only counted and logged.
    pub errors: Option<Template>,
    /// Fate of events whose stream is gone. By default they stay when the stream comes back under its id, and become
    /// dead letters otherwise.
    pub undelivered: Option<Undelivered>,
}

impl Mapping {
    /// Makes a mapping for a peer that only sends.
    #[must_use]
    pub fn none() -> Self {
        Mapping::default()
    }

    /// Makes a mapping that emits what arrives to a recipient, given as a [`Template`].
    ///
    /// # Errors
    ///
    /// A text that says what is wrong with the template.
    pub fn to(template: &str) -> Result<Self, String> {
        Ok(Mapping { to: Some(template.parse()?), ..Mapping::default() })
    }

    /// Sets the recipient of the signals of streams.
    ///
    /// # Errors
    ///
    /// A text that says what is wrong with the template.
    pub fn with_signals(self, template: &str) -> Result<Self, String> {
        Ok(Mapping { signals: Some(template.parse()?), ..self })
    }

    /// Sets the recipient of errors.
    ///
    /// # Errors
    ///
    /// A text that says what is wrong with the template.
    pub fn with_errors(self, template: &str) -> Result<Self, String> {
        Ok(Mapping { errors: Some(template.parse()?), ..self })
    }

    /// Sets the fate of events whose stream is gone.
    #[must_use]
    pub fn with_undelivered(self, undelivered: Undelivered) -> Self {
        Mapping { undelivered: Some(undelivered), ..self }
    }
}

/// What becomes of events that a stream has not sent when it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
#[non_exhaustive]
pub enum Undelivered {
    /// They stay in the eventbox of the stream, which comes back under the same id.
    Keep,
    /// They go into the quarantine, from where an operator can replay them.
    DeadLetter,
    /// They go to another open stream of the same peer; while there is none, they stay.
    AnotherStream,
    /// They go back to a recipient, as `{"undelivered":…,"peer":…,"stream":…}` with the value as text or base64.
    To(Template),
}

impl TryFrom<String> for Undelivered {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(match text.as_str() {
            "keep" => Undelivered::Keep,
            "dead-letter" => Undelivered::DeadLetter,
            "another-stream" => Undelivered::AnotherStream,
            recipient if recipient.contains('/') => Undelivered::To(recipient.parse()?),
            other => {
                return Err(format!("undelivered = {other:?}: write keep, dead-letter, another-stream or kind/key"));
            }
        })
    }
}

/// The fields of one arrival, for templates.
pub(in crate::peer) struct ArrivalFields<'a> {
    pub(in crate::peer) peer: &'a str,
    pub(in crate::peer) stream: &'a StreamId,
    pub(in crate::peer) facts: &'a StreamFacts,
    pub(in crate::peer) own: &'a [(&'static str, String)],
    pub(in crate::peer) json: Option<Value>,
}

impl Fields for ArrivalFields<'_> {
    fn field(&self, name: &str) -> Option<&str> {
        match name {
            "peer" => Some(self.peer),
            "stream" => Some(self.stream.as_str()),
            _ => {
                let own = self.own.iter().rev().find(|(key, _)| *key == name);
                own.map(|(_, value)| value.as_str()).or_else(|| self.facts.get(name))
            }
        }
    }

    fn json(&self) -> Option<&Value> {
        self.json.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_arrival_comes_before_a_fact_of_the_stream() {
        let (stream, facts) = (StreamId::new("s1").unwrap(), StreamFacts::new().with("path", "/a").with("x", "1"));
        let own = [("path", "/b".to_owned())];
        let fields = ArrivalFields { peer: "chat", stream: &stream, facts: &facts, own: &own, json: None };
        let found = ["peer", "stream", "path", "x", "y"].map(|name| fields.field(name));
        assert_eq!(found, [Some("chat"), Some("s1"), Some("/b"), Some("1"), None]);
    }

    #[test]
    fn the_fate_of_undelivered_events_is_a_word_or_a_recipient() {
        assert_eq!(Undelivered::try_from("keep".to_owned()), Ok(Undelivered::Keep));
        let to = Undelivered::try_from("order/{stream}".to_owned());
        assert!(matches!(to, Ok(Undelivered::To(template)) if template.to_string() == "order/{stream}"));
        assert!(Undelivered::try_from("drop".to_owned()).is_err());
    }
}
