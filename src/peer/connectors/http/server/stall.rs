//! A connection that notes what it does, and that breaks when the other side does not read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What goes on on a connection.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    requests: AtomicUsize,
    /// The last end of a request, or the last write, in milliseconds since the connection was opened.
    last_ms: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let (requests, last_ms) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Activity { opened: Instant::now(), requests, last_ms })
    }

    /// Notes a request until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn note(&self) {
        self.last_ms.store(u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Waits until the connection had no request, and wrote nothing, for this time; at most twice as long.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let quiet =
                self.opened.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)));
            match self.requests.load(Ordering::Relaxed) {
                0 if quiet >= limit => return,
                0 => sleep(limit.saturating_sub(quiet)).await,
                _ => sleep(limit).await,
            }
        }
    }
}

/// A request that is being served.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.note();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection whose writes must make progress.
pub(super) struct Progressing<T> {
    io: T,
    activity: Arc<Activity>,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<T> Progressing<T> {
    pub(super) fn new(io: T, activity: &Arc<Activity>, limit: Duration) -> Self {
        Progressing { io, activity: Arc::clone(activity), limit, stalled: None }
    }

    /// Passes on what a write said, or an error when none made progress within the limit.
    fn watched<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.activity.note();
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Progressing<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Progressing<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.watched(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watched(cx, closed)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_never_reads_breaks_the_connection() {
        let limit = Duration::from_secs(10);
        let (io, _silent) = tokio::io::duplex(4);
        let mut io = Progressing::new(io, &Activity::new(), limit);
        let began = Instant::now();
        let error = io.write_all(b"more than four bytes").await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed() >= limit), (io::ErrorKind::TimedOut, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_a_request_is_not_idle() {
        let (activity, limit) = (Activity::new(), Duration::from_secs(10));
        let busy = activity.begin();
        assert!(tokio::time::timeout(limit * 10, activity.idle(limit)).await.is_err());
        drop(busy);
        let began = Instant::now();
        activity.idle(limit).await;
        assert!(began.elapsed() >= limit);
    }
}
