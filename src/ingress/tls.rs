//! TLS for the server.

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::chip::{Pem, TLS_RELOAD_INTERVAL};

/// How long a client may take for its handshake.
pub const MAX_TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// The certificate of the server, and whose certificates clients must show.
///
/// What is given as a file is read again when the file changes, looked at every [`TLS_RELOAD_INTERVAL`]. Clients are
/// asked to connect anew then, and requests in flight end on the old connections. Content that cannot be used is warned
/// about, and the old stays in use.
#[derive(Debug, Clone)]
pub struct Tls {
    chain: Pem,
    key: Pem,
    client_ca: Option<Pem>,
    reload_every: Duration,
}

/// The content of certificates and keys.
#[derive(PartialEq, Eq)]
pub(super) struct Loaded {
    chain: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// A PEM certificate chain, the server's own first, and its PEM private key.
    #[must_use]
    pub fn new(certificates_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Self {
        let text = |pem: &[u8]| Pem::Text(pem.to_vec());
        let (chain, key) = (text(certificates_pem.as_ref()), text(key_pem.as_ref()));
        Tls { chain, key, client_ca: None, reload_every: TLS_RELOAD_INTERVAL }
    }

    /// The same from files, which are read again when they change.
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

    /// Refuses clients without a certificate of the authority in this file (PEM), which is read again when it changes.
    #[must_use]
    pub fn client_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(Pem::File(path.into()));
        self
    }

    /// Looks at the files so often, in place of every [`TLS_RELOAD_INTERVAL`].
    #[must_use]
    pub fn reload_every(mut self, interval: Duration) -> Self {
        self.reload_every = interval;
        self
    }

    /// Time between two checks of the files; `None` without files.
    pub(super) fn reload_interval(&self) -> Option<Duration> {
        let files = [Some(&self.chain), Some(&self.key), self.client_ca.as_ref()];
        files.into_iter().flatten().any(Pem::is_file).then_some(self.reload_every)
    }

    /// Reads what is given as files.
    pub(super) fn load(&self) -> Result<Loaded, String> {
        let client_ca = self.client_ca.as_ref().map(Pem::read).transpose()?;
        Ok(Loaded { chain: self.chain.read()?, key: self.key.read()?, client_ca })
    }
}

impl Loaded {
    pub(super) fn config(&self) -> ServerTlsConfig {
        let identity = Identity::from_pem(&self.chain, &self.key);
        let config = ServerTlsConfig::new().identity(identity).timeout(MAX_TLS_HANDSHAKE);
        match &self.client_ca {
            Some(ca) => config.client_ca_root(Certificate::from_pem(ca)),
            None => config,
        }
    }
}
