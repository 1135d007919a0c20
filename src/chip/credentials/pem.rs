//! Certificates and keys, given as text or as files that are read again when they change.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Time between two checks of the files of certificates and keys.
pub const TLS_RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Longest time of reading the files. After it the last contents stay in use.
pub const TLS_READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest file of certificates or of a key.
pub const MAX_PEM_BYTES: usize = 1 << 20;

/// A PEM text, or the file of one.
#[derive(Clone)]
pub(crate) enum Pem {
    /// The text itself.
    Text(Vec<u8>),
    /// A file.
    File(PathBuf),
}

impl std::fmt::Debug for Pem {
    // Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pem::Text(_) => f.write_str("Pem::Text"),
            Pem::File(path) => f.debug_tuple("Pem::File").field(path).finish(),
        }
    }
}

impl Pem {
    pub(crate) fn is_file(&self) -> bool {
        matches!(self, Pem::File(_))
    }

    /// Returns the text. Refuses an incomplete file, for example one that is being written, with an error that names
    /// it.
    pub(crate) fn read(&self) -> Result<Vec<u8>, String> {
        let path = match self {
            Pem::Text(text) => return Ok(text.clone()),
            Pem::File(path) => path,
        };
        let text = std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        match problem_of(&text) {
            None => Ok(text),
            Some(problem) => Err(format!("{} {problem}", path.display())),
        }
    }
}

/// Returns the problem of a PEM text. It must have a section, and each section must be complete.
fn problem_of(text: &[u8]) -> Option<&'static str> {
    if text.len() > MAX_PEM_BYTES {
        return Some("is too large for certificates or a key");
    }
    let Ok(text) = std::str::from_utf8(text) else { return Some("is not text") };
    let mut sections = text.split("-----BEGIN ").skip(1).peekable();
    if sections.peek().is_none() {
        return Some("holds no PEM: give a PEM certificate chain and its PEM key");
    }
    for section in sections {
        let whole = section.split_once("-----").and_then(|(label, rest)| {
            let body = rest.split_once(&format!("-----END {label}-----"))?.0;
            let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
            STANDARD.decode(body).ok()
        });
        match whole {
            Some(der) if is_whole(&der) => {}
            _ => return Some("is not whole: a part of a certificate or a key is missing"),
        }
    }
    None
}

/// Returns whether the bytes are one sequence of DER with the length that it states.
fn is_whole(der: &[u8]) -> bool {
    let length = match der {
        [0x30, short, rest @ ..] if *short < 0x80 => Some((usize::from(*short), rest.len())),
        [0x30, long, rest @ ..] => {
            let digits = usize::from(long & 0x7f);
            let length = rest.get(..digits).filter(|_| digits <= 4);
            length.map(|bytes| (bytes.iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte)), rest.len() - digits))
        }
        _ => None,
    };
    length.is_some_and(|(says, is)| says == is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_file_is_refused() {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        for whole in [pem.clone(), key.serialize_pem(), format!("{pem}\n{pem}")] {
            assert_eq!(problem_of(whole.as_bytes()), None);
        }
        for cut in [0, 1, 10, pem.len() / 2, pem.len() - 40] {
            assert!(problem_of(&pem.as_bytes()[..cut]).is_some(), "{cut}");
        }
        let lines: Vec<_> = pem.lines().collect();
        let without_a_line = [&lines[..3], &lines[4..]].concat().join("\n");
        assert!(problem_of(without_a_line.as_bytes()).is_some());
        assert!(problem_of(b"no pem").is_some() && problem_of(&[0xff; 9]).is_some());
    }
}
