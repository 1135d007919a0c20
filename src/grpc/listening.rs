//! The acceptance of connections, and the change of certificates while requests are in flight.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Router;

use super::connection::{Connection, Incoming};
use super::error::ServeError;
use super::tls::{Loaded, Tls};
use crate::chip::TLS_READ_TIMEOUT;
use crate::clock::LONGEST;

/// The maximum number of accepted connections that wait for the server to take them.
const WAITING_CONNECTIONS: usize = 16;

/// Time without a sign of life after which a client is asked for one, and time for its answer. Else the places of
/// clients that are gone would stay taken.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Pause after a connection that could not be accepted.
const AFTER_A_FAILURE: Duration = Duration::from_millis(50);

/// The maximum number of open calls of one connection.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 256;

type Connections = mpsc::Sender<io::Result<Connection>>;

/// A listener that serves with the current certificates.
///
/// When the certificates change, a new server takes the new connections. The earlier server finishes its requests.
pub(crate) struct Listening<S> {
    pub(crate) add_service: S,
    pub(crate) tls: Option<Tls>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
}

/// The server that takes new connections, with its certificates.
pub(crate) struct Served {
    connections: Connections,
    loaded: Option<Loaded>,
    warned: Option<String>,
}

impl<S: Fn(Server) -> Router + Send + Sync + 'static> Listening<S> {
    /// Starts the first server. It does not accept connections yet.
    pub(crate) fn begin(&self) -> Result<Served, ServeError> {
        let loaded = self.tls.as_ref().map(Tls::load).transpose().map_err(|problem| ServeError::TlsFile { problem })?;
        let connections = self.server(loaded.as_ref()).map_err(|source| ServeError::Tls { source })?;
        Ok(Served { connections, loaded, warned: None })
    }

    /// Spawns a server. It ends when the returned sender is dropped and its connections are closed.
    fn server(&self, loaded: Option<&Loaded>) -> Result<Connections, tonic::transport::Error> {
        let mut server =
            Server::builder().http2_keepalive_interval(Some(KEEP_ALIVE)).http2_keepalive_timeout(Some(KEEP_ALIVE));
        if let Some(loaded) = loaded {
            server = server.tls_config(loaded.config())?;
        }
        let router = (self.add_service)(server.max_concurrent_streams(MAX_STREAMS_PER_CONNECTION));
        let (connections, waiting) = mpsc::channel(WAITING_CONNECTIONS);
        let stopped = self.stopping.clone().cancelled_owned();
        self.tasks.spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(ReceiverStream::new(waiting), stopped).await {
                tracing::error!(%error, "a gRPC server ended");
            }
        });
        Ok(connections)
    }

    /// Accepts connections until the server stops.
    pub(crate) async fn run(self, mut incoming: Incoming, mut served: Served) {
        let interval = self.tls.as_ref().and_then(Tls::reload_interval);
        let mut look_at = tokio::time::interval(interval.unwrap_or(LONGEST).max(Duration::from_millis(1)));
        look_at.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        look_at.tick().await;
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = look_at.tick() => self.look(&mut served).await,
                connection = incoming.next() => {
                    let Some(connection) = connection else { return };
                    if connection.is_err() {
                        // Out of open files, for example: the next attempt would fail at once.
                        tokio::time::sleep(AFTER_A_FAILURE).await;
                        continue;
                    }
                    let given = served.connections.send(connection);
                    if self.stopping.run_until_cancelled(given).await.is_none_or(|given| given.is_err()) {
                        return;
                    }
                }
            }
        }
    }

    /// Reads the files, and starts a new server when their content has changed.
    async fn look(&self, served: &mut Served) {
        let Some(tls) = self.tls.clone() else { return };
        let read = timeout(TLS_READ_TIMEOUT, tokio::task::spawn_blocking(move || tls.load())).await;
        let problem = match read {
            Ok(Ok(Ok(loaded))) if served.loaded.as_ref() == Some(&loaded) => return,
            Ok(Ok(Ok(loaded))) => match self.server(Some(&loaded)) {
                Ok(connections) => {
                    tracing::info!("the certificates changed: new connections use them");
                    // Dropping the earlier sender ends the earlier server after its requests are answered.
                    *served = Served { connections, loaded: Some(loaded), warned: None };
                    return;
                }
                Err(error) => error.to_string(),
            },
            Ok(Ok(Err(problem))) => problem,
            Ok(Err(_)) | Err(_) => "the files were not read in time".to_owned(),
        };
        if served.warned.as_ref() != Some(&problem) {
            tracing::warn!(problem, "the changed certificates cannot be used: the old certificates stay in use");
            served.warned = Some(problem);
        }
    }
}
