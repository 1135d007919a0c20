//! The id of a stream.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::clock;
use crate::peer::error::PeerError;
use crate::text::shortened;

/// Most bytes of the id of a stream.
pub const MAX_STREAM_ID_BYTES: usize = 128;

/// The id of a stream within its peer: of a connection, a session, a file.
///
/// 1 to [`MAX_STREAM_ID_BYTES`] visible ASCII characters without `/`, so that `peer.<peer>/<stream>` is a recipient
/// that every tool shows as it is. A clone is cheap.
///
/// # Examples
///
/// ```
/// use eventbox::peer::StreamId;
///
/// assert_eq!(StreamId::new("session-7")?.as_str(), "session-7");
/// assert_ne!(StreamId::unique(), StreamId::unique());
/// assert!(StreamId::new("a/b").is_err());
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// Makes an id from a text.
    ///
    /// # Errors
    ///
    /// [`PeerError::StreamId`] when a limit of the type is broken.
    pub fn new(text: impl AsRef<str>) -> Result<Self, PeerError> {
        let text = text.as_ref();
        let problem = if text.is_empty() {
            "it is empty".to_owned()
        } else if text.len() > MAX_STREAM_ID_BYTES {
            format!("it has {} bytes, and may have {MAX_STREAM_ID_BYTES}", text.len())
        } else if text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'/') {
            "only visible ASCII characters without a slash are allowed".to_owned()
        } else {
            return Ok(StreamId(text.into()));
        };
        Err(PeerError::StreamId { text: shortened(text).to_string(), problem })
    }

    /// Makes an id that no other stream has. Later ids of a process are greater.
    #[must_use]
    pub fn unique() -> Self {
        StreamId(clock::new_id().simple().to_string().into())
    }

    /// Returns the id of the only stream of a client.
    #[must_use]
    pub fn main() -> Self {
        StreamId("main".into())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for StreamId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for StreamId {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        StreamId::new(text)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
