//! Sends a request of a user's own service on to the process that works on a recipient.

mod error;
mod headers;
mod send;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tonic::body::Body;
use tonic::transport::ClientTlsConfig;
use uuid::Uuid;

pub use self::error::ProxyError;
use self::headers::Proxied;
pub use self::headers::{GENERATION_HEADER, PROXIED_BY_HEADER};
use self::send::Sender;
use super::channels::Channels;
use super::stat::CATCH_UP;
use crate::error::{BoxError, Result};
use crate::recipient::Recipient;
use crate::runtime::{Resolution, ResolveOptions, ResolveStatus, Resolver, Runtime};
use crate::store::Backend;

/// Longest wait for the head of an answer, unless [`Proxy::timeout`] sets another.
pub const PROXY_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends requests on to the process that works on a recipient, at most once.
///
/// Use it in a service that any client may call on any process, when the answer is better given where the recipient is
/// worked on: from a cache, or after the work. Each process serves the same service at its
/// [`RuntimeConfig::endpoint`](crate::runtime::RuntimeConfig::endpoint), and asks [`route`](Proxy::route) first.
///
/// A request that is sent on has the headers [`GENERATION_HEADER`] and [`PROXIED_BY_HEADER`]. The process that gets it
/// never sends it on again, and refuses another generation than the lease has, after one look at the lease. Then the
/// client tries again. The lease decides only who answers, so a refusal costs time and nothing else.
///
/// HTTP/2 requests, as all of gRPC, are sent on as HTTP/2, and HTTP/1.1 requests as HTTP/1.1. To an endpoint that
/// begins with `https` all are sent as HTTP/2.
///
/// # Examples
///
/// ```no_run
/// # use eventbox::shard_api::Proxy;
/// # use eventbox::runtime::Runtime;
/// # fn routes<B: eventbox::Backend>(runtime: &Runtime<B>) {
/// use eventbox::Recipient;
/// use eventbox::shard_api::Routed;
/// use tonic::body::Body;
///
/// /// Answers at the process that works on the order.
/// async fn get_order<B: eventbox::Backend>(
///     proxy: Proxy<B>,
///     key: &str,
///     request: http::Request<Body>,
/// ) -> Result<http::Response<Body>, eventbox::BoxError> {
///     let order = Recipient::new("order", key)?;
///     Ok(match proxy.route(&order, request).await {
///         Ok(Routed::Here(_request)) => http::Response::new(Body::default()), // answer it here
///         Ok(Routed::Answered(response)) => response,
///         Err(error) => error.into_response(),
///     })
/// }
/// # let _ = (Proxy::new(runtime), get_order::<B>);
/// # }
/// ```
pub struct Proxy<B: Backend> {
    worker: Uuid,
    resolver: Resolver<B>,
    sender: Sender,
    wait: Duration,
    timeout: Duration,
}

impl<B: Backend> Clone for Proxy<B> {
    fn clone(&self) -> Self {
        Proxy {
            worker: self.worker,
            resolver: self.resolver.clone(),
            sender: self.sender.clone(),
            wait: self.wait,
            timeout: self.timeout,
        }
    }
}

impl<B: Backend> fmt::Debug for Proxy<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("worker", &self.worker).finish_non_exhaustive()
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Routed<T> {
    /// This process works on the recipient: answer the request, which is unchanged.
    Here(Request<T>),
    /// Another process works on the recipient, and has answered.
    Answered(Response<Body>),
}

impl<B: Backend> Proxy<B> {
    /// Makes a proxy of the process of this runtime. It does not keep the runtime alive.
    #[must_use]
    pub fn new(runtime: &Runtime<B>) -> Self {
        Proxy {
            worker: runtime.worker(),
            resolver: runtime.resolver(),
            sender: Sender::new(Channels::default()),
            wait: CATCH_UP,
            timeout: PROXY_TIMEOUT,
        }
    }

    /// Sets the TLS of endpoints that begin with `https`; the certificates that the system trusts by default.
    #[must_use]
    pub fn tls(mut self, tls: ClientTlsConfig) -> Self {
        self.sender = Sender::new(Channels::new(Some(tls)));
        self
    }

    /// Waits at most this long until a process works on the recipient; 5 s by default.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = limit;
        self
    }

    /// Waits at most this long for the head of an answer; [`PROXY_TIMEOUT`] by default. The body may take longer.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Returns the request when this process works on the recipient. Otherwise sends it on, and returns the answer.
    ///
    /// The answer is that of the other process, also when it is a refusal.
    ///
    /// # Errors
    ///
    /// [`ProxyError`], which [`ProxyError::into_response`] makes an answer of.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have sent the request on.
    pub async fn route<T>(&self, to: &Recipient, request: Request<T>) -> Result<Routed<T>, ProxyError>
    where
        T: hyper::body::Body<Data = Bytes> + Send + 'static,
        T::Error: Into<BoxError>,
    {
        let is_grpc = headers::is_grpc(request.headers());
        self.find(to, request).await.map_err(|error| error.of(is_grpc))
    }

    async fn find<T>(&self, to: &Recipient, request: Request<T>) -> Result<Routed<T>, error::Problem>
    where
        T: hyper::body::Body<Data = Bytes> + Send + 'static,
        T::Error: Into<BoxError>,
    {
        let proxied = Proxied::read(request.headers())?;
        let found = self.locate(to, proxied.as_ref()).await.map_err(error::Problem::Resolve)?;
        let holder = match (found.status, found.holder) {
            (ResolveStatus::Ok, _) => return Ok(Routed::Here(request)),
            (ResolveStatus::NotPrimary, Some(holder)) if proxied.is_none() => holder,
            (status, _) => return Err(error::Problem::Refused { recipient: to.clone(), status }),
        };
        let worker = holder.worker;
        let Some(endpoint) = holder.endpoint else { return Err(error::Problem::NoEndpoint { worker }) };
        let request = headers::marked(request, self.worker, found.generation);
        let sent = tokio::time::timeout(self.timeout, self.sender.send(&endpoint, request)).await;
        let away = |source: BoxError| error::Problem::Away { worker, endpoint: endpoint.clone(), source };
        match sent {
            Ok(Ok(response)) => Ok(Routed::Answered(response)),
            Ok(Err(source)) => Err(away(source)),
            Err(elapsed) => Err(away(elapsed.into())),
        }
    }

    /// Finds the process that works on a recipient, and waits while there is none.
    async fn locate(&self, to: &Recipient, proxied: Option<&Proxied>) -> Result<Resolution> {
        let waiting = ResolveOptions::new().wait(self.wait);
        let Some(Proxied { generation }) = proxied else { return self.resolver.resolve(to, waiting).await };
        // One look first: any client can write the header, and a generation that the database does not have yet would
        // be waited for.
        let found = self.resolver.resolve(to, ResolveOptions::new().generation(*generation)).await?;
        match found.status {
            ResolveStatus::NoPrimary => self.resolver.resolve(to, waiting.generation(*generation)).await,
            _ => Ok(found),
        }
    }
}
