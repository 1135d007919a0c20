//! A stream of bytes in both directions, as TCP and Unix sockets have it.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::terms::{cut, end, next_batch, text_of};
use super::{
    Ended, Patience, Phase, Pulse, ReadEnd, SendError, Terms, Wire, WriteEnd, close, speaks_tls, with_progress,
};
use crate::peer::{Batch, Incoming, Outgoing, PeerError, Received, Stream};

/// Size of the buffer of a connection that waits for bytes. The buffer grows while bytes are there, up to the peer's
/// `read_buffer_bytes`, so that quiet connections need no memory.
const WAITING_BUFFER_BYTES: usize = 512;

/// Size up to which small pieces are put together to one write.
const COALESCED_BYTES: usize = 64 << 10;

/// Reads and writes until the connection ends, closes it, and ends the stream. Both directions go on beside each
/// other: a reader that waits for its emit does not hold up the answers, and a full connection not the reader.
pub(crate) async fn converse(wire: Wire, pulse: &Pulse, mut stream: Stream, terms: &Terms) -> Ended {
    let (mut reader, mut writer) = tokio::io::split(wire);
    let (read, write) = halves(&mut reader, &mut writer, pulse, &mut stream, terms).await;
    let ended = Ended::new(read, write, terms.stopping.is_cancelled());
    close(reader.unsplit(writer), terms.close).await;
    end(stream, ended, terms).await
}

async fn halves(
    reader: &mut ReadHalf<Wire>,
    writer: &mut WriteHalf<Wire>,
    pulse: &Pulse,
    stream: &mut Stream,
    terms: &Terms,
) -> (ReadEnd, WriteEnd) {
    // A read is given up only between two emits: what was read is emitted.
    let unwanted = terms.stopping.child_token();
    let (phase, mut phases) = watch::channel(Phase::Open);
    let Stream { incoming, outgoing, .. } = stream;
    let reading = async {
        let end = read(reader, incoming, pulse, terms, &unwanted).await;
        phase.send_replace(end.phase());
        end
    };
    let writing = async {
        let end = write(writer, outgoing, pulse, terms, &mut phases).await;
        unwanted.cancel();
        end
    };
    tokio::join!(reading, writing)
}

async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    incoming: &mut Incoming,
    pulse: &Pulse,
    terms: &Terms,
    unwanted: &CancellationToken,
) -> ReadEnd {
    let patience = Patience { idle: terms.idle, frame: terms.frame, ..Patience::default() };
    let mut is_first = true;
    loop {
        let bytes = tokio::select! {
            biased;
            () = unwanted.cancelled() => return ReadEnd::Unwanted,
            filled = fill(reader, terms.read_buffer_bytes) => match filled {
                Ok(bytes) if bytes.is_empty() => return ReadEnd::Closed,
                Ok(bytes) => bytes,
                Err(error) => return ReadEnd::Lost(error),
            },
            () = pulse.overdue(&patience) => return ReadEnd::Idle,
        };
        if std::mem::take(&mut is_first) && speaks_tls(&bytes) {
            return ReadEnd::Framing("the other side speaks TLS, and this endpoint does not: set tls".to_owned());
        }
        match incoming.receive(bytes).await {
            Ok(received) => note(pulse, &received),
            Err(error) => {
                if let Some(end) = end_of(&error) {
                    return end;
                }
            }
        }
    }
}

/// Notes data, and whether the bytes so far were whole frames.
fn note(pulse: &Pulse, received: &Received) {
    pulse.touch();
    if received.events + received.duplicates + received.errors > 0 {
        pulse.whole();
    }
}

/// Returns the end of a stream whose emit failed, or `None` if the stream lives on.
pub(crate) fn end_of(error: &PeerError) -> Option<ReadEnd> {
    match error {
        _ if !error.ends_stream() => None,
        PeerError::Stopped { .. } => Some(ReadEnd::Unwanted),
        PeerError::Framing { .. } => Some(ReadEnd::Framing(text_of(error))),
        _ => Some(ReadEnd::Failed(text_of(error))),
    }
}

