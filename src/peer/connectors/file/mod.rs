//! Files: read to their end, followed while they grow, or appended to.
//!
//! | mode | what it does |
//! | --- | --- |
//! | `read` | reads a file, or the files of a directory, to the end, and is finished |
//! | `tail` | reads a file to the end and follows it, until the stop |
//! | `append` | writes what is in the box of the stream to the end of a file |
//!
//! # Positions
//!
//! With `frames = "lines"` the connector hands over whole lines only, and each line is an arrival with an id of its
//! own: `generation-offset`. The position that is stored with the emit is the offset after the last whole line, so a
//! crash neither loses nor repeats a line. A last line without its newline is read when the file is finished, and waits
//! while the file is followed. The generation counts the files that had this path: a replaced or truncated file is read
//! from 0 under the next number. A file is the same as before when it is at least as long as the position and begins
//! with the same bytes (up to [`HEAD_BYTES`]).
//!
//! With `frames = "stream"` (compressed files, length prefixes) offsets inside of a frame say nothing. The file must
//! not change. It is read from its start until it was finished once, and the names of its events make the repeats
//! harmless. Its stream is named by its path, length and first bytes.

mod append;
mod config;
mod glob;
mod mark;
mod position;
mod read;
mod reader;
mod tail;

use std::io;
use std::path::Path;

use async_trait::async_trait;

use crate::peer::{Connector, ConnectorError, PeerError, Role, Session};

pub use append::MAX_ROTATED;
pub use config::{FileConfig, FileMode, FileSync, Frames};
pub use glob::MAX_FILES;
pub use position::HEAD_BYTES;
pub use reader::{LINES_TOGETHER, READ_BYTES};
pub use tail::{OLD_FILE_POLLS, ROTATED_LOOKED_AT};

/// A connector of files: see [the module](self).
///
/// # Examples
///
/// ```
/// use eventbox::peer::{Connector, connectors::file::{File, FileConfig, FileMode}};
///
/// let file = File::new(FileConfig::new("/var/log/orders.log", FileMode::Tail))?;
/// assert_eq!((file.name(), file.endpoint().as_str()), ("file", "/var/log/orders.log"));
/// assert!(file.keeps_stream_ids());
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct File {
    config: FileConfig,
}

impl File {
    /// Checks the settings of a connector.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] when a setting does not fit the mode, or is zero.
    pub fn new(config: FileConfig) -> Result<Self, PeerError> {
        config.check()?;
        Ok(File { config })
    }
}

#[async_trait]
impl Connector for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn endpoint(&self) -> String {
        let path = self.config.path.display();
        self.config.glob.as_ref().map_or_else(|| path.to_string(), |glob| format!("{path}/{glob}"))
    }

    fn role(&self) -> Role {
        match self.config.mode {
            FileMode::Read | FileMode::Tail => Role::Server,
            FileMode::Append => Role::Client,
        }
    }

    fn keeps_stream_ids(&self) -> bool {
        true
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        match self.config.mode {
            FileMode::Read => read::run(&self.config, &session).await,
            FileMode::Tail => tail::run(&self.config, &session).await,
            FileMode::Append => append::run(&self.config, &session).await,
        }
    }
}

/// Runs work on a file outside of the threads of the runtime, and gives the file back.
async fn blocking<T, R>(mut file: T, work: impl FnOnce(&mut T) -> io::Result<R> + Send + 'static) -> io::Result<(T, R)>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut file)?;
        Ok((file, result))
    });
    done.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn opening(path: &Path, error: io::Error) -> ConnectorError {
    ConnectorError::connect(format!("open {}", path.display()), error)
}

fn lost(path: &Path, error: io::Error) -> ConnectorError {
    ConnectorError::lost(path.display().to_string(), error)
}
