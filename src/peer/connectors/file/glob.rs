//! The files of a directory whose names match a pattern, and the ids of their streams.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::peer::{PeerError, StreamId};

/// Most files of a directory that are read in one life of the connector. More files are an error.
pub const MAX_FILES: usize = 100_000;

/// Most bytes of a file's name that its stream id shows.
const SHOWN_BYTES: usize = 64;

/// Returns the files of a directory whose names match the pattern, by name.
pub(super) fn files(directory: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let matches = entry.file_name().to_str().is_some_and(|name| is_match(pattern, name));
        if matches && std::fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file()) {
            found.push(entry.path());
        }
        if found.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files: use a narrower pattern")));
        }
    }
    found.sort();
    Ok(found)
}

/// Returns whether a name matches a pattern of `*` (any characters) and `?` (one character).
fn is_match(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // The place after the last star, and how much of the name that star takes.
    let mut star: Option<(usize, usize)> = None;
    let (mut at, mut read) = (0, 0);
    while let Some(character) = name.get(read) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == character => {
                at += 1;
                read += 1;
            }
            _ => match &mut star {
                Some((after, taken)) => {
                    *taken += 1;
                    (at, read) = (*after, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|character| *character == '*'))
}

/// Returns the id of the stream of a file: its name, and a digest of its path and of `more`, which tells files of one
/// path apart.
pub(super) fn stream_id(path: &Path, more: &[u8]) -> Result<StreamId, PeerError> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let is_shown = |character: char| character.is_ascii_graphic() && !matches!(character, '/' | ':');
    let mut shown: String = name.chars().map(|character| if is_shown(character) { character } else { '_' }).collect();
    shown.truncate(SHOWN_BYTES);
    let digest = Sha256::new().chain_update(path.as_os_str().as_encoded_bytes()).chain_update([0]).chain_update(more);
    StreamId::new(format!("{shown}-{}", short_hex(&digest.finalize())))
}

/// Returns the first eight bytes of a digest, in hex.
pub(super) fn short_hex(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in
            [("*", ""), ("*", "a"), ("*.csv", "a.csv"), ("a?c*", "abc"), ("*a*b", "xaxbab"), ("a**", "a"), ("é?", "éa")]
        {
            assert!(is_match(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.csv", "a.csv.gz"), ("?", ""), ("", "a"), ("a*b", "ac"), ("*ab", "aba")] {
            assert!(!is_match(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn ids_are_stable_and_differ_by_path() {
        let id = |path: &str| stream_id(Path::new(path), b"").unwrap().as_str().to_owned();
        assert_eq!(id("/a/orders.csv"), id("/a/orders.csv"));
        assert_ne!(id("/a/orders.csv"), id("/b/orders.csv"));
        assert!(id("/a/orders.csv").starts_with("orders.csv-"));
        assert!(id(&format!("/a/{}", "é:".repeat(200))).len() <= SHOWN_BYTES + 17);
    }
}
