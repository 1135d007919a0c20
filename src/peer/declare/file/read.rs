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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::MAX_PEER_ID_BYTES;

    fn read(text: &str) -> Result<Vec<Peer>, PeerError> {
        let lookup = |name: &str| match name {
            "HUB_TOKEN" => Some("a token of sixteen".to_owned()),
            "PORT" => Some("seventy".to_owned()),
            _ => None,
        };
        PeersFile::new().environment(lookup).read(text)
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    const WHOLE: &str = r#"
[[peer]]
id = "chat"
type = "tcp-server"
codec = { name = "csv", separator = ";" }
interceptors = ["lines", { name = "gzip", level = 1 }]
linked_to = ["backend"]

[peer.config]
address = "127.0.0.1:7000"

[peer.mapping]
to = "room/{stream}"
signals = "session/{stream}"
undelivered = "dead-letter"

[peer.reconnect]
initial_ms = 200

[peer.limits]
streams = 100
framing = { max_line_bytes = 5 }

[[peer]]
id = "backend"
type = "tcp-client"
config.address = "127.0.0.1:7001"
"#;

    #[test]
    fn a_whole_file_is_read() {
        let peers = read(WHOLE).unwrap();
        let descriptions: Vec<_> = peers.iter().map(Peer::description).collect();
        let chat = &descriptions[0];
        assert_eq!(
            (chat.id.as_str(), chat.type_name, chat.endpoint.as_str()),
            ("chat", "tcp-server", "127.0.0.1:7000")
        );
        assert_eq!((chat.codec.as_deref(), chat.to.as_deref()), (Some("csv"), Some("room/{stream}")));
        assert_eq!(
            (chat.interceptors.as_slice(), chat.linked_to.as_slice()),
            (["lines".to_owned(), "gzip".to_owned()].as_slice(), ["backend".to_owned()].as_slice())
        );
        assert_eq!((descriptions[1].id.as_str(), descriptions[1].type_name), ("backend", "tcp-client"));
        assert!(read("").unwrap().is_empty());
        assert!(format!("{:?}", peers[0]).contains("chat"));
    }

    /// Each text is put in the place of a line of a good file, and must be refused at that line, by name.
    #[test]
    fn unknown_keys_and_wrong_values_are_refused_with_the_line_and_the_peer() {
        let good = "[[peer]]\nid = 'first'\ntype = 'null'\n\n[[peer]]\nid = 'chat'\ntype = 'tcp-server'\n";
        for (line, problem) in [
            ("[[peer]]", "missing field `id`"),
            ("codek = 'json'", "unknown field `codek`"),
            ("codec = 'yaml'", "no codec has the name \"yaml\""),
            ("codec = { name = 'csv', separater = ';' }", "unknown field `separater`"),
            ("interceptors = ['line']", "no interceptor has the name \"line\""),
            ("interceptors = [{ name = 'lines', width = 2 }]", "unknown field `width`"),
            ("interceptors = 'lines'", "invalid type"),
            ("linked_to = 'chat'", "invalid type"),
            ("mapping.too = 'room/{stream}'", "unknown field `too`"),
            ("mapping.to = '{stream}/x'", "has a place in its kind"),
            ("mapping.undelivered = 'drop'", "write keep, dead-letter"),
            ("reconnect.initial = 100", "unknown field `initial`"),
            ("reconnect.growth = 0.5", "growth is 0.5"),
            ("limits.stream = 5", "unknown field `stream`"),
            ("limits.streams = 0", "expected a nonzero"),
            ("limits.in_flight = 1000000", "at most"),
            ("limits.framing.max_line = 5", "unknown field `max_line`"),
            ("config.adress = 'x'", "unknown field `adress`"),
            ("config.address = 'no port'", "no port"),
            ("config = 'x'", "invalid type"),
            ("config.address = '${NO_PORT}'", "the environment variable NO_PORT is not set"),
            ("config.address = '${}'", "begins the name of an environment variable"),
        ] {
            let peer = if line == "[[peer]]" { "number 3" } else { "chat" };
            // A peer that lacks its address would be refused before the next one.
            let good = if line == "[[peer]]" { good.replace("tcp-server", "null") } else { good.to_owned() };
            let error = refused(&format!("{good}{line}\n"));
            assert!(error.starts_with("read the file of peers, line "), "{line}: {error}");
            assert!(error.contains(&format!("peer {peer}: ")) && error.contains(problem), "{line}: {error}");
            // An error of a whole table may be at its beginning.
            let at =
                error["read the file of peers, line ".len()..].split(',').next().unwrap().parse::<usize>().unwrap();
            assert!((5..=8).contains(&at), "{line}: {error}");
            if problem.starts_with("unknown field") && !line.contains('{') {
                assert_eq!(at, 8, "{line}: {error}");
            }
        }
    }

    #[test]
    fn what_is_no_table_of_a_peer_is_refused() {
        assert!(refused("[[peers]]\nid = 'x'\n").contains("line 1: unknown key `peers`"));
        assert!(refused("\npeer = 5\n").contains("line 2: unknown key `peer`: the file has tables [[peer]] only"));
        assert!(refused("peer = [5]\n").contains("tables [[peer]] only"));
        assert!(refused("[[peer]]\nid = \n").starts_with("read the file of peers, line 2: "));
    }

    #[test]
    fn unknown_types_list_the_known_ones() {
        let error = refused("[[peer]]\nid = 'chat'\ntype = 'tcp'\n");
        assert!(
            error.starts_with("read the file of peers, line 3, peer chat: unknown type \"tcp\", known are: bench,"),
            "{error}"
        );
        for name in ConnectorTypes::default().names() {
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn peers_that_do_not_fit_each_other_are_refused() {
        let peer = |id: &str, more: &str| format!("[[peer]]\nid = '{id}'\ntype = 'null'\n{more}\n");
        assert!(refused(&(peer("a", "") + &peer("a", ""))).contains("declared twice"));
        assert!(refused(&peer("a", "linked_to = ['b']")).contains("linked to b"));
        assert!(refused(&peer("a b", "")).contains("letters, digits"));
        assert!(refused(&peer(&"a".repeat(MAX_PEER_ID_BYTES + 1), "")).contains("letters, digits"));
    }

    /// An error never shows what a variable of the environment holds.
    #[test]
    fn secrets_come_from_the_environment_and_are_in_no_error() {
        let client = "[[peer]]\nid = 'hub'\ntype = 'http-client'\n[peer.config]\nendpoint = 'http://127.0.0.1'\n";
        assert!(read(&format!("{client}token = '${{HUB_TOKEN}}'\n")).is_ok());
        let wrong = refused(&format!("{client}timeout_ms = '${{HUB_TOKEN}}'\n"));
        assert!(wrong.contains("line 6") && wrong.contains("${HUB_TOKEN}") && !wrong.contains("sixteen"), "{wrong}");
        let wrong = refused(&format!("{client}method = 'x ${{PORT}}'\n"));
        assert!(!wrong.contains("seventy"), "{wrong}");
        // In the other parts a place of a template may follow a dollar.
        assert!(read("[[peer]]\nid = 'a'\ntype = 'null'\nmapping.to = 'price/${stream}'\n").is_ok());
    }

    /// The name in a file is the name that the connector shows.
    #[test]
    fn each_type_is_registered_under_its_own_name() {
        let configs = [
            ("bench", ""),
            ("chip-ingress", "address = '127.0.0.1:1'\nwrap = { source = 'a', type = 'b' }"),
            #[cfg(feature = "ingress")]
            ("chip-ingress-server", "address = '127.0.0.1:1'"),
            ("eventbox", "url = 'postgres://hub/fleet'\nedge = 'truck'\nto = 'truck/{stream}'"),
            ("file", "path = '/tmp/x'\nmode = 'read'"),
            ("http-client", "endpoint = 'http://127.0.0.1'"),
            ("http-server", "address = '127.0.0.1:1'"),
            ("null", ""),
            ("tcp-client", "address = '127.0.0.1:1'"),
            ("tcp-server", "address = '127.0.0.1:1'"),
            #[cfg(unix)]
            ("unix-client", "path = '/tmp/x'"),
            #[cfg(unix)]
            ("unix-server", "path = '/tmp/x'"),
            ("ws-client", "url = 'ws://127.0.0.1/'"),
            ("ws-server", "address = '127.0.0.1:1'"),
        ];
        for (name, config) in configs {
            let peers = read(&format!("[[peer]]\nid = 'a'\ntype = '{name}'\n[peer.config]\n{config}\n"));
            assert_eq!(peers.unwrap_or_else(|error| panic!("{name}: {error}"))[0].description().type_name, name);
        }
        // The standard input belongs to one connector of a process, so no test makes it.
        let made = configs.map(|(name, _)| name);
        let all: Vec<String> = ConnectorTypes::default().names().map(str::to_owned).collect();
        assert!(all.iter().all(|name| name == "stdio" || made.contains(&name.as_str())), "{all:?}");
    }
}
