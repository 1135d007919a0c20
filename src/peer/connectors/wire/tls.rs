//! TLS of sockets: settings, handshakes, and errors that say what the other side spoke.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::terms::text_of;
use super::{Io, Wire};
use crate::peer::ConnectorError;

/// Time between two looks at the files of a server's certificate.
const TLS_RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Largest file of certificates or of a key, in bytes.
const MAX_PEM_BYTES: usize = 1 << 20;

/// TLS of a server: its certificate, and the authority of its clients.
///
/// The server looks at the files every 10 s while clients connect. New connections use new contents; contents that
/// cannot be used lead to a warning, and the old ones stay in use.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::TlsServerConfig;
///
/// let tls = TlsServerConfig::new("chain.pem", "key.pem").client_ca_file("clients.pem");
/// assert!(tls.client_ca_file.is_some());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsServerConfig {
    /// File of the chain of certificates, in PEM.
    pub certificate_file: PathBuf,
    /// File of the private key, in PEM.
    pub key_file: PathBuf,
    /// File of the authorities that sign the certificates of clients, in PEM. Without it, clients need none.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}

impl TlsServerConfig {
    /// Uses this certificate and key; clients need no certificate.
    pub fn new(certificate_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        let (certificate_file, key_file) = (certificate_file.into(), key_file.into());
        TlsServerConfig { certificate_file, key_file, client_ca_file: None }
    }

    /// Demands certificates of clients, signed by these authorities.
    #[must_use]
    pub fn client_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.client_ca_file = Some(file.into());
        self
    }
}

/// TLS of a client: whom it trusts, and its certificate.
///
/// # Examples
///
/// ```
/// use eventbox::peer::connectors::TlsClientConfig;
///
/// let system: TlsClientConfig = serde_json::from_str("{}")?;
/// assert_eq!(system, TlsClientConfig::default());
/// let own = TlsClientConfig::default().ca_file("authority.pem").server_name("hub.example");
/// assert!(own.ca_file.is_some());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TlsClientConfig {
    /// File of the trusted authorities, in PEM. Without it, the client trusts those of the system.
    pub ca_file: Option<PathBuf>,
    /// File of the client's chain of certificates, in PEM. It goes with `key_file`.
    pub certificate_file: Option<PathBuf>,
    /// File of the client's private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// Name in the server's certificate. Without it, the host of the address.
    pub server_name: Option<String>,
}

impl TlsClientConfig {
    /// Trusts only these authorities.
    #[must_use]
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// Shows this certificate to the server.
    #[must_use]
    pub fn certificate(mut self, certificate_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        (self.certificate_file, self.key_file) = (Some(certificate_file.into()), Some(key_file.into()));
        self
    }

    /// Expects this name in the server's certificate.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }
}

/// Why TLS is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file or a setting.
    #[error("{problem}")]
    Setting { problem: String },
    /// The other side is not one for TLS.
    #[error("the other side does not speak TLS")]
    Plain,
    /// The other side is refused, or refuses.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The other side is too slow.
    #[error("the TLS handshake was not complete within {0:?}")]
    Slow(Duration),
}

fn setting(problem: impl Into<String>) -> TlsError {
    TlsError::Setting { problem: problem.into() }
}

/// Reads the files of a server that starts again; an error is one that may pass.
pub(crate) fn load_again(config: Option<&TlsServerConfig>) -> Result<Option<ServerTls>, ConnectorError> {
    let loaded = config.cloned().map(ServerTls::load).transpose();
    loaded.map_err(|error| ConnectorError::connect("read the certificate and the key", error))
}

/// TLS of a running server.
pub(crate) struct ServerTls {
    config: TlsServerConfig,
    loaded: tokio::sync::Mutex<Loaded>,
}

struct Loaded {
    at: Instant,
    files: [Vec<u8>; 3],
    acceptor: TlsAcceptor,
}

impl ServerTls {
    /// Reads the files.
    pub(crate) fn load(config: TlsServerConfig) -> Result<Self, TlsError> {
        let files = read_all(&config)?;
        let acceptor = acceptor(&config, &files)?;
        let loaded = tokio::sync::Mutex::new(Loaded { at: Instant::now(), files, acceptor });
        Ok(ServerTls { config, loaded })
    }

    /// Returns the acceptor, with the contents of the files as they are now or were at the last look.
    async fn acceptor(&self) -> TlsAcceptor {
        let mut loaded = self.loaded.lock().await;
        if loaded.at.elapsed() >= TLS_RELOAD_INTERVAL {
            loaded.at = Instant::now();
            let config = self.config.clone();
            let files = tokio::task::spawn_blocking(move || read_all(&config)).await;
            let changed = match files {
                Ok(Ok(files)) if files == loaded.files => None,
                Ok(files) => Some(files.and_then(|files| Ok((acceptor(&self.config, &files)?, files)))),
                Err(_) => None,
            };
            match changed {
                Some(Ok((acceptor, files))) => (loaded.acceptor, loaded.files) = (acceptor, files),
                Some(Err(error)) => {
                    tracing::warn!(error = text_of(&error), "the new certificate is not used, the old one stays");
                }
                None => {}
            }
        }
        loaded.acceptor.clone()
    }

