//! Tests of WebSocket: messages, upgrades, pings and goodbyes.

use std::net::SocketAddr;

use eventbox::peer::EndReason;
use eventbox::peer::connectors::{MessageKind, Token, WsClient, WsClientConfig, WsLimits, WsServer, WsServerConfig};
use futures_util::{SinkExt, StreamExt};
use sqlx::Sqlite;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use super::{Site, bound, connect, main, peer, start};
use crate::support::{SOON, TestDb, eventually, on_every_engine, with_database};

type Socket = WebSocketStream<TcpStream>;

fn server(change: impl FnOnce(&mut WsServerConfig)) -> WsServer {
    let mut config = WsServerConfig::new("127.0.0.1:0");
    change(&mut config);
    WsServer::new(config).unwrap()
}

async fn upgrade(at: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Socket, WsError> {
    let mut request = ClientRequestBuilder::new(format!("ws://{at}{path}").parse().unwrap());
    for (name, value) in headers {
        request = request.with_header(*name, *value);
    }
    client_async(request, connect(at).await).await.map(|(socket, _)| socket)
}

async fn next(socket: &mut Socket) -> Message {
    timeout(SOON, socket.next()).await.expect("a message arrives").expect("there is one").unwrap()
}

/// Returns the code with which the other side closes.
async fn code(socket: &mut Socket) -> u16 {
    loop {
        if let Message::Close(Some(frame)) = next(socket).await {
            return frame.code.into();
        }
    }
}

on_every_engine! {
    /// One message is one event, text, binary or in fragments; events go out as messages; a stop says 1001.
    async fn messages_come_in_and_go_out(db) {
        let server = server(|config| config.path = Some("/events".to_owned()));
        let address = server.local_address();
        let mut site = Site::start(&db.pool, peer(server)).await;
        let mut client = upgrade(bound(&address).await, "/events?x=1", &[]).await.unwrap();
        let (stream, facts) = site.started().await;
        assert_eq!(facts.get("path"), Some("/events"));
        client.send(Message::text("text\nof two lines")).await.unwrap();
        client.send(Message::binary("binary")).await.unwrap();
        let part = |text: &'static str, kind, last| Message::Frame(Frame::message(text, OpCode::Data(kind), last));
        client.send(part("in ", Data::Text, false)).await.unwrap();
        client.send(Message::Ping("between".into())).await.unwrap();
        client.send(part("pieces", Data::Continue, true)).await.unwrap();
        assert_eq!(site.inbox(3).await, ["text\nof two lines", "binary", "in pieces"]);
        assert_eq!(next(&mut client).await, Message::Pong("between".into()));
        site.send(&stream, "one").await;
        site.send(&stream, "two").await;
        assert_eq!(next(&mut client).await, Message::binary("one"));
        assert_eq!(next(&mut client).await, Message::binary("two"));
        let goodbye = tokio::spawn(async move { code(&mut client).await });
        site.stop().await;
        assert_eq!(goodbye.await.unwrap(), 1001);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_token_and_path_are_let_in() {
    with_database("only_the_right_token", async |db: &TestDb<Sqlite>| {
        let server = server(|config| {
            config.path = Some("/events".to_owned());
            config.token = Some(Token::text("a token of sixteen"));
        });
        let address = server.local_address();
        let site = Site::start(&db.pool, peer(server)).await;
        let at = bound(&address).await;
        let status = async |path: &str, headers: &[(&str, &str)]| match upgrade(at, path, headers).await {
            Ok(_) => 101,
            Err(WsError::Http(answer)) => answer.status().as_u16(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(status("/events", &[]).await, 401);
        assert_eq!(status("/events", &[("authorization", "Bearer a token of fifteen")]).await, 401);
        assert_eq!(status("/other", &[("authorization", "Bearer a token of sixteen")]).await, 404);
        assert_eq!(status("/events", &[("authorization", "Bearer a token of sixteen")]).await, 101);
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_a_message_gets_1009_and_a_breach_1002() {
    with_database("too_large_a_message_gets_1009", async |db: &TestDb<Sqlite>| {
        let server = server(|config| {
            config.limits.max_message_bytes = 1000;
            config.limits.max_frame_bytes = 800;
        });
        let address = server.local_address();
        let mut site = Site::start(&db.pool, peer(server)).await;
        let at = bound(&address).await;
        let mut frame = upgrade(at, "/", &[]).await.unwrap();
        frame.send(Message::binary(vec![0; 801])).await.unwrap();
        assert_eq!(code(&mut frame).await, 1009);
        assert!(matches!(site.ended().await, EndReason::Framing(_)));
        let mut message = upgrade(at, "/", &[]).await.unwrap();
        for (kind, is_last) in [(Data::Binary, false), (Data::Continue, true)] {
            message.send(Message::Frame(Frame::message(vec![0; 700], OpCode::Data(kind), is_last))).await.unwrap();
        }
        assert_eq!(code(&mut message).await, 1009);
        let mut breach = upgrade(at, "/", &[]).await.unwrap();
        breach.send(Message::Frame(Frame::message("x", OpCode::Data(Data::Continue), true))).await.unwrap();
        assert_eq!(code(&mut breach).await, 1002);
        let mut text = upgrade(at, "/", &[]).await.unwrap();
        text.send(Message::Frame(Frame::message(vec![0xff], OpCode::Data(Data::Text), true))).await.unwrap();
        assert_eq!(code(&mut text).await, 1007);
        let mut good = upgrade(at, "/", &[]).await.unwrap();
        good.send(Message::binary(vec![b'x'; 800])).await.unwrap();
        assert_eq!(site.inbox(1).await, ["x".repeat(800)]);
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_answers_no_ping_is_ended_and_one_that_answers_is_not() {
    with_database("a_client_that_answers_no_ping", async |db: &TestDb<Sqlite>| {
        let server = server(|config| {
            config.limits.ping_interval_ms = 100;
            config.limits.pong_timeout_ms = 500;
        });
        let address = server.local_address();
        let mut site = Site::start(&db.pool, peer(server)).await;
        let at = bound(&address).await;
        let mut polite = upgrade(at, "/", &[]).await.unwrap();
        let (stream, _) = site.started().await;
        let reading = tokio::spawn(async move {
            loop {
                if let Message::Binary(bytes) = next(&mut polite).await {
                    return bytes;
                }
            }
        });
        // It reads nothing, so its library answers no ping.
        let _deaf = upgrade(at, "/", &[]).await.unwrap();
        let deaf = site.started().await.0;
        assert_eq!(site.ended().await, EndReason::Idle);
        assert_ne!(deaf, stream);
        assert_eq!(site.peers.streams(super::PEER), 1);
        site.send(&stream, "still there").await;
        assert_eq!(reading.await.unwrap(), "still there");
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_of_a_message_ends_by_time() {
    with_database("half_a_frame_of_a_message", async |db: &TestDb<Sqlite>| {
        let server = server(|config| config.timeouts.frame_timeout_ms = 300);
        let address = server.local_address();
        let mut site = Site::start(&db.pool, peer(server)).await;
        let mut client = upgrade(bound(&address).await, "/", &[]).await.unwrap();
        site.started().await;
        client.send(Message::Frame(Frame::message("half", OpCode::Data(Data::Text), false))).await.unwrap();
        assert_eq!(code(&mut client).await, 1008);
        assert_eq!(site.ended().await, EndReason::Idle);
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_no_text_is_refused_and_the_others_go_on() {
    with_database("an_event_that_is_no_text", async |db: &TestDb<Sqlite>| {
        let server = server(|config| config.send = MessageKind::Text);
        let address = server.local_address();
        let mut site = Site::start(&db.pool, peer(server)).await;
        let mut client = upgrade(bound(&address).await, "/", &[]).await.unwrap();
        let (stream, _) = site.started().await;
        site.send(&stream, "before").await;
        site.send(&stream, vec![0xff, 0xfe]).await;
        site.send(&stream, "after").await;
        assert_eq!(next(&mut client).await, Message::text("before"));
        assert_eq!(next(&mut client).await, Message::text("after"));
        eventually(SOON, async || site.unsent(&stream).await == 0).await;
        site.stop().await;
    })
    .await;
}

on_every_engine! {
    /// A client of ours speaks with a foreign server, comes back after its goodbye, and loses nothing.
    async fn a_websocket_client_connects_again(db) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/hub", listener.local_addr().unwrap());
        let client = WsClient::new(WsClientConfig::new(url).send(MessageKind::Text)).unwrap();
        let mut site = Site::start(&db.pool, peer(client)).await;
        let accept = async || accept_async(timeout(SOON, listener.accept()).await.unwrap().unwrap().0).await.unwrap();
        let mut first = accept().await;
        first.send(Message::text("hello")).await.unwrap();
        assert_eq!(site.inbox(1).await, ["hello"]);
        first.close(None).await.unwrap();
        assert_eq!(site.ended().await, EndReason::Closed);
        site.send(&main(), "again").await;
        drop(first);
        let mut second = accept().await;
        assert_eq!(next(&mut second).await, Message::text("again"));
        let goodbye = tokio::spawn(async move { code(&mut second).await });
        site.stop().await;
        assert_eq!(goodbye.await.unwrap(), 1001);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_client_says_so_and_asks_no_more() {
    with_database("a_refused_client_says_so", async |db: &TestDb<Sqlite>| {
        let server = server(|config| config.token = Some(Token::text("a token of sixteen")));
        let address = server.local_address();
        let site = Site::start(&db.pool, peer(server)).await;
        let url = format!("ws://{}/", bound(&address).await);
        let client = peer(WsClient::new(WsClientConfig::new(url).token(Token::text("another"))).unwrap());
        let peers = start(&db.pool, client).await;
        let refused = peers.ready(SOON).await.unwrap_err().to_string();
        assert!(refused.contains("401") && refused.contains("check the token"), "{refused}");
        assert!(!refused.contains("another"), "{refused}");
        peers.stop(SOON).await;
        site.stop().await;
    })
    .await;
}

#[test]
fn settings_are_read_and_unknown_keys_refused() {
    let refused = |json| serde_json::from_str::<WsLimits>(json).unwrap_err().to_string();
    assert!(refused(r#"{ "ping_ms": 1 }"#).contains("unknown field `ping_ms`"));
    let refused = serde_json::from_str::<WsServerConfig>(r#"{ "address": "x:1", "token": 7 }"#).unwrap_err();
    assert!(refused.to_string().contains("a token must be text"), "{refused}");
}
