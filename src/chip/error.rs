//! Errors of a configuration.

/// Problem of a configuration of the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting must not be zero.
    #[error("{setting} must not be zero")]
    Zero {
        /// Name of the setting.
        setting: &'static str,
    },
    /// The address is not `host:port`.
    #[error("invalid address format: {problem}")]
    InvalidAddress {
        /// Description of the problem.
        problem: String,
    },
    /// The TLS settings cannot be used.
    #[error("the TLS settings cannot be used: {problem}")]
    Tls {
        /// Description of the problem.
        problem: String,
    },
    /// The settings of the credentials cannot be used.
    #[error("auth: {0}")]
    Auth(AuthConfigError),
}

/// Problem of the settings of credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthConfigError {
    /// The public key is missing.
    #[error("public key hex required for rotating auth (TTL > 0)")]
    PublicKeyRequired,
    /// The time to live of a signed header is under 10 minutes.
    #[error("headers TTL must be at least 10 minutes")]
    TtlTooShort,
    /// The public key is not hex, or does not have 32 bytes.
    #[error("failed to decode public key hex: {problem}")]
    InvalidPublicKey {
        /// Description of the problem.
        problem: String,
    },
    /// The credentials would travel in plain text.
    #[error("credentials need TLS: set `tls`, or call `insecure` on purpose")]
    NeedsTls,
}
