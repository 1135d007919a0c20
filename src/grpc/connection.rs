//! The connections of clients: a limit on their number, and a switch that cuts them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, PollSemaphore, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// The maximum number of open connections. Further connections wait until an open connection closes.
pub const MAX_CONNECTIONS: usize = 1024;

/// The stream of the connections that clients open.
pub(crate) struct Incoming {
    listener: TcpListener,
    places: PollSemaphore,
    place: Option<OwnedSemaphorePermit>,
    cut_all: CancellationToken,
}

impl Incoming {
    pub(crate) fn new(listener: TcpListener, cut_all: CancellationToken) -> Self {
        let places = PollSemaphore::new(Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        Incoming { listener, places, place: None, cut_all }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.place.is_none() {
            self.place = ready!(self.places.poll_acquire(cx));
        }
        let (stream, _) = ready!(self.listener.poll_accept(cx))?;
        stream.set_nodelay(true)?;
        let cut = self.cut_all.child_token();
        let cancelled = Box::pin(cut.clone().cancelled_owned());
        Poll::Ready(Some(Ok(Connection { stream, cut: Cut(cut), cancelled, _place: self.place.take() })))
    }
}

/// The connection of a client, which passes bytes until the server cuts the connection.
pub(crate) struct Connection {
    stream: TcpStream,
    cut: Cut,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Option<OwnedSemaphorePermit>,
}

/// The switch that cuts the connection of a request.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "ingress"), allow(dead_code, reason = "only the ingress server cuts single connections"))]
pub(crate) struct Cut(CancellationToken);

impl Cut {
    /// Stops all reads and writes of the connection. The client never gets an answer that is not yet written.
    #[cfg(feature = "ingress")]
    pub(crate) fn now(&self) {
        self.0.cancel();
    }
}

impl Connected for Connection {
    type ConnectInfo = Cut;

    fn connect_info(&self) -> Cut {
        self.cut.clone()
    }
}

impl Connection {
    fn poll_not_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cancelled.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_not_cut(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_not_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_not_cut(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_not_cut(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
