//! Texts of errors: with their causes, and short enough for a message or a column.

use std::error::Error;
use std::fmt;

/// Shows an error with its causes on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(current) = cause {
            write!(f, ": {current}")?;
            cause = current.source();
        }
        Ok(())
    }
}

/// Makes a text fit a column of `max_bytes`: cuts it between two characters, and replaces NUL, which Postgres cannot
/// store.
pub(crate) fn fit(text: &str, max_bytes: usize) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}

/// Shows the start of a text that may be far too long for an error.
pub(crate) fn shortened(text: &str) -> impl fmt::Display {
    const SHOWN_CHARS: usize = 64;
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect::<String>().escape_debug().collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_their_error() {
        let cause = std::io::Error::other("refused");
        let error = crate::Error::Transient { attempt: "emit to cell/1".to_owned(), source: cause.into() };
        assert_eq!(Chain(&error).to_string(), "emit to cell/1: the database is not available: refused");
    }

    #[test]
    fn a_text_is_cut_between_characters_and_has_no_nul() {
        assert_eq!(fit("ab\0é", 6), "ab\u{fffd}");
        assert_eq!(fit("short", 6), "short");
        assert_eq!(shortened(&"é".repeat(65)).to_string(), format!("{}…", "é".repeat(64)));
    }
}
