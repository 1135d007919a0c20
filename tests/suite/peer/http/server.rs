//! The server: answers, deadlines, stops, retries, and bad input.

use std::time::{Duration, Instant};

use bytes::Bytes;
use eventbox::peer::connectors::Token;
use eventbox::peer::connectors::http::{Format, HttpMode, HttpServerConfig, Route};
use eventbox::peer::framing::{CodecSpec, InterceptorSpec};
use eventbox::{Event, testing};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Web, answer, box_of, emptied, inbox, refusal, requests, rest};
use crate::support::{SOON, eventually, on_every_engine};

const TOKEN: &str = "a long and random token";

fn accept(config: &mut HttpServerConfig) {
    config.mode = HttpMode::Accept;
}

on_every_engine! {
    /// Case 10, the first half: answers go each to their own request, in whatever order.
    async fn case_10_answers_find_their_own_requests(db) {
        let web = Web::start(db, |_| {}).await;
        let (one, two) = (web.post("/", "one"), web.post("/", "two"));
        let came = requests(db, 2).await;
        for request in came.iter().rev() {
            answer(db, &[request], &format!("answer to {}", String::from_utf8_lossy(request.value()))).await;
        }
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        assert_eq!((one.status, one.body.as_str()), (200, "answer to one"));
        assert_eq!((two.status, two.body.as_str()), (200, "answer to two"));
        for request in &came {
            emptied(db, &box_of(request)).await;
        }
        web.stop().await;
    }

    /// Case 10, the second half: an address in the answer counts before its cause, and an unknown one is refused.
    async fn case_10_an_address_in_the_answer_counts(db) {
        let web = Web::start(db, |config| {
            config.lanes = 1;
            (config.request_format, config.response_format) = (Format::Envelope, Format::Envelope);
        })
        .await;
        let (one, two) = (web.post("/a?b=c", "one"), web.post("/", "two"));
        let came = requests(db, 2).await;
        let of = |body: &str| {
            let envelope = |event: &Event| event.json::<serde_json::Value>().unwrap();
            came.iter().map(envelope).find(|envelope| envelope["body"] == body).unwrap()
        };
        assert_eq!((of("one")["path"].as_str(), of("one")["query"].as_str()), (Some("/a"), Some("b=c")));
        let to = box_of(&came[0]);
        for (body, status) in [("one", 201), ("two", 409)] {
            let value = serde_json::json!({"request": of(body)["request"], "status": status, "body": {"for": body}});
            // It names a request and has no cause, as code outside of turns writes it.
            eventbox::emit(&db.pool, &to, Event::new(value.to_string())).await.unwrap();
        }
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        assert_eq!((one.status, one.body.as_str()), (201, r#"{"for":"one"}"#));
        assert_eq!((two.status, two.body.as_str()), (409, r#"{"for":"two"}"#));
        eventbox::emit(&db.pool, &to, Event::new(r#"{"request":4711}"#)).await.unwrap();
        assert!(refusal(db, &to).await.contains("4711"));
        web.stop().await;
    }

    /// Case 14: a batch answers every request in it, and a request without events gets an answer at once.
    async fn case_14_a_batch_answers_every_request_in_it(db) {
        let web = Web::start_as(db, |config| config.lanes = 1, |peer| {
            peer.interceptors([InterceptorSpec::named("lines").unwrap()])
        })
        .await;
        let calls = ["one\n", "two\n", "three\n"].map(|body| web.post("/", body));
        let came = requests(db, 3).await;
        answer(db, &[&came[0], &came[1], &came[2]], "all").await;
        for call in calls {
            let reply = call.await.unwrap();
            assert_eq!((reply.status, reply.body.trim()), (200, "all"));
        }
        emptied(db, &box_of(&came[0])).await;
        let reply = web.post("/", "").await.unwrap();
        assert_eq!(reply.status, 422, "T-13: {reply:?}");
        web.stop().await;
    }

    /// An answer goes to the requests that caused it, and not to those between them, which may be of another client.
    async fn an_answer_does_not_go_to_a_request_between_two_others(db) {
        let web = Web::start(db, |config| config.lanes = 1).await;
        let mut calls = Vec::new();
        for body in ["mine, one", "yours", "mine, two"] {
            calls.push(web.post("/", body));
            requests(db, calls.len()).await;
        }
        let came = requests(db, 3).await;
        answer(db, &[&came[0], &came[2]], "my secret").await;
        emptied(db, &box_of(&came[0])).await;
        answer(db, &[&came[1]], "your answer").await;
        let mut replies = Vec::new();
        for call in calls {
            replies.push(call.await.unwrap().body);
        }
        assert_eq!(replies, ["my secret", "your answer", "my secret"]);
        web.stop().await;
    }

    /// Case 20: a stop answers what waits with 503, and takes nothing more.
    async fn case_20_a_stop_answers_pending_requests(db) {
        let web = Web::start(db, |_| {}).await;
        let calls = ["one", "two", "three"].map(|body| web.post("/", body));
        requests(db, 3).await;
        web.stop().await;
        for call in calls {
            let reply = call.await.unwrap();
            assert_eq!(reply.status, 503, "T-6: {reply:?}");
            assert!(reply.head.contains("retry-after"), "{reply:?}");
        }
        assert!(TcpStream::connect(web.address).await.is_err());
    }

    /// The deadline of an answer: 504, and what comes later is refused and not silent.
    async fn a_late_answer_is_refused(db) {
        let web = Web::start(db, |config| config.answer_deadline_ms = 200).await;
        let reply = web.post("/", "one").await.unwrap();
        assert_eq!(reply.status, 504, "{reply:?}");
        let came = requests(db, 1).await;
        answer(db, &[&came[0]], "late").await;
        assert!(refusal(db, &box_of(&came[0])).await.contains("waits"));
        web.stop().await;
    }

    /// An answer whose client has gone is refused, too.
    async fn an_answer_to_a_client_that_has_gone_is_refused(db) {
        let web = Web::start(db, |_| {}).await;
        let call = web.post("/", "one");
        let came = requests(db, 1).await;
        call.abort();
        assert!(call.await.is_err());
        // The server notices the end of a connection by itself, and only then is the answer late.
        let to = box_of(&came[0]);
        eventually(SOON, async || {
            answer(db, &[&came[0]], "anybody?").await;
            !eventbox::admin::quarantined(&db.pool, &to, None, 10).await.unwrap().is_empty()
        })
        .await;
        web.stop().await;
    }

    /// Without an answer: 202 after the commit.
    async fn accepting_means_committed(db) {
        let web = Web::start(db, accept).await;
        let reply = web.post("/", "one").await.unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (202, ""));
        let came = testing::events_of(&db.pool, &inbox()).await.unwrap();
        assert_eq!(came[0].value(), b"one");
        assert!(came[0].name().unwrap().starts_with("web:"));
        web.stop().await;
    }

    /// A request that is sent again is taken once, on whatever lane or process, and gets the same answer.
    async fn a_request_that_is_sent_again_is_taken_once(db) {
        let keyed = "POST /orders HTTP/1.1\r\nidempotency-key: k-1";
        let web = Web::start(db, |_| {}).await;
        let calls = [web.send(keyed, "one"), web.send(keyed, "one"), web.send(keyed, "one")];
        let came = requests(db, 1).await;
        answer(db, &[&came[0]], "done").await;
        for call in calls {
            let reply = call.await.unwrap();
            assert_eq!((reply.status, reply.body.as_str()), (200, "done"));
        }
        let again = web.send(keyed, "one").await.unwrap();
        assert_eq!((again.status, again.body.as_str()), (200, "done"), "the answer is kept");
        let other_process = Web::start(db, |_| {}).await;
        let reply = other_process.send(keyed, "one").await.unwrap();
        assert_eq!(reply.status, 409, "{reply:?}");
        let accepting = Web::start(db, accept).await;
        assert_eq!(accepting.send(keyed, "one").await.unwrap().status, 202);
        assert_eq!(testing::events_of(&db.pool, &inbox()).await.unwrap().len(), 1);
        let other_path = accepting.send(&keyed.replace("/orders", "/refunds"), "one").await.unwrap();
        assert_eq!((other_path.status, requests(db, 2).await.len()), (202, 2), "another request with the same key");
        for server in [web, other_process, accepting] {
            server.stop().await;
        }
    }

    /// A database that does not answer: 503 in time, and the request may be sent again.
    async fn a_database_that_does_not_answer_is_503(db) {
        let pool = db.open(4);
        let web = Web::start_on(pool.clone(), |config| {
            accept(config);
            config.emit_deadline_ms = 300;
        }, |peer| peer)
        .await;
        let mut held = Vec::new();
        while held.len() < 4 {
            held.push(timeout(SOON, pool.acquire()).await.unwrap().unwrap());
        }
        let reply = web.send("POST / HTTP/1.1\r\nidempotency-key: k", "one").await.unwrap();
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.head.contains("retry-after"), "{reply:?}");
        drop(held);
        eventually(SOON, async || {
            web.send("POST / HTTP/1.1\r\nidempotency-key: k", "one").await.unwrap().status == 202
        })
        .await;
        assert_eq!(testing::events_of(&db.pool, &inbox()).await.unwrap().len(), 1);
        web.stop().await;
    }

    /// An answer that is no response: the request gets 502 at once, and the event goes into the quarantine.
    async fn an_answer_that_is_no_response_is_502(db) {
        let web = Web::start(db, |config| config.response_format = Format::Envelope).await;
        let call = web.post("/", "one");
        let came = requests(db, 1).await;
        answer(db, &[&came[0]], r#"{"status":99}"#).await;
        assert_eq!(call.await.unwrap().status, 502);
        assert!(refusal(db, &box_of(&came[0])).await.contains("status"));
        web.stop().await;
    }

    /// Bad input: what cannot be decoded is 400, and the next request is not affected.
    async fn a_body_that_cannot_be_read_is_400(db) {
        let web = Web::start_as(db, accept, |peer| peer.codec(CodecSpec::named("json").unwrap())).await;
        for wrong in ["{\"a\":", "\u{0}", "nonsense"] {
            let reply = web.post("/", wrong).await.unwrap();
            assert_eq!(reply.status, 400, "{reply:?}");
        }
        assert_eq!(web.post("/", r#"{"a":1}"#).await.unwrap().status, 202);
        web.stop().await;
    }

    /// Bad input: half a frame in one body is not the beginning of the next body.
    async fn bodies_never_mix(db) {
        let web = Web::start_as(db, |config| {
            accept(config);
            config.lanes = 1;
        }, |peer| peer.interceptors([InterceptorSpec::named("lines").unwrap()]))
        .await;
        assert_eq!(web.post("/", "one\nhalf a").await.unwrap().status, 202);
        assert_eq!(web.post("/", "two\n").await.unwrap().status, 202);
        let mut values: Vec<String> = requests(db, 3)
            .await
            .iter()
            .map(|event| String::from_utf8_lossy(event.value()).into_owned())
            .collect();
        values.sort();
        assert_eq!(values, ["half a", "one", "two"]);
        web.stop().await;
    }
}

/// Bad input that never reaches a database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_answered() {
    crate::support::with_database("bad_requests_are_answered", async |db: &crate::support::TestDb<sqlx::Sqlite>| {
        let web = Web::start(db, |config| {
            accept(config);
            config.token = Some(Token::text(TOKEN));
            config.routes = vec![Route::new("/orders", ["POST"])];
            config.max_body_bytes = 1_000;
            (config.body_timeout_ms, config.head_timeout_ms) = (300, 300);
        })
        .await;
        let with = |line: &str| format!("{line} HTTP/1.1\r\nauthorization: Bearer {TOKEN}");
        let status = async |head: &str, body: &str| web.send(head, body).await.unwrap().status;
        assert_eq!(status(&with("POST /orders"), "one").await, 202);
        assert_eq!(status("POST /orders HTTP/1.1", "one").await, 401);
        assert_eq!(status("POST /orders HTTP/1.1\r\nauthorization: Bearer other", "one").await, 401);
        assert_eq!(status("POST /nowhere HTTP/1.1", "one").await, 401, "paths are not for strangers");
        assert_eq!(status(&with("POST /nowhere"), "one").await, 404);
        let reply = web.send(&with("PUT /orders"), "one").await.unwrap();
        assert_eq!((reply.status, reply.head.contains("allow: post")), (405, true), "{reply:?}");
        assert_eq!(status(&with("POST /orders"), &"x".repeat(1_001)).await, 413);
        assert_eq!(status("nonsense", "one").await, 400);

        // A slow body: its head says more than ever comes.
        let mut slow = TcpStream::connect(web.address).await.unwrap();
        let head = format!("{}\r\nhost: test\r\ncontent-length: 100\r\n\r\nhalf", with("POST /orders"));
        slow.write_all(head.as_bytes()).await.unwrap();
        assert!(rest(&mut slow).await.starts_with("HTTP/1.1 408"));

        // A chunked body that is too large has no length to look at.
        let mut chunked = TcpStream::connect(web.address).await.unwrap();
        let head = format!("{}\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n", with("POST /orders"));
        chunked.write_all(format!("{head}{}", "x".repeat(2_000)).as_bytes()).await.unwrap();
        let mut first = [0; 12];
        timeout(SOON, chunked.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 413");

        // Slow heads, silent connections, TLS where HTTP is spoken: they end, and the server lives on.
        let began = Instant::now();
        for start in ["", "P", "POST /orders HTTP/1.1\r\nhost: te", "PRI * HTTP/2.0\r\n", "\u{16}\u{3}\u{1}\u{2}"] {
            let mut slow = TcpStream::connect(web.address).await.unwrap();
            slow.write_all(start.as_bytes()).await.unwrap();
            rest(&mut slow).await;
        }
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!(status(&with("POST /orders"), "two").await, 202);
        web.stop().await;
    })
    .await;
}

/// HTTP/2 on the same port: many requests on one connection, each with its own answer, and 503 at a stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_served() {
    crate::support::with_database("http_2_is_served", async |db: &crate::support::TestDb<sqlx::Sqlite>| {
        let web = Web::start(db, |_| {}).await;
        let io = TokioIo::new(TcpStream::connect(web.address).await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let calls = ["one", "two", "three"].map(|body| {
            let request = http::Request::post("http://test/").body(Full::new(Bytes::from(body))).unwrap();
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let response = sender.send_request(request).await.unwrap();
                let status = response.status().as_u16();
                (status, response.into_body().collect().await.unwrap().to_bytes())
            })
        });
        let came = requests(db, 3).await;
        let [one, two, three] = calls;
        for request in came.iter().filter(|request| request.value() != b"three") {
            answer(db, &[request], &format!("answer to {}", String::from_utf8_lossy(request.value()))).await;
        }
        assert_eq!(one.await.unwrap(), (200, Bytes::from("answer to one")));
        assert_eq!(two.await.unwrap(), (200, Bytes::from("answer to two")));
        for request in came.iter().filter(|request| request.value() != b"three") {
            emptied(db, &box_of(request)).await;
        }
        web.stop().await;
        assert_eq!(three.await.unwrap().0, 503);
    })
    .await;
}

/// A request whose client hears nothing before the answer need not be on the disk before its turn. Every other one is
/// on the disk before its response.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn only_a_request_that_waits_for_its_answer_is_durable_with_its_turn() {
    use crate::support::layout::is_by_shard;
    use crate::support::{TestDb, create_cells, effects, with_database};

    /// Notes what a commit with events waits for, when it comes.
    const NOTE: &str = "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO effect (text)
            SELECT convert_from(new.value, 'UTF8') || ' ' || current_setting('synchronous_commit'); RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER note AFTER INSERT ON eventbox_event DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION note()";
    if is_by_shard() {
        return;
    }
    with_database("durable_with_its_turn", async |db: &TestDb<sqlx::Postgres>| {
        create_cells(db).await;
        db.run(NOTE).await;
        let (web, accepting) = (Web::start(db, |_| {}).await, Web::start(db, accept).await);
        let call = web.post("/", "waiting");
        let came = requests(db, 1).await;
        answer(db, &[&came[0]], "answer").await;
        assert_eq!(call.await.unwrap().status, 200);
        let call = web.send("POST / HTTP/1.1\r\nidempotency-key: k-1", "keyed");
        let came = requests(db, 2).await;
        answer(db, &[&came[1]], "answer").await;
        assert_eq!(call.await.unwrap().status, 200);
        assert_eq!(accepting.post("/", "accepted").await.unwrap().status, 202);
        let mut notes = effects(db).await;
        notes.retain(|note| !note.starts_with("answer"));
        assert_eq!(notes, ["waiting off", "keyed on", "accepted on"]);
        for server in [web, accepting] {
            server.stop().await;
        }
    })
    .await;
}
