//! TLS of the transport.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::chip::credentials::pem::{Pem, TLS_RELOAD_INTERVAL};

/// Trusted authorities, and the certificate of the client.
///
/// Files are checked every [`TLS_RELOAD_INTERVAL`] and read again when they change. New connections use the new
/// content; requests in flight end on the old connection. Content that cannot be used leads to a warning, and the old
/// content stays in use.
#[derive(Debug, Clone)]
#[must_use = "give it to `GrpcConfig::tls`"]
pub struct Tls {
    ca: Option<Pem>,
    client: Option<(Pem, Pem)>,
    server_name: Option<String>,
    reload_every: Duration,
}

/// Contents of certificates and keys.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Trusts the authorities of the system.
    pub fn system() -> Self {
        Tls { ca: None, client: None, server_name: None, reload_every: TLS_RELOAD_INTERVAL }
    }

    /// Trusts only these authorities, in PEM.
    pub fn ca(pem: impl Into<Vec<u8>>) -> Self {
        Tls { ca: Some(Pem::Text(pem.into())), ..Tls::system() }
    }

    /// Trusts only the authorities in this file, in PEM.
    pub fn ca_file(path: impl Into<PathBuf>) -> Self {
        Tls { ca: Some(Pem::File(path.into())), ..Tls::system() }
    }

    /// Sets the certificate of the client: the chain and the key, both in PEM.
    pub fn client_certificate(mut self, chain_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.client = Some((Pem::Text(chain_pem.into()), Pem::Text(key_pem.into())));
        self
    }

    /// Sets the certificate of the client from files: the chain and the key, both in PEM.
    pub fn client_certificate_files(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.client = Some((Pem::File(chain.into()), Pem::File(key.into())));
        self
    }

    /// Expects a server certificate for this name in place of the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets the time between two checks of the files, in place of [`TLS_RELOAD_INTERVAL`].
    pub fn reload_every(mut self, interval: Duration) -> Self {
        self.reload_every = interval;
        self
    }

    /// Returns the time between two checks of the files; `None` without files.
    pub(crate) fn reload_interval(&self) -> Option<Duration> {
        let client = self.client.as_ref().is_some_and(|(chain, key)| chain.is_file() || key.is_file());
        (client || self.ca.as_ref().is_some_and(Pem::is_file)).then_some(self.reload_every)
    }

    /// Reads the files.
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

/// Returns the text of an error of the transport with its cause, because only the cause is specific.
pub(crate) fn text_of(error: &tonic::transport::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
