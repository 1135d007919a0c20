//! The client: order, retries, refusals, responses, and endpoints that no event names.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventbox::peer::connectors::http::{Format, HttpClient, HttpClientConfig, HttpMode, Responses};
use eventbox::peer::connectors::{TlsClientConfig, TlsServerConfig};
use eventbox::peer::{Mapping, Peer, Peers};
use eventbox::{Event, EventId, Recipient, testing};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{STOP, Web, emptied, refusal, requests};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// A request as a server saw it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    head: String,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// A server of another make, whose responses a closure writes.
struct Foreign {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Foreign {
    async fn start(reply: impl Fn(usize, &Seen) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let foreign = Foreign { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let (seen, reply) = (foreign.seen.clone(), Arc::new(reply));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, reply) = (seen.clone(), reply.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = read(&mut stream).await {
                        let number = {
                            let mut seen = seen.lock().unwrap();
                            seen.push(request.clone());
                            seen.len()
                        };
                        stream.write_all(reply(number, &request).as_bytes()).await.unwrap();
                    }
                });
            }
        });
        foreign
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let mut seen = Seen { head, body: String::new() };
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    seen.body = String::from_utf8(body).unwrap();
    Some(seen)
}

fn reply(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn main_stream() -> Recipient {
    Recipient::new("peer.hook", "main").unwrap()
}

async fn start<B: TestEngine>(db: &TestDb<B>, to: &str, change: impl FnOnce(&mut HttpClientConfig)) -> Peers<B> {
    let mut config = HttpClientConfig::to(to);
    change(&mut config);
    let peer = Peer::new("hook", HttpClient::new(config).unwrap()).mapping(Mapping::to("response/all").unwrap());
    Peers::builder(db.open(8)).config(crate::peer::config()).peer(peer).start().await.unwrap()
}

async fn emit<B: crate::support::CellEngine>(db: &TestDb<B>, values: &[&str]) -> Vec<EventId> {
    let mut ids = Vec::new();
    for value in values {
        let event = Event::new((*value).to_owned());
        crate::peer::emit_event(db, &main_stream(), event).await;
        ids = testing::events_of(&db.pool, &main_stream()).await.unwrap().iter().map(Event::id).collect();
    }
    ids
}

async fn stop<B: TestEngine>(peers: Peers<B>) {
    let report = peers.stop(STOP).await;
    assert!(report.complete, "{report:?}");
}

on_every_engine! {
    async fn events_are_requests_in_order(db) {
        let foreign = Foreign::start(|_, _| reply("200 OK", "")).await;
        let ids = emit(db, &["one", "two", "three"]).await;
        let to = format!("http://{}/in", foreign.address);
        let peers = start(db, &to, |config| config.path = "/orders".to_owned()).await;
        emptied(db, &main_stream()).await;
        let seen = foreign.seen();
        let bodies: Vec<&str> = seen.iter().map(|seen| seen.body.as_str()).collect();
        assert_eq!(bodies, ["one", "two", "three"]);
        for (seen, id) in seen.iter().zip(&ids) {
            assert!(seen.head.starts_with("POST /in/orders HTTP/1.1\r\n"), "{seen:?}");
            assert_eq!(seen.header("idempotency-key"), Some(id.to_string().as_str()));
            assert_eq!(seen.header("host"), Some(foreign.address.to_string().as_str()));
        }
        stop(peers).await;
    }

    /// A server that asks for time gets the same request again, before any later one.
    async fn a_server_that_is_busy_is_asked_again(db) {
        let foreign = Foreign::start(|number, _| match number {
            1 => "HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n".to_owned(),
            2 => reply("429 Slow down", ""),
            _ => reply("204 No Content", ""),
        })
        .await;
        emit(db, &["one", "two"]).await;
        let peers = start(db, &format!("http://{}", foreign.address), |_| {}).await;
        emptied(db, &main_stream()).await;
        let seen = foreign.seen();
        let bodies: Vec<&str> = seen.iter().map(|seen| seen.body.as_str()).collect();
        assert_eq!(bodies, ["one", "one", "one", "two"]);
        assert_eq!(seen[0].header("idempotency-key"), seen[2].header("idempotency-key"));
        stop(peers).await;
    }

    /// A request that the server never takes goes aside, and the others go on.
    async fn a_refused_request_goes_into_the_quarantine(db) {
        let foreign = Foreign::start(|_, seen| match seen.body.as_str() {
            "bad" => reply("400 Bad Request", "no such order"),
            "moved" => "HTTP/1.1 302 Found\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n".to_owned(),
            _ => reply("200 OK", ""),
        })
        .await;
        emit(db, &["bad", "good", "moved"]).await;
        let peers = start(db, &format!("http://{}", foreign.address), |_| {}).await;
        emptied(db, &main_stream()).await;
        assert!(refusal(db, &main_stream()).await.contains("400 Bad Request: no such order"));
        let count = async || eventbox::admin::quarantined(&db.pool, &main_stream(), None, 10).await.unwrap().len();
        eventually(SOON, async || count().await == 2).await;
        assert_eq!(foreign.seen().len(), 3, "redirections are not followed");
        stop(peers).await;
    }

    /// Bad input: an event never names an endpoint.
    async fn an_event_cannot_name_another_endpoint(db) {
        let foreign = Foreign::start(|_, _| reply("200 OK", "")).await;
        let wrong = [
            r#"{"url":"http://elsewhere/"}"#,
            r#"{"path":"//elsewhere/"}"#,
            r#"{"path":"http://elsewhere/"}"#,
            r#"{"path":"/../admin"}"#,
            r#"{"headers":{"host":"elsewhere"}}"#,
            "no envelope",
        ];
        emit(db, &wrong).await;
        emit(db, &[r#"{"path":"/right","method":"PUT","body":{"a":1}}"#]).await;
        let to = format!("http://{}/in", foreign.address);
        let peers = start(db, &to, |config| config.request_format = Format::Envelope).await;
        emptied(db, &main_stream()).await;
        let aside = eventbox::admin::quarantined(&db.pool, &main_stream(), None, 10).await.unwrap();
        assert_eq!(aside.len(), wrong.len());
        let seen = foreign.seen();
        assert_eq!((seen.len(), seen[0].body.as_str()), (1, r#"{"a":1}"#));
        assert!(seen[0].head.starts_with("PUT /in/right HTTP/1.1"));
        stop(peers).await;
    }

    /// A response arrives on the stream of its request, once, with what joins the two.
    async fn a_response_arrives_with_its_correlation(db) {
        let foreign = Foreign::start(|number, _| match number {
            1 => reply("500 Oops", ""),
            _ => reply("201 Created\r\ncontent-type: application/json\r\nx-id: 7", "{\"id\":7}"),
        })
        .await;
        let request = r#"{"body":"order","correlation":{"order":[1,2]}}"#;
        let ids = emit(db, &[request]).await;
        let peers = start(db, &format!("http://{}", foreign.address), |config| {
            (config.request_format, config.response_format) = (Format::Envelope, Format::Envelope);
            (config.responses, config.headers) = (Responses::Emit, vec!["x-id".to_owned()]);
        })
        .await;
        emptied(db, &main_stream()).await;
        let responses = testing::events_of(&db.pool, &Recipient::new("response", "all").unwrap()).await.unwrap();
        let [response] = responses.as_slice() else { panic!("one response, and not {responses:?}") };
        let expected = serde_json::json!({
            "request": ids[0].to_string(), "status": 201, "headers": {"x-id": "7"}, "body": {"id": 7},
            "correlation": {"order": [1, 2]},
        });
        assert_eq!(response.json::<serde_json::Value>().unwrap(), expected);
        stop(peers).await;
    }

    /// Client and server of the library, over TLS; and plain HTTP where TLS is spoken.
    async fn a_client_and_a_server_speak_tls(db) {
        let files = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (chain, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
        std::fs::write(&chain, certified.cert.pem()).unwrap();
        std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
        let web = Web::start(db, |config| {
            config.mode = HttpMode::Accept;
            config.tls = Some(TlsServerConfig::new(&chain, &key));
        })
        .await;
        let plain = web.post("/", "plain").await.unwrap();
        assert_eq!(plain.status, 0, "no HTTP comes back: {plain:?}");
        emit(db, &["one"]).await;
        let to = format!("https://localhost:{}", web.address.port());
        let peers = start(db, &to, |config| config.tls = TlsClientConfig::default().ca_file(&chain)).await;
        emptied(db, &main_stream()).await;
        assert_eq!(requests(db, 1).await[0].value(), b"one");
        stop(peers).await;
        web.stop().await;
    }
}

/// A server that is away, and a client that trusts another authority: the peer is not connected, and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_named() {
    crate::support::with_database("a_server_that_is_away", async |db: &TestDb<sqlx::Sqlite>| {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        emit(db, &["one"]).await;
        let peers = start(db, &format!("http://{gone}"), |_| {}).await;
        assert!(peers.ready(Duration::from_millis(300)).await.is_err());
        assert_eq!(testing::events_of(&db.pool, &main_stream()).await.unwrap().len(), 1);
        peers.stop(Duration::from_secs(1)).await;
    })
    .await;
}
