//! Following a file while it grows, is rotated and is truncated.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::config::FileConfig;
use super::glob::stream_id;
use super::position::Position;
use super::read::{end_failed, facts, hand_over_rest, read_to_end, stored};
use super::reader::{Reader, Seen};
use super::{blocking, lost, opening};
use crate::peer::{ConnectorError, EndReason, Session, Stream};

/// Looks at a renamed file without growth, one each poll, after which its successor is read. A program writes to the
/// old file until it notices the rotation.
pub const OLD_FILE_POLLS: u32 = 3;

/// Most files beside the path that are looked at, to find the file that was rotated while nobody read it.
pub const ROTATED_LOOKED_AT: usize = 1_000;

/// What a look at the end of the file led to.
enum Change {
    Grown,
    /// The file is finished: the path names another one, or other content.
    Finished,
    Stopped,
}

/// Follows the file until the stop. Each file that has the path is one session of the stream.
pub(super) async fn run(config: &FileConfig, session: &Session) -> Result<(), ConnectorError> {
    let path = &config.path;
    let id = stream_id(path, b"")?;
    let position = stored(session, &id).await?;
    let mut reader = open(config, position).await?;
    session.connected();
    loop {
        let mut stream = session.open(id.clone(), facts(path)).await?;
        match follow(config, session, &mut stream, reader).await {
            Err(error) => return end_failed(stream, error).await,
            Ok(None) => return Ok(stream.end(EndReason::Stopped).await?),
            Ok(Some(generation)) => {
                stream.end(EndReason::Finished).await?;
                let Some(next) = successor(config, session, generation + 1).await? else { return Ok(()) };
                reader = next;
            }
        }
    }
}

/// Opens the file at the stored position. When that is of a file that was rotated meanwhile, opens that one.
async fn open(config: &FileConfig, position: Option<Position>) -> Result<Reader, ConnectorError> {
    let limit = config.max_line_bytes;
    let opened = blocking(config.path.clone(), move |path| {
        let Some(stored) = position else { return Reader::open(path, None, limit) };
        if stored.is_of(&mut File::open(&*path)?)? {
            return Reader::open(path, Some(&stored), limit);
        }
        match rotated(path, &stored)? {
            Some(old) => Reader::open(&old, Some(&stored), limit),
            None => Reader::fresh(path, stored.generation + 1, limit),
        }
    });
    opened.await.map(|(_, reader)| reader).map_err(|error| opening(&config.path, error))
}

/// Returns the file beside the path, with a name that begins with its name, of which the position is.
fn rotated(path: &Path, stored: &Position) -> io::Result<Option<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    for entry in std::fs::read_dir(directory)?.take(ROTATED_LOOKED_AT) {
        let entry = entry?;
        let begins = entry.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes());
        if !begins || entry.file_name() == name || !entry.file_type()?.is_file() {
            continue;
        }
        if stored.offset > 0 && stored.is_of(&mut File::open(entry.path())?)? {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Reads one file until it is finished, and returns its generation, or `None` at the stop.
async fn follow(
    config: &FileConfig,
    session: &Session,
    stream: &mut Stream,
    mut reader: Reader,
) -> Result<Option<u64>, ConnectorError> {
    loop {
        reader = read_to_end(session, stream, reader, &config.path).await?;
        let (looked, change) = wait(config, session, reader).await?;
        reader = looked;
        match change {
            Change::Grown => {}
            Change::Stopped => return Ok(None),
            Change::Finished => {
                hand_over_rest(stream, &mut reader, &config.path).await?;
                return Ok(Some(reader.generation()));
            }
        }
    }
}

/// Polls the file until something changes.
async fn wait(config: &FileConfig, session: &Session, mut reader: Reader) -> Result<(Reader, Change), ConnectorError> {
    let (stopping, mut quiet) = (session.stopping(), 0);
    loop {
        if stopping.run_until_cancelled(tokio::time::sleep(config.poll())).await.is_none() {
            return Ok((reader, Change::Stopped));
        }
        let path = config.path.clone();
        let looked = blocking(reader, move |reader| reader.look(&path)).await;
        let (looked, seen) = looked.map_err(|error| lost(&config.path, error))?;
        reader = looked;
        match seen {
            Seen::Same => quiet = 0,
            Seen::Grown => return Ok((reader, Change::Grown)),
            Seen::Truncated => return Ok((reader, Change::Finished)),
            Seen::Replaced => {
                quiet += 1;
                if quiet >= OLD_FILE_POLLS {
                    return Ok((reader, Change::Finished));
                }
            }
        }
    }
}

/// Opens the file that has the path now, and waits for it. `None` at the stop.
async fn successor(config: &FileConfig, session: &Session, generation: u64) -> Result<Option<Reader>, ConnectorError> {
    loop {
        let limit = config.max_line_bytes;
        match blocking(config.path.clone(), move |path| Reader::fresh(path, generation, limit)).await {
            Ok((_, reader)) => return Ok(Some(reader)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pause = tokio::time::sleep(config.poll());
                if session.stopping().run_until_cancelled(pause).await.is_none() {
                    return Ok(None);
                }
            }
            Err(error) => return Err(opening(&config.path, error)),
        }
    }
}
