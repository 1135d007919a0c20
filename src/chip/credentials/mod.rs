//! Credentials of a client: signed headers, certificates and keys.

pub(crate) mod auth;
pub(crate) mod headers;
pub(crate) mod pem;
pub(crate) mod tls;
