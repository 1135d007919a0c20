//! Appending to a file: whole batches, or nothing of a batch.
//!
//! What a crash left behind the last acknowledged batch is cut off when the file is opened. With lines that is what
//! follows the last newline, but never what was there before this connector first opened the file: an unfinished line
//! of somebody else is finished by a newline. Whole lines of a batch that was not acknowledged stay, and come again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::config::{FileConfig, FileSync, Frames};
use super::mark::Mark;
use super::{blocking, lost, opening};
use crate::peer::{ConnectorError, EndReason, Session, StreamId};

/// Highest number of a rotated file, `path.999999`; at it the file is rotated no more.
pub const MAX_ROTATED: u32 = 999_999;

/// Bytes that are read at once to find the last newline.
const STEP: usize = 4 << 10;

/// Writes what the stream has to send, until it has nothing more.
pub(super) async fn run(config: &FileConfig, session: &Session) -> Result<(), ConnectorError> {
    let path = path_of(&config.path, session.stream())?;
    let settings = config.clone();
    let opened = blocking(path.clone(), move |path| Appender::open(path, &settings)).await;
    let (_, mut appender) = opened.map_err(|error| opening(&path, error))?;
    session.connected();
    let mut stream = session.open(session.stream().clone(), super::read::facts(&path)).await?;
    while let Some(batch) = stream.outgoing.next().await {
        let parts: Vec<Bytes> = batch.bytes().cloned().collect();
        let (back, written) = written(appender, parts).await.map_err(|error| lost(&path, error))?;
        appender = back;
        match written {
            Ok(()) => stream.outgoing.ack(batch),
            Err(error) => stream.outgoing.fail(batch, &error),
        }
    }
    let rest = stream.outgoing.flush()?;
    let (_, flushed) = written(appender, rest).await.map_err(|error| lost(&path, error))?;
    stream.end(EndReason::Stopped).await?;
    flushed.map_err(|error| lost(&path, error))
}

/// Writes a batch. The inner error leaves the file as it was; the outer one leaves a torn batch in it.
async fn written(appender: Appender, parts: Vec<Bytes>) -> io::Result<(Appender, io::Result<()>)> {
    blocking(appender, move |appender| match appender.append(&parts) {
        Err(Failed::Undone(error)) => Ok(Err(error)),
        Err(Failed::Torn(error)) => Err(error),
        Ok(()) => Ok(Ok(())),
    })
    .await
}

/// Returns the path of the file of a stream.
fn path_of(path: &Path, stream: &StreamId) -> Result<PathBuf, ConnectorError> {
    if stream.as_str().bytes().all(|byte| byte == b'.') {
        return Err(ConnectorError::refused(format!("the stream {stream} is no name for a file")));
    }
    let text = path.to_str().filter(|text| text.contains("{stream}"));
    Ok(text.map_or_else(|| path.to_owned(), |text| text.replace("{stream}", stream.as_str()).into()))
}

/// Why a batch is not in the file.
#[derive(Debug)]
pub(super) enum Failed {
    /// The file is as it was before.
    Undone(io::Error),
    /// A part of the batch may be in the file. The next opening cuts it off.
    Torn(io::Error),
}

/// A file that is appended to.
#[derive(Debug)]
pub(super) struct Appender {
    path: PathBuf,
    file: File,
    length: u64,
    /// `None` for what is no regular file: a device or a pipe cannot be cut.
    mark: Option<Mark>,
    frames: Frames,
    sync: bool,
    rotate_bytes: Option<u64>,
}

impl Appender {
    /// Opens a file, makes a missing one, and cuts off what a crash has torn.
    pub(super) fn open(path: &Path, config: &FileConfig) -> io::Result<Self> {
        let file = open_file(path)?;
        let is_regular = file.metadata()?.is_file();
        let mark = is_regular.then(|| Mark::open(path)).transpose()?;
        let sync = config.sync == FileSync::Batch && is_regular;
        let (frames, rotate_bytes) = (config.frames, config.rotate_bytes);
        let mut appender = Appender { path: path.to_owned(), file, length: 0, mark, frames, sync, rotate_bytes };
        if is_regular {
            appender.recover()?;
        }
        Ok(appender)
    }

    fn recover(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let known = self.mark.as_mut().map(Mark::read).transpose()?.flatten();
        let good = match (known, self.frames) {
            (Some(known), Frames::Stream) => known.min(length),
            (Some(known), Frames::Lines) => last_line_end(&mut self.file, known.min(length), length)?,
            (None, _) => length,
        };
        if good < length {
            tracing::warn!(path = %self.path.display(), bytes = length - good, "a torn batch was cut off");
            self.file.set_len(good)?;
        }
        self.length = good;
        let is_foreign = known.is_none() && self.frames == Frames::Lines && good > 0;
        if is_foreign && last_line_end(&mut self.file, 0, good)? < good {
            self.file.write_all(b"\n")?;
            self.length += 1;
        }
        self.file.sync_data()?;
        self.note()
    }

    /// Stores the length as good, on the disk.
    fn note(&mut self) -> io::Result<()> {
        let (length, sync) = (self.length, self.sync);
        self.mark.as_mut().map_or(Ok(()), |mark| mark.write(length, sync))
    }

