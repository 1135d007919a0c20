//! A directory of files to which others append lines.

mod later;
mod position;
mod tail;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::position::Position;
use self::tail::Tail;
use super::contract::{EventSource, Page, Room, SourceReader};
use crate::error::BoxError;
use crate::eventbox::Event;
use crate::recipient::Recipient;

pub use later::MAX_FILES;
pub use position::HEAD_BYTES;
pub use tail::READ_BYTES;

/// Largest number of bytes of a line, unless [`Directory::max_line_bytes`] sets another one: 1 MiB, as a value may
/// have.
pub const DEFAULT_LINE_BYTES: usize = crate::eventbox::MAX_VALUE_BYTES;

/// Longest time of one read of the files, with the calls of the given function for their lines. After it the read
/// fails, and the directory is opened again after a pause.
pub const FILES_LIMIT: Duration = Duration::from_secs(60);

/// The name of the only partition.
const PARTITION: &str = "all";

/// A line of a file, without its line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line<'a> {
    /// Name of the file in the directory.
    pub file: &'a str,
    /// Offset of the first byte of the line.
    pub offset: u64,
    /// Bytes of the line.
    pub bytes: &'a [u8],
}

impl Line<'_> {
    /// Reads the line as JSON.
    ///
    /// # Errors
    ///
    /// The error of `serde_json` when the line is no JSON or not a `T`.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(self.bytes)?)
    }
}

type Decode = dyn Fn(&Line<'_>) -> Result<Vec<(Recipient, Event)>, BoxError> + Send + Sync;

/// A source that follows the files of a directory, line by line: JSON lines, or lines of any other form.
///
/// The files are read in the order of their names, each to its end before the next one. Then the last one is followed
/// while it grows. A line is finished by its line break; an unfinished last line waits. Name files so that a new one
/// comes last: `2026-01-31.jsonl`, `000017.jsonl`.
///
/// # What writers must keep to
///
/// * They only append, and never change, truncate or replace what they have written. A file that was truncated or
///   replaced is an error that names it.
/// * They finish the last line of a file before they make the next one. An unfinished line before a later file is an
///   error that names the file, until the line is finished.
/// * A file may be removed once the checkpoint is in a later file.
///
/// # What comes back
///
/// The given function makes the events of a line: none to skip it, one, or several. When the function returns an error,
/// the partition stops before that line, and the error names the file and the offset. It is tried again after a pause,
/// so that a repaired program goes on by itself.
///
/// Files whose names begin with a dot are left out, and so are directories, pipes, and files whose names do not end as
/// [`suffix`](Directory::suffix) says. A symbolic link is the file to which it leads; one that leads nowhere is an
/// error. So let nobody write to the directory who must not choose what is read.
///
/// # Examples
///
/// See [`drain`](crate::source::drain()) and [`Sources`](crate::source::Sources).
#[derive(Clone)]
pub struct Directory(Arc<Files>);

#[derive(Clone)]
struct Files {
    path: PathBuf,
    suffix: String,
    max_line_bytes: usize,
    decode: Arc<Decode>,
    /// Held by the only thread of this process that works on the files: a file system that does not answer must not
    /// take a thread for each attempt.
    turn: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("path", &self.0.path).field("suffix", &self.0.suffix).finish_non_exhaustive()
    }
}

impl Directory {
    /// Makes a source of the files of a directory. `decode` makes the events of a line.
    pub fn new<F>(path: impl Into<PathBuf>, decode: F) -> Self
    where
        F: Fn(&Line<'_>) -> Result<Vec<(Recipient, Event)>, BoxError> + Send + Sync + 'static,
    {
        Directory(Arc::new(Files {
            path: path.into(),
            suffix: String::new(),
            max_line_bytes: DEFAULT_LINE_BYTES,
            decode: Arc::new(decode),
            turn: Arc::default(),
        }))
    }

    /// Reads only files whose names end so: `.jsonl`.
    #[must_use]
    pub fn suffix(self, suffix: impl Into<String>) -> Self {
        Directory(Arc::new(Files { suffix: suffix.into(), ..(*self.0).clone() }))
    }

    /// Sets the most bytes of a line. A longer line is an error.
    #[must_use]
    pub fn max_line_bytes(self, max_line_bytes: usize) -> Self {
        Directory(Arc::new(Files { max_line_bytes, ..(*self.0).clone() }))
    }
}

#[async_trait]
impl EventSource for Directory {
    async fn partitions(&self) -> Result<Vec<String>, BoxError> {
        Ok(vec![PARTITION.to_owned()])
    }

    async fn open(&self, _partition: &str, from: Option<&str>) -> Result<Box<dyn SourceReader>, BoxError> {
        let from = from.map(str::parse::<Position>).transpose()?;
        let files = Arc::clone(&self.0);
        let tail = blocking(&self.0, move || Tail::open(files, from)).await?;
        Ok(Box::new(Reader { files: Arc::clone(&self.0), tail: Some(tail) }))
    }
}

/// A reader of the directory.
struct Reader {
    files: Arc<Files>,
    /// The open directory; `None` after a read that failed.
    tail: Option<Tail>,
}

#[async_trait]
impl SourceReader for Reader {
    async fn read(&mut self, room: Room) -> Result<Page, BoxError> {
        let mut tail = self.tail.take().ok_or("the reader has failed: open the directory again")?;
        let reading = blocking(&self.files, move || {
            let page = tail.page(room)?;
            Ok((tail, page))
        });
        let path = self.files.path.display();
        let late = |_| format!("{path}: the files were not read within {FILES_LIMIT:?}");
        let (tail, page) = timeout(FILES_LIMIT, reading).await.map_err(late)??;
        self.tail = Some(tail);
        Ok(page)
    }
}

/// Runs work on files outside of the threads of the runtime, after the work before it.
async fn blocking<T: Send + 'static>(
    files: &Files,
    work: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
) -> Result<T, BoxError> {
    let turn = Arc::clone(&files.turn).lock_owned().await;
    let in_turn = move || {
        let done = work();
        drop(turn);
        done
    };
    tokio::task::spawn_blocking(in_turn).await?
}

/// Names the file in an error of the operating system.
fn of_file(path: &Path, error: &io::Error) -> BoxError {
    io::Error::new(error.kind(), format!("{}: {error}", path.display())).into()
}
