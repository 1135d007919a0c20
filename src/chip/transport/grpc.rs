//! The transport over gRPC.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::Retryable;
use bytes::{BufMut, Bytes};
use prost::Message;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_prost::ProstDecoder;

use crate::chip::credentials::auth::Auth;
use crate::chip::credentials::headers::{HeaderProvider, Headers, resource_headers};
use crate::chip::credentials::tls::{Loaded, Tls};
use crate::chip::error::{AuthConfigError, ConfigError};
use crate::chip::transport::Transport;
use crate::chip::transport::connection::Connection;
use crate::proto::chip_common::Schema;
use crate::proto::chipingress::pb::{
    CloudEventBatch, EmptyRequest, PingResponse, PublishResponse, RegisterSchemaRequest, RegisterSchemaResponse,
};
use crate::proto::io::cloudevents::v1::CloudEvent;
use crate::retry::pauses;

/// Largest answer that the client reads.
pub const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// Time between pings while a request waits for its answer. Servers of gRPC close connections with more than one ping
/// in five minutes, unless they are configured otherwise.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(310);

/// Longest wait for the answer to a ping.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Silence of a connection after which the system probes the other side. The server does not see the probe.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Pings of HTTP/2, which find dead connections.
///
/// Servers of gRPC accept the default without configuration: no ping without a request, and at most one in five
/// minutes. A server that does not allow more frequent pings answers them with `too_many_pings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepAlive {
    /// Time between pings; `None`: no pings.
    pub interval: Option<Duration>,
    /// Longest wait for the answer to a ping. After it the connection is closed.
    pub timeout: Duration,
    /// Whether to send pings also while no request is in flight.
    pub while_idle: bool,
}

impl KeepAlive {
    /// Sets the time between pings; `None` for no pings.
    #[must_use]
    pub const fn with_interval(self, interval: Option<Duration>) -> Self {
        KeepAlive { interval, ..self }
    }

    /// Sets the longest wait for the answer to a ping.
    #[must_use]
    pub const fn with_timeout(self, timeout: Duration) -> Self {
        KeepAlive { timeout, ..self }
    }

    /// Sets whether the client sends pings also while no request is in flight.
    #[must_use]
    pub const fn with_while_idle(self, while_idle: bool) -> Self {
        KeepAlive { while_idle, ..self }
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        KeepAlive { interval: Some(KEEPALIVE_INTERVAL), timeout: KEEPALIVE_TIMEOUT, while_idle: false }
    }
}

/// Longest time to connect.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts of `ping` and `register_schemas`, when the server is not available or its resources are exhausted.
pub const UNARY_ATTEMPTS: usize = 3;

/// First pause before such a call is retried.
const UNARY_PAUSE: Duration = Duration::from_millis(100);

/// Address, TLS and credentials of a server.
#[derive(Clone)]
#[must_use = "give it to `DurableEmitter::builder` or `GrpcTransport::new`"]
pub struct GrpcConfig {
    address: String,
    tls: Option<Tls>,
    insecure: bool,
    headers: Headers,
    keep_alive: KeepAlive,
}

impl GrpcConfig {
    /// Names a server by its `host:port`, in plain text.
    pub fn new(address: impl Into<String>) -> Self {
        let (headers, keep_alive) = (Headers::default(), KeepAlive::default());
        GrpcConfig { address: address.into(), tls: None, insecure: false, headers, keep_alive }
    }

