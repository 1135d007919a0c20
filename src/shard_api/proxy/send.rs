//! Sends a request to an endpoint.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response, Version};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tonic::body::Body;
use tonic::codegen::Service;

use super::headers::remove_hops;
use crate::error::BoxError;
use crate::shard_api::channels::{CONNECT_TIMEOUT, Channels, require_http, url_of};

/// Time after which an unused connection of HTTP/1.1 is closed.
const IDLE: Duration = Duration::from_secs(30);

/// The connections to other members: of HTTP/2, and of HTTP/1.1.
#[derive(Clone)]
pub(super) struct Sender {
    channels: Channels,
    plain: Client<HttpConnector, Body>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    pub(super) fn new(channels: Channels) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new());
        Sender { channels, plain: builder.build(connector) }
    }

    pub(super) async fn send<T>(&self, endpoint: &str, request: Request<T>) -> Result<Response<Body>, BoxError>
    where
        T: hyper::body::Body<Data = Bytes> + Send + 'static,
        T::Error: Into<BoxError>,
    {
        if request.uri().path_and_query().is_none() {
            return Err("a request without a path cannot be sent on".into());
        }
        let mut request = request.map(Body::new);
        let version = request.version();
        let url = url_of(endpoint);
        require_http(&url)?;
        let mut response = if version == Version::HTTP_2 || url.starts_with("https:") {
            *request.version_mut() = Version::HTTP_2;
            let mut channel = self.channels.to(endpoint)?;
            std::future::poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut channel, cx)).await?;
            channel.call(request).await?
        } else {
            *request.uri_mut() = at(&url, request.uri())?;
            self.plain.request(request).await?.map(Body::new)
        };
        remove_hops(response.headers_mut());
        *response.version_mut() = version;
        Ok(response)
    }
}

/// Returns the path of a request at an endpoint.
fn at(url: &str, of: &Uri) -> Result<Uri, BoxError> {
    let mut parts = url.parse::<Uri>()?.into_parts();
    parts.path_and_query = Some(of.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    Ok(Uri::from_parts(parts)?)
}
