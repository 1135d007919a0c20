//! Facts of a stream, signals of its life, and the reasons of its end.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::id::StreamId;

/// Facts of a stream for the templates of a [`Mapping`](crate::peer::Mapping) and for people: the address of the other
/// side, the path of a file.
///
/// # Examples
///
/// ```
/// use eventbox::peer::StreamFacts;
///
/// let facts = StreamFacts::new().with("remote", "192.0.2.7:4711");
/// assert_eq!(facts.get("remote"), Some("192.0.2.7:4711"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct StreamFacts(BTreeMap<&'static str, String>);

impl StreamFacts {
    /// Makes empty facts.
    #[must_use]
    pub fn new() -> Self {
        StreamFacts::default()
    }

    /// Adds a fact. The last one of a key counts.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.insert(key, value.into());
        self
    }

    /// Returns a fact.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndReason {
    /// The other side closed it.
    Closed,
    /// Nothing more comes: a file was read to its end.
    Finished,
    /// The peer stopped.
    Stopped,
    /// Nothing came for too long.
    Idle,
    /// The bytes lost their framing; the text says how.
    Framing(String),
    /// The connection failed; the text says how.
    Failed(String),
    /// The process died, or dropped the stream.
    Lost,
}

impl EndReason {
    /// Returns the reason in one word, for labels.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            EndReason::Closed => "closed",
            EndReason::Finished => "finished",
            EndReason::Stopped => "stopped",
            EndReason::Idle => "idle",
            EndReason::Framing(_) => "framing",
            EndReason::Failed(_) => "failed",
            EndReason::Lost => "lost",
        }
    }

    /// Returns whether the stream died, which counts for the breaker of its peer.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, EndReason::Failed(_) | EndReason::Lost)
    }

    fn detail(&self) -> Option<&str> {
        match self {
            EndReason::Framing(detail) | EndReason::Failed(detail) => Some(detail),
            _ => None,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail() {
            Some(detail) => write!(f, "{}: {detail}", self.word()),
            None => f.write_str(self.word()),
        }
    }
}

/// A step in the life of a stream, as linked peers and observers get it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamSignal {
    /// A stream began.
    Started {
        /// Its peer.
        peer: String,
        /// Its id.
        stream: StreamId,
        /// Its facts.
        facts: StreamFacts,
    },
    /// A stream ended.
    Ended {
        /// Its peer.
        peer: String,
        /// Its id.
        stream: StreamId,
        /// Why it ended.
        reason: EndReason,
    },
}

/// The value of the event that tells a recipient of the life of a stream.
#[derive(Serialize)]
struct SignalEvent<'a> {
    signal: &'static str,
    peer: &'a str,
    stream: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    facts: Option<&'a StreamFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl StreamSignal {
    /// Returns the signal as JSON: `{"signal":"stream_started","peer":…,"stream":…,"facts":{…}}`, or
    /// `{"signal":"stream_ended","peer":…,"stream":…,"reason":"closed"}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let event = match self {
            StreamSignal::Started { peer, stream, facts } => SignalEvent {
                signal: "stream_started",
                peer,
                stream: stream.as_str(),
                facts: Some(facts),
                reason: None,
                detail: None,
            },
            StreamSignal::Ended { peer, stream, reason } => SignalEvent {
                signal: "stream_ended",
                peer,
                stream: stream.as_str(),
                facts: None,
                reason: Some(reason.word()),
                detail: reason.detail(),
            },
        };
        serde_json::to_string(&event).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_json() {
        let (peer, stream) = ("chat".to_owned(), StreamId::new("s1").unwrap());
        let facts = StreamFacts::new().with("remote", "a\"b");
        let started = StreamSignal::Started { peer: peer.clone(), stream: stream.clone(), facts };
        assert_eq!(
            started.to_json(),
            r#"{"signal":"stream_started","peer":"chat","stream":"s1","facts":{"remote":"a\"b"}}"#
        );
        let ended = StreamSignal::Ended { peer, stream, reason: EndReason::Failed("reset".to_owned()) };
        assert_eq!(
            ended.to_json(),
            r#"{"signal":"stream_ended","peer":"chat","stream":"s1","reason":"failed","detail":"reset"}"#
        );
    }
}
