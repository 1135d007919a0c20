//! TLS of the transport.

use std::error::Error;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Whom to trust, and who we are.
#[derive(Debug, Clone)]
#[must_use = "give it to `GrpcConfig::tls`"]
pub struct Tls {
    ca_pem: Option<Vec<u8>>,
    client_pem: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl Tls {
    /// Trusts whom the system trusts.
    pub fn system() -> Self {
        Tls { ca_pem: None, client_pem: None, server_name: None }
    }

    /// Trusts only what these authorities (PEM) have signed.
    pub fn ca(pem: impl Into<Vec<u8>>) -> Self {
        Tls { ca_pem: Some(pem.into()), ..Tls::system() }
    }

    /// Shows a certificate of ours: the chain and the key, both PEM.
    pub fn client_certificate(mut self, chain_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        self.client_pem = Some((chain_pem.into(), key_pem.into()));
        self
    }

    /// Expects the certificate of another name than the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    pub(super) fn client_config(&self, host: &str) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().domain_name(self.server_name.as_deref().unwrap_or(host));
        let config = match &self.ca_pem {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        match &self.client_pem {
            Some((chain, key)) => config.identity(Identity::from_pem(chain, key)),
            None => config,
        }
    }
}

/// An error of the transport with its cause, which alone says something.
pub(super) fn text_of(error: &tonic::transport::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
