//! The mark beside a file that is appended to: the length up to which its content is known to be good.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Digits of a stored length, so that each length overwrites the last one in place.
const DIGITS: usize = 20;

/// A small file, `.name.mark`, which also locks the file beside it against a second writer.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
}

impl Mark {
    /// Opens the mark of a file, makes a missing one, and locks it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(beside(path))?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another stream writes it: put {stream} into the path")
            }
            std::fs::TryLockError::Error(error) => error,
        })?;
        Ok(Mark { file })
    }

    /// Returns the stored length; `None` in a new mark.
    pub(super) fn read(&mut self) -> io::Result<Option<u64>> {
        let mut text = String::new();
        self.file.seek(SeekFrom::Start(0))?;
        Read::by_ref(&mut self.file).take(DIGITS as u64).read_to_string(&mut text)?;
        // A torn first write of the mark is none: nothing was appended before it was on the disk.
        Ok((text.len() == DIGITS).then(|| text.parse().ok()).flatten())
    }

    /// Stores a length.
    pub(super) fn write(&mut self, length: u64, sync: bool) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(format!("{length:0DIGITS$}").as_bytes())?;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.mark"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_has_one_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut mark = Mark::open(&path).unwrap();
        assert_eq!(mark.read().unwrap(), None);
        mark.write(u64::MAX, true).unwrap();
        mark.write(17, true).unwrap();
        assert_eq!(mark.read().unwrap(), Some(17));
        assert_eq!(Mark::open(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(mark);
        assert_eq!(Mark::open(&path).unwrap().read().unwrap(), Some(17));
    }
}
