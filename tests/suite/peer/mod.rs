//! Tests of peers and their connectors.

mod http;
mod sockets;
