//! The token that a client shows, and a server expects.

use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Largest file of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 4096;

/// A token for the header `Authorization: Bearer`, as text or in a file.
///
/// WebSocket reads the file when a server starts, and at each attempt of a client to connect. HTTP reads it when the
/// connector is made, so a new token needs a restart there. Spaces and line ends around the token do not count.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::Token;
///
/// let text: Token = serde_json::from_str(r#""a token of sixteen""#)?;
/// let file: Token = serde_json::from_str(r#"{ "file": "/run/secrets/hub" }"#)?;
/// assert_eq!((text, file), (Token::text("a token of sixteen"), Token::file("/run/secrets/hub")));
/// assert!(!format!("{:?}", Token::text("a token of sixteen")).contains("sixteen"), "it is no secret in a log");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Source")]
pub struct Token(Source);

#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a token must be text, or { file = \"its path\" }")]
enum Source {
    Text(String),
    File(InFile),
}

#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct InFile {
    file: PathBuf,
}

impl From<Source> for Token {
    fn from(source: Source) -> Self {
        Token(source)
    }
}

impl std::fmt::Debug for Token {
    // Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Source::Text(_) => f.write_str("Token::text(..)"),
            Source::File(InFile { file }) => write!(f, "Token::file({file:?})"),
        }
    }
}

impl Token {
    /// Uses this text.
    pub fn text(token: impl Into<String>) -> Self {
        Token(Source::Text(token.into()))
    }

    /// Uses the text of this file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Token(Source::File(InFile { file: path.into() }))
    }

    /// Returns the text. The error names the file, and never the token.
    pub(in crate::peer) fn read(&self) -> Result<String, String> {
        let (text, place) = match &self.0 {
            Source::Text(text) => (text.clone(), "the token".to_owned()),
            Source::File(InFile { file }) => {
                let text = std::fs::read_to_string(file);
                let text = text.map_err(|error| format!("the token in {} cannot be read: {error}", file.display()))?;
                (text, format!("the token in {}", file.display()))
            }
        };
        let token = text.trim();
        match token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') && !token.is_empty() {
            true if token.len() <= MAX_TOKEN_BYTES => Ok(token.to_owned()),
            true => Err(format!("{place} is longer than {MAX_TOKEN_BYTES} bytes")),
            false => Err(format!("{place} must be visible ASCII characters")),
        }
    }
}

/// What a server knows of its token.
pub(in crate::peer) struct Expected([u8; 32]);

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expected(..)")
    }
}

impl Expected {
    pub(in crate::peer) fn new(token: &str) -> Self {
        Expected(Sha256::digest(token).into())
    }

    /// Returns whether a header carries the token. Digests are compared, and in constant time, so that the time tells
    /// nothing of the token.
    pub(in crate::peer) fn is_in(&self, header: Option<&str>) -> bool {
        let Some((scheme, token)) = header.and_then(|header| header.split_once(' ')) else { return false };
        let given: [u8; 32] = Sha256::digest(token.trim()).into();
        scheme.eq_ignore_ascii_case("bearer") && bool::from(given.ct_eq(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_accepted() {
        let expected = Expected::new("a token of sixteen");
        for right in ["Bearer a token of sixteen", "bearer  a token of sixteen"] {
            assert!(expected.is_in(Some(right)), "{right}");
        }
        for wrong in ["", "Bearer", "Bearer ", "Bearer a token of", "Basic a token of sixteen", "a token of sixteen"] {
            assert!(!expected.is_in(Some(wrong)), "{wrong}");
        }
        assert!(!expected.is_in(None));
    }

    #[test]
    fn a_token_in_a_file_loses_its_line_end_and_an_error_never_shows_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a token of sixteen\n").unwrap();
        assert_eq!(Token::file(file.path()).read().unwrap(), "a token of sixteen");
        std::fs::write(file.path(), "a secret\u{7}").unwrap();
        let refused = Token::file(file.path()).read().unwrap_err();
        assert!(refused.contains("visible ASCII") && !refused.contains("secret\u{7}"), "{refused}");
        assert!(Token::text("").read().is_err());
    }
}