    /// Sets the pings.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Speaks TLS. The server's certificate must be for the host of the address.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Allows credentials in plain text. Without it, credentials need TLS.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sets the credentials of every call.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.headers.auth = Some(auth);
        self
    }

    /// Adds headers of your own to every call.
    pub fn header_provider(mut self, provider: Arc<dyn HeaderProvider>) -> Self {
        self.headers.providers.push(provider);
        self
    }

    /// Sends the attributes of the service as headers, with names and values that gRPC allows.
    pub fn resource_attributes(mut self, attributes: &[(String, String)]) -> Self {
        self.headers.fixed.extend(resource_headers(attributes));
        self
    }

    /// Asks the server to add its information about the node's operator.
    pub fn nop_lookup(mut self) -> Self {
        self.headers.nop_lookup = true;
        self
    }

    fn endpoint(&self, loaded: Option<&Loaded>) -> Result<Endpoint, ConfigError> {
        let host = host_of(&self.address)?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let invalid = |error: tonic::transport::Error| ConfigError::InvalidAddress { problem: error.to_string() };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address)).map_err(invalid)?;
        let endpoint = endpoint
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .map_err(invalid)?
            .connect_timeout(CONNECT_TIMEOUT)
            .keep_alive_timeout(self.keep_alive.timeout)
            .keep_alive_while_idle(self.keep_alive.while_idle)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .tcp_nodelay(true);
        let endpoint = match self.keep_alive.interval {
            Some(interval) => endpoint.http2_keep_alive_interval(interval),
            None => endpoint,
        };
        match self.tls.as_ref().zip(loaded) {
            None => Ok(endpoint),
            Some((tls, loaded)) => endpoint
                .tls_config(tls.client_config(loaded, host))
                .map_err(|error| ConfigError::Tls { problem: crate::chip::credentials::tls::text_of(&error) }),
        }
    }
}

/// Returns the host of `host:port`.
fn host_of(address: &str) -> Result<&str, ConfigError> {
    let invalid = |problem: &str| ConfigError::InvalidAddress { problem: format!("address {address:?}: {problem}") };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| invalid("missing port in address"))?;
    if host.is_empty() || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']'))) {
        return Err(invalid("write it as host:port"));
    }
    if port.parse::<u16>().is_err() {
        return Err(invalid("the port is not a number"));
    }
    Ok(host.trim_start_matches('[').trim_end_matches(']'))
}

/// Destination of an emitter.
#[derive(Clone)]
#[non_exhaustive]
pub enum Destination {
    /// A server, over gRPC.
    Grpc(Box<GrpcConfig>),
    /// Another transport.
    Transport(Arc<dyn Transport>),
}

impl Destination {
    pub(crate) fn into_transport(self) -> Result<Arc<dyn Transport>, ConfigError> {
        match self {
            Destination::Grpc(config) => Ok(Arc::new(GrpcTransport::new(&config)?)),
            Destination::Transport(transport) => Ok(transport),
        }
    }
}

impl From<&str> for Destination {
    fn from(address: &str) -> Self {
        GrpcConfig::new(address).into()
    }
}

impl From<String> for Destination {
    fn from(address: String) -> Self {
        GrpcConfig::new(address).into()
    }
}

impl From<GrpcConfig> for Destination {
    fn from(config: GrpcConfig) -> Self {
        Destination::Grpc(Box::new(config))
    }
}

impl From<Arc<dyn Transport>> for Destination {
    fn from(transport: Arc<dyn Transport>) -> Self {
        Destination::Transport(transport)
    }
}

/// A client of the Chip Ingress service: it publishes, registers schemas and sends pings.
///
/// It connects at its first call, and again when the connection is lost. So it can be built while the server is down.
#[derive(Clone)]
pub struct GrpcTransport {
    address: String,
    connection: Connection,
    headers: Headers,
}

impl GrpcTransport {
    /// Returns a client that is not connected yet. Call it inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ConfigError::InvalidAddress`], [`ConfigError::Tls`], and credentials without TLS.
    pub fn new(config: &GrpcConfig) -> Result<Self, ConfigError> {
        if config.headers.auth.is_some() && config.tls.is_none() && !config.insecure {
            return Err(ConfigError::Auth(AuthConfigError::NeedsTls));
        }
        let (address, headers) = (config.address.clone(), config.headers.clone());
        let of = config.clone();
        let connection = Connection::new(Arc::new(move |loaded| of.endpoint(loaded)), config.tls.clone())?;
        Ok(GrpcTransport { address, connection, headers })
    }

    /// Calls `Ping`, and returns the server's answer, `pong`.
    ///
    /// # Errors
    ///
    /// The status of the last of [`UNARY_ATTEMPTS`], or `DEADLINE_EXCEEDED` at the limit.
    pub async fn ping(&self, limit: Duration) -> Result<String, Status> {
        let answer: PingResponse = self.retried("Ping", &EmptyRequest {}, limit).await?;
        Ok(answer.message)
    }

