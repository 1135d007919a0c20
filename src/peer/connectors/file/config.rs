//! The settings of the connector of files.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::peer::PeerError;

/// The settings of [`File`](super::File), as they stand in `peers.toml`.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::file::{FileConfig, FileMode};
///
/// let config: FileConfig = serde_json::from_str(r#"{ "path": "in", "mode": "read", "glob": "*.csv" }"#)?;
/// assert_eq!((config.mode, config.glob.as_deref()), (FileMode::Read, Some("*.csv")));
/// assert!(serde_json::from_str::<FileConfig>(r#"{ "path": "in", "mode": "read", "blob": "*" }"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FileConfig {
    /// The file; with `glob`, the directory; `append` replaces `{stream}` by the id of the stream.
    pub path: PathBuf,
    /// What the connector does.
    pub mode: FileMode,
    /// Names of the files to read in the directory: `*` stands for any characters, `?` for one. Only `read`.
    #[serde(default)]
    pub glob: Option<String>,
    /// How the content is cut.
    #[serde(default)]
    pub frames: Frames,
    /// Length from which an unfinished line is handed over in parts, in bytes. The interceptor then decides.
    #[serde(default = "one_mebibyte")]
    pub max_line_bytes: usize,
    /// Time between two looks at a file that is followed, in milliseconds.
    #[serde(default = "quarter_second")]
    pub poll_ms: u64,
    /// When written bytes are forced to the disk. Only `append`.
    #[serde(default)]
    pub sync: FileSync,
    /// Length from which a file is renamed to `path.number` after a batch, in bytes; none: never. Only `append`.
    #[serde(default)]
    pub rotate_bytes: Option<u64>,
}

/// What the connector of files does.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::file::FileMode;
///
/// assert_eq!(serde_json::from_str::<FileMode>("\"tail\"")?, FileMode::Tail);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FileMode {
    /// Reads to the end once.
    Read,
    /// Reads to the end and follows the growth.
    Tail,
    /// Writes to the end.
    Append,
}

/// How the content of a file is cut.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::file::Frames;
///
/// assert_eq!(Frames::default(), Frames::Lines);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Frames {
    /// Into lines, each with its newline. A reader continues at a line. An appender cuts off a torn line.
    #[default]
    Lines,
    /// Not at all. A reader begins at the start again. An appender cuts off a torn batch, and needs a second write to
    /// the disk for each batch.
    Stream,
}

/// When written bytes are forced to the disk.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::file::FileSync;
///
/// assert_eq!(FileSync::default(), FileSync::Batch);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FileSync {
    /// Before a batch is acknowledged. An acknowledged event survives a power loss.
    #[default]
    Batch,
    /// When the system does it. An acknowledged event survives the end of the process only.
    Never,
}

impl FileConfig {
    /// Returns the settings for a file, with lines and a disk write for each batch.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::connectors::file::{FileConfig, FileMode, FileSync};
    ///
    /// let mut config = FileConfig::new("out/{stream}.log", FileMode::Append);
    /// config.sync = FileSync::Never;
    /// assert_eq!(config.max_line_bytes, 1 << 20);
    /// ```
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, mode: FileMode) -> Self {
        FileConfig {
            path: path.into(),
            mode,
            glob: None,
            frames: Frames::default(),
            max_line_bytes: one_mebibyte(),
            poll_ms: quarter_second(),
            sync: FileSync::default(),
            rotate_bytes: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), PeerError> {
        let refused = |problem: &str| Err(PeerError::setup("file", problem));
        if self.path.as_os_str().is_empty() {
            return refused("`path` is empty");
        }
        if self.glob.is_some() && self.mode != FileMode::Read {
            return refused("`glob` is for the mode `read` only");
        }
        if self.rotate_bytes.is_some() && self.mode != FileMode::Append {
            return refused("`rotate_bytes` is for the mode `append` only");
        }
        if self.mode == FileMode::Tail && self.frames == Frames::Stream {
            return refused("a file that grows can only be read in lines: set `frames = \"lines\"`");
        }
        if self.max_line_bytes == 0 || self.poll_ms == 0 || self.rotate_bytes == Some(0) {
            return refused("`max_line_bytes`, `poll_ms` and `rotate_bytes` must not be 0");
        }
        Ok(())
    }

    pub(super) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }
}

fn one_mebibyte() -> usize {
    1 << 20
}

fn quarter_second() -> u64 {
    250
}
