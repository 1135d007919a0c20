//! `eventbox ingress` as a process.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use eventbox::proto::chipingress::pb::EmptyRequest;
use eventbox::proto::io::cloudevents::v1::CloudEvent;
use eventbox::proto::io::cloudevents::v1::cloud_event::Data;
use eventbox::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::chip::*;

fn eventbox(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbox"));
    command.arg("ingress").args(arguments).kill_on_drop(true).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn output(arguments: &[&str]) -> Output {
    tokio::time::timeout(PATIENCE, eventbox(arguments).output()).await.unwrap().unwrap()
}

/// Returns the output of a successful command.
async fn printed(arguments: &[&str]) -> String {
    let output = output(arguments).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A server in its own process.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    async fn start(store: &Path, more: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0", "--store", store.to_str().unwrap()], more].concat();
        let mut child = eventbox(&arguments).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        let ready = ready.expect("the server ended before it listened");
        let address = ready.strip_prefix("listening on ").unwrap().to_owned();
        Process { child, address }
    }

    async fn client(&self) -> Client {
        connect(&self.address).await
    }

    /// Sends a signal and returns the exit status of the process.
    async fn signal(&mut self, name: &str) -> std::process::ExitStatus {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().await.unwrap().success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }
}

fn store() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ingress.sqlite3");
    (directory, file)
}

#[tokio::test]
async fn the_log_shows_each_key_once_with_its_copies() {
    let (_directory, file) = store();
    let mut server = Process::start(&file, &[]).await;
    let mut first = event("a", "ka", "text");
    set(&mut first, "subject", Attr::CeString("order 1".into()));
    set(&mut first, "time", Attr::CeTimestamp(prost_types::Timestamp { seconds: 1, nanos: 0 }));
    let mut binary = event("b", "", "");
    binary.data = Some(Data::ProtoData(prost_types::Any { type_url: String::new(), value: vec![0xff] }));
    let bad = CloudEvent { id: String::new(), ..event("", "", "") };
    let sent = vec![first.clone(), binary, first, event("c", "ka", "other"), bad];
    publish(&mut server.client().await, sent).await.unwrap();

    let path = file.to_str().unwrap();
    let check = async || {
        let log = printed(&["log", "--store", path, "--json"]).await;
        let mut lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let received_at = line.as_object_mut().unwrap().remove("received_at").unwrap();
            assert!(received_at.as_str().unwrap().starts_with("20"), "{received_at}");
        }
        let wanted = [
            json!({"sequence": 1, "key": "ka", "copies": 1, "conflicts": 1, "id": "a", "source": "shop",
                   "type": "order.paid", "subject": "order 1", "data_base64": "dGV4dA==", "data_text": "text",
                   "attributes":
                   {"idempotencykey": "ka", "subject": "order 1", "time": "1970-01-01T00:00:01Z"}}),
            json!({"sequence": 2, "key": null, "copies": 0, "conflicts": 0, "id": "b", "source": "shop",
                   "type": "order.paid", "subject": null, "data_base64": "/w==", "attributes": {}}),
        ];
        assert_eq!(lines, wanted);
        let conflicts = printed(&["log", "--store", path, "--json", "--conflicts"]).await;
        let conflict: Value = serde_json::from_str(&conflicts).unwrap();
        assert_eq!((&conflict["key"], &conflict["id"]), (&json!("ka"), &json!("c")));
        let stats: Value = serde_json::from_str(&printed(&["stats", "--store", path, "--json"]).await).unwrap();
        assert_eq!(stats, json!({"kept": 2, "duplicates": 1, "conflicts": 1, "rejected": 1}));
    };
    check().await;
    assert!(server.signal("-TERM").await.success());
    check().await;
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "one file is left");

    let plain = printed(&["log", "--store", path, "--after", "1"]).await;
    assert!(plain.contains("shop order.paid id=b bytes=1") && plain.lines().count() == 1, "{plain}");
    let plain = printed(&["log", "--store", path]).await;
    assert!(plain.contains("subject=order 1 key=ka bytes=4 copies=1 conflicts=1"), "{plain}");
    assert!(!plain.contains('\u{1b}'), "colours in a pipe: {plain}");
    let stats = printed(&["stats", "--store", path]).await;
    assert_eq!(stats, "kept       2\nduplicates 1\nconflicts  1\nrejected   1\n");
}

