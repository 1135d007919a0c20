//! The errors of the start of a dashboard.

use std::net::SocketAddr;

/// An error that prevents the start of a dashboard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DashboardError {
    /// The dashboard cannot listen on the address.
    #[error("listen on {address}: choose another address, or stop what uses it")]
    Listen {
        /// The address.
        address: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// Other machines could reach the address, and the dashboard would let everybody in.
    #[error(
        "listen on {address}: other machines can reach it, and everybody would be let in. Listen on a loopback address \
         such as 127.0.0.1:8137, set a token (with_token), or name the header in which a reverse proxy sends the \
         person's name (with_trusted_header)"
    )]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// The token is so short that it could be guessed.
    #[error("use the token: it has {bytes} bytes; choose a random one of at least {least}")]
    WeakToken {
        /// Number of bytes of the token.
        bytes: usize,
        /// Smallest number of bytes.
        least: usize,
    },
}
