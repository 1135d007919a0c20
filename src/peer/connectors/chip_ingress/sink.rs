//! The sink: publishes the events of a stream to a Chip Ingress server.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::password;
use crate::chip::{Auth, BatchClient, BatchConfig, Destination, GrpcConfig, RetryClass, SendError, SendOutcome, Tls};
use crate::cloudevent::CloudEvent;
use crate::eventbox::EventId;
use crate::peer::framing::CodecSpec;
use crate::peer::stream::outgoing::OutgoingEvent;
use crate::peer::{
    Batch, CodecNeed, Connector, ConnectorError, EndReason, PeerError, Role, Session, Stream, StreamFacts,
};

/// Longest wait of the client for further events of a batch. The events of a stream come together.
const BATCH_INTERVAL: Duration = Duration::from_millis(1);

/// The settings of [`ChipIngress`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::chip_ingress::ChipIngressConfig;
///
/// let config: ChipIngressConfig = serde_json::from_str(
///     r#"{ "address": "chip:443", "tls": true, "wrap": { "source": "shop", "type": "order.paid" } }"#,
/// )?;
/// assert_eq!(config.wrap.unwrap().source, "shop");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ChipIngressConfig {
    /// Server, as `host:port`.
    pub address: String,
    /// Whether to speak TLS, with the authorities that the system trusts.
    #[serde(default)]
    pub tls: bool,
    /// File with the only authorities to trust, in PEM. It implies `tls`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// User of Basic authentication. It needs `password_file`, and TLS or `insecure`.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password of the user.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Whether to send the password in plain text.
    #[serde(default)]
    pub insecure: bool,
    /// Source and type of the events that are made of plain values. Without it the values are CloudEvents themselves.
    #[serde(default)]
    pub wrap: Option<Wrap>,
    /// Most events of a request.
    #[serde(default = "fifty")]
    pub batch_size: std::num::NonZeroUsize,
    /// Longest time of a request, in milliseconds.
    #[serde(default = "five_seconds")]
    pub publish_timeout_ms: u64,
}

/// How a plain value becomes a CloudEvent.
///
/// # Examples
///
/// See [`ChipIngressConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Wrap {
    /// Source (domain) of the event.
    pub source: String,
    /// Type (entity) of the event.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Content type of the value; JSON unless set.
    #[serde(default = "json")]
    pub content_type: String,
}

impl Wrap {
    /// Returns the settings for values in JSON.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::connectors::chip_ingress::Wrap;
    ///
    /// assert_eq!(Wrap::new("shop", "order.paid").content_type, "application/json");
    /// ```
    #[must_use]
    pub fn new(source: impl Into<String>, event_type: impl Into<String>) -> Self {
        Wrap { source: source.into(), event_type: event_type.into(), content_type: json() }
    }
}

impl ChipIngressConfig {
    /// Returns the settings for a server in plain text, to which the values go as CloudEvents.
    ///
    /// # Examples
    ///
    /// See [`ChipIngress`].
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        ChipIngressConfig {
            address: address.into(),
            tls: false,
            ca_file: None,
            user: None,
            password_file: None,
            insecure: false,
            wrap: None,
            batch_size: fifty(),
            publish_timeout_ms: five_seconds(),
        }
    }
}

fn json() -> String {
    crate::cloudevent::JSON_CONTENT_TYPE.to_owned()
}

fn fifty() -> std::num::NonZeroUsize {
    BatchConfig::durable().batch_size
}

fn five_seconds() -> u64 {
    5_000
}

/// A sink that publishes events to a Chip Ingress server.
///
/// Without `wrap`, the codec `cloudevents` in its mode `protobuf` makes the messages, and the values in the box are
/// CloudEvents in JSON. With `wrap`, the codec of the peer makes the payload. Each event without an idempotency key
/// gets its id in the eventbox as one, so that the server recognises a re-send.
///
/// What the server answers decides as in [`chip`](crate::chip): a permanent answer moves the event into the quarantine,
/// any other one lets the event stay and come again.
///
/// # Examples
///
/// ```
/// use eventbox::peer::{Connector, connectors::chip_ingress::{ChipIngress, ChipIngressConfig}};
///
/// let sink = ChipIngress::new(ChipIngressConfig::new("chip:50051"))?;
/// assert_eq!((sink.name(), sink.endpoint().as_str()), ("chip-ingress", "chip:50051"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
pub struct ChipIngress {
    config: ChipIngressConfig,
    to: Option<Destination>,
}

