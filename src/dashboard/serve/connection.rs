//! The connections of browsers: a limit on their number and on their idle time, and a switch that cuts them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Largest number of open connections. Further ones wait until an open connection closes.
pub const MAX_CONNECTIONS: usize = 256;

/// Time after which a connection without any traffic is closed.
pub const MAX_IDLE: Duration = Duration::from_secs(120);

/// Wait after an error of the operating system, such as too many open files.
const ACCEPT_WAIT: Duration = Duration::from_millis(200);

/// A listener whose connections are limited and can be cut.
pub(super) struct Connections {
    listener: TcpListener,
    places: Arc<Semaphore>,
    cut: CancellationToken,
}

impl Connections {
    pub(super) fn new(listener: TcpListener, cut: CancellationToken) -> Self {
        Connections { listener, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)), cut }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let cut = Box::pin(self.cut.clone().cancelled_owned());
                    let idle = Box::pin(sleep(MAX_IDLE));
                    // Without it, small answers wait for others to fill a packet.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection of the dashboard stays slow");
                    }
                    return (Connection { stream, cut, idle, _place: place }, address);
                }
                Err(error) => {
                    tracing::debug!(%error, "the dashboard could not accept a connection");
                    sleep(ACCEPT_WAIT).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The connection of a browser.
pub(super) struct Connection {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    idle: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Fails when the connection was cut or had no traffic for too long.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.idle.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Begins the idle time again when something was read or written.
    fn noted<T>(&mut self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.idle.as_mut().reset(Instant::now() + MAX_IDLE);
        }
        done
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_open(cx)?;
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.noted(read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_open(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        self.poll_open(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
