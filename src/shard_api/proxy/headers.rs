//! The headers of a request that is sent on.

use http::header::{
    CONNECTION, CONTENT_TYPE, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use uuid::Uuid;

use super::error::Problem;

/// Name of the header with the generation of the lease, as the process that sends a request on knows it.
pub const GENERATION_HEADER: &str = "eventbox-generation";

/// Name of the header with the id of the process that sends a request on.
pub const PROXIED_BY_HEADER: &str = "eventbox-proxied-by";

/// What another process says of a request that it sent on.
pub(super) struct Proxied {
    pub(super) generation: i64,
}

impl Proxied {
    /// Reads the headers of a request; `None` when it comes from a client.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        match (headers.get(PROXIED_BY_HEADER), headers.get(GENERATION_HEADER)) {
            (None, None) => Ok(None),
            (Some(_), Some(generation)) => {
                let generation = generation.to_str().ok().and_then(|text| text.parse().ok());
                Ok(Some(Proxied { generation: generation.ok_or(Problem::Headers)? }))
            }
            _ => Err(Problem::Headers),
        }
    }
}

/// Returns a request with the headers for the other process, and without those of the connection that it came on.
pub(super) fn marked<T>(mut request: Request<T>, worker: Uuid, generation: i64) -> Request<T> {
    let headers = request.headers_mut();
    remove_hops(headers);
    headers.remove(HOST);
    headers.insert(GENERATION_HEADER, HeaderValue::from(generation));
    if let Ok(worker) = HeaderValue::from_str(&worker.to_string()) {
        headers.insert(PROXIED_BY_HEADER, worker);
    }
    request
}

/// Removes the headers that belong to a connection. `te` stays, because gRPC needs it.
pub(super) fn remove_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let always = [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRAILER, TRANSFER_ENCODING, UPGRADE];
    for name in named.into_iter().chain(always).chain([HeaderName::from_static("keep-alive")]) {
        headers.remove(name);
    }
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
