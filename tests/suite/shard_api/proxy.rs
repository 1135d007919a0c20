//! Requests of a service of one's own, which any process may get.

use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use eventbox::proto::consumer::ListResponse;
use eventbox::runtime::ResolveStatus;
use eventbox::shard_api::{GENERATION_HEADER, PROXIED_BY_HEADER, Proxy, Routed};
use http_body_util::BodyExt;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::body::Body;

use super::*;
use crate::support::on_every_engine;

/// Answers with the worker, the request and the proxy that sent it on.
async fn answer<B: TestEngine>(State(proxy): State<Proxy<B>>, request: Request) -> Response {
    let to: Recipient = request.uri().path().trim_start_matches('/').parse().unwrap();
    match proxy.route(&to, request).await {
        Ok(Routed::Here(request)) => {
            let by = request.headers().get(PROXIED_BY_HEADER).map(|by| by.to_str().unwrap().to_owned());
            let (method, target) = (request.method().clone(), request.uri().clone());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8_lossy(&body);
            Response::new(AxumBody::from(format!("{proxy:?} {method} {target} {body} by {}", by.unwrap_or_default())))
        }
        Ok(Routed::Answered(response)) => response.map(AxumBody::new),
        Err(error) => error.into_response().map(AxumBody::new),
    }
}

/// A process with a service of its own.
struct Service<B: TestEngine> {
    runtime: Runtime<B>,
    address: String,
}

async fn service<B: TestEngine>(db: &TestDb<B>) -> Service<B> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let runtime = counting(db, Some(format!("http://{address}"))).await;
    let app = Router::new().fallback(answer::<B>).with_state(Proxy::new(&runtime));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Service { runtime, address }
}

impl<B: TestEngine> Service<B> {
    /// Returns the answer of the service to a request for a recipient.
    async fn ask(&self, to: &Recipient, headers: &[(&str, String)]) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "PUT /{to}?a=1 HTTP/1.1\r\nHost: counters\r\n{headers}Connection: close\r\nContent-Length: 5\r\n\r\nhello"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Returns headers as of another process that sends a request on.
    async fn proxied(&self, to: &Recipient, newer: i64) -> [(&'static str, String); 2] {
        let found = self.runtime.resolver().resolve(to, Default::default()).await.unwrap();
        [(PROXIED_BY_HEADER, "other".to_owned()), (GENERATION_HEADER, (found.generation + newer).to_string())]
    }
}

on_every_engine! {
    async fn a_request_goes_to_the_holder(db) {
        let (one, two) = (service(db).await, service(db).await);
        shared(&one.runtime, &two.runtime).await;
        let (here, there) = (recipient_of(&one.runtime).await, recipient_of(&two.runtime).await);
        let (first, second) = (one.runtime.worker().to_string(), two.runtime.worker().to_string());
        let answer = one.ask(&here, &[]).await;
        assert!(answer.contains(&first) && answer.ends_with(&format!("PUT /{here}?a=1 hello by ")), "{answer}");
        let answer = one.ask(&there, &[]).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&second), "{answer}");
        assert!(answer.ends_with(&format!("PUT /{there}?a=1 hello by {first}")), "{answer}");
        // Sent on once, and never twice.
        let proxied = one.proxied(&there, 0).await;
        let answer = one.ask(&there, &proxied).await;
        assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("another process"), "{answer}");
        one.runtime.stop(STOP).await;
        two.runtime.stop(STOP).await;
    }

    /// An answer from an old holder, or for one, is refused. So is a generation that somebody made up.
    async fn a_request_of_an_older_generation_is_refused(db) {
        let one = service(db).await;
        eventually(SOON, async || one.runtime.shards() == 256).await;
        let to = counter(1);
        let right = one.proxied(&to, 0).await;
        assert!(one.ask(&to, &right).await.starts_with("HTTP/1.1 200"));
        let old = one.proxied(&to, -1).await;
        let answer = one.ask(&to, &old).await;
        assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("another generation"), "{answer}");
        // A generation that the lease does not have yet is not waited for, however long the proxy may wait.
        let patient = Proxy::new(&one.runtime).wait(Duration::from_secs(3_600));
        let forged = one.proxied(&to, 1_000).await;
        let request = http::Request::get("/");
        let request = forged.iter().fold(request, |request, (name, value)| request.header(*name, value));
        let refused = timeout(SOON, patient.route(&to, request.body(Body::empty()).unwrap())).await;
        let refused = refused.expect("it is refused at once").unwrap_err();
        assert_eq!(refused.status(), Some(ResolveStatus::WrongGeneration));
        for wrong in [&right[..1], &right[1..], &[right[0].clone(), (GENERATION_HEADER, "x".to_owned())]] {
            let answer = one.ask(&to, wrong).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        }
        one.runtime.stop(STOP).await;
        let answer = one.ask(&to, &[]).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("resolver has stopped"), "{answer}");
    }

    /// A call of gRPC is HTTP/2, and its status follows the body.
    async fn a_call_of_grpc_goes_to_the_holder(db) {
        let (one, two) = (member(db).await, member(db).await);
        shared(&one.runtime, &two.runtime).await;
        let there = recipient_of(&two.runtime).await;
        let call = |generation: Option<i64>| {
            let request = http::Request::post("http://counters/consumer.Shard/List").version(http::Version::HTTP_2);
            let request = request.header("content-type", "application/grpc").header("te", "trailers");
            let request = match generation {
                Some(generation) => request.header(GENERATION_HEADER, generation).header(PROXIED_BY_HEADER, "other"),
                None => request,
            };
            // A message without a field, behind its length.
            request.body(Body::new(http_body_util::Full::new(Bytes::from_static(&[0; 5])))).unwrap()
        };
        let proxy = Proxy::new(&one.runtime);
        let Ok(Routed::Answered(response)) = proxy.route(&there, call(None)).await else { panic!("not sent on") };
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        let message = collected.to_bytes().slice(5..);
        assert_eq!(ListResponse::decode(message).unwrap().shards.len(), 256);

        let refused = proxy.route(&there, call(Some(0))).await.unwrap_err();
        assert_eq!(refused.status(), Some(ResolveStatus::WrongGeneration));
        let response = refused.into_response();
        assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().unwrap()));
        one.runtime.stop(STOP).await;
        two.runtime.stop(STOP).await;
    }

    /// A holder that does not answer costs a bounded time, and is named.
    async fn a_holder_that_is_away_is_an_error(db) {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let (one, two) = (service(db).await, counting(db, Some(format!("http://{free}"))).await);
        shared(&one.runtime, &two).await;
        let to = recipient_of(&two).await;
        let answer = one.ask(&to, &[]).await;
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains(&free), "{answer}");
        one.runtime.stop(STOP).await;
        two.stop(STOP).await;
    }
}
