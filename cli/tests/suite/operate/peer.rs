//! `eventbox peer`, as real processes with real peers.

use std::process::Stdio;

use eventbox::{Event, Recipient, admin};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr};

use super::{Seed, eventbox, on, run};
use crate::support::{SOON, TestDb, eventually, on_every_engine};

const SINK: &str = "[[peer]]\nid = 'sink'\ntype = 'null'\n";

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    file
}

/// `eventbox peer run`, whose messages are read line by line.
struct Running {
    process: Child,
    messages: Lines<BufReader<ChildStderr>>,
    _file: NamedTempFile,
}

impl Running {
    fn start<B: Seed>(db: &TestDb<B>, text: &str, more: &[&str]) -> Self {
        let (file, url) = (file(text), db.url());
        let path = file.path().to_str().unwrap();
        let args = [&["peer", "run", "--file", path, "--database-url", &url], more].concat();
        let mut command = eventbox(&args);
        let mut process = command.stdin(Stdio::piped()).spawn().unwrap();
        let messages = BufReader::new(process.stderr.take().unwrap()).lines();
        Running { process, messages, _file: file }
    }

    /// Waits for a message with this text.
    async fn says(&mut self, text: &str) -> String {
        let found = async {
            let mut all = Vec::new();
            while let Some(line) = self.messages.next_line().await.unwrap() {
                if line.contains(text) {
                    return line;
                }
                all.push(line);
            }
            panic!("it ended without saying {text}: {all:#?}");
        };
        tokio::time::timeout(SOON, found).await.unwrap_or_else(|_| panic!("it did not say {text}"))
    }

    async fn ends(mut self) -> Option<i32> {
        tokio::time::timeout(SOON, self.process.wait()).await.expect("it ends").unwrap().code()
    }

