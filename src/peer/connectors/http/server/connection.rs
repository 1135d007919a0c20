//! One connection of the server: TLS, HTTP/1 or HTTP/2, and its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;

use super::Shared;
use super::request;
use super::stall::{Activity, Progressing};
use crate::peer::connectors::wire::{Wire, secure};

/// Most requests at a time on one connection of HTTP/2.
pub const MAX_STREAMS: u32 = 128;

/// Longest wait for a connection of HTTP/2 to end after it was told to.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream, remote: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %remote, "small responses of this connection wait for others");
    }
    match secure(shared.tls.as_ref(), stream, shared.settings.head_timeout).await {
        Ok(io) => converse(shared, io, remote).await,
        Err(error) => tracing::debug!(%error, %remote, "a client of HTTP was refused"),
    }
}

async fn converse(shared: Arc<Shared>, io: Wire, remote: SocketAddr) {
    let activity = Activity::new();
    let io = TokioIo::new(Progressing::new(io, &activity, shared.write_timeout));
    let service = service_fn(|request| {
        let (shared, busy) = (Arc::clone(&shared), activity.begin());
        async move {
            let response = request::answer(&shared, remote, request).await;
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let builder = builder(&shared);
    let mut connection = pin!(builder.serve_connection(io, service));
    tokio::select! {
        ended = connection.as_mut() => return note(remote, ended),
        () = activity.idle(shared.settings.head_timeout) => {
            connection.as_mut().graceful_shutdown();
            if let Ok(ended) = tokio::time::timeout(GOODBYE, connection).await {
                note(remote, ended);
            }
            return;
        }
        () = shared.stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    // The responses to its requests come, and the server waits only so long for the connections.
    note(remote, connection.await);
}

fn note(remote: SocketAddr, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%remote, error = &*error, "a connection of HTTP was lost");
    }
}

fn builder(shared: &Shared) -> Builder<TokioExecutor> {
    let config = &shared.settings.config;
    let mut builder = Builder::new(TokioExecutor::new());
    // The idle time bounds slow heads too, of both versions.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http1().max_buf_size(config.max_header_bytes).max_headers(config.max_headers);
    let head = u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(head);
    builder
}
