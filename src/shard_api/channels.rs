//! The connections to other members, one for each endpoint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::error::BoxError;

/// Longest time to connect to another member.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most endpoints whose connections are kept. One more forgets all of them, because members come and go.
const MAX_ENDPOINTS: usize = 256;

/// The connections to other members. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Channels {
    tls: Option<ClientTlsConfig>,
    open: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Channels {
    pub(super) fn new(tls: Option<ClientTlsConfig>) -> Self {
        Channels { tls, open: Arc::default() }
    }

    /// Returns the connection to an endpoint: a URL, or `host:port` in plain text. It connects at its first call.
    pub(super) fn to(&self, endpoint: &str) -> Result<Channel, BoxError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(endpoint) {
            return Ok(channel.clone());
        }
        let url = url_of(endpoint);
        let mut builder = Endpoint::from_shared(url.clone())?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        if url.starts_with("https:") {
            let tls = self.tls.clone().unwrap_or_else(|| ClientTlsConfig::new().with_native_roots());
            builder = builder.tls_config(tls)?;
        }
        if open.len() >= MAX_ENDPOINTS {
            open.clear();
        }
        let channel = builder.connect_lazy();
        open.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Returns the URL of an endpoint that may lack its scheme.
pub(super) fn url_of(endpoint: &str) -> String {
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") }
}