impl std::fmt::Debug for ChipIngress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChipIngress").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What became of one event: its id, and the outcome of the client.
type Outcome = (EventId, SendOutcome);

impl ChipIngress {
    /// Checks the settings of a sink.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] when the address is empty, a user has no password or the reverse, or a time is 0.
    pub fn new(config: ChipIngressConfig) -> Result<Self, PeerError> {
        let refused = |problem: &str| Err(PeerError::setup("chip-ingress", problem));
        if config.address.is_empty() || config.publish_timeout_ms == 0 {
            return refused("`address` must not be empty, nor `publish_timeout_ms` 0");
        }
        if config.user.is_some() != config.password_file.is_some() {
            return refused("`user` and `password_file` belong together");
        }
        Ok(ChipIngress { config, to: None })
    }

    /// Publishes to this destination in place of the one of the settings: with other credentials, or a transport of
    /// your own.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::chip::GrpcConfig;
    /// use eventbox::peer::connectors::chip_ingress::{ChipIngress, ChipIngressConfig};
    ///
    /// let sink = ChipIngress::new(ChipIngressConfig::new("chip:50051"))?;
    /// let sink = sink.to(GrpcConfig::new("chip:50051").nop_lookup());
    /// # let _ = sink;
    /// # Ok::<(), eventbox::peer::PeerError>(())
    /// ```
    #[must_use]
    pub fn to(mut self, destination: impl Into<Destination>) -> Self {
        self.to = Some(destination.into());
        self
    }

    async fn destination(&self) -> Result<Destination, ConnectorError> {
        if let Some(destination) = &self.to {
            return Ok(destination.clone());
        }
        let config = &self.config;
        let mut grpc = GrpcConfig::new(&config.address);
        if let Some(ca) = &config.ca_file {
            grpc = grpc.tls(Tls::ca_file(ca));
        } else if config.tls {
            grpc = grpc.tls(Tls::system());
        }
        if config.insecure {
            grpc = grpc.insecure();
        }
        if let (Some(user), Some(file)) = (&config.user, &config.password_file) {
            let password = password::read(file).await;
            let attempt = || format!("read the password in {}", file.display());
            let password = password.map_err(|error| ConnectorError::connect(attempt(), error))?;
            grpc = grpc.auth(Auth::Basic { user: user.clone(), password });
        }
        Ok(grpc.into())
    }

    async fn client(&self) -> Result<BatchClient, ConnectorError> {
        let refused = |error: crate::chip::ConfigError| ConnectorError::refused(error.to_string());
        let transport = self.destination().await?.into_transport().map_err(refused)?;
        let config = BatchConfig {
            batch_size: self.config.batch_size,
            batch_interval: BATCH_INTERVAL,
            publish_timeout: Duration::from_millis(self.config.publish_timeout_ms),
            client_name: Some("peer".to_owned()),
            ..BatchConfig::durable()
        };
        let client = BatchClient::new(transport, config).map_err(refused)?;
        client.start();
        Ok(client)
    }

    /// Makes the message of an event.
    fn message(&self, event: &OutgoingEvent) -> Result<CloudEvent, String> {
        let bytes = event.encoded.concat();
        let mut message = match &self.config.wrap {
            None => CloudEvent::decode(&bytes),
            Some(wrap) => {
                let message = CloudEvent::builder(&wrap.source, &wrap.event_type);
                message.payload_as(&wrap.content_type, bytes).build()
            }
        }
        .map_err(|error| error.to_string())?;
        message.default_key(|_| event.event.id().to_string());
        Ok(message)
    }

