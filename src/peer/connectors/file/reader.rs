//! A file that is read: in whole lines, each with its offset, or in pieces of a fixed size.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::position::{HEAD_BYTES, Position, head_len, read_head};

/// Bytes that are read from a file at once.
pub const READ_BYTES: usize = 64 << 10;

/// Most lines that one emit has.
pub const LINES_TOGETHER: usize = 1_000;

/// A line with its newline, or a part of a line that is too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Offset of the first byte.
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// What can be said about a file at whose end a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing changed, or the path names no file now.
    Same,
    /// There are further bytes.
    Grown,
    /// The file lost bytes, or has other ones.
    Truncated,
    /// The path names another file now.
    Replaced,
}

/// A file, with what was read of it and not handed over yet.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    generation: u64,
    /// Offset of the first byte that was not read.
    offset: u64,
    /// Offset at which the line begins of which `pending` is the start or the middle.
    line: u64,
    pending: BytesMut,
    /// The first bytes of the file, as they were read.
    head: Vec<u8>,
    max_line_bytes: usize,
}

impl Reader {
    /// Opens a file at a position: at the stored one when it is of this file, else at 0 of the next generation.
    pub(super) fn open(path: &Path, stored: Option<&Position>, max_line_bytes: usize) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let (generation, offset) = match stored {
            None => (0, 0),
            Some(position) if position.is_of(&mut file)? => (position.generation, position.offset),
            Some(position) => (position.generation + 1, 0),
        };
        Self::at(file, generation, offset, max_line_bytes)
    }

    /// Opens a file at 0 of a generation.
    pub(super) fn fresh(path: &Path, generation: u64, max_line_bytes: usize) -> io::Result<Self> {
        Self::at(File::open(path)?, generation, 0, max_line_bytes)
    }

    fn at(mut file: File, generation: u64, offset: u64, max_line_bytes: usize) -> io::Result<Self> {
        let head = read_head(&mut file, head_len(offset))?;
        Ok(Reader { file, generation, offset, line: offset, pending: BytesMut::new(), head, max_line_bytes })
    }

    /// Returns whether a stored position is the end of the file.
    pub(super) fn is_read(&self, stored: Option<&Position>) -> io::Result<bool> {
        let is_there = stored.is_some_and(|position| (position.generation, position.offset) == self.place());
        Ok(is_there && self.file.metadata()?.len() == self.offset)
    }

    fn place(&self) -> (u64, u64) {
        (self.generation, self.line)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the position after the last whole line that was handed over.
    pub(super) fn position(&self) -> Position {
        Position::new(self.generation, self.line, &self.head)
    }

    /// Returns the next whole lines, or none at the end of the file.
    pub(super) fn next_lines(&mut self) -> io::Result<Vec<Line>> {
        loop {
            let lines = self.split();
            if !lines.is_empty() {
                return Ok(lines);
            }
            if self.pending.len() >= self.max_line_bytes {
                let offset = self.handed_over();
                return Ok(vec![Line { offset, bytes: self.pending.split().freeze() }]);
            }
            if self.fill()? == 0 {
                return Ok(Vec::new());
            }
        }
    }

    /// Cuts whole lines off what was read. The position moves behind them.
    fn split(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        while lines.len() < LINES_TOGETHER
            && let Some(end) = self.pending.iter().position(|byte| *byte == b'\n')
        {
            let offset = self.handed_over();
            lines.push(Line { offset, bytes: self.pending.split_to(end + 1).freeze() });
            self.line = self.handed_over();
        }
        lines
    }

    /// Returns the offset of the first byte that was not handed over.
    fn handed_over(&self) -> u64 {
        self.offset - self.pending.len() as u64
    }

    /// Returns the unfinished last line, finished by a newline.
    pub(super) fn rest(&mut self) -> Option<Line> {
        if self.line == self.offset {
            return None;
        }
        let offset = self.handed_over();
        self.line = self.offset;
        let mut bytes = self.pending.split();
        bytes.extend_from_slice(b"\n");
        Some(Line { offset, bytes: bytes.freeze() })
    }

    /// Returns the next piece of [`READ_BYTES`] bytes, fewer at the end of the file, and its offset. The pieces of a
    /// file are the same each time.
    pub(super) fn next_piece(&mut self) -> io::Result<Option<Line>> {
        let offset = self.offset;
        while self.pending.len() < READ_BYTES && self.fill()? > 0 {}
        self.line = self.offset;
        let bytes = self.pending.split().freeze();
        Ok((!bytes.is_empty()).then_some(Line { offset, bytes }))
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(self.offset))?;
        let wanted = READ_BYTES - self.pending.len() % READ_BYTES;
        let mut buffer = vec![0; wanted];
        let read = self.file.read(&mut buffer)?;
        buffer.truncate(read);
        let missing = HEAD_BYTES.saturating_sub(self.head.len()).min(read);
        self.head.extend_from_slice(buffer.get(..missing).unwrap_or_default());
        self.pending.extend_from_slice(&buffer);
        self.offset += read as u64;
        Ok(read)
    }

    /// Returns what became of the file and its path.
    pub(super) fn look(&mut self, path: &Path) -> io::Result<Seen> {
        let length = self.file.metadata()?.len();
        if length < self.offset {
            return Ok(Seen::Truncated);
        }
        if read_head(&mut self.file, self.head.len())? != self.head {
            return Ok(Seen::Truncated);
        }
        if length > self.offset {
            return Ok(Seen::Grown);
        }
        match std::fs::metadata(path) {
            Ok(named) if is_same(&named, &self.file.metadata()?) => Ok(Seen::Same),
            Ok(_) => Ok(Seen::Replaced),
            // Between the two steps of a rotation the path names nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Seen::Same),
            Err(error) => Err(error),
        }
    }
}

