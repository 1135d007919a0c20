//! Why the server did not start.

/// Why an ingress server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngressError {
    /// The address cannot be listened on.
    #[error("listen on {address}: choose another address, or stop what uses it")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificates or the key of TLS do not fit.
    #[error("set up TLS: give a PEM certificate chain and its PEM key")]
    Tls {
        /// What is wrong with them.
        source: tonic::transport::Error,
    },
    /// A file of certificates or of a key cannot be used.
    #[error("set up TLS: {problem}")]
    TlsFile {
        /// Which file, and what is wrong with it.
        problem: String,
    },
    /// The bytes of a public key on the allow-list are not an Ed25519 public key.
    #[error("read a public key: give the 32 bytes of an Ed25519 public key, in text as 64 lower-case hex digits")]
    PublicKey,
    /// The store cannot be opened or written.
    #[error("open the store of the ingress server")]
    Store(#[from] crate::error::Error),
}
