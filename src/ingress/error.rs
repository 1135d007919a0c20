//! The errors of the start of a server.

use crate::grpc::ServeError;

/// An error that prevents the start of an ingress server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngressError {
    /// The server cannot listen on the address.
    #[error("listen on {address}: choose another address, or stop what uses it")]
    Listen {
        /// The address.
        address: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// TLS cannot use the certificates or the key.
    #[error("set up TLS: give a PEM certificate chain and its PEM key")]
    Tls {
        /// The error of the TLS configuration.
        source: tonic::transport::Error,
    },
    /// The server cannot use a file with certificates or a key.
    #[error("set up TLS: {problem}")]
    TlsFile {
        /// The name of the file and its problem.
        problem: String,
    },
    /// The server cannot open or write the store.
    #[error("open the store of the ingress server")]
    Store(#[from] crate::error::Error),
}

impl From<ServeError> for IngressError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Listen { address, source } => IngressError::Listen { address, source },
            ServeError::Tls { source } => IngressError::Tls { source },
            ServeError::TlsFile { problem } => IngressError::TlsFile { problem },
        }
    }
}