    /// Registers schemas in one call. Returns the version of each subject.
    ///
    /// # Errors
    ///
    /// As [`ping`](Self::ping); the text begins with "failed to register schema".
    pub async fn register_schemas(
        &self,
        schemas: Vec<Schema>,
        limit: Duration,
    ) -> Result<BTreeMap<String, i32>, Status> {
        let answer: Result<RegisterSchemaResponse, _> =
            self.retried("RegisterSchema", &RegisterSchemaRequest { schemas }, limit).await;
        let answer = answer
            .map_err(|status| Status::new(status.code(), format!("failed to register schema: {}", status.message())))?;
        Ok(answer.registered.into_iter().map(|schema| (schema.subject, schema.version)).collect())
    }

    /// Fails: the experimental streaming call is not supported.
    ///
    /// # Errors
    ///
    /// Always.
    pub async fn stream_events(&self) -> Result<(), Status> {
        Err(Status::unimplemented("not implemented: StreamEvents is experimental and not supported yet"))
    }

    async fn retried<M: Message, A: Message + Default + 'static>(
        &self,
        method: &'static str,
        message: &M,
        limit: Duration,
    ) -> Result<A, Status> {
        let encoded = Bytes::from(message.encode_to_vec());
        let attempt = || self.call(method, encoded.clone(), limit);
        let retried = attempt
            .retry(pauses(UNARY_PAUSE, UNARY_ATTEMPTS - 1))
            .sleep(tokio::time::sleep)
            .when(|status| matches!(status.code(), Code::Unavailable | Code::ResourceExhausted));
        timeout(limit, retried)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the call took longer than its limit")))
    }

    async fn call<A: Message + Default + 'static>(
        &self,
        method: &'static str,
        message: Bytes,
        limit: Duration,
    ) -> Result<A, Status> {
        let metadata = self.headers.metadata().await?;
        let mut request = Request::from_parts(metadata, tonic::Extensions::new(), message);
        request.set_timeout(limit);
        let channel = self.connection.channel().await;
        let unanswered = self.connection.request();
        let mut client = Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        client.ready().await.map_err(|error| Status::unavailable(format!("the channel is not ready: {error}")))?;
        let path = PathAndQuery::from_static(match method {
            "PublishBatch" => "/chipingress.pb.ChipIngress/PublishBatch",
            "Publish" => "/chipingress.pb.ChipIngress/Publish",
            "RegisterSchema" => "/chipingress.pb.ChipIngress/RegisterSchema",
            _ => "/chipingress.pb.ChipIngress/Ping",
        });
        let answer = client.unary(request, path, Encoded::<A>::default()).await;
        // A status with a source was made in this process, for example at a deadline. The server's has none.
        if answer.as_ref().err().is_none_or(|status| status.source().is_none()) {
            unanswered.answered();
        }
        Ok(answer?.into_inner())
    }
}

#[async_trait]
impl Transport for GrpcTransport {
    async fn publish_batch(&self, batch: &CloudEventBatch, limit: Duration) -> Result<PublishResponse, Status> {
        self.call("PublishBatch", batch.encode_to_vec().into(), limit).await
    }

    async fn publish(&self, event: &CloudEvent, limit: Duration) -> Result<PublishResponse, Status> {
        self.retried("Publish", event, limit).await
    }

    fn destination(&self) -> String {
        self.address.clone()
    }

    async fn refresh_credentials(&self) {
        if let Some(auth) = &self.headers.auth {
            auth.refresh();
        }
    }
}

/// Messages that are encoded already, so that a batch can be sent twice without a copy of its events.
struct Encoded<A>(std::marker::PhantomData<A>);

impl<A> Default for Encoded<A> {
    fn default() -> Self {
        Encoded(std::marker::PhantomData)
    }
}

struct BytesEncoder;

impl Encoder for BytesEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl<A: Message + Default + 'static> Codec for Encoded<A> {
    type Encode = Bytes;
    type Decode = A;
    type Encoder = BytesEncoder;
    type Decoder = ProstDecoder<A>;

    fn encoder(&mut self) -> BytesEncoder {
        BytesEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<A> {
        ProstDecoder::new(BufferSettings::default())
    }
}
