//! How far a directory was read.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Most bytes at the start of a file by which the file is recognised.
pub const HEAD_BYTES: usize = 1_024;

/// Digits of a stored digest.
const DIGITS: usize = 16;

/// The file that is read, the offset of the first byte that was not read, and a digest of the first bytes before it.
///
/// As text: `<offset> <digest> <name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: u64,
    pub(super) head: String,
    pub(super) file: String,
}

impl Position {
    /// Returns whether the file begins with the bytes that were read.
    pub(super) fn is_of(&self, file: &mut File) -> io::Result<bool> {
        Ok(digest(&read_head(file, self.offset)?) == self.head)
    }
}

/// Reads the first bytes of a file, up to an offset and at most [`HEAD_BYTES`].
pub(super) fn read_head(file: &mut File, offset: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    Read::by_ref(file).take(offset.min(HEAD_BYTES as u64)).read_to_end(&mut head)?;
    Ok(head)
}

pub(super) fn digest(head: &[u8]) -> String {
    Sha256::digest(head).iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.offset, self.head, self.file)
    }
}

/// A text that is no position of a directory.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no position of a directory: write <offset> <digest> <name of the file>")]
pub(super) struct NotAPosition {
    text: String,
}

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let wrong = || NotAPosition { text: text.to_owned() };
        let (offset, rest) = text.split_once(' ').ok_or_else(wrong)?;
        let (head, file) = rest.split_once(' ').ok_or_else(wrong)?;
        let offset = offset.parse().map_err(|_| wrong())?;
        if file.is_empty() || file.contains('/') || head.len() != DIGITS {
            return Err(wrong());
        }
        Ok(Position { offset, head: head.to_owned(), file: file.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_text() {
        let position = Position { offset: 17, head: digest(b"abc"), file: "a file.jsonl".to_owned() };
        assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        for wrong in ["", "17", "17 0011223344556677", "x 0011223344556677 a", "1 00 a", "1 0011223344556677 a/b"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }
}
