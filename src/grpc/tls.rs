//! The TLS settings of the server.

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::chip::{Pem, TLS_RELOAD_INTERVAL};

/// The longest time that a client may take for the TLS handshake.
pub const MAX_TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// The certificate of the server, and optionally the authority of the certificates that clients must have.
///
/// The server checks its files every [`TLS_RELOAD_INTERVAL`]:
///
/// - When the content has changed, the server uses it for new connections and asks clients to connect again. Requests
///   in flight finish on the old connections.
/// - When the new content cannot be used, the server logs a warning and continues with the old content.
#[derive(Debug, Clone)]
pub struct Tls {
    chain: Pem,
    key: Pem,
    client_ca: Option<Pem>,
    reload_every: Duration,
}

/// The content of certificates and keys.
#[derive(PartialEq, Eq)]
pub(crate) struct Loaded {
    chain: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Returns the settings with a PEM certificate chain and its PEM private key.
    ///
    /// The chain starts with the certificate of the server.
    #[must_use]
    pub fn new(certificates_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Self {
        let text = |pem: &[u8]| Pem::Text(pem.to_vec());
        let (chain, key) = (text(certificates_pem.as_ref()), text(key_pem.as_ref()));
        Tls { chain, key, client_ca: None, reload_every: TLS_RELOAD_INTERVAL }
    }

    /// Returns the settings with the chain and the key from files. The server reads them again when they change.
    #[must_use]
    pub fn files(certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (chain, key) = (Pem::File(certificates.into()), Pem::File(key.into()));
        Tls { chain, key, client_ca: None, reload_every: TLS_RELOAD_INTERVAL }
    }

    /// Refuses clients without a certificate of this authority (PEM).
    #[must_use]
    pub fn client_ca(mut self, certificate_pem: impl AsRef<[u8]>) -> Self {
        self.client_ca = Some(Pem::Text(certificate_pem.as_ref().to_vec()));
        self
    }

    /// Refuses clients without a certificate of the authority in this file (PEM).
    ///
    /// The server reads the file again when it changes.
    #[must_use]
    pub fn client_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(Pem::File(path.into()));
        self
    }

    /// Sets the time between two checks of the files; [`TLS_RELOAD_INTERVAL`] by default.
    #[must_use]
    pub fn reload_every(mut self, interval: Duration) -> Self {
        self.reload_every = interval;
        self
    }

    /// Returns the time between two checks of the files, or `None` without files.
    pub(crate) fn reload_interval(&self) -> Option<Duration> {
        let files = [Some(&self.chain), Some(&self.key), self.client_ca.as_ref()];
        files.into_iter().flatten().any(Pem::is_file).then_some(self.reload_every)
    }

    /// Returns the content of the certificates and the key, and reads it from files where the settings name files.
    pub(crate) fn load(&self) -> Result<Loaded, String> {
        let client_ca = self.client_ca.as_ref().map(Pem::read).transpose()?;
        Ok(Loaded { chain: self.chain.read()?, key: self.key.read()?, client_ca })
    }
}

impl Loaded {
    pub(crate) fn config(&self) -> ServerTlsConfig {
        let identity = Identity::from_pem(&self.chain, &self.key);
        let config = ServerTlsConfig::new().identity(identity).timeout(MAX_TLS_HANDSHAKE);
        match &self.client_ca {
            Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
            None => config,
        }
    }
}
