//! Peers: connections to the outside that feed eventboxes and drain them.

pub mod framing;
