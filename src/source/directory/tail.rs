//! Reads lines from the files of a directory, in the order of their names.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use super::later::{self, Later};
use super::position::{HEAD_BYTES, Position, digest, read_head};
use super::{Files, Line, of_file};
use crate::error::BoxError;
use crate::source::contract::{Page, Room};

/// Bytes that are read from a file at once.
pub const READ_BYTES: usize = 64 << 10;

/// The files of a directory, open at a place.
pub(super) struct Tail {
    files: Arc<Files>,
    current: Option<Current>,
    later: Later,
}

/// The file that is read.
struct Current {
    name: String,
    file: File,
    /// Offset of the first byte that belongs to no returned line.
    offset: u64,
    /// What was read behind `offset`, without the first `used` bytes, which are returned lines.
    pending: Vec<u8>,
    used: usize,
    /// Bytes of `pending` that were searched for a line break in vain.
    searched: usize,
    head: Vec<u8>,
    /// Bytes of the lines of the present page, also of those without events.
    consumed: usize,
}

impl Tail {
    /// Opens the directory behind a position.
    pub(super) fn open(files: Arc<Files>, from: Option<Position>) -> Result<Self, BoxError> {
        let mut tail = Tail { files, current: None, later: Later::default() };
        if let Some(position) = from {
            let path = tail.files.path.join(&position.file);
            if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                return Err(changed(&position.file, position.offset));
            }
            let mut file = later::open(&path)?;
            let is_long_enough = file.metadata().map_err(|error| of_file(&path, &error))?.len() >= position.offset;
            if !is_long_enough || !position.is_of(&mut file).map_err(|error| of_file(&path, &error))? {
                return Err(changed(&position.file, position.offset));
            }
            tail.current = Some(Current::at(position.file, file, position.offset)?);
            // For the distance to the end alone. A read returns the error of a file that is the next one.
            let _ = tail.next_file();
        }
        Ok(tail)
    }

    /// Returns the events of the next lines, and an empty page at the end of the last file.
    pub(super) fn page(&mut self, room: Room) -> Result<Page, BoxError> {
        let mut page = Page::new();
        let mut has_read = false;
        if let Some(current) = &mut self.current {
            current.consumed = 0;
            // A file that was replaced since the last page must not go on as if it were the same.
            current.is_at_end(&self.files)?;
        }
        loop {
            let Some(current) = &mut self.current else {
                match self.next_file()? {
                    Some(name) => self.go_to(name)?,
                    None => return Ok(page.behind(0)),
                }
                continue;
            };
            match current.next_lines(&self.files, room, &mut page) {
                Ok(read) => has_read |= read,
                // The lines before the bad one go first.
                Err(_) if has_read => return self.finished(page),
                Err(error) => return Err(error),
            }
            if current.is_full(room, &page) {
                return self.finished(page);
            }
            // The list comes before the last read: its writer finishes a file before it makes a later one.
            if !current.is_at_end(&self.files)? {
                continue;
            }
            let later = match self.next_file() {
                Ok(later) => later,
                // The lines before a file that cannot be looked at go first.
                Err(_) if has_read => return self.finished(page),
                Err(error) => return Err(error),
            };
            let Some(current) = &mut self.current else { continue };
            if later.is_some() && current.fill()? > 0 {
                continue;
            }
            match later {
                _ if has_read => return self.finished(page),
                None => return Ok(page.behind(self.lag())),
                Some(_) if current.has_rest() => return Err(current.unfinished()),
                Some(name) => self.go_to(name)?,
            }
        }
    }

    /// Returns a page with the position behind it.
    fn finished(&self, page: Page) -> Result<Page, BoxError> {
        let current = self.current.as_ref().ok_or("no file is open")?;
        Ok(page.up_to(current.position().to_string()).behind(self.lag()))
    }

    fn lag(&self) -> u64 {
        let length = |current: &Current| current.file.metadata().map_or(0, |file| file.len());
        let here = self.current.as_ref().map_or(0, |current| length(current).saturating_sub(current.offset));
        here.saturating_add(self.later.bytes())
    }

    fn go_to(&mut self, name: String) -> Result<(), BoxError> {
        let file = later::open(&self.files.path.join(&name))?;
        self.current = Some(Current::at(name, file, 0)?);
        self.later.take();
        Ok(())
    }

    /// Returns the first file behind the current one.
    fn next_file(&mut self) -> Result<Option<String>, BoxError> {
        let current = self.current.as_ref().map(|current| current.name.as_str());
        Ok(self.later.first(&self.files, current)?.map(str::to_owned))
    }
}

impl Current {
    fn at(name: String, mut file: File, offset: u64) -> Result<Self, BoxError> {
        let head = read_head(&mut file, offset)?;
        Ok(Current { name, file, offset, pending: Vec::new(), used: 0, searched: 0, head, consumed: 0 })
    }

    fn position(&self) -> Position {
        Position { offset: self.offset, head: digest(&self.head), file: self.name.clone() }
    }

