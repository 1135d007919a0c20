//! The errors of the start of a server.

/// An error that prevents the start of a gRPC server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
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
}

/// The bytes of a public key are not an Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read a public key: give the 32 bytes of an Ed25519 public key, in text as 64 lower-case hex digits")]
pub struct InvalidPublicKey;