/// Waits for bytes, and returns all that are there, at most about `limit`. No bytes: the other side ended its writing.
async fn fill(reader: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Bytes> {
    let mut buffer = BytesMut::with_capacity(WAITING_BUFFER_BYTES.min(limit));
    poll_fn(|cx| {
        loop {
            match pin!(reader.read_buf(&mut buffer)).poll(cx) {
                Poll::Pending if buffer.is_empty() => return Poll::Pending,
                Poll::Ready(Err(error)) if buffer.is_empty() => return Poll::Ready(Err(error)),
                Poll::Pending | Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) if buffer.len() < buffer.capacity() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
            }
            let more = buffer.len().min(limit.saturating_sub(buffer.len()));
            if more == 0 {
                return Poll::Ready(Ok(()));
            }
            buffer.reserve(more);
        }
    })
    .await?;
    Ok(buffer.freeze())
}

async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    outgoing: &mut Outgoing,
    pulse: &Pulse,
    terms: &Terms,
    phases: &mut watch::Receiver<Phase>,
) -> WriteEnd {
    loop {
        match next_batch(outgoing, phases, terms.half_close).await {
            Ok(batch) => {
                let sent = tokio::select! {
                    biased;
                    sent = with_progress(pulse, terms.write_timeout, send(writer, batch.bytes())) => sent,
                    () = cut(phases) => Err(SendError::Cut),
                };
                match settle(outgoing, batch, sent) {
                    Ok(()) => pulse.touch(),
                    Err(error) => return WriteEnd::Failed(error),
                }
            }
            Err(WriteEnd::Cut) => return WriteEnd::Cut,
            Err(end) => {
                let held = outgoing.flush().map_err(SendError::Flush);
                let flushed = async { send(writer, held?.iter()).await };
                return match with_progress(pulse, terms.write_timeout, flushed).await {
                    Ok(()) => end,
                    Err(error) => WriteEnd::Failed(error),
                };
            }
        }
    }
}

/// Tells the core what became of a batch.
fn settle(outgoing: &mut Outgoing, batch: Batch, sent: Result<(), SendError>) -> Result<(), SendError> {
    match &sent {
        Ok(()) => outgoing.ack(batch),
        Err(error) => outgoing.fail(batch, error),
    }
    sent
}

/// Writes all pieces, the small ones together.
async fn send<'a>(
    writer: &mut (impl AsyncWrite + Unpin),
    pieces: impl Iterator<Item = &'a Bytes>,
) -> Result<(), SendError> {
    let mut together = BytesMut::new();
    for piece in pieces {
        if together.len() + piece.len() > COALESCED_BYTES {
            writer.write_all(&together).await.map_err(SendError::Io)?;
            together.clear();
        }
        match piece.len() > COALESCED_BYTES {
            true => writer.write_all(piece).await.map_err(SendError::Io)?,
            false => together.extend_from_slice(piece),
        }
    }
    writer.write_all(&together).await.map_err(SendError::Io)?;
    writer.flush().await.map_err(SendError::Io)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn a_read_takes_what_is_there_up_to_the_limit() {
        let (mut there, mut here) = duplex(1 << 20);
        there.write_all(&[7; 100_000]).await.unwrap();
        let (mut sizes, mut left) = (Vec::new(), 100_000);
        while left > 0 {
            let bytes = fill(&mut here, 30_000).await.unwrap();
            assert!(bytes.iter().all(|byte| *byte == 7));
            left -= bytes.len();
            sizes.push(bytes.len());
        }
        assert!(sizes.len() <= 5 && sizes.iter().all(|size| *size <= 40_000), "{sizes:?}");
        there.write_all(b"rest").await.unwrap();
        drop(there);
        assert_eq!(fill(&mut here, 30_000).await.unwrap(), "rest");
        assert!(fill(&mut here, 30_000).await.unwrap().is_empty(), "the end");
    }

    #[tokio::test]
    async fn a_quiet_connection_holds_a_small_buffer_only() {
        let (_there, mut here) = duplex(1 << 20);
        let mut waiting = Box::pin(fill(&mut here, 1 << 20));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(std::mem::size_of_val(&*waiting) + WAITING_BUFFER_BYTES < 1024);
    }

    #[tokio::test]
    async fn small_pieces_go_out_together_and_in_order() {
        let (mut here, mut there) = duplex(1 << 20);
        let pieces: Vec<Bytes> = (0..100_u8).map(|n| Bytes::from(vec![n; 3000])).collect();
        let large = [Bytes::from_static(b"a"), Bytes::from(vec![1; 70_000]), Bytes::from_static(b"z")];
        send(&mut here, pieces.iter().chain(&large)).await.unwrap();
        drop(here);
        let mut all = Vec::new();
        there.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [pieces.concat(), large.concat()].concat());
    }
}
