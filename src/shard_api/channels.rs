//! The connections to other members, one for each endpoint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::error::BoxError;

/// Longest time to connect to another member.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a sign of life after which a connection is asked for one, and time for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

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
        require_http(&url)?;
        let builder = Endpoint::from_shared(url.clone())?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        // A peer that is gone without a word is noticed within two of these, and not by the next request's timeout.
        let mut builder =
            builder.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true);
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

/// Refuses an endpoint that is no address of a server: the database names it, and a scheme such as `unix` would reach
/// into this machine.
pub(super) fn require_http(url: &str) -> Result<(), BoxError> {
    let uri: http::Uri = url.parse()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    if is_http && matches!(uri.path(), "" | "/") && uri.query().is_none() {
        return Ok(());
    }
    Err(format!("the endpoint {url:?} is not of the form http://host:port or https://host:port").into())
}

/// Returns the URL of an endpoint that may lack its scheme.
pub(super) fn url_of(endpoint: &str) -> String {
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use crate::proto::consumer::ListRequest;
    use crate::proto::consumer::shard_client::ShardClient;

    /// Reads frames of HTTP/2 until one has headers: a call is in flight.
    async fn read_call(stream: &mut TcpStream) {
        const PREFACE: usize = 24;
        const HEADERS: u8 = 1;
        stream.read_exact(&mut [0; PREFACE]).await.unwrap();
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.unwrap();
            let [high, middle, low, kind, ..] = header;
            if kind == HEADERS {
                return;
            }
            let length = u32::from_be_bytes([0, high, middle, low]);
            stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
        }
    }

    /// A member that is gone without a word ends the calls to it, which may have no other limit than minutes.
    #[tokio::test]
    async fn a_member_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let channel = Channels::default().to(&listener.local_addr().unwrap().to_string()).unwrap();
        let call = tokio::spawn(async move { ShardClient::new(channel).list(ListRequest::default()).await });
        let (mut member, _) = listener.accept().await.unwrap();
        // An empty frame of settings: the connection has begun.
        member.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        read_call(&mut member).await;
        tokio::time::pause();
        let ended = timeout(100 * KEEP_ALIVE, call).await.expect("it is not asked for a sign of life");
        assert!(ended.unwrap().is_err());
        drop(member);
    }

    #[test]
    fn an_endpoint_is_the_address_of_a_server() {
        for right in ["http://a:1", "https://[::1]:8443", "https://a/"] {
            assert!(require_http(right).is_ok(), "{right}");
        }
        for wrong in ["unix:///run/a.sock", "http://a:1/path", "http://a:1?b", "ftp://a:1", "a b"] {
            assert!(require_http(wrong).is_err(), "{wrong}");
        }
    }
}
