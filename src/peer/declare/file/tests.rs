//! Tests of the file: what is read, and how each wrong part is refused.

use super::{ConnectorTypes, PeersFile};
use crate::peer::{MAX_PEER_ID_BYTES, Peer, PeerError};

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
    assert_eq!((chat.id.as_str(), chat.type_name, chat.endpoint.as_str()), ("chat", "tcp-server", "127.0.0.1:7000"));
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
        let at = error["read the file of peers, line ".len()..].split(',').next().unwrap().parse::<usize>().unwrap();
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
