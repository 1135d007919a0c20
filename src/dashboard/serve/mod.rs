//! A server of its own for the dashboard.

mod connection;
mod error;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::Connections;
pub use self::connection::{MAX_CONNECTIONS, MAX_IDLE};
pub use self::error::DashboardError;
use super::app::App;
use super::database::OnPool;
use super::options::{DashboardOptions, MIN_TOKEN_BYTES};
use super::pages;
use crate::service::StopReport;
use crate::store::Backend;

/// Listens on an address, and serves the dashboard in the background until the handle is stopped or dropped.
///
/// Use it to serve the dashboard by itself, as `eventbox serve` does; [`router`](super::router) mounts it in a service.
/// Port 0 takes a free port. The dashboard speaks HTTP: put a reverse proxy before it for HTTPS.
///
/// # Units and limits
///
/// At most [`MAX_CONNECTIONS`] connections, each closed after [`MAX_IDLE`] without traffic.
///
/// # Errors
///
/// - [`DashboardError::Open`] when other machines can reach the address, and neither a token nor a trusted header is
///   set;
/// - [`DashboardError::WeakToken`] when the token is shorter than [`MIN_TOKEN_BYTES`];
/// - [`DashboardError::Listen`] when the server cannot listen on the address.
///
/// # Cancel safety
///
/// Safe: the server serves nothing before the function returns.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::dashboard::{self, DashboardError, DashboardOptions};
///
/// let server = dashboard::serve(pool.clone(), DashboardOptions::default(), "127.0.0.1:0").await?;
/// println!("open http://{}", server.local_addr());
/// assert!(server.stop(std::time::Duration::from_secs(5)).await.complete);
///
/// // Other machines would reach this one.
/// let refused = dashboard::serve(pool, DashboardOptions::default(), "0.0.0.0:0").await;
/// assert!(matches!(refused, Err(DashboardError::Open { .. })));
/// # Ok(()) }
/// ```
pub async fn serve<B: Backend>(
    pool: Pool<B>,
    options: DashboardOptions,
    address: impl ToSocketAddrs + std::fmt::Debug,
) -> Result<DashboardHandle, DashboardError> {
    let failed = |source| DashboardError::Listen { address: format!("{address:?}"), source };
    let addresses: Vec<SocketAddr> = lookup_host(&address).await.map_err(failed)?.collect();
    for address in &addresses {
        check(&options, *address)?;
    }
    let listener = TcpListener::bind(addresses.as_slice()).await.map_err(failed)?;
    serve_on(pool, options, listener).await
}

/// Serves the dashboard as [`serve`], on a listener that is bound already.
///
/// # Errors
///
/// As [`serve`].
///
/// # Cancel safety
///
/// Safe: the server serves nothing before the function returns.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
/// # let pool = options.connect_with(eventbox::sqlite_options(":memory:")).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::dashboard::{self, DashboardOptions};
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let server = dashboard::serve_on(pool, DashboardOptions::default(), listener).await?;
/// assert!(server.local_addr().ip().is_loopback());
/// # Ok(()) }
/// ```
pub async fn serve_on<B: Backend>(
    pool: Pool<B>,
    options: DashboardOptions,
    listener: TcpListener,
) -> Result<DashboardHandle, DashboardError> {
    let failed = |source| DashboardError::Listen { address: "the given listener".to_owned(), source };
    let local_addr = listener.local_addr().map_err(failed)?;
    check(&options, local_addr)?;
    let app = App::new(Arc::new(OnPool(pool)), options);
    app.live.start();
    let (stopping, cut, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let connections = Connections::new(listener, cut.clone());
    let served = axum::serve(connections, pages::routes(app.clone()));
    let asked_to_stop = stopping.clone();
    tasks.spawn(async move {
        let stop = async move {
            asked_to_stop.cancelled().await;
            // Pages that listen would keep their connections open.
            app.live.end();
        };
        if let Err(error) = served.with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the dashboard ended");
        }
    });
    tasks.close();
    Ok(DashboardHandle { local_addr, tasks, stopping, cut })
}

/// Refuses to let everybody in, and a token that can be guessed.
fn check(options: &DashboardOptions, address: SocketAddr) -> Result<(), DashboardError> {
    if let Some(bytes) = options.token.as_ref().map(String::len).filter(|bytes| *bytes < MIN_TOKEN_BYTES) {
        return Err(DashboardError::WeakToken { bytes, least: MIN_TOKEN_BYTES });
    }
    if !address.ip().to_canonical().is_loopback() && !options.is_guarded() {
        return Err(DashboardError::Open { address });
    }
    Ok(())
}

/// A running dashboard.
///
/// Dropping the handle cuts all connections and ends the server. [`stop`](Self::stop) first answers the requests in
/// flight.
#[derive(Debug)]
pub struct DashboardHandle {
    local_addr: SocketAddr,
    tasks: TaskTracker,
    stopping: CancellationToken,
    cut: CancellationToken,
}

impl DashboardHandle {
    /// Returns the address that the dashboard listens on, with its actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops listening, answers the requests in flight, ends the live updates, and ends the server.
    ///
    /// After `limit` it cuts off the connections that are still open. The report is complete when it cut off none. A
    /// second call waits for the same end.
    ///
    /// # Cancel safety
    ///
    /// Safe: the server continues to stop, but cuts off no connection after `limit`.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        self.stopping.cancel();
        let in_time = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        if !in_time {
            self.cut.cancel();
            self.tasks.wait().await;
        }
        StopReport::in_time(in_time)
    }
}

impl Drop for DashboardHandle {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.cut.cancel();
    }
}
