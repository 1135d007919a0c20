//! The pulse of a connection: when it last did what, for its deadlines.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout};

/// Moments of a connection, in milliseconds since its start. 0 is the start itself.
#[derive(Debug)]
pub(crate) struct Pulse {
    start: Instant,
    /// Number of bytes written, modulo 2^64.
    written: AtomicU64,
    /// Last data that came in or went out; control frames are no data.
    data: AtomicU64,
    /// First byte since the last whole frame, plus 1; 0 when no frame is under way.
    partial: AtomicU64,
    /// Oldest question to the other side that awaits a sign of life, plus 1; 0 when there is none.
    asked: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        let zero = AtomicU64::default;
        Pulse { start: Instant::now(), written: zero(), data: zero(), partial: zero(), asked: zero() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, moment: &AtomicU64) -> Instant {
        self.start + Duration::from_millis(moment.load(Ordering::Relaxed))
    }

    /// Returns a moment that is stored plus 1.
    fn marked(&self, mark: &AtomicU64) -> Option<Instant> {
        let mark = mark.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start + Duration::from_millis(mark))
    }

    fn mark(&self, mark: &AtomicU64) {
        let _ = mark.compare_exchange(0, self.now() + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn read(&self) {
        self.asked.store(0, Ordering::Relaxed);
        self.mark(&self.partial);
    }

    /// Notes that data went in or out.
    pub(crate) fn touch(&self) {
        self.data.store(self.now(), Ordering::Relaxed);
    }

    /// Notes that the bytes so far are whole frames.
    pub(crate) fn whole(&self) {
        self.partial.store(0, Ordering::Relaxed);
    }

    /// Notes that the other side was asked for a sign of life.
    pub(crate) fn ask(&self) {
        self.mark(&self.asked);
    }

    /// Notes that nobody has read since the question, so that no answer can have been seen.
    pub(crate) fn listen_again(&self) {
        if self.asked.load(Ordering::Relaxed) != 0 {
            self.asked.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// Returns the moment from which `patience` allows no more waiting.
    fn deadline(&self, patience: &Patience) -> Option<Instant> {
        let idle = patience.idle.map(|limit| self.at(&self.data) + limit);
        let frame = patience.frame.and_then(|limit| Some(self.marked(&self.partial)? + limit));
        let answer = patience.answer.and_then(|limit| Some(self.marked(&self.asked)? + limit));
        [idle, frame, answer].into_iter().flatten().min()
    }

    /// Waits until the other side has used up the patience. Without a limit it never returns, and needs no timer.
    pub(crate) async fn overdue(&self, patience: &Patience) {
        loop {
            let now = Instant::now();
            match (self.deadline(patience), patience.look_every()) {
                (Some(at), _) if at <= now => return,
                (Some(at), Some(every)) => sleep_until(at.min(now + every)).await,
                (Some(at), None) => sleep_until(at).await,
                (None, Some(every)) => sleep_until(now + every).await,
                (None, None) => std::future::pending().await,
            }
        }
    }
}

/// How long a connection waits for the other side.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Patience {
    /// Without data in any direction.
    pub(crate) idle: Option<Duration>,
    /// For the rest of a frame.
    pub(crate) frame: Option<Duration>,
    /// For a sign of life after a question.
    pub(crate) answer: Option<Duration>,
    /// Whether bytes arrive that the waiting task is not told of, so that it must look by itself.
    pub(crate) blind: bool,
}

impl Patience {
    fn look_every(&self) -> Option<Duration> {
        if !self.blind {
            return None;
        }
        [self.frame, self.answer].into_iter().flatten().min()
    }
}

/// A connection that keeps a pulse.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    io: T,
    pulse: Arc<Pulse>,
}

impl<T> Metered<T> {
    pub(crate) fn new(io: T) -> (Self, Arc<Pulse>) {
        let pulse = Arc::new(Pulse::new());
        (Metered { io, pulse: Arc::clone(&pulse) }, pulse)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.pulse.read();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            this.pulse.written.fetch_add(u64::try_from(*count).unwrap_or(0), Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Why bytes could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The other side takes nothing.
    #[error("the other side has taken no byte for {0:?}")]
    Stalled(Duration),
    /// The connection ended in the middle.
    #[error("the connection ended before everything was sent")]
    Cut,
    /// The other side said goodbye first.
    #[error("the other side has closed the connection")]
    Gone,
    /// The connection failed.
    #[error("cannot write to the connection")]
    Io(#[source] io::Error),
    /// What interceptors held back could not be made.
    #[error("cannot flush what interceptors hold back")]
    Flush(#[source] crate::peer::PeerError),
    /// Bytes that are no text, where text must be sent.
    #[error("the value is not UTF-8, and this endpoint sends text: set send to binary")]
    NoText,
    /// The protocol's own error.
    #[error("cannot send a message")]
    Protocol(#[source] tokio_tungstenite::tungstenite::Error),
}

/// Runs a write for as long as bytes go out at least once in each `limit`.
pub(crate) async fn with_progress<T>(
    pulse: &Pulse,
    limit: Duration,
    write: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    let mut write = std::pin::pin!(write);
    loop {
        let before = pulse.written.load(Ordering::Relaxed);
        match timeout(limit, &mut write).await {
            Ok(done) => return done,
            Err(_) if pulse.written.load(Ordering::Relaxed) != before => {}
            Err(_) => return Err(SendError::Stalled(limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_makes_progress_may_take_long_and_a_stalled_one_ends() {
        let (mut there, here) = duplex(10);
        let (mut here, pulse) = Metered::new(here);
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 10];
            for _ in 0..10 {
                tokio::time::sleep(SECOND / 2).await;
                there.read_exact(&mut buffer).await.unwrap();
            }
            there
        });
        let started = Instant::now();
        let mut write = async |bytes: &'static [u8]| {
            with_progress(&pulse, SECOND, async { here.write_all(bytes).await.map_err(SendError::Io) }).await
        };
        write(&[7; 100]).await.unwrap();
        assert!(started.elapsed() > 4 * SECOND);
        let there = reader.await.unwrap();
        let stalled = write(&[7; 100]).await.unwrap_err();
        assert!(matches!(stalled, SendError::Stalled(limit) if limit == SECOND), "{stalled}");
        drop(there);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_by_silence_by_half_a_frame_and_without_an_answer() {
        let (mut there, here) = duplex(10);
        let (mut here, pulse) = Metered::new(here);
        let frame = Patience { frame: Some(SECOND), ..Patience::default() };
        let never = timeout(1000 * SECOND, pulse.overdue(&frame)).await;
        assert!(never.is_err(), "a quiet connection has no frame under way");
        there.write_all(b"x").await.unwrap();
        here.read_exact(&mut [0]).await.unwrap();
        let took = async |patience: Patience| {
            let started = Instant::now();
            timeout(10 * SECOND, pulse.overdue(&patience)).await.unwrap();
            started.elapsed()
        };
        assert_eq!(took(frame).await, SECOND);
        pulse.touch();
        assert_eq!(took(Patience { idle: Some(2 * SECOND), ..Patience::default() }).await, 2 * SECOND);
        pulse.ask();
        assert_eq!(took(Patience { answer: Some(3 * SECOND), ..Patience::default() }).await, 3 * SECOND);
    }
}
