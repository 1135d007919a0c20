//! How the client connects: to the declared endpoint, whatever the URL of a request says.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use super::config::Settings;
use crate::error::BoxError;
use crate::peer::connectors::wire::{ClientTls, Wire};

/// Opens connections to the endpoint.
#[derive(Debug, Clone)]
pub(super) struct Dial(Arc<Settings>);

impl Dial {
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        Dial(Arc::clone(settings))
    }

    /// Opens a connection, with its TLS.
    pub(super) async fn dial(&self) -> Result<Dialled, BoxError> {
        let settings = &self.0;
        let (host, port) = (settings.endpoint.authority.host(), settings.endpoint.port());
        let connecting = TcpStream::connect((host.trim_matches(['[', ']']), port));
        let stream = timeout(settings.connect_timeout, connecting).await??;
        stream.set_nodelay(true)?;
        if !settings.endpoint.is_tls() {
            let plain: Wire = Box::new(stream);
            return Ok(Dialled(TokioIo::new(plain)));
        }
        let tls = ClientTls::load(&settings.config.tls, host)?;
        Ok(Dialled(TokioIo::new(tls.connect(stream, settings.connect_timeout).await?)))
    }
}

impl Service<Uri> for Dial {
    type Response = Dialled;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Dialled, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { dial.dial().await })
    }
}

/// A connection to the endpoint.
pub(super) struct Dialled(TokioIo<Wire>);

impl Connection for Dialled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Dialled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
