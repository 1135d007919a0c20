//! The transport, over real gRPC.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use eventbox::chip;
use eventbox::chip::{ConfigError, GrpcConfig, GrpcTransport, HeaderProvider, NoopTransport, Tls};
use eventbox::emitter::{DurableEmitter, Expiry};
use eventbox::ingress::Ingress;
use eventbox::outbox;
use eventbox::proto::chip_common::Schema;
use tonic::{Code, Status};

use super::support::{Fake, GrpcServer, STOP, all_ok, event, of, payload, quick, text};
use crate::support::{SOON, eventually, on_every_engine};

const LIMIT: Duration = Duration::from_secs(10);

fn client(server: &GrpcServer) -> GrpcTransport {
    GrpcTransport::new(&GrpcConfig::new(server.endpoint())).unwrap()
}

/// A client is built without a connection. A malformed address is refused.
#[tokio::test]
async fn a_client_is_built_without_a_server() {
    GrpcTransport::new(&GrpcConfig::new("localhost:8080")).unwrap();
    GrpcTransport::new(&GrpcConfig::new("[::1]:8080")).unwrap();
    for (address, says) in [
        ("", "missing port in address"),
        ("no-port", "missing port in address"),
        ("host:x", "port"),
        ("a:b:1", "host:port"),
    ] {
        let Err(error) = GrpcTransport::new(&GrpcConfig::new(address)) else { panic!("{address}") };
        let error = error.to_string();
        assert!(error.starts_with("invalid address format") && error.contains(says), "{error}");
    }
}

/// The no-op transport reports success for every call.
#[tokio::test]
async fn the_noop_transport_reports_success() {
    assert_eq!(NoopTransport.ping(LIMIT).await.unwrap(), "pong");
    assert!(NoopTransport.register_schemas(vec![Schema::default()], LIMIT).await.unwrap().is_empty());
    chip::Transport::close(&NoopTransport).await;
}

struct Fixed(&'static str, &'static str);

#[async_trait]
impl HeaderProvider for Fixed {
    async fn headers(&self) -> Result<Vec<(String, String)>, eventbox::BoxError> {
        if self.0.is_empty() {
            Err("no headers today".into())
        } else {
            Ok(vec![(self.0.to_owned(), self.1.to_owned())])
        }
    }
}

/// The headers of the provider, of the options and of the resource attributes each arrive once.
#[tokio::test]
async fn all_headers_arrive_once() {
    let server = GrpcServer::start(Fake::ok()).await;
    let attributes = [("service.name".to_owned(), "café".to_owned())];
    let config = GrpcConfig::new(server.endpoint()).header_provider(Arc::new(Fixed("X-Mine", "yes")));
    let config = config.nop_lookup().resource_attributes(&attributes);
    assert_eq!(GrpcTransport::new(&config).unwrap().ping(LIMIT).await.unwrap(), "pong");
    let seen = server.seen.lock().unwrap()[0].clone();
    for (name, value) in [("x-mine", "yes"), ("x-include-nop-info", "true"), ("servicename", "caf??")] {
        assert_eq!(seen.get_all(name).iter().collect::<Vec<_>>(), [value]);
    }
    let agent = seen.get("user-agent").unwrap().to_str().unwrap();
    assert!(agent.starts_with("eventbox/") && agent.contains("tonic"), "{agent}");
}

/// The client refuses illegal headers itself, and reports a header provider that fails. Nothing reaches the server.
#[tokio::test]
async fn illegal_headers_fail_locally() {
    let server = GrpcServer::start(Fake::ok()).await;
    for (header, code, says) in [
        (Fixed("k8s pod", "x"), Code::Internal, "k8s pod"),
        (Fixed("k8s.pod.name", "a\u{1}b"), Code::Internal, "k8s.pod.name"),
        (Fixed("", ""), Code::Unavailable, "failed to get headers: no headers today"),
    ] {
        let config = GrpcConfig::new(server.endpoint()).header_provider(Arc::new(header));
        let status = GrpcTransport::new(&config).unwrap().ping(LIMIT).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(says), "{}", status.message());
    }
    assert!(server.seen.lock().unwrap().is_empty(), "nothing reached the server");
    let attributes = [("k8s.pod.name".to_owned(), "a\u{1}b".to_owned())];
    let config = GrpcConfig::new(server.endpoint()).resource_attributes(&attributes);
    GrpcTransport::new(&config).unwrap().ping(LIMIT).await.unwrap();
}

