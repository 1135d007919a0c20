//! A proxy between a service and its server. It can make connections silent, cut the network, close connections, and
//! lead to another server.

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

/// Where new connections go.
#[derive(Clone, Copy)]
enum Way {
    /// To the server at this port.
    To(u16),
    /// Nowhere, because the network is cut: they get no answer.
    Nowhere,
    /// Nowhere, because no server takes them: they are closed.
    Refused,
}

/// The silent connections: one in `one_in` of the connections before number `before`.
#[derive(Clone, Copy)]
struct Silent {
    before: u64,
    one_in: u64,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    way: watch::Sender<Way>,
    silent: watch::Sender<Silent>,
    /// Connections before this number are closed.
    closed: watch::Sender<u64>,
    opened: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn start(upstream: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (way, silent) =
            (watch::Sender::new(Way::To(upstream)), watch::Sender::new(Silent { before: 0, one_in: 1 }));
        let proxy = Proxy { port, way, silent, closed: watch::Sender::new(0), opened: Arc::new(AtomicU64::new(0)) };
        let (way, opened) = (proxy.way.subscribe(), Arc::clone(&proxy.opened));
        let (silent, closed) = (proxy.silent.subscribe(), proxy.closed.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = opened.fetch_add(1, Ordering::Relaxed);
                let (way, silent, mut closed) = (*way.borrow(), silent.clone(), closed.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, way, number, silent) => {}
                        _ = closed.wait_for(|before| number < *before) => {}
                    }
                });
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
        self.way.send_replace(Way::Nowhere);
        self.silence(1);
    }

    /// Forwards new connections to another server.
    pub(crate) fn lead_to(&self, port: u16) {
        self.way.send_replace(Way::To(port));
    }

    /// Closes all open connections.
    pub(crate) fn close(&self) {
        self.closed.send_replace(self.opened.load(Ordering::Relaxed));
    }

    /// Closes new connections.
    pub(crate) fn refuse(&self) {
        self.way.send_replace(Way::Refused);
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

async fn carry(mut client: TcpStream, way: Way, number: u64, mut silent: watch::Receiver<Silent>) {
    let port = match way {
        Way::To(port) => port,
        Way::Nowhere => return swallow(client).await,
        Way::Refused => return,
    };
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
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
