//! Tests of peers and their connectors.

mod sockets;