/// One call registers several schemas and returns their versions.
#[tokio::test]
async fn schemas_are_registered_in_one_call() {
    let server = GrpcServer::start(Fake::ok()).await;
    let schema = |subject: &str| Schema { subject: subject.to_owned(), ..Schema::default() };
    let versions = client(&server).register_schemas(vec![schema("a"), schema("b")], LIMIT).await.unwrap();
    assert_eq!(versions.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let failed = client(&server).register_schemas(vec![schema("bad")], LIMIT).await.unwrap_err();
    assert_eq!(failed.message(), "failed to register schema: bad subject");
    let streaming = client(&server).stream_events().await.unwrap_err();
    assert_eq!(streaming.message(), "not implemented: StreamEvents is experimental and not supported yet");
}

/// The client retries unary calls while the server is unavailable, and never beyond their time limit.
#[tokio::test]
async fn unary_calls_are_retried_within_their_limit() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let transport = GrpcTransport::new(&GrpcConfig::new(nobody.to_string())).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(transport.ping(LIMIT).await.unwrap_err().code(), Code::Unavailable);
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    let status = transport.ping(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

/// The TLS hello, which is not encrypted, carries the host of the address as SNI and h2 as ALPN.
#[tokio::test]
async fn the_tls_hello_names_the_host_and_h2() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = GrpcConfig::new(format!("localhost:{}", listener.local_addr().unwrap().port())).tls(Tls::system());
    let transport = GrpcTransport::new(&config).unwrap();
    let (hello, _) = tokio::join!(
        async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut header = [0; 5];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut header).await.unwrap();
            let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut hello).await.unwrap();
            hello
        },
        transport.ping(Duration::from_millis(500)),
    );
    let says = |bytes: &[u8]| hello.windows(bytes.len()).any(|window| window == bytes);
    // server_name: length of the list, type, length of the name.
    // ALPN: length of the extension, of the list, of the name.
    assert!(says(b"\0\0\0\x0e\0\x0c\0\0\x09localhost"), "{hello:?}");
    assert!(says(b"\0\x10\0\x05\0\x03\x02h2"), "{hello:?}");
}

/// TLS works with a custom authority and a client certificate. The certificate must name the host.
#[tokio::test]
async fn tls_checks_the_host_of_the_address() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let certify = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let (server_pem, server_key) = certify("localhost");
    let (client_pem, client_key) = certify("client");
    let tls = eventbox::ingress::Tls::new(server_pem, server_key).client_ca(&ca_pem);
    let server = Ingress::builder().tls(tls).serve("127.0.0.1:0").await.unwrap();
    let address = |host: &str| format!("{host}:{}", server.local_addr().port());
    let trusting = || Tls::ca(ca_pem.clone()).client_certificate(client_pem.clone(), client_key.clone());
    let ping = async |config: GrpcConfig| GrpcTransport::new(&config).unwrap().ping(Duration::from_secs(3)).await;

    assert_eq!(ping(GrpcConfig::new(address("localhost")).tls(trusting())).await.unwrap(), "pong");
    assert_eq!(
        ping(GrpcConfig::new(address("127.0.0.1")).tls(trusting().server_name("localhost"))).await.unwrap(),
        "pong"
    );
    // Refused: another host name than the certificate's, no client certificate, the system's authorities, and no TLS.
    ping(GrpcConfig::new(address("127.0.0.1")).tls(trusting())).await.unwrap_err();
    ping(GrpcConfig::new(address("localhost")).tls(Tls::ca(ca_pem.clone()))).await.unwrap_err();
    ping(GrpcConfig::new(address("localhost")).tls(Tls::system())).await.unwrap_err();
    ping(GrpcConfig::new(address("localhost"))).await.unwrap_err();
    let Err(ConfigError::Tls { .. }) =
        GrpcTransport::new(&GrpcConfig::new("localhost:1").tls(Tls::ca("no pem"))).map(drop)
    else {
        // An authority without a certificate trusts no server. The first call fails then.
        return;
    };
}

