//! The files that come behind the one that is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::{Files, of_file};
use crate::error::BoxError;

/// Most files of a directory. More are an error.
pub const MAX_FILES: usize = 100_000;

/// Files behind the present one with their lengths, as they were when the directory was listed.
#[derive(Debug, Default)]
pub(super) struct Later {
    lengths: BTreeMap<String, u64>,
}

impl Later {
    /// Returns the first file behind the present one. Lists the directory when no file is known.
    pub(super) fn first(&mut self, files: &Files, current: Option<&str>) -> Result<Option<&str>, BoxError> {
        if self.lengths.is_empty() {
            let length = |name: &str| length_of(&files.path.join(name));
            self.lengths = listed(|| names_of(files, current), length)?;
        }
        Ok(self.lengths.keys().next().map(String::as_str))
    }

    /// Forgets the first file, which is the present one from now on.
    pub(super) fn take(&mut self) {
        self.lengths.pop_first();
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lengths.values().fold(0, |sum, length| sum.saturating_add(*length))
    }
}

/// Returns the files that can be read now without passing over one, with their lengths.
///
/// A list of a directory is not of one moment: it may lack a file that was made meanwhile, and have a later one. But
/// all files that are older than a file of one list are in the next list.
fn listed(
    mut list: impl FnMut() -> Result<BTreeSet<String>, BoxError>,
    length: impl Fn(&str) -> Result<Option<u64>, BoxError>,
) -> Result<BTreeMap<String, u64>, BoxError> {
    // A file that cannot be looked at is an error when it is the next one.
    let is_there = |name: &String| length(name).map_or(true, |length| length.is_some());
    let Some(newest) = list()?.into_iter().rev().find(is_there) else { return Ok(BTreeMap::new()) };
    let mut lengths = BTreeMap::new();
    for name in list()?.into_iter().take_while(|name| *name <= newest) {
        match length(&name) {
            Ok(Some(length)) => {
                lengths.insert(name, length);
            }
            Ok(None) => {}
            Err(_) if !lengths.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(lengths)
}

/// Returns the names in the directory behind the present file, without those that are left out.
fn names_of(files: &Files, current: Option<&str>) -> Result<BTreeSet<String>, BoxError> {
    let path = &files.path;
    let (mut names, mut count) = (BTreeSet::new(), 0_usize);
    for entry in std::fs::read_dir(path).map_err(|error| of_file(path, &error))? {
        let Ok(name) = entry.map_err(|error| of_file(path, &error))?.file_name().into_string() else { continue };
        if name.starts_with('.') || !name.ends_with(&files.suffix) {
            continue;
        }
        count += 1;
        if count > MAX_FILES {
            return Err(format!("{}: more than {MAX_FILES} files: remove old ones", path.display()).into());
        }
        if current.is_none_or(|current| name.as_str() > current) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Returns the length of a file, or `None` of what is no file. A file that cannot be looked at is an error: a later one
/// must not go before it.
fn length_of(path: &Path) -> Result<Option<u64>, BoxError> {
    match std::fs::metadata(path) {
        Ok(about) => Ok(about.is_file().then_some(about.len())),
        Err(error) => {
            let is_absent = |error: std::io::Error| error.kind() == ErrorKind::NotFound;
            // A link to a file that is not there is there itself.
            if std::fs::symlink_metadata(path).err().is_some_and(is_absent) {
                Ok(None)
            } else {
                Err(of_file(path, &error))
            }
        }
    }
}

/// Opens a file. A pipe is refused, because its opening would wait for a writer.
pub(super) fn open(path: &Path) -> Result<File, BoxError> {
    let about = std::fs::metadata(path).map_err(|error| of_file(path, &error))?;
    if !about.is_file() {
        return Err(format!("{}: it is no file", path.display()).into());
    }
    File::open(path).map_err(|error| of_file(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(lists: &[&[&str]], directories: &[&str]) -> Vec<String> {
        let mut lists = lists.iter();
        let list = || Ok(lists.next().unwrap().iter().map(|name| (*name).to_owned()).collect());
        let length = |name: &str| Ok((!directories.contains(&name)).then_some(1));
        listed(list, length).unwrap().into_keys().collect()
    }

    /// The first list began before `b` was made, and met `c`, which was made after it.
    #[test]
    fn a_file_that_a_list_missed_is_not_passed_over() {
        assert_eq!(listing(&[&["c"], &["b", "c"]], &[]), ["b", "c"]);
        assert_eq!(listing(&[&["b"], &["b", "d"]], &[]), ["b"], "a file before d may be missing");
        assert_eq!(listing(&[&["b", "z"], &["b", "d", "z"]], &["z"]), ["b"], "a directory is of no such age");
        assert!(listing(&[&[]], &[]).is_empty() && listing(&[&["z"]], &["z"]).is_empty());
        assert_eq!(listing(&[&["b", "c"], &["c"]], &[]), ["c"], "b was removed");
    }

    #[test]
    fn a_file_that_cannot_be_looked_at_ends_the_list() {
        let listing = |names: &[&str]| {
            let list = || Ok(names.iter().map(|name| (*name).to_owned()).collect());
            let length = |name: &str| if name == "bad" { Err("it is bad".into()) } else { Ok(Some(1)) };
            listed(list, length).map(|lengths| lengths.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(listing(&["a", "b", "bad", "c"]).unwrap(), ["a", "b"]);
        assert!(listing(&["bad", "c"]).is_err() && listing(&["bad"]).is_err());
    }
}
