//! Peers from a file: `peers.toml`.

mod environment;
mod read;
mod types;

use std::ops::Range;

pub use self::read::PeersFile;
pub use self::types::ConnectorTypes;
use crate::peer::error::PeerError;

/// A part of the file that cannot be used.
#[derive(Debug)]
pub(super) struct Refused {
    problem: String,
    /// Place in the text, in bytes.
    span: Option<Range<usize>>,
}

impl Refused {
    fn new(problem: impl Into<String>, span: Range<usize>) -> Self {
        Refused { problem: problem.into(), span: Some(span) }
    }

    /// Returns the error of a file, with the line.
    fn in_file(self, text: &str, peer: Option<&str>) -> PeerError {
        let line = self.span.and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        PeerError::File { line, peer: peer.map(str::to_owned), problem: self.problem }
    }
}

impl From<toml::de::Error> for Refused {
    fn from(error: toml::de::Error) -> Self {
        Refused { problem: error.message().to_owned(), span: error.span() }
    }
}
