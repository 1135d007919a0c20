//! A declared peer as plain data.

use serde::Serialize;

/// A declared peer, as [`Peer::description`](crate::peer::Peer::description) returns it.
///
/// # Examples
///
/// ```
/// use eventbox::peer::Peer;
/// use eventbox::peer::connectors::Null;
///
/// let description = Peer::new("sink", Null::new()).description();
/// assert_eq!((description.id.as_str(), description.type_name), ("sink", "null"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerDescription {
    /// Id of the peer.
    pub id: String,
    /// Type of its connector.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// Declared endpoint.
    pub endpoint: String,
    /// Name of the codec; `None` where values travel as they are.
    pub codec: Option<String>,
    /// Names of the interceptors, in the order of bytes that arrive.
    pub interceptors: Vec<String>,
    /// Template of the recipients of what arrives; `None` for a peer that only sends.
    pub to: Option<String>,
    /// Clients that open a stream for each stream of this peer.
    pub linked_to: Vec<String>,
}