    async fn publish(&self, client: &BatchClient, stream: &mut Stream, batch: Batch) {
        let mut waiting = Vec::with_capacity(batch.len());
        let mut problems: Vec<(EventId, String)> = Vec::new();
        for event in batch.events() {
            match self.message(event) {
                Ok(message) => waiting.push((event.event.id(), queue(client, message))),
                Err(problem) => problems.push((event.event.id(), problem)),
            }
        }
        let mut outcomes = Vec::with_capacity(waiting.len());
        for (id, outcome) in waiting {
            outcomes.push((id, outcome.await));
        }
        if problems.is_empty() && outcomes.iter().all(|(_, outcome)| outcome.result.is_ok()) {
            stream.outgoing.ack(batch);
        } else {
            settle(stream, batch, problems, outcomes);
        }
    }
}

/// Queues an event, and returns what becomes of it.
fn queue(client: &BatchClient, message: CloudEvent) -> impl Future<Output = SendOutcome> + Send + use<> {
    let (answer, answered) = oneshot::channel();
    // The callback is gone when the event was not queued.
    let answer = Arc::new(Mutex::new(Some(answer)));
    let called = Arc::clone(&answer);
    let call = move |outcome, answer: &Mutex<Option<oneshot::Sender<SendOutcome>>>| {
        if let Some(answer) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The send fails only when the peer is gone.
            let _ = answer.send(outcome);
        }
    };
    let queued = client.queue(message, Some(Box::new(move |outcome| call(outcome, &called))));
    if let Err(error) = queued {
        call(not_sent(error), &answer);
    }
    async move { answered.await.unwrap_or_else(|_| not_sent(SendError::Shutdown)) }
}

fn not_sent(error: SendError) -> SendOutcome {
    SendOutcome { result: Err(error), alone: false, elapsed: Duration::ZERO, event: None }
}

/// Gives each event of a batch its own outcome.
fn settle(stream: &mut Stream, batch: Batch, problems: Vec<(EventId, String)>, outcomes: Vec<Outcome>) {
    // Only a destination that took nothing counts for the breaker.
    if problems.is_empty() && outcomes.iter().all(|(_, outcome)| is_to_be_sent_again(outcome)) {
        let first = outcomes.into_iter().find_map(|(_, outcome)| outcome.result.err());
        return stream.outgoing.fail(batch, &first.unwrap_or(SendError::Shutdown));
    }
    let mut left = stream.outgoing.detach(batch);
    let mut settled: Vec<EventId> = Vec::new();
    let mut failed = None;
    for (id, problem) in problems {
        stream.outgoing.refuse(id, problem);
        settled.push(id);
    }
    for (id, outcome) in outcomes {
        if is_to_be_sent_again(&outcome) {
            failed = outcome.result.err();
            continue;
        }
        settled.push(id);
        match outcome.result {
            Ok(()) => stream.outgoing.ack_events(&[id]),
            Err(error) => stream.outgoing.refuse(id, error),
        }
    }
    left.retain(|event| !settled.contains(&event.event.id()));
    if let Some(error) = failed {
        stream.outgoing.fail_events(left, &error);
    }
}

fn is_to_be_sent_again(outcome: &SendOutcome) -> bool {
    outcome.result.as_ref().is_err_and(|error| error.class(outcome.alone) != RetryClass::Permanent)
}

#[async_trait]
impl Connector for ChipIngress {
    fn name(&self) -> &'static str {
        "chip-ingress"
    }

    fn endpoint(&self) -> String {
        self.config.address.clone()
    }

    fn role(&self) -> Role {
        Role::Client
    }

    /// Each event is a message of its own to the server.
    fn has_whole_messages(&self) -> bool {
        true
    }

    fn codec_need(&self) -> CodecNeed {
        if self.config.wrap.is_some() {
            return CodecNeed::Bytes;
        }
        let protobuf = CodecSpec::named("cloudevents").and_then(|codec| codec.with("mode", "protobuf"));
        protobuf.map_or(CodecNeed::Bytes, CodecNeed::Default)
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let client = self.client().await?;
        session.connected();
        let mut stream = session.open(session.stream().clone(), StreamFacts::new()).await?;
        while let Some(batch) = stream.outgoing.next().await {
            self.publish(&client, &mut stream, batch).await;
        }
        client.close().await;
        Ok(stream.end(EndReason::Stopped).await?)
    }
}
