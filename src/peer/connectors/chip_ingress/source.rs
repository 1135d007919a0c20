//! The source: the Chip Ingress service as a door into eventboxes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::password;
use super::taking::{Calls, Taker, WAITING_CALLS};
use crate::ingress::{Credential, DEFAULT_MAX_AGE, Ingress, IngressBuilder, InvalidPublicKey, Tls, parse_public_key};
use crate::peer::{
    CodecNeed, Connector, ConnectorError, EndReason, PeerError, Role, Session, Stream, StreamFacts, StreamId,
};

/// Longest wait of a stop for the calls in flight.
const STOP: Duration = Duration::from_secs(5);

/// The settings of [`ChipIngressServer`].
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::chip_ingress::{ChipIngressServerConfig, ValueForm};
///
/// let config: ChipIngressServerConfig =
///     serde_json::from_str(r#"{ "address": "127.0.0.1:50051", "value": "data", "domains": ["shop"] }"#)?;
/// assert_eq!(config.value, ValueForm::Data);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ChipIngressServerConfig {
    /// Address to listen on, as `host:port`.
    pub address: String,
    /// What the value of an event is.
    #[serde(default)]
    pub value: ValueForm,
    /// File with the certificate chain of the server, in PEM. With it the server speaks TLS.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// File with the private key of the certificate.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// User of Basic authentication. With it, or with keys, the server accepts only clients that authenticate.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password of the user.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Public keys, in hex, of clients that sign their headers.
    #[serde(default)]
    pub public_keys: Vec<String>,
    /// The only sources that are accepted; none: every source.
    #[serde(default)]
    pub domains: Option<Vec<String>>,
}

/// What the value of an event from the service is.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::chip_ingress::ValueForm;
///
/// assert_eq!(ValueForm::default(), ValueForm::Json);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ValueForm {
    /// The CloudEvent in the JSON event format.
    #[default]
    Json,
    /// The CloudEvent in protobuf, as [`CloudEvent::decode`](crate::CloudEvent::decode) reads it.
    Protobuf,
    /// The payload alone.
    Data,
}

impl ChipIngressServerConfig {
    /// Returns the settings of a server in plain text that accepts every client.
    ///
    /// # Examples
    ///
    /// See [`ChipIngressServer`].
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        ChipIngressServerConfig {
            address: address.into(),
            value: ValueForm::default(),
            certificate_file: None,
            key_file: None,
            user: None,
            password_file: None,
            public_keys: Vec::new(),
            domains: None,
        }
    }
}

/// The Chip Ingress service as a door into eventboxes.
///
/// The service answers a call after its events are in the eventboxes that the mapping names; its places are `{source}`,
/// `{type}`, `{subject}`, `{id}`, and JSON pointers with the form `json`. A bad event of a batch gets its own error,
/// and the others are kept. An all-or-nothing batch with a bad event keeps none.
///
/// The id of an event within the stream `main` is its `idempotencykey`, or else its source and id. So an event that is
/// sent again is harmless while it waits, and for the tombstone delay after that. A second event under the same key is
/// answered as success and is not kept, whatever its content.
///
/// # Examples
///
/// ```
/// use eventbox::peer::{Connector, connectors::chip_ingress::{ChipIngressServer, ChipIngressServerConfig}};
///
/// let door = ChipIngressServer::new(ChipIngressServerConfig::new("127.0.0.1:50051"))?;
/// assert_eq!((door.name(), door.endpoint().as_str()), ("chip-ingress-server", "127.0.0.1:50051"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[derive(Debug)]
pub struct ChipIngressServer {
    config: ChipIngressServerConfig,
    /// Where the server listens, for a caller that let the system choose the port.
    bound: tokio::sync::watch::Sender<Option<std::net::SocketAddr>>,
}