#[cfg(unix)]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Elsewhere files have no numbers, and a rotation is seen by the length and the first bytes alone.
#[cfg(not(unix))]
fn is_same(_one: &Metadata, _other: &Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[Line]) -> Vec<(u64, &str)> {
        lines.iter().map(|line| (line.offset, std::str::from_utf8(&line.bytes).unwrap())).collect()
    }

    #[test]
    fn whole_lines_have_their_offsets_and_the_last_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "one\n\ntwo\nthr").unwrap();
        let mut reader = Reader::open(&path, None, 100).unwrap();
        let lines = reader.next_lines().unwrap();
        assert_eq!(texts(&lines), [(0, "one\n"), (4, "\n"), (5, "two\n")]);
        assert!(reader.next_lines().unwrap().is_empty());
        let position = reader.position();
        assert_eq!((position.generation, position.offset), (0, 9));

        let mut again = Reader::open(&path, Some(&position), 100).unwrap();
        assert!(!again.is_read(Some(&position)).unwrap());
        assert!(again.next_lines().unwrap().is_empty());
        assert_eq!(texts(&[again.rest().unwrap()]), [(9, "thr\n")]);
        let end = again.position();
        assert_eq!(end.offset, 12);
        assert!(Reader::open(&path, Some(&end), 100).unwrap().is_read(Some(&end)).unwrap());
    }

    #[test]
    fn a_line_that_is_too_long_comes_in_parts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let long = "x".repeat(READ_BYTES + 10);
        std::fs::write(&path, format!("a\n{long}\nb\n")).unwrap();
        let mut reader = Reader::open(&path, None, 1_000).unwrap();
        let mut read = Vec::new();
        loop {
            let lines = reader.next_lines().unwrap();
            if lines.is_empty() {
                break;
            }
            read.extend(lines);
        }
        let offsets: Vec<u64> = read.iter().map(|line| line.offset).collect();
        assert_eq!(offsets, [0, 2, READ_BYTES as u64, READ_BYTES as u64 + 13]);
        let bytes: usize = read.iter().map(|line| line.bytes.len()).sum();
        assert_eq!(bytes, long.len() + 5);
        assert_eq!(reader.position().offset, bytes as u64);
    }

    #[test]
    fn pieces_are_the_same_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, vec![7; 2 * READ_BYTES + 5]).unwrap();
        let mut reader = Reader::open(&path, None, 100).unwrap();
        let mut pieces = Vec::new();
        while let Some(piece) = reader.next_piece().unwrap() {
            pieces.push((piece.offset, piece.bytes.len()));
        }
        assert_eq!(pieces, [(0, READ_BYTES), (READ_BYTES as u64, READ_BYTES), (2 * READ_BYTES as u64, 5)]);
    }

    #[test]
    fn what_became_of_the_file_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "one\n").unwrap();
        let mut reader = Reader::open(&path, None, 100).unwrap();
        reader.next_lines().unwrap();
        assert_eq!(reader.look(&path).unwrap(), Seen::Same);
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(reader.look(&path).unwrap(), Seen::Grown);
        std::fs::write(&path, "two\none\nthree\n").unwrap();
        assert_eq!(reader.look(&path).unwrap(), Seen::Truncated, "it is longer, and begins otherwise");
        std::fs::write(&path, "on").unwrap();
        assert_eq!(reader.look(&path).unwrap(), Seen::Truncated);
        std::fs::write(&path, "one\n").unwrap();
        std::fs::rename(&path, directory.path().join("a.1")).unwrap();
        assert_eq!(reader.look(&path).unwrap(), Seen::Same);
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(reader.look(&path).unwrap(), Seen::Replaced);
    }
}