    /// Adds the events of whole lines to a page, until the page is full or a read brings no more. Returns whether a
    /// line was used.
    fn next_lines(&mut self, files: &Files, room: Room, page: &mut Page) -> Result<bool, BoxError> {
        let mut has_read = false;
        loop {
            while !self.is_full(room, page)
                && let Some(end) = self.line_end()
            {
                match self.emit(files, end, page) {
                    Ok(()) => has_read = true,
                    Err(_) if has_read => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            let is_full = self.is_full(room, page);
            let waiting = self.pending.len() - self.used;
            // The last byte may belong to the line break.
            if !is_full && waiting.saturating_sub(1) > files.max_line_bytes {
                let limit = files.max_line_bytes;
                return match has_read {
                    true => Ok(true),
                    false => Err(self.bad(format!("the line has more than {limit} bytes").into())),
                };
            }
            if is_full || self.fill()? == 0 {
                return Ok(has_read);
            }
        }
    }

    fn is_full(&self, room: Room, page: &Page) -> bool {
        page.is_full(room) || self.consumed >= room.bytes
    }

    /// Returns the end of the next line in `pending`, with its line break.
    fn line_end(&mut self) -> Option<usize> {
        let unsearched = self.pending.get(self.used + self.searched..).unwrap_or_default();
        match unsearched.iter().position(|byte| *byte == b'\n') {
            Some(at) => Some(self.used + self.searched + at + 1),
            None => {
                self.searched += unsearched.len();
                None
            }
        }
    }

    /// Adds the events of the line that ends there. On an error nothing is added, and the line stays the next one.
    fn emit(&mut self, files: &Files, end: usize, page: &mut Page) -> Result<(), BoxError> {
        let whole = self.pending.get(self.used..end).unwrap_or_default();
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > files.max_line_bytes {
            let problem = format!("the line has {} bytes, over the limit of {}", line.len(), files.max_line_bytes);
            return Err(self.bad(problem.into()));
        }
        let line = Line { file: &self.name, offset: self.offset, bytes: line };
        let mut of_line = Page::new();
        let decoded = (files.decode)(&line).and_then(|events| {
            events.into_iter().try_for_each(|(to, event)| of_line.emit(to, event)).map_err(BoxError::from)
        });
        decoded.map_err(|error| self.bad(error))?;
        let missing = HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend(whole.iter().take(missing));
        self.offset += whole.len() as u64;
        self.consumed += whole.len();
        (self.used, self.searched) = (end, 0);
        page.append(of_line);
        Ok(())
    }

    /// Reads on. Returns the number of bytes.
    fn fill(&mut self) -> Result<usize, BoxError> {
        self.pending.drain(..self.used);
        self.used = 0;
        let fill = |file: &mut File, from: u64, pending: &mut Vec<u8>| -> io::Result<usize> {
            file.seek(SeekFrom::Start(from))?;
            Read::by_ref(file).take(READ_BYTES as u64).read_to_end(pending)
        };
        let from = self.offset + self.pending.len() as u64;
        fill(&mut self.file, from, &mut self.pending).map_err(|error| of_file(self.name.as_ref(), &error))
    }

    /// Returns whether everything was read, and fails when the file lost or changed what was read.
    fn is_at_end(&mut self, files: &Files) -> Result<bool, BoxError> {
        let path = files.path.join(&self.name);
        let look = |file: &mut File, offset: u64, head: &[u8]| -> io::Result<(u64, bool)> {
            let about = file.metadata()?;
            let is_named = std::fs::metadata(&path).is_ok_and(|named| is_same(&named, &about));
            Ok((about.len(), is_named && read_head(file, offset)?.starts_with(head)))
        };
        let (length, is_same) =
            look(&mut self.file, self.offset, &self.head).map_err(|error| of_file(&path, &error))?;
        let read = self.offset + (self.pending.len() - self.used) as u64;
        if length < read || !is_same {
            return Err(changed(&self.name, self.offset));
        }
        Ok(length == read)
    }

    fn has_rest(&self) -> bool {
        self.pending.len() > self.used
    }

    fn unfinished(&self) -> BoxError {
        let (name, offset) = (&self.name, self.offset);
        format!("{name}: the last line, at byte {offset}, is not finished, and there is a later file: finish the line")
            .into()
    }

    /// Names the place of a line that cannot be used.
    fn bad(&self, source: BoxError) -> BoxError {
        BadLine { file: self.name.clone(), offset: self.offset, source }.into()
    }
}

/// A line that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: the line at byte {offset} cannot be used")]
struct BadLine {
    file: String,
    offset: u64,
    source: BoxError,
}

fn changed(name: &str, offset: u64) -> BoxError {
    format!(
        "{name}: the file was truncated, replaced or removed, and had been read up to byte {offset}: bring it back, or \
         move the checkpoint"
    )
    .into()
}

#[cfg(unix)]
fn is_same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Elsewhere files have no numbers, and a replaced file is seen by its length and its first bytes alone.
#[cfg(not(unix))]
fn is_same(_one: &std::fs::Metadata, _other: &std::fs::Metadata) -> bool {
    true
}
