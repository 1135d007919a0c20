//! Reads the file.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::Refused;
use super::environment::{Lookup, Secrets};
use super::types::ConnectorTypes;
use crate::peer::declare::builder::{Peer, check_all};
use crate::peer::declare::limits::PeerLimits;
use crate::peer::declare::mapping::Mapping;
use crate::peer::declare::reconnect::Reconnect;
use crate::peer::error::PeerError;
use crate::peer::framing::{CodecSpec, InterceptorSpec};

/// Reads peers from a file, `peers.toml`:
///
/// ```toml
/// [[peer]]
/// id = "chat"                                # letters, digits, - and _
/// type = "tcp-server"                        # see ConnectorTypes
/// codec = "json"                             # or { name = "csv", separator = ";" }
/// interceptors = ["lines", { name = "gzip", level = 1 }]
/// linked_to = ["backend"]                    # clients that open a stream for each stream of this peer
///
/// [peer.config]                              # settings of the type
/// address = "127.0.0.1:7000"
///
/// [peer.mapping]                             # see Mapping
/// to = "room/{stream}"
/// signals = "session/{stream}"
/// undelivered = "dead-letter"
///
/// [peer.reconnect]                           # see Reconnect
/// initial_ms = 200
///
/// [peer.limits]                              # see PeerLimits
/// streams = 100
/// ```
///
/// Only `id` and `type` are required. In the strings of `[peer.config]`, `${NAME}` stands for a variable of the
/// environment: put secrets there. `$${` stands for the characters `${`. No error shows the value of a variable.
///
/// # Examples
///
/// ```
/// use eventbox::peer::PeersFile;
///
/// let peers = PeersFile::parse("[[peer]]\nid = 'sink'\ntype = 'null'\n")?;
/// assert_eq!(peers[0].id(), "sink");
///
/// let wrong = PeersFile::parse("[[peer]]\nid = 'sink'\ntype = 'null'\nmaping.to = 'a/b'\n").unwrap_err();
/// assert!(wrong.to_string().starts_with("read the file of peers, line 4, peer sink: unknown field `maping`"));
/// # Ok::<(), eventbox::peer::PeerError>(())
/// ```
#[must_use]
pub struct PeersFile {
    types: ConnectorTypes,
    lookup: Arc<Lookup<'static>>,
}

impl fmt::Debug for PeersFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeersFile").field("types", &self.types).finish_non_exhaustive()
    }
}

impl Default for PeersFile {
    fn default() -> Self {
        PeersFile { types: ConnectorTypes::default(), lookup: Arc::new(|name| std::env::var(name).ok()) }
    }
}

/// The keys of `[[peer]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    id: String,
    #[serde(rename = "type")]
    type_name: Spanned<String>,
    codec: Option<CodecSpec>,
    #[serde(default)]
    interceptors: Vec<InterceptorSpec>,
    #[serde(default)]
    linked_to: Vec<String>,
    #[serde(default)]
    mapping: Mapping,
    #[serde(default)]
    reconnect: Reconnect,
    #[serde(default)]
    limits: PeerLimits,
    /// Its type decides how it is read.
    #[serde(rename = "config")]
    _config: Option<IgnoredAny>,
}

impl PeersFile {
    /// Knows the types of this library, and the environment of the process.
    pub fn new() -> Self {
        PeersFile::default()
    }

    /// Sets the types of connectors.
    pub fn types(self, types: ConnectorTypes) -> Self {
        PeersFile { types, ..self }
    }

    /// Sets what `${NAME}` stands for, instead of the environment of the process.
    pub fn environment(self, lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        PeersFile { lookup: Arc::new(lookup), ..self }
    }

    /// Reads the text of a file with the types of this library.
    ///
    /// # Errors
    ///
    /// As [`read`](PeersFile::read).
    pub fn parse(text: &str) -> Result<Vec<Peer>, PeerError> {
        PeersFile::new().read(text)
    }

    /// Reads the text of a file. Makes connectors, and connects nothing.
    ///
    /// # Errors
    ///
    /// [`PeerError::File`] with the line, the peer and the problem: an unknown key or type, a wrong setting, a variable
    /// that is not set. [`PeerError::Setup`] for settings that do not fit each other.
    pub fn read(&self, text: &str) -> Result<Vec<Peer>, PeerError> {
        let tables = tables_of(text).map_err(|refused| refused.in_file(text, None))?;
        let mut peers = Vec::with_capacity(tables.len());
        for (index, table) in tables.into_iter().enumerate() {
            let id = id_of(&table, index);
            peers.push(self.peer(table).map_err(|refused| refused.in_file(text, Some(&id)))?);
        }
        check_all(&peers)?;
        Ok(peers)
    }

    fn peer(&self, mut table: Spanned<DeValue<'_>>) -> Result<Peer, Refused> {
        let keys = Keys::deserialize(ValueDeserializer::from(table.clone()))?;
        let span = table.span();
        let settings = match table.get_mut() {
            DeValue::Table(table) => table.remove("config"),
            _ => None,
        };
        let mut settings = settings.unwrap_or_else(|| Spanned::new(span, DeValue::Table(DeTable::new())));
        let mut secrets = Secrets::default();
        secrets.fill(&mut settings, &*self.lookup)?;
        let made = self.types.make(&keys.type_name, settings);
        let connector = made.map_err(|refused| Refused { problem: secrets.hidden(&refused.problem), ..refused })?;
        let mut peer = Peer::of(keys.id, connector)
            .interceptors(keys.interceptors)
            .mapping(keys.mapping)
            .reconnect(keys.reconnect)
            .limits(keys.limits);
        if let Some(codec) = keys.codec {
            peer = peer.codec(codec);
        }
        Ok(keys.linked_to.into_iter().fold(peer, Peer::linked_to))
    }
}

/// Returns the tables `[[peer]]`.
fn tables_of(text: &str) -> Result<Vec<Spanned<DeValue<'_>>>, Refused> {
    const FORM: &str = "the file has tables [[peer]] only";
    let mut tables = Vec::new();
    for (key, value) in DeTable::parse(text)?.into_inner() {
        let span = key.span();
        match value.into_inner() {
            DeValue::Array(values) if key.get_ref() == "peer" => tables.extend(values),
            _ => return Err(Refused::new(format!("unknown key `{}`: {FORM}", key.get_ref()), span)),
        }
    }
    match tables.iter().find(|table| !table.get_ref().is_table()) {
        Some(other) => Err(Refused::new(FORM, other.span())),
        None => Ok(tables),
    }
}

/// Returns the id of a peer, or its place in the file.
fn id_of(table: &Spanned<DeValue<'_>>, index: usize) -> String {
    let id = table.get_ref().as_table().and_then(|table| table.get("id")).and_then(|id| id.get_ref().as_str());
    id.map_or_else(|| format!("number {}", index + 1), |id| crate::text::shortened(id).to_string())
}