on_every_engine! {
    /// The emitter sends events over gRPC with their source and type unchanged, and 500 concurrent events once each.
    async fn events_arrive_over_grpc_unchanged(db) {
        let server = GrpcServer::start(Fake::ok()).await;
        let emitter =
            DurableEmitter::builder(db.pool.clone(), server.endpoint()).configure(quick).start().await.unwrap();
        emitter.publish(of("platform/ccip", "report.sent", "1")).await.unwrap();
        emitter.publish(of("platform/ccip", "report.sent", "2")).await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        let events = server.fake.events();
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(|event| event.source == "platform/ccip" && event.r#type == "report.sent"));
        let emits = (0..500).map(|name| emitter.publish(event(name)));
        futures_util::future::try_join_all(emits).await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(server.fake.events().len(), 502);
        emitter.stop(STOP).await;
        server.stop().await;
    }

    /// The emitter retries while the server is unavailable, until the event is delivered.
    async fn an_unavailable_server_is_retried(db) {
        let calls = AtomicUsize::new(0);
        let fake = Fake::new(move |_, batch| {
            if calls.fetch_add(1, Ordering::SeqCst) < 2 {
                Err(Status::unavailable("not yet"))
            } else {
                Ok(all_ok(batch))
            }
        });
        let server = GrpcServer::start(fake).await;
        let emitter =
            DurableEmitter::builder(db.pool.clone(), server.endpoint()).configure(quick).start().await.unwrap();
        emitter.publish(event("x")).await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        assert!(server.fake.calls() >= 3 && server.fake.unary().is_empty());
        emitter.stop(STOP).await;
    }

    /// An event that the server refuses for its whole time to live becomes a dead letter.
    async fn an_event_that_always_fails_expires(db) {
        let server = GrpcServer::start(Fake::failing(Code::Internal)).await;
        let emitter = DurableEmitter::builder(db.pool.clone(), server.endpoint()).configure(quick).configure(|config| {
            let expiry = Expiry::default().with_ttl(Duration::from_millis(100));
            config.expiry = Some(expiry.with_interval(Duration::from_millis(10)));
        }).start().await.unwrap();
        emitter.publish(event("x")).await.unwrap();
        eventually(SOON, async || emitter.stats().expired == 1).await;
        assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (0, 1));
        assert!(server.fake.calls() > 0);
        emitter.stop(STOP).await;
    }

    /// Five events whose sends failed are delivered once the server recovers.
    async fn five_failed_events_are_delivered_after_the_recovery(db) {
        let server = GrpcServer::start(Fake::failing(Code::Unavailable)).await;
        let emitter = DurableEmitter::builder(db.pool.clone(), server.endpoint()).configure(quick).configure(|config| {
            config.batch.batch_size = std::num::NonZeroUsize::MIN;
        }).start().await.unwrap();
        futures_util::future::try_join_all((0..5).map(|name| emitter.publish(event(name)))).await.unwrap();
        eventually(SOON, async || emitter.stats().failed_attempts >= 5).await;
        assert_eq!(db.count("eventbox_outbox").await, 5);
        server.fake.become_ok();
        assert!(emitter.flush(SOON).await.unwrap());
        assert!(server.fake.calls() >= 10 && server.fake.unary().is_empty());
        emitter.stop(STOP).await;
    }

    /// An event that a dead server did not get is delivered to another server after a restart.
    async fn an_event_that_a_dead_server_missed_reaches_another(db) {
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let emitter =
            DurableEmitter::builder(db.pool.clone(), nobody.to_string()).configure(quick).start().await.unwrap();
        emitter.publish(event("x")).await.unwrap();
        eventually(SOON, async || emitter.stats().failed_attempts > 0).await;
        emitter.stop(STOP).await;
        assert_eq!(db.count("eventbox_outbox").await, 1);
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;

        let server = GrpcServer::start(Fake::ok()).await;
        let emitter =
            DurableEmitter::builder(db.pool.clone(), server.endpoint()).configure(quick).start().await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(server.fake.events().iter().map(payload).collect::<Vec<_>>(), ["x"]);
        emitter.stop(STOP).await;
    }

    /// In a batch of 64 events with one above the server's limit, only the large event becomes a dead letter.
    async fn only_the_event_that_is_too_large_becomes_a_dead_letter(db) {
        let server = Ingress::builder().max_request_bytes(64 << 10).serve("127.0.0.1:0").await.unwrap();
        let endpoint = server.local_addr().to_string();
        let emitter = DurableEmitter::builder(db.pool.clone(), endpoint).configure(quick);
        let emitter = emitter.configure(|config| {
            config.batch.batch_size = std::num::NonZeroUsize::new(64).unwrap();
            config.batch.batch_interval = Duration::from_secs(1);
        }).start().await.unwrap();
        let payload = |name: u32| if name == 13 { "x".repeat(200_000) } else { name.to_string() };
        let emits = (0..64).map(|name| emitter.publish(event(payload(name))));
        futures_util::future::try_join_all(emits).await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(server.log().counts().await.unwrap().kept, 63);
        let [dead] = outbox::dead_letters(&db.pool, None, 10).await.unwrap().try_into().unwrap();
        assert_eq!((dead.attempts, dead.event().unwrap().payload().len()), (1, 200_000), "{}", dead.reason);
        emitter.stop(STOP).await;
    }

    /// When a response is lost, the emitter sends the event again, with the same id and key and a new sequence number.
    async fn a_lost_response_repeats_the_event_under_the_same_key(db) {
        let fake =
            Fake::new(|call, batch| if call == 0 { Err(Status::unavailable("lost")) } else { Ok(all_ok(batch)) });
        let server = GrpcServer::start(fake).await;
        let emitter =
            DurableEmitter::builder(db.pool.clone(), server.endpoint()).configure(quick).start().await.unwrap();
        emitter.publish(event("x")).await.unwrap();
        assert!(emitter.flush(SOON).await.unwrap());
        let [first, second] = server.fake.events().try_into().unwrap();
        assert_eq!((&first.id, text(&first, "idempotencykey")), (&second.id, text(&second, "idempotencykey")));
        assert_eq!((text(&first, "seqnum").as_deref(), text(&second, "seqnum").as_deref()), (Some("1"), Some("2")));
        assert_eq!(text(&first, "seqepoch"), text(&second, "seqepoch"));
        emitter.stop(STOP).await;
    }
}