impl ChipIngressServer {
    /// Checks the settings of a source.
    ///
    /// # Errors
    ///
    /// [`PeerError::Setup`] when settings that belong together are not both there, or a key is none.
    pub fn new(config: ChipIngressServerConfig) -> Result<Self, PeerError> {
        let refused = |problem: &str| Err(PeerError::setup("chip-ingress-server", problem));
        if config.certificate_file.is_some() != config.key_file.is_some() {
            return refused("`certificate_file` and `key_file` belong together");
        }
        if config.user.is_some() != config.password_file.is_some() {
            return refused("`user` and `password_file` belong together");
        }
        for key in &config.public_keys {
            if let Err(error) = parse_public_key(key) {
                return refused(&error.to_string());
            }
        }
        Ok(ChipIngressServer { config, bound: tokio::sync::watch::Sender::default() })
    }

    /// Returns where the server listens, from its first start on.
    ///
    /// # Examples
    ///
    /// ```
    /// use eventbox::peer::connectors::chip_ingress::{ChipIngressServer, ChipIngressServerConfig};
    ///
    /// let door = ChipIngressServer::new(ChipIngressServerConfig::new("127.0.0.1:0"))?;
    /// assert!(door.bound().borrow().is_none());
    /// # Ok::<(), eventbox::peer::PeerError>(())
    /// ```
    #[must_use]
    pub fn bound(&self) -> tokio::sync::watch::Receiver<Option<std::net::SocketAddr>> {
        self.bound.subscribe()
    }

    async fn builder(&self) -> Result<IngressBuilder, ConnectorError> {
        let config = &self.config;
        let mut builder = Ingress::builder();
        if let (Some(certificate), Some(key)) = (&config.certificate_file, &config.key_file) {
            builder = builder.tls(Tls::files(certificate, key));
        }
        if let (Some(user), Some(file)) = (&config.user, &config.password_file) {
            let password = password::read(file).await;
            let attempt = || format!("read the password in {}", file.display());
            let password = password.map_err(|error| ConnectorError::connect(attempt(), error))?;
            builder = builder.accept(Credential::basic(user, &password));
        }
        if !config.public_keys.is_empty() {
            let keys: Result<Vec<_>, InvalidPublicKey> =
                config.public_keys.iter().map(|key| parse_public_key(key)).collect();
            let signed = keys.and_then(|keys| Credential::signed(keys, DEFAULT_MAX_AGE));
            builder = builder.accept(signed.map_err(|error| ConnectorError::refused(error.to_string()))?);
        }
        Ok(match &config.domains {
            Some(domains) => builder.domains(domains.clone()),
            None => builder,
        })
    }

    /// Answers the calls until the server has stopped.
    async fn serve(&self, session: &Session, stream: &mut Stream) -> Result<(), ConnectorError> {
        let (calls, mut waiting) = mpsc::channel(WAITING_CALLS);
        let builder = self.builder().await?.sink(Arc::new(Calls::new(calls)));
        let server = builder.serve(self.config.address.as_str()).await;
        let server = server.map_err(|error| ConnectorError::connect(format!("serve {}", self.endpoint()), error))?;
        self.bound.send_replace(Some(server.local_addr()));
        session.connected();
        let mut taker = Taker::new(self.config.value)?;
        let stopped = async {
            session.stopping().cancelled().await;
            server.stop(STOP).await
        };
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                _ = &mut stopped => return Ok(()),
                Some(call) = waiting.recv() => taker.take(stream, call, &mut waiting).await?,
            }
        }
    }
}

#[async_trait]
impl Connector for ChipIngressServer {
    fn name(&self) -> &'static str {
        "chip-ingress-server"
    }

    fn endpoint(&self) -> String {
        self.config.address.clone()
    }

    fn role(&self) -> Role {
        Role::Server
    }

    fn codec_need(&self) -> CodecNeed {
        CodecNeed::Structured
    }

    /// A re-send may come after a restart, and must have the same name.
    fn keeps_stream_ids(&self) -> bool {
        true
    }

    async fn run(&self, session: Session) -> Result<(), ConnectorError> {
        let mut stream = session.open(StreamId::new("main")?, StreamFacts::new()).await?;
        let served = self.serve(&session, &mut stream).await;
        let reason = match &served {
            Ok(()) => EndReason::Stopped,
            Err(error) => EndReason::Failed(error.to_string()),
        };
        stream.end(reason).await?;
        served
    }
}
