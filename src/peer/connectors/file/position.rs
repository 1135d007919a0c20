//! How far a file was read, as it is stored with the emits.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::glob::short_hex;

/// Most bytes at the start of a file by which it is recognised. Two files that agree in more than that, and of which
/// the second is at least as long as what was read of the first, count as one file.
pub const HEAD_BYTES: usize = 1024;

/// How far a file was read: its generation, the offset of the first byte that was not read, and a digest of its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) generation: u64,
    pub(super) offset: u64,
    head: String,
}

impl Position {
    /// Returns the position in a file that begins with `head`.
    pub(super) fn new(generation: u64, offset: u64, head: &[u8]) -> Self {
        let known = head.get(..head_len(offset)).unwrap_or(head);
        Position { generation, offset, head: short_hex(&Sha256::digest(known)) }
    }

    /// Returns whether this position is one of the file: the file is long enough and begins as it did.
    pub(super) fn is_of(&self, file: &mut File) -> io::Result<bool> {
        if file.metadata()?.len() < self.offset {
            return Ok(false);
        }
        let head = read_head(file, head_len(self.offset))?;
        Ok(Position::new(self.generation, self.offset, &head) == *self)
    }
}

/// Returns the number of bytes of the head that were read at an offset.
pub(super) fn head_len(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(HEAD_BYTES).min(HEAD_BYTES)
}

/// Reads the first bytes of a file, or fewer when the file is shorter.
pub(super) fn read_head(file: &mut File, bytes: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(bytes);
    file.seek(SeekFrom::Start(0))?;
    file.take(bytes as u64).read_to_end(&mut head)?;
    Ok(head)
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.generation, self.offset, self.head)
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("the stored position {text:?} is not one of a file");
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(refused);
        let (generation, offset) = (number()?, number()?);
        let head = parts.next().ok_or_else(refused)?.to_owned();
        Ok(Position { generation, offset, head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back() {
        let position = Position::new(3, 17, b"what is at the start of the file");
        assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        assert!("17".parse::<Position>().is_err());
    }

    #[test]
    fn a_file_is_recognised_by_its_head_while_it_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "one\ntwo\nthr").unwrap();
        let position = Position::new(0, 8, b"one\ntwo\nthr");
        let is_of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            position.is_of(&mut File::open(&path).unwrap()).unwrap()
        };
        assert!(is_of("one\ntwo\nthree\n"));
        assert!(is_of("one\ntwo\n"));
        assert!(!is_of("one\ntw"), "it is shorter");
        assert!(!is_of("two\none\nthree\n"), "it begins otherwise");
    }
}
