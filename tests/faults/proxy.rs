//! A proxy between a service and its server. It can make connections silent, cut the network, and lead to another
//! server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{copy, copy_bidirectional, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::report::Result;

/// Time after which a silent connection is closed on the side of the server, so that a long run needs few sockets.
const SILENCE: Duration = Duration::from_secs(60);

/// The silent connections: one in `one_in` of the connections before number `before`.
#[derive(Clone, Copy)]
struct Silent {
    before: u64,
    one_in: u64,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Port of the server; `None` while the network is cut.
    upstream: watch::Sender<Option<u16>>,
    silent: watch::Sender<Silent>,
    opened: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn start(upstream: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (silent, opened) = (watch::Sender::new(Silent { before: 0, one_in: 1 }), Arc::new(AtomicU64::new(0)));
        let proxy = Proxy { port, upstream: watch::Sender::new(Some(upstream)), silent, opened };
        let (upstream, silent, opened) =
            (proxy.upstream.subscribe(), proxy.silent.subscribe(), Arc::clone(&proxy.opened));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = opened.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(client, *upstream.borrow(), number, silent.clone()));
            }
        });
        Ok(proxy)
    }

    /// Makes one in `one_in` of the open connections silent, without closing it. New connections work.
    pub(crate) fn silence(&self, one_in: u64) {
        self.silent.send_replace(Silent { before: self.opened.load(Ordering::Relaxed), one_in });
    }

    /// Cuts the network in both directions: open connections fall silent, and new ones get no answer.
    pub(crate) fn cut(&self) {
        self.upstream.send_replace(None);
        self.silence(1);
    }

    /// Forwards new connections to another server.
    pub(crate) fn lead_to(&self, port: u16) {
        self.upstream.send_replace(Some(port));
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

async fn carry(mut client: TcpStream, upstream: Option<u16>, number: u64, mut silent: watch::Receiver<Silent>) {
    let Some(upstream) = upstream else { return swallow(client).await };
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        () = falls_silent(number, &mut silent) => {
            // The server does not learn when the client closes the connection, as with a cut cable.
            let _ = tokio::join!(timeout(SILENCE, std::future::pending::<()>()), swallow(client));
        }
    }
}

/// Reads what a client sends until it closes the connection, and answers nothing.
async fn swallow(mut client: TcpStream) {
    let _ = copy(&mut client, &mut sink()).await;
}

/// Returns when the connection becomes silent.
async fn falls_silent(number: u64, silent: &mut watch::Receiver<Silent>) {
    let is_silent = |silent: &Silent| number < silent.before && number.is_multiple_of(silent.one_in);
    if silent.wait_for(is_silent).await.is_err() {
        std::future::pending::<()>().await;
    }
}