/// A sender's text cannot control the terminal of the reader.
#[tokio::test]
async fn control_characters_are_escaped_in_the_log() {
    let (_directory, file) = store();
    let server = Process::start(&file, &[]).await;
    let sneaky = event("\u{1b}[2J\n", "k\u{7}", "1");
    publish(&mut server.client().await, vec![sneaky]).await.unwrap();
    let plain = printed(&["log", "--store", file.to_str().unwrap()]).await;
    assert!(plain.contains(r"id=\u{1b}[2J\n key=k\u{7}"), "{plain}");
}

#[tokio::test]
async fn both_signals_stop_it_cleanly() {
    for signal in ["-INT", "-TERM"] {
        let (_directory, file) = store();
        let mut server = Process::start(&file, &[]).await;
        let _connected = server.client().await;
        assert_eq!(server.signal(signal).await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn following_shows_new_events() {
    let (_directory, file) = store();
    let server = Process::start(&file, &[]).await;
    let mut client = server.client().await;
    publish(&mut client, vec![event("a", "", "1")]).await.unwrap();
    let mut follower = eventbox(&["log", "--store", file.to_str().unwrap(), "--follow", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    for id in ["a", "b", "c"] {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["id"], id);
        let next = char::from(id.as_bytes()[0] + 1).to_string();
        publish(&mut client, vec![event(&next, "", "1")]).await.unwrap();
    }
}

#[tokio::test]
async fn a_closed_pipe_is_no_error() {
    let (_directory, file) = store();
    let server = Process::start(&file, &[]).await;
    // More events than a pipe holds.
    let events = (0..200).map(|index| event(&index.to_string(), "", &"x".repeat(4000))).collect();
    publish(&mut server.client().await, events).await.unwrap();
    let mut log = eventbox(&["log", "--store", file.to_str().unwrap(), "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(log.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    drop(lines);
    let ended = tokio::time::timeout(PATIENCE, log.wait_with_output()).await.unwrap().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn errors_are_one_line_with_advice() {
    let (directory, file) = store();
    let store = file.to_str().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "this is no database, and long enough to be looked at as one: ".repeat(100)).unwrap();
    let text = text.to_str().unwrap();
    let foreign = directory.path().join("foreign.sqlite3");
    let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&foreign)).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let missing = directory.path().join("missing");
    let missing = missing.to_str().unwrap();
    for (arguments, wanted) in [
        (vec!["log", "--store", missing], "there is no such file: name the file that `eventbox ingress --store` was"),
        (vec!["stats", "--store", text], "this is not the store of an ingress server: name the file"),
        (
            vec!["log", "--store", foreign.to_str().unwrap()],
            "this is not the store of an ingress server: name the file",
        ),
        (vec!["--store", "/no/such/directory/f"], "name another file, in a directory that exists and may be written"),
        (vec!["--store", text], "name another file"),
        (vec!["--store", store, "--listen", &taken], "choose another address, or stop what uses it"),
        (vec!["--store", store, "--public-key", "00"], "give the 32 bytes of an Ed25519 public key"),
        (vec!["--store", store, "--basic-auth", "user"], "give USER:PASSWORD"),
        (vec!["--store", store, "--tls-cert", missing, "--tls-key", missing], "No such file"),
        (vec!["--store", store, "--tls-cert", text, "--tls-key", text], "give a PEM certificate chain and its PEM key"),
    ] {
        let output = output(&arguments).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("eventbox: ") && stderr.lines().count() == 1, "{arguments:?}: {stderr}");
        assert!(stderr.contains(wanted), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(output(&["--fault", "code=OK", "--store", store]).await.status.code(), Some(2));
}

#[tokio::test]
async fn the_help_names_the_purpose_and_the_limits() {
    let help = printed(&["--help"]).await;
    for said in ["for development, tests and rehearsals", "It is not a production ingress", "--fault", "log", "stats"] {
        assert!(help.contains(said), "{help}");
    }
}

#[tokio::test]
async fn faults_and_credentials_are_taken_from_the_command_line() {
    let (_directory, file) = store();
    let more = ["--basic-auth", "user:pass", "--fault", "code=ABORTED,times=1", "--fault", "results=0,type=order.paid"];
    let server = Process::start(&file, &more).await;
    let mut client = server.client().await;
    let request = || {
        let mut request = tonic::Request::new(batch(vec![event("a", "k", "1")], false));
        request.metadata_mut().insert("authorization", "Basic dXNlcjpwYXNz".parse().unwrap());
        request
    };
    let refused = client.ping(EmptyRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    assert_eq!(client.publish_batch(request()).await.unwrap_err().code(), tonic::Code::Aborted);
    assert!(client.publish_batch(request()).await.unwrap().into_inner().results.is_empty());
    assert_eq!(printed(&["log", "--store", file.to_str().unwrap()]).await.lines().count(), 1);
}

/// Four clients send batches until the server is killed. The log has every acknowledged event. After all events are
/// sent again to a new server, the log has each key once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_events_survive_a_kill() {
    const SENDERS: usize = 4;
    const EVENTS: usize = 10;
    let (_directory, file) = store();
    let mut sent = HashSet::new();
    let mut acknowledged = HashSet::new();
    for round in 0..4 {
        let mut server = Process::start(&file, &[]).await;
        let (report, mut reports) = tokio::sync::mpsc::channel::<usize>(1);
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (address, report) = (server.address.clone(), report.clone());
                tokio::spawn(async move {
                    let mut client = connect(&address).await;
                    let (mut sent, mut acknowledged) = (Vec::new(), Vec::new());
                    for number in 0.. {
                        let keys = (0..EVENTS).map(|index| format!("{round}-{sender}-{number}-{index}"));
                        let keys: Vec<String> = keys.collect();
                        sent.extend(keys.clone());
                        let events = keys.iter().map(|key| event(key, key, "payload")).collect();
                        match publish(&mut client, events).await {
                            Ok(response) => assert_eq!(response.results.len(), EVENTS),
                            Err(_) => break,
                        }
                        acknowledged.extend(keys);
                        let _ = report.try_send(sender);
                    }
                    (sent, acknowledged)
                })
            })
            .collect();
        for _ in 0..20 + 7 * round {
            tokio::time::timeout(PATIENCE, reports.recv()).await.unwrap().unwrap();
        }
        assert!(!server.signal("-KILL").await.success());
        for sender in join_all(senders).await {
            let (all, known) = sender.unwrap();
            assert!(!known.is_empty());
            sent.extend(all);
            acknowledged.extend(known);
        }
        let log = eventbox::ingress::IngressLog::open(&file).await.unwrap();
        let keys: HashSet<String> = log.keys().await.unwrap().into_iter().collect();
        let lost: Vec<_> = acknowledged.difference(&keys).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        assert!(keys.is_subset(&sent));
    }

    let server = Process::start(&file, &[]).await;
    let mut client = server.client().await;
    let again: Vec<_> = sent.iter().map(|key| event(key, key, "payload")).collect();
    for events in again.chunks(500) {
        publish(&mut client, events.to_vec()).await.unwrap();
    }
    let log = printed(&["log", "--store", file.to_str().unwrap(), "--json"]).await;
    let keys: Vec<Value> = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].take()).collect();
    let distinct: HashSet<&str> = keys.iter().map(|key| key.as_str().unwrap()).collect();
    assert_eq!((keys.len(), distinct.len()), (sent.len(), sent.len()));
}
