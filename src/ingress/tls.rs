//! TLS for the server.

use std::fmt;
use std::time::Duration;

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// How long a client may take for its handshake.
pub const MAX_TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// The certificate of the server, and whose certificates clients must show.
#[derive(Clone)]
pub struct Tls {
    identity: Identity,
    client_ca: Option<Certificate>,
}

impl fmt::Debug for Tls {
    // Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("client_ca", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

impl Tls {
    /// A PEM certificate chain, the server's own first, and its PEM private key.
    #[must_use]
    pub fn new(certificates_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Self {
        Tls { identity: Identity::from_pem(certificates_pem, key_pem), client_ca: None }
    }

    /// Refuses clients without a certificate of this authority (PEM).
    #[must_use]
    pub fn client_ca(mut self, certificate_pem: impl AsRef<[u8]>) -> Self {
        self.client_ca = Some(Certificate::from_pem(certificate_pem));
        self
    }

    pub(super) fn config(self) -> ServerTlsConfig {
        let config = ServerTlsConfig::new().identity(self.identity).timeout(MAX_TLS_HANDSHAKE);
        match self.client_ca {
            Some(ca) => config.client_ca_root(ca),
            None => config,
        }
    }
}
