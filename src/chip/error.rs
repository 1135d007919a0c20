//! Errors of a configuration.

/// Problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting that must not be zero.
    #[error("{setting} must not be zero")]
    Zero {
        /// The setting.
        setting: &'static str,
    },
    /// The address is not `host:port`.
    #[error("invalid address format: {problem}")]
    InvalidAddress {
        /// The problem.
        problem: String,
    },
    /// A TLS setting that cannot be used.
    #[error("the TLS settings cannot be used: {problem}")]
    Tls {
        /// The problem.
        problem: String,
    },
    /// An authentication setting that cannot be used.
    #[error("auth: {0}")]
    Auth(AuthConfigError),
}

/// Problem of the settings of an authentication.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthConfigError {
    /// No public key.
    #[error("public key hex required for rotating auth (TTL > 0)")]
    PublicKeyRequired,
    /// A header that is valid too shortly.
    #[error("headers TTL must be at least 10 minutes")]
    TtlTooShort,
    /// A public key that is not hex.
    #[error("failed to decode public key hex: {problem}")]
    InvalidPublicKey {
        /// The problem.
        problem: String,
    },
    /// Credentials would travel in the clear.
    #[error("credentials need TLS: switch it on, or say `insecure` on purpose")]
    NeedsTls,
}
