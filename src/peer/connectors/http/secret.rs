//! A secret of the settings, which no log shows.

use std::fmt;

use serde::Deserialize;

/// A secret text of the settings. Its `Debug` does not show it.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::http::Secret;
///
/// let secret = Secret::new("a long random text");
/// assert_eq!(format!("{secret:?}"), "Secret(…)");
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