    async fn stops(self) -> Option<i32> {
        kill(Pid::from_raw(self.process.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.ends().await
    }
}

fn to(kind: &str, key: &str) -> Recipient {
    Recipient::new(kind, key).unwrap()
}

async fn values<B: Seed>(db: &TestDb<B>, of: &Recipient) -> Vec<String> {
    let events = admin::events(&db.pool, of, None, 1_000).await.unwrap();
    events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect()
}

#[tokio::test]
async fn a_file_is_checked_without_a_database() {
    let good = file(
        "[[peer]]\nid = 'door'\ntype = 'unix-server'\nconfig.path = '/tmp/x.sock'\nmapping.to = 'room/{stream}'\n",
    );
    let path = good.path().to_str().unwrap();
    let checked = run(&["peer", "run", "--check", "--file", path]).await;
    for shown in ["door", "unix-server", "/tmp/x.sock", "room/{stream}"] {
        assert!(checked.done().contains(shown), "{shown}: {checked:?}");
    }
    let json = run(&["peer", "run", "--check", "--file", path, "--format", "json"]).await.json();
    assert_eq!((json[0]["id"].as_str(), json[0]["type"].as_str()), (Some("door"), Some("unix-server")));

    let wrong = file(&format!("{SINK}maping.to = 'a/b'\n"));
    let refused = run(&["peer", "run", "--check", "--file", wrong.path().to_str().unwrap()]).await;
    assert!(refused.refused().contains("line 4, peer sink: unknown field `maping`"), "{refused:?}");
    let none = run(&["peer", "run", "--check", "--file", "/no/such/peers.toml"]).await;
    assert!(none.refused().contains("cannot read the file of peers /no/such/peers.toml"), "{none:?}");
    let empty = run(&["peer", "run", "--check", "--file", file("").path().to_str().unwrap()]).await;
    assert!(empty.refused().contains("add a table [[peer]]"), "{empty:?}");
    let no_database = run(&["peer", "run", "--file", path]).await;
    assert!(no_database.refused().contains("no database is named"), "{no_database:?}");
}

on_every_engine! {
    /// A line in is an event, and an event is a line out, until a signal.
    async fn lines_go_in_and_out_of_eventboxes(db) {
        let text = "[[peer]]\nid = 'io'\ntype = 'stdio'\ninterceptors = ['lines']\nmapping.to = 'room/{stream}'\n";
        let mut running = Running::start(db, text, &[]);
        running.says("peer io (stdio at standard input and output): connected").await;
        running.process.stdin.as_mut().unwrap().write_all(b"one\ntwo\n").await.unwrap();
        eventually(SOON, async || values(db, &to("room", "main")).await == ["one", "two"]).await;
        Engine::emit(&db.pool, &to("peer.io", "main"), Event::new("three")).await;
        let mut lines = BufReader::new(running.process.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(SOON, lines.next_line()).await.unwrap().unwrap();
        assert_eq!(line.as_deref(), Some("three"));
        assert_eq!(running.stops().await, Some(0));
        assert_eq!(lines.next_line().await.unwrap(), None);
        assert!(values(db, &to("peer.io", "main")).await.is_empty());
    }

    async fn a_signal_lets_streams_send_what_waits(db) {
        let out = to("peer.sink", "main");
        for n in 0..300 {
            Engine::emit(&db.pool, &out, Event::new(n.to_string())).await;
        }
        let mut running = Running::start(db, SINK, &["--stop-within", "60s"]);
        running.says("connected").await;
        assert_eq!(running.stops().await, Some(0));
        assert!(values(db, &out).await.is_empty());
    }

    async fn a_run_ends_when_every_peer_has_ended(db) {
        let text = "[[peer]]\nid = 'io'\ntype = 'stdio'\nconfig.output = false\ninterceptors = ['lines']\n\
                    mapping.to = 'room/{stream}'\n";
        let mut running = Running::start(db, text, &[]);
        let mut input = running.process.stdin.take().unwrap();
        input.write_all(b"one\nlast without its end").await.unwrap();
        drop(input);
        running.says("finished").await;
        assert_eq!(running.ends().await, Some(0));
        assert_eq!(values(db, &to("room", "main")).await, ["one", "last without its end"]);

        let text = "[[peer]]\nid = 'hub'\ntype = 'unix-client'\nconfig.path = '/no/such.sock'\n\
                    reconnect.retries = false\n";
        let mut running = Running::start(db, text, &[]);
        running.says("peer hub (unix-client at /no/such.sock): gave up: ").await;
        assert_eq!(running.ends().await, Some(1));
    }

    async fn running_peers_are_listed_and_measured(db) {
        assert!(on(db, &["peer", "list"]).await.done().starts_with("No peer has"));
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let mut running = Running::start(db, SINK, &["--metrics", &free]);
        running.says("connected").await;
        let peers = on(db, &["peer", "list", "--json"]).await.json();
        let shown = (peers[0]["peer"].as_str(), peers[0]["streams"]["number"].as_u64());
        assert_eq!(shown, (Some("sink"), Some(1)), "{peers}");
        // The first heartbeat tells what the process runs.
        let runs = async || on(db, &["peer", "list", "--json"]).await.json()[0]["processes"][0]["worker"].is_string();
        eventually(SOON, runs).await;
        assert!(on(db, &["peer", "list"]).await.done().contains("sink"));
        let streams = on(db, &["peer", "streams", "sink", "--json"]).await.json();
        assert_eq!((streams[0]["stream"].as_str(), streams[0]["is_alive"].as_bool()), (Some("main"), Some(true)));
        assert!(on(db, &["peer", "streams", "sink", "--limit", "1"]).await.stderr.contains("--after main"));
        assert!(on(db, &["show", "peer.sink/main"]).await.done().contains("open in"));
        let measured = async || {
            let Ok(mut stream) = TcpStream::connect(&free).await else { return false };
            let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let wanted = ["eventbox_peer_connected{peer=\"sink\"} 1", "# HELP eventbox_peer_streams"];
            wanted.iter().all(|wanted| answer.contains(wanted))
        };
        eventually(SOON, measured).await;
        assert_eq!(running.stops().await, Some(0));
        assert_eq!(on(db, &["peer", "streams", "sink"]).await.done(), "The peer has no open stream.");
    }

    async fn tables_are_needed(_db) {
        let empty = TestDb::<Engine>::empty("peers_without_tables").await;
        // A file of SQLite is there after its first statement.
        empty.run("CREATE TABLE other (n INTEGER)").await;
        let path = file(SINK);
        let refused = on(&empty, &["peer", "run", "--file", path.path().to_str().unwrap()]).await;
        assert!(refused.refused().contains("eventbox migrate up"), "{refused:?}");
        empty.remove().await;
    }
}