    /// Runs the handshake with a client.
    async fn accept(&self, io: impl Io + 'static, limit: Duration) -> Result<Wire, TlsError> {
        let acceptor = self.acceptor().await;
        match timeout(limit, Box::pin(acceptor.accept(io))).await {
            Ok(Ok(io)) => Ok(Box::new(io)),
            Ok(Err(error)) => Err(explain(error)),
            Err(_) => Err(TlsError::Slow(limit)),
        }
    }
}

/// Runs the handshake with a client, if there is TLS.
pub(crate) async fn secure(tls: Option<&ServerTls>, io: impl Io + 'static, limit: Duration) -> Result<Wire, TlsError> {
    match tls {
        Some(tls) => tls.accept(io, limit).await,
        None => Ok(Box::new(io)),
    }
}

fn read_all(config: &TlsServerConfig) -> Result<[Vec<u8>; 3], TlsError> {
    let clients = config.client_ca_file.as_deref().map(read_pem).transpose()?.unwrap_or_default();
    Ok([read_pem(&config.certificate_file)?, read_pem(&config.key_file)?, clients])
}

fn acceptor(config: &TlsServerConfig, files: &[Vec<u8>; 3]) -> Result<TlsAcceptor, TlsError> {
    let [chain, key, clients] = files;
    let (chain, key) = (chain_of(chain, &config.certificate_file)?, key_of(key, &config.key_file)?);
    let unusable = |error: rustls::Error| {
        setting(format!("{} with its key cannot be used: {error}", config.certificate_file.display()))
    };
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = match &config.client_ca_file {
        None => builder.map_err(unusable)?.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(roots_of(clients, file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            let verifier = verifier.map_err(|error| setting(format!("{}: {error}", file.display())))?;
            builder.map_err(unusable)?.with_client_cert_verifier(verifier)
        }
    };
    Ok(TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).map_err(unusable)?)))
}

/// TLS of one attempt of a client.
pub(crate) struct ClientTls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl ClientTls {
    /// Reads the files, so that each attempt to connect has their contents of now.
    pub(crate) fn load(config: &TlsClientConfig, host: &str) -> Result<Self, TlsError> {
        let roots = match &config.ca_file {
            Some(file) => roots_of(&read_pem(file)?, file)?,
            None => system_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| setting(error.to_string()))?.with_root_certificates(roots);
        let client = match (&config.certificate_file, &config.key_file) {
            (Some(chain), Some(key)) => {
                let (certificates, secret) = (chain_of(&read_pem(chain)?, chain)?, key_of(&read_pem(key)?, key)?);
                builder
                    .with_client_auth_cert(certificates, secret)
                    .map_err(|error| setting(format!("{} with its key cannot be used: {error}", chain.display())))?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(setting("certificate_file and key_file go together: set both or none")),
        };
        let name = config.server_name.as_deref().unwrap_or(host).trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name).map_err(|error| {
            setting(format!("the name of the server is not one for TLS ({error}): set server_name"))
        })?;
        Ok(ClientTls { connector: TlsConnector::from(Arc::new(client)), name })
    }

    /// Runs the handshake with the server.
    pub(crate) async fn connect(self, io: impl Io + 'static, limit: Duration) -> Result<Wire, TlsError> {
        match timeout(limit, Box::pin(self.connector.connect(self.name, io))).await {
            Ok(Ok(io)) => Ok(Box::new(io)),
            Ok(Err(error)) => Err(explain(error)),
            Err(_) => Err(TlsError::Slow(limit)),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err(setting("the system has no authorities that can be trusted: set ca_file")),
        false => Ok(roots),
    }
}

fn read_pem(file: &Path) -> Result<Vec<u8>, TlsError> {
    let pem = std::fs::read(file).map_err(|error| setting(format!("{} cannot be read: {error}", file.display())))?;
    match pem.len() > MAX_PEM_BYTES {
        true => Err(setting(format!("{} is too large for certificates or a key", file.display()))),
        false => Ok(pem),
    }
}

fn chain_of(pem: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(setting(format!("{} holds no whole PEM certificate", file.display()))),
    }
}

fn key_of(pem: &[u8], file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| setting(format!("{} holds no whole PEM private key", file.display())))
}

fn roots_of(pem: &[u8], file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain_of(pem, file)? {
        roots.add(certificate).map_err(|error| setting(format!("{}: {error}", file.display())))?;
    }
    Ok(roots)
}

/// Says whether the other side spoke no TLS at all.
fn explain(error: io::Error) -> TlsError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => TlsError::Plain,
        _ => TlsError::Handshake(error),
    }
}

/// Returns whether these first bytes are the hello of a TLS client, or the alert of a TLS server.
pub(crate) fn speaks_tls(first: &[u8]) -> bool {
    match first {
        // The lengths of the record and of the message in it agree, which no other protocol has by chance.
        [0x16, 3, 0..=4, high, low, 1, 0, message_high, message_low, 3, 0..=4, ..] => {
            let record = usize::from(u16::from_be_bytes([*high, *low]));
            record == usize::from(u16::from_be_bytes([*message_high, *message_low])) + 4
        }
        [0x15, 3, 0..=4, 0, 2, 1 | 2, _] => true,
        _ => false,
    }
}
