//! TLS of the transport.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::chip::credentials::pem::{Pem, TLS_RELOAD_INTERVAL};

/// Whom to trust, and who we are.
///
/// What is given as a file is read again when the file changes, looked at every [`TLS_RELOAD_INTERVAL`]. New
/// connections use the new content; requests in flight end on the old connection. Content that cannot be used is warned
/// about, and the old stays in use.
#[derive(Debug, Clone)]
#[must_use = "give it to `GrpcConfig::tls`"]
pub struct Tls {
    ca: Option<Pem>,
    client: Option<(Pem, Pem)>,
    server_name: Option<String>,
    reload_every: Duration,
}

/// The content of certificates and keys.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Trusts whom the system trusts.
    pub fn system() -> Self {
        Tls { ca: None, client: None, server_name: None, reload_every: TLS_RELOAD_INTERVAL }
    }

    /// Trusts only what these authorities (PEM) have signed.
    pub fn ca(pem: impl Into<Vec<u8>>) -> Self {
        Tls { ca: Some(Pem::Text(pem.into())), ..Tls::system() }
    }

    /// Trusts only what the authorities in this file (PEM) have signed.
    pub fn ca_file(path: impl Into<PathBuf>) -> Self {
        Tls { ca: Some(Pem::File(path.into())), ..Tls::system() }
    }

    /// Shows a certificate of ours: the chain and the key, both PEM.
    pub fn client_certificate(mut self, chain_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.client = Some((Pem::Text(chain_pem.into()), Pem::Text(key_pem.into())));
        self
    }

    /// Shows a certificate of ours from files: the chain and the key, both PEM.
    pub fn client_certificate_files(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client = Some((Pem::File(chain.into()), Pem::File(key.into())));
        self
    }

    /// Expects the certificate of another name than the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Looks at the files so often, in place of every [`TLS_RELOAD_INTERVAL`].
    pub fn reload_every(mut self, interval: Duration) -> Self {
        self.reload_every = interval;
        self
    }

    /// Time between two checks of the files; `None` without files.
    pub(crate) fn reload_interval(&self) -> Option<Duration> {
        let client = self.client.as_ref().is_some_and(|(chain, key)| chain.is_file() || key.is_file());
        (client || self.ca.as_ref().is_some_and(Pem::is_file)).then_some(self.reload_every)
    }

    /// Reads what is given as files.
    pub(crate) fn load(&self) -> Result<Loaded, String> {
        let client = match &self.client {
            Some((chain, key)) => Some((chain.read()?, key.read()?)),
            None => None,
        };
        Ok(Loaded { ca: self.ca.as_ref().map(Pem::read).transpose()?, client })
    }

    pub(crate) fn client_config(&self, loaded: &Loaded, host: &str) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().domain_name(self.server_name.as_deref().unwrap_or(host));
        let config = match &loaded.ca {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        match &loaded.client {
            Some((chain, key)) => config.identity(Identity::from_pem(chain, key)),
            None => config,
        }
    }
}

/// An error of the transport with its cause, which alone says something.
pub(crate) fn text_of(error: &tonic::transport::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
