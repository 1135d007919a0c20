//! Tests of TCP: what a server and a client promise to their other sides.

use std::num::NonZeroUsize;
use std::time::Duration;

use eventbox::peer::EndReason;
use eventbox::peer::connectors::{TcpClient, TcpClientConfig, TcpServer, TcpServerConfig};
use sqlx::Sqlite;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{Site, bound, connect, expect, expect_end, limits, lines, main, of, timeouts};
use crate::support::{SOON, TestDb, eventually, on_every_engine, with_database};

fn server(change: impl FnOnce(&mut eventbox::peer::connectors::SocketTimeouts)) -> TcpServer {
    TcpServer::new(TcpServerConfig::new("127.0.0.1:0").timeouts(timeouts(change))).unwrap()
}

on_every_engine! {
    /// Lines come in as events, in order, also in pieces; events go out as lines, and are consumed then.
    async fn lines_come_in_and_go_out(db) {
        let server = server(|_| {});
        let address = server.local_address();
        let mut site = Site::start(&db.pool, lines(server)).await;
        let mut client = connect(bound(&address).await).await;
        let (stream, facts) = site.started().await;
        assert_eq!(facts.get("remote"), Some(client.local_addr().unwrap().to_string().as_str()));
        client.write_all(b"departed\nlan").await.unwrap();
        assert_eq!(site.inbox(1).await, ["departed"]);
        client.write_all(b"ded\nparked\n").await.unwrap();
        assert_eq!(site.inbox(3).await, ["departed", "landed", "parked"]);
        site.send(&stream, "welcome").await;
        site.send(&stream, "goodbye").await;
        expect(&mut client, b"welcome\ngoodbye\n").await;
        eventually(SOON, async || site.unsent(&stream).await == 0).await;
        drop(client);
        assert_eq!(site.ended().await, EndReason::Closed);
        site.stop().await;
    }

    /// Two clients at a time: what is emitted to a stream goes to its own client.
    async fn each_client_has_its_own_stream(db) {
        let server = server(|_| {});
        let address = server.local_address();
        let mut site = Site::start(&db.pool, lines(server)).await;
        let mut first = connect(bound(&address).await).await;
        let first_stream = site.started().await.0;
        let mut second = connect(bound(&address).await).await;
        let second_stream = site.started().await.0;
        site.send(&second_stream, "to the second").await;
        site.send(&first_stream, "to the first").await;
        expect(&mut first, b"to the first\n").await;
        expect(&mut second, b"to the second\n").await;
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_ended_its_writing_still_gets_its_answer() {
    with_database("a_client_that_ended_its_writing", async |db: &TestDb<Sqlite>| {
        let server = server(|timeouts| timeouts.half_close_timeout_ms = 3_000);
        let address = server.local_address();
        let mut site = Site::start(&db.pool, lines(server)).await;
        let mut client = connect(bound(&address).await).await;
        let (stream, _) = site.started().await;
        client.write_all(b"question\nhalf a li").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(site.inbox(1).await, ["question"]);
        site.send(&stream, "answer").await;
        expect(&mut client, b"answer\n").await;
        expect_end(&mut client).await;
        assert_eq!(site.ended().await, EndReason::Closed);
        assert_eq!(site.inbox(2).await, ["question", "half a li"], "what interceptors hold back is flushed");
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_stops_its_own_stream_alone() {
    with_database("a_client_that_never_reads", async |db: &TestDb<Sqlite>| {
        let server = server(|_| {});
        let address = server.local_address();
        let peer = lines(server).limits(limits(|limits| limits.write_timeout = Duration::from_millis(500)));
        let mut site = Site::start(&db.pool, peer).await;
        let deaf = TcpSocket::new_v4().unwrap();
        deaf.set_recv_buffer_size(4096).unwrap();
        let deaf = deaf.connect(bound(&address).await).await.unwrap();
        let (stream, _) = site.started().await;
        for _ in 0..400 {
            site.send(&stream, vec![b'x'; 60_000]).await;
        }
        let reason = site.ended().await;
        assert!(matches!(&reason, EndReason::Failed(text) if text.contains("has taken no byte")), "{reason}");
        assert!(site.unsent(&stream).await > 0, "what was not sent stays");
        let mut other = connect(bound(&address).await).await;
        let (stream, _) = site.started().await;
        other.write_all(b"hello\n").await.unwrap();
        site.send(&stream, "hello yourself").await;
        expect(&mut other, b"hello yourself\n").await;
        drop(deaf);
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_frame_ends_by_time_and_a_quiet_connection_does_not() {
    with_database("half_a_frame_ends_by_time", async |db: &TestDb<Sqlite>| {
        let server = server(|timeouts| timeouts.frame_timeout_ms = 300);
        let address = server.local_address();
        let mut site = Site::start(&db.pool, lines(server)).await;
        let mut quiet = connect(bound(&address).await).await;
        site.started().await;
        let mut slow = connect(bound(&address).await).await;
        site.started().await;
        slow.write_all(b"half a li").await.unwrap();
        assert_eq!(site.ended().await, EndReason::Idle);
        expect_end(&mut slow).await;
        quiet.write_all(b"still here\n").await.unwrap();
        let inbox = site.inbox(2).await;
        assert!(inbox.contains(&"still here".to_owned()), "{inbox:?}");
        assert_eq!(site.peers.streams(super::PEER), 1);
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_ends_if_a_time_is_set() {
    with_database("an_idle_connection_ends", async |db: &TestDb<Sqlite>| {
        let server = server(|timeouts| timeouts.idle_timeout_ms = 200);
        let address = server.local_address();
        let mut site = Site::start(&db.pool, lines(server)).await;
        let mut client = connect(bound(&address).await).await;
        assert_eq!(site.ended().await, EndReason::Idle);
        expect_end(&mut client).await;
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_over_the_limit_ends_its_stream_or_is_an_error_and_the_server_goes_on() {
    with_database("a_frame_over_the_limit", async |db: &TestDb<Sqlite>| {
        let server = server(|_| {});
        let address = server.local_address();
        let peer = super::peer(server)
            .interceptors([eventbox::peer::framing::InterceptorSpec::named("length-prefixed").unwrap()]);
        let mut site = Site::start(&db.pool, peer).await;
        let mut client = connect(bound(&address).await).await;
        site.started().await;
        client.write_all(&[0xff; 16]).await.unwrap();
        let reason = site.ended().await;
        assert!(matches!(reason, EndReason::Framing(_)), "{reason}");
        expect_end(&mut client).await;
        connect(bound(&address).await).await;
        site.started().await;
        site.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_sends_what_waits_emits_what_was_read_and_closes() {
    with_database("a_stop_sends_what_waits", async |db: &TestDb<Sqlite>| {
        let server = server(|_| {});
        let address = server.local_address();
        let mut site = Site::start(&db.pool, lines(server)).await;
        let at = bound(&address).await;
        let mut client = connect(at).await;
        let (stream, _) = site.started().await;
        client.write_all(b"last words\n").await.unwrap();
        site.inbox(1).await;
        for n in 0..50 {
            site.send(&stream, n.to_string()).await;
        }
        let reading = tokio::spawn(async move {
            let mut all = String::new();
            timeout(SOON, client.read_to_string(&mut all)).await.unwrap().unwrap();
            all
        });
        let report = site.peers.stop(SOON).await;
        assert!(report.complete, "{report:?}");
        let all = reading.await.unwrap();
        let sent: String = (0..50).map(|n| format!("{n}\n")).collect();
        assert_eq!(all, sent);
        assert_eq!(site.ended().await, EndReason::Stopped);
        assert_eq!(site.unsent(&stream).await, 0);
        assert!(TcpStream::connect(at).await.is_err(), "a stopped server takes no client");
        assert_eq!(address.get(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_connections_than_the_limit_are_served() {
    with_database("no_more_connections_than", async |db: &TestDb<Sqlite>| {
        let server = server(|_| {});
        let address = server.local_address();
        let peer = lines(server).limits(limits(|limits| limits.streams = NonZeroUsize::MIN));
        let mut site = Site::start(&db.pool, peer).await;
        let first = connect(bound(&address).await).await;
        site.started().await;
        let mut second = connect(bound(&address).await).await;
        second.write_all(b"from the second\n").await.unwrap();
        drop(first);
        assert_eq!(site.ended().await, EndReason::Closed);
        site.started().await;
        assert_eq!(site.inbox(1).await, ["from the second"]);
        site.stop().await;
    })
    .await;
}

on_every_engine! {
    /// A client sends what waited for it, comes back after a loss, and sends what waited in between.
    async fn a_client_connects_again_and_loses_nothing(db) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let client = TcpClient::new(TcpClientConfig::new(at)).unwrap();
        let main = main();
        eventbox::emit(&db.pool, &of(&main), eventbox::Event::new("early")).await.unwrap();
        let mut site = Site::start(&db.pool, lines(client)).await;
        let (mut first, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        expect(&mut first, b"early\n").await;
        first.write_all(b"thanks\n").await.unwrap();
        assert_eq!(site.inbox(1).await, ["thanks"]);
        eventually(SOON, async || site.unsent(&main).await == 0).await;
        drop(first);
        assert_eq!(site.ended().await, EndReason::Closed);
        site.send(&main, "late").await;
        let (mut second, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        expect(&mut second, b"late\n").await;
        site.stop().await;
        expect_end(&mut second).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections_are_served() {
    with_database("a_thousand_idle_connections", async |db: &TestDb<Sqlite>| {
        let server = server(|_| {});
        let address = server.local_address();
        let site = Site::start(&db.pool, lines(server)).await;
        let at = bound(&address).await;
        let mut idle = Vec::new();
        for _ in 0..1000 {
            idle.push(connect(at).await);
        }
        eventually(4 * SOON, async || site.peers.streams(super::PEER) == 1000).await;
        idle[777].write_all(b"awake\n").await.unwrap();
        assert_eq!(site.inbox(1).await, ["awake"]);
        drop(idle);
        eventually(4 * SOON, async || site.peers.streams(super::PEER) == 0).await;
        site.stop().await;
    })
    .await;
}