    /// Appends a batch, and forces it to the disk where that is set. On an error nothing of it stays in the file.
    pub(super) fn append(&mut self, parts: &[Bytes]) -> Result<(), Failed> {
        if parts.is_empty() {
            return Ok(());
        }
        let before = self.length;
        if let Err(error) = self.write(&parts.concat()) {
            self.length = before;
            let cut = if self.mark.is_some() { self.file.set_len(before) } else { Ok(()) };
            return Err(if cut.is_ok() { Failed::Undone(error) } else { Failed::Torn(error) });
        }
        if self.rotate_bytes.is_some_and(|limit| self.length >= limit)
            && let Err(error) = self.rotate()
        {
            // The batch is written: the file only grows further.
            tracing::warn!(path = %self.path.display(), %error, "the file could not be rotated");
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if self.sync {
            self.file.sync_data()?;
        }
        self.length += bytes.len() as u64;
        if self.frames == Frames::Stream { self.note() } else { Ok(()) }
    }

    /// Renames the file to the next free number, and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(to) = next_free(&self.path)? else { return Ok(()) };
        if self.mark.is_none() {
            return Ok(());
        }
        std::fs::rename(&self.path, to)?;
        self.file = open_file(&self.path)?;
        self.length = 0;
        self.note()?;
        if let Some(directory) = self.path.parent().filter(|directory| self.sync && !directory.as_os_str().is_empty()) {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // A device such as a terminal may allow no reading, which only a file needs.
    let options = |read| OpenOptions::new().read(read).append(true).create(true).open(path);
    options(true).or_else(|_| options(false))
}

/// Returns the end of the last whole line between two offsets, or the first of them when there is none.
fn last_line_end(file: &mut File, from: u64, to: u64) -> io::Result<u64> {
    let mut end = to;
    while end > from {
        let start = end.saturating_sub(STEP as u64).max(from);
        let mut bytes = Vec::with_capacity(STEP);
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(file).take(end - start).read_to_end(&mut bytes)?;
        if let Some(newline) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(from)
}

/// Returns the path with the next number after the highest one, or `None` when all are in use.
fn next_free(path: &Path) -> io::Result<Option<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut highest = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?.file_name();
        let number = entry.to_str().and_then(|entry| entry.strip_prefix(&name)?.strip_prefix('.')?.parse().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    Ok((highest < MAX_ROTATED).then(|| path.with_file_name(format!("{name}.{:06}", highest + 1))))
}

#[cfg(test)]
mod tests {
    use super::super::config::FileMode;
    use super::*;

    fn config(frames: Frames) -> FileConfig {
        FileConfig { frames, ..FileConfig::new("unused", FileMode::Append) }
    }

    fn append(appender: &mut Appender, text: &str) {
        appender.append(&[Bytes::copy_from_slice(text.as_bytes())]).unwrap();
    }

    #[test]
    fn a_torn_line_is_cut_off_and_whole_lines_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut appender = Appender::open(&path, &config(Frames::Lines)).unwrap();
        append(&mut appender, "one\ntwo\n");
        drop(appender);
        for (torn, left) in [("three\nfo", "one\ntwo\nthree\n"), ("x", "one\ntwo\nthree\n"), ("", "one\ntwo\nthree\n")]
        {
            OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
            drop(Appender::open(&path, &config(Frames::Lines)).unwrap());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), left);
        }
        // A torn line that is longer than what is read at once.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&vec![b'x'; 3 * STEP]).unwrap();
        let mut appender = Appender::open(&path, &config(Frames::Lines)).unwrap();
        append(&mut appender, "four\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn the_content_of_somebody_else_is_never_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "theirs").unwrap();
        let mut appender = Appender::open(&path, &config(Frames::Lines)).unwrap();
        append(&mut appender, "ours\n");
        drop(appender);
        drop(Appender::open(&path, &config(Frames::Lines)).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs\nours\n");
    }

    #[test]
    fn without_lines_the_file_is_cut_back_to_the_last_whole_batch() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut appender = Appender::open(&path, &config(Frames::Stream)).unwrap();
        append(&mut appender, "\u{0}one");
        append(&mut appender, "\n\n");
        drop(appender);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\nto\n").unwrap();
        drop(Appender::open(&path, &config(Frames::Stream)).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"\0one\n\n");
    }

    #[test]
    fn a_file_is_rotated_after_the_batch_that_filled_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let config = FileConfig { rotate_bytes: Some(8), ..config(Frames::Lines) };
        let mut appender = Appender::open(&path, &config).unwrap();
        for text in ["one\n", "two\n", "three\n", "four\n", "five\n"] {
            append(&mut appender, text);
        }
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(
            (read("a.000001"), read("a.000002"), read("a")),
            ("one\ntwo\n".into(), "three\nfour\n".into(), "five\n".into())
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_fails_the_batch() {
        let mut appender = Appender::open(Path::new("/dev/full"), &config(Frames::Lines)).unwrap();
        let failed = appender.append(&[Bytes::from_static(b"one\n")]).unwrap_err();
        assert!(matches!(&failed, Failed::Undone(error) if error.kind() == io::ErrorKind::StorageFull), "{failed:?}");
    }

    #[test]
    fn two_streams_do_not_share_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let first = Appender::open(&path, &config(Frames::Lines)).unwrap();
        assert!(Appender::open(&path, &config(Frames::Lines)).is_err());
        drop(first);
        let id = |text| StreamId::new(text).unwrap();
        assert_eq!(path_of(Path::new("out/{stream}.log"), &id("s1")).unwrap(), Path::new("out/s1.log"));
        assert_eq!(path_of(Path::new("out/all.log"), &id("s1")).unwrap(), Path::new("out/all.log"));
        assert!(path_of(Path::new("out/{stream}"), &id("..")).is_err());
    }
}
