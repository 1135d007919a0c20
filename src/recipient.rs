//! The owner of an eventbox.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use md5::{Digest, Md5};

use crate::error::{Error, Misuse, Result};
use crate::text::shortened;

/// Largest number of bytes of a recipient (`kind/key`) and of an event's name.
pub const MAX_KEY_BYTES: usize = 512;

/// The entity that owns an eventbox, written `kind/key`: `aircraft/N14228`.
///
/// `kind` picks the processor and is the label of metrics, so there should be few kinds. The entity itself need not
/// exist. A clone is cheap.
///
/// # Units and limits
///
/// * `kind/key` has at most [`MAX_KEY_BYTES`] bytes of UTF-8.
/// * Neither part is empty or contains NUL.
/// * The kind contains no slash. The key may contain slashes.
///
/// # Examples
///
/// ```
/// use eventbox::Recipient;
///
/// let aircraft = Recipient::new("aircraft", "N14228")?;
/// assert_eq!(aircraft.kind(), "aircraft");
/// assert_eq!(aircraft.key(), "N14228");
/// assert_eq!(aircraft.to_string(), "aircraft/N14228");
/// assert_eq!("aircraft/N14228".parse::<Recipient>()?, aircraft);
/// # Ok::<(), eventbox::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recipient {
    text: Arc<str>,
    kind_len: usize,
    /// Shard, stored because every statement names it.
    shard: u8,
}

impl Recipient {
    /// Creates a recipient from its two parts.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] when a limit of the type is broken.
    pub fn new(kind: impl AsRef<str>, key: impl AsRef<str>) -> Result<Self> {
        let (kind, key) = (kind.as_ref(), key.as_ref());
        let attempt = || format!("name recipient {}/{}", shortened(kind), shortened(key));
        if kind.contains('/') {
            let text = shortened(kind).to_string();
            return Err(Error::misuse(attempt(), Misuse::NotARecipient { text }));
        }
        for (what, part) in [("recipient's kind", kind), ("recipient's key", key)] {
            if part.is_empty() {
                return Err(Error::misuse(attempt(), Misuse::Empty { what }));
            }
        }
        let text = format!("{kind}/{key}");
        check_key("recipient", &text).map_err(|misuse| Error::misuse(attempt(), misuse))?;
        let [shard, ..] = <[u8; 16]>::from(Md5::digest(text.as_bytes()));
        Ok(Recipient { text: text.into(), kind_len: kind.len(), shard })
    }

    /// Returns the part before the first slash.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text.get(..self.kind_len).unwrap_or_default()
    }

    /// Returns the part after the first slash.
    #[must_use]
    pub fn key(&self) -> &str {
        self.text.get(self.kind_len + 1..).unwrap_or_default()
    }

    /// Returns `kind/key`, as it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the recipient's shard, 0 to 255: the first byte of the MD5 of its UTF-8 text.
    ///
    /// The rule is part of the stored format, so that any language and SQL itself can compute the shard.
    ///
    /// ```
    /// # use eventbox::Recipient;
    /// // SELECT get_byte(decode(md5(convert_to('aircraft/N14228', 'UTF8')), 'hex'), 0)
    /// assert_eq!(Recipient::new("aircraft", "N14228")?.shard(), 0xee);
    /// # Ok::<(), eventbox::Error>(())
    /// ```
    #[must_use]
    pub fn shard(&self) -> u8 {
        self.shard
    }
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('/') {
            Some((kind, key)) => Recipient::new(kind, key),
            None => {
                let text = shortened(text).to_string();
                Err(Error::misuse(format!("name recipient {text:?}"), Misuse::NotARecipient { text }))
            }
        }
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({:?})", &*self.text)
    }
}

/// Checks a text that becomes part of a key in both engines.
pub(crate) fn check_key(what: &'static str, text: &str) -> Result<(), Misuse> {
    if text.is_empty() {
        return Err(Misuse::Empty { what });
    }
    if text.len() > MAX_KEY_BYTES {
        return Err(Misuse::TooLong { what, bytes: text.len(), limit: MAX_KEY_BYTES });
    }
    if text.contains('\0') {
        return Err(Misuse::Nul { what });
    }
    Ok(())
}
