//! Reading files to their end.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::config::{FileConfig, Frames};
use super::glob::{files, stream_id};
use super::position::{HEAD_BYTES, Position, read_head};
use super::reader::{Line, Reader};
use super::{blocking, lost, opening};
use crate::peer::{Arrival, ConnectorError, EndReason, Session, Stream, StreamFacts, StreamId};

/// What is stored as the position of a file that has no offsets, when it was read to its end.
const FINISHED: &str = "finished";

/// Reads all files, one after the other.
pub(super) async fn run(config: &FileConfig, session: &Session) -> Result<(), ConnectorError> {
    let paths = paths(config).await?;
    session.connected();
    for path in paths {
        if session.stopping().is_cancelled() {
            return Ok(());
        }
        let read = match config.frames {
            Frames::Lines => read_lines(config, session, &path).await,
            Frames::Stream => read_pieces(config, session, &path).await,
        };
        match read {
            // The other files are not to blame for one that cannot be understood.
            Err(ConnectorError::Peer(error)) if matches!(error, crate::peer::PeerError::Framing { .. }) => {
                tracing::warn!(peer = session.peer(), path = %path.display(), %error, "a file was not read to its end");
            }
            other => other?,
        }
    }
    Ok(())
}

async fn paths(config: &FileConfig) -> Result<Vec<PathBuf>, ConnectorError> {
    let Some(glob) = config.glob.clone() else { return Ok(vec![config.path.clone()]) };
    let found = blocking(config.path.clone(), move |directory| files(directory, &glob)).await;
    found.map(|(_, files)| files).map_err(|error| opening(&config.path, error))
}

async fn read_lines(config: &FileConfig, session: &Session, path: &Path) -> Result<(), ConnectorError> {
    let id = stream_id(path, b"")?;
    let stored = stored(session, &id).await?;
    let (limit, known) = (config.max_line_bytes, stored.clone());
    let opened = blocking(path.to_owned(), move |path| {
        let reader = Reader::open(path, known.as_ref(), limit)?;
        let is_read = reader.is_read(known.as_ref())?;
        Ok((reader, is_read))
    });
    let (_, (reader, is_read)) = opened.await.map_err(|error| opening(path, error))?;
    if is_read {
        return Ok(());
    }
    let mut stream = session.open(id, facts(path)).await?;
    let mut reader = match read_to_end(session, &mut stream, reader, path).await {
        Ok(reader) => reader,
        Err(error) => return end_failed(stream, error).await,
    };
    if session.stopping().is_cancelled() {
        return Ok(stream.end(EndReason::Stopped).await?);
    }
    if let Err(error) = hand_over_rest(&mut stream, &mut reader, path).await {
        return end_failed(stream, error).await;
    }
    Ok(stream.end(EndReason::Finished).await?)
}

/// Hands over all whole lines that a file has, until the stop.
pub(super) async fn read_to_end(
    session: &Session,
    stream: &mut Stream,
    mut reader: Reader,
    path: &Path,
) -> Result<Reader, ConnectorError> {
    while !session.stopping().is_cancelled() {
        let (read_on, lines) = blocking(reader, Reader::next_lines).await.map_err(|error| lost(path, error))?;
        reader = read_on;
        if lines.is_empty() {
            break;
        }
        hand_over(stream, lines, &reader, path).await?;
    }
    Ok(reader)
}

/// Hands over the unfinished last line of a file to which nothing will be added.
pub(super) async fn hand_over_rest(
    stream: &mut Stream,
    reader: &mut Reader,
    path: &Path,
) -> Result<(), ConnectorError> {
    match reader.rest() {
        Some(line) => hand_over(stream, vec![line], reader, path).await,
        None => Ok(()),
    }
}

/// Emits lines, and moves the stored position behind the last whole one, in one transaction.
async fn hand_over(stream: &mut Stream, lines: Vec<Line>, reader: &Reader, path: &Path) -> Result<(), ConnectorError> {
    let is_whole = lines.last().is_some_and(|line| line.bytes.ends_with(b"\n"));
    let mut arrivals: Vec<Arrival> = lines.into_iter().map(|line| arrival(line, reader.generation(), path)).collect();
    if is_whole && let Some(last) = arrivals.pop() {
        arrivals.push(last.checkpoint(reader.position().to_string()));
    }
    stream.incoming.receive_all(arrivals).await?;
    Ok(())
}

fn arrival(line: Line, generation: u64, path: &Path) -> Arrival {
    let arrival = Arrival::bytes(line.bytes).id(format!("{generation}-{}", line.offset));
    arrival.field("path", path.display().to_string()).field("offset", line.offset.to_string())
}

async fn read_pieces(config: &FileConfig, session: &Session, path: &Path) -> Result<(), ConnectorError> {
    let limit = config.max_line_bytes;
    let opened = blocking(path.to_owned(), move |path| {
        let mut file = std::fs::File::open(&*path)?;
        let head = read_head(&mut file, HEAD_BYTES)?;
        let length = file.metadata()?.len();
        Ok((Reader::fresh(path, 0, limit)?, Sha256::digest(head), length))
    });
    let (_, (mut reader, head, length)) = opened.await.map_err(|error| opening(path, error))?;
    let id = stream_id(path, &[&length.to_be_bytes(), head.as_slice()].concat())?;
    if session.checkpoint(&id).await?.as_deref() == Some(FINISHED) {
        return Ok(());
    }
    let mut stream = session.open(id, facts(path)).await?;
    loop {
        if session.stopping().is_cancelled() {
            // What the interceptors hold back is in the file: the next session reads it again.
            let reason = "the peer stopped before the end of the file".to_owned();
            return Ok(stream.end(EndReason::Failed(reason)).await?);
        }
        let (read_on, piece) = blocking(reader, Reader::next_piece).await.map_err(|error| lost(path, error))?;
        reader = read_on;
        let Some(piece) = piece else { break };
        if let Err(error) = stream.incoming.receive(arrival(piece, 0, path)).await {
            return end_failed(stream, error.into()).await;
        }
    }
    let last = Arrival::bytes(Vec::new()).id("0-end").checkpoint(FINISHED);
    Ok(stream.end_with(EndReason::Finished, last.field("path", path.display().to_string())).await?)
}

pub(super) async fn stored(session: &Session, id: &StreamId) -> Result<Option<Position>, ConnectorError> {
    let position = session.checkpoint(id).await?;
    position.map(|text| text.parse().map_err(ConnectorError::refused)).transpose()
}

pub(super) fn facts(path: &Path) -> StreamFacts {
    StreamFacts::new().with("path", path.display().to_string())
}

/// Ends a stream after an error, and returns the error.
pub(super) async fn end_failed(stream: Stream, error: ConnectorError) -> Result<(), ConnectorError> {
    let reason = match &error {
        ConnectorError::Peer(crate::peer::PeerError::Framing { source, .. }) => EndReason::Framing(source.to_string()),
        ConnectorError::Peer(crate::peer::PeerError::Stopped { .. }) => EndReason::Stopped,
        other => EndReason::Failed(other.to_string()),
    };
    if let Err(error) = stream.end(reason).await {
        tracing::debug!(%error, "the end of the stream was not noted");
    }
    Err(error)
}
