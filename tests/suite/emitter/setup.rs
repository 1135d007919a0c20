//! `Setup` uses every setting that it is given, and refuses settings that contradict each other by their names.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use eventbox::chip::{Destination, GrpcConfig, LazySigner, Tls, Transport};
use eventbox::emitter::{self, DurableEmitter, Setup, global};
use eventbox::ingress::{self, Credential, Ingress};
use rcgen::{CertificateParams, KeyPair};

use super::lifecycle::ONE_GLOBAL;
use super::support::{Fake, STOP, event};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

fn elsewhere() -> Option<Destination> {
    let transport: Arc<dyn Transport> = Fake::ok();
    Some(transport.into())
}

fn to<B: TestEngine>(db: &TestDb<B>, endpoint: &str) -> Setup<B> {
    let mut setup = Setup::<B>::default();
    (setup.pool, setup.endpoint) = (Some(db.pool.clone()), endpoint.to_owned());
    setup
}

type Change<B> = fn(&mut Setup<B>);

on_every_engine! {
    async fn settings_that_contradict_each_other_are_refused_by_name(db) {
        let contradictions: [(Change<Engine>, &str, &str); 15] = [
            (|setup| setup.emitter.retransmit = false, "retransmit_enabled", "emitter.retransmit = false"),
            (|setup| setup.destination = elsewhere(), "destination", "endpoint"),
            (
                |setup| {
                    (setup.destination, setup.endpoint) = (elsewhere(), String::new());
                    setup.auth.headers.insert("authorization".to_owned(), "x".to_owned());
                },
                "destination",
                "auth",
            ),
            (
                |setup| {
                    (setup.destination, setup.endpoint) = (elsewhere(), String::new());
                    setup.auth.signer = Some(Arc::new(LazySigner::default()));
                },
                "destination",
                "auth",
            ),
            (
                |setup| {
                    (setup.destination, setup.endpoint, setup.tls) = (elsewhere(), String::new(), Some(Tls::system()));
                },
                "destination",
                "tls",
            ),
            (
                |setup| {
                    (setup.destination, setup.endpoint, setup.insecure_connection) = (elsewhere(), String::new(), true);
                },
                "destination",
                "insecure_connection",
            ),
            (|setup| setup.auth.signer = Some(Arc::new(LazySigner::default())), "auth.signer", "auth.headers_ttl = 0"),
            (
                |setup| {
                    (setup.batch_interval, setup.emitter.batch.batch_interval) =
                        (Duration::from_secs(1), Duration::from_secs(2));
                },
                "batch_interval",
                "emitter.batch.batch_interval",
            ),
            (
                |setup| (setup.insecure_connection, setup.tls) = (true, Some(Tls::system())),
                "insecure_connection",
                "tls",
            ),
            (
                |setup| (setup.batch_size, setup.emitter.batch.batch_size) = (7, NonZeroUsize::MIN),
                "batch_size",
                "emitter.batch.batch_size",
            ),
            (
                |setup| (setup.max_request_bytes, setup.emitter.batch.max_request_bytes) = (7, 8),
                "max_request_bytes",
                "emitter.batch.max_request_bytes",
            ),
            (
                |setup| {
                    (setup.message_buffer_size, setup.emitter.batch.message_buffer) = (7, NonZeroUsize::MIN);
                },
                "message_buffer_size",
                "emitter.batch.message_buffer",
            ),
            (
                |setup| {
                    (setup.max_concurrent_sends, setup.emitter.batch.max_concurrent_sends) = (7, NonZeroUsize::MIN);
                },
                "max_concurrent_sends",
                "emitter.batch.max_concurrent_sends",
            ),
            (
                |setup| {
                    (setup.max_publish_timeout, setup.emitter.batch.publish_timeout) =
                        (Duration::from_secs(1), Duration::from_secs(2));
                },
                "max_publish_timeout",
                "emitter.batch.publish_timeout",
            ),
            (
                |setup| {
                    (setup.shutdown_timeout, setup.emitter.shutdown_timeout) =
                        (Duration::from_secs(1), Duration::from_secs(2));
                },
                "shutdown_timeout",
                "emitter.shutdown_timeout",
            ),
        ];
        let _alone = ONE_GLOBAL.lock().await;
        for (change, first, second) in contradictions {
            let mut setup = to(db, "localhost:1");
            change(&mut setup);
            match setup.build() {
                Err(emitter::Error::BothSet { first: one, second: two }) => assert_eq!((one, two), (first, second)),
                other => panic!("{first} and {second}: {other:?}"),
            }
        }
        // The same value in both settings is no contradiction, and neither is `retransmit_enabled = false` alone.
        let mut same = to(db, "localhost:1");
        (same.batch_size, same.emitter.batch.batch_size) = (7, NonZeroUsize::new(7).unwrap());
        (same.retransmit_enabled, same.emitter.retransmit) = (false, false);
        same.build().unwrap();
        let mut plugin = to(db, "localhost:1");
        plugin.retransmit_enabled = false;
        plugin.build().unwrap();
        global::set_global(None);
    }

    /// A server that requires TLS and credentials gets both from `Setup` and from the builder.
    /// Without the credentials or the authority nothing is delivered.
    async fn tls_and_credentials_are_used(db) {
        let key = KeyPair::generate().unwrap();
        let pem = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let server = Ingress::builder().tls(ingress::Tls::new(&pem, key.serialize_pem()));
        let server = server.accept(Credential::headers([("x-key", "secret")])).serve("127.0.0.1:0").await.unwrap();
        let endpoint = format!("localhost:{}", server.local_addr().port());
        let settings = |with: bool| {
            let mut auth = eventbox::chip::AuthSettings::default();
            if with {
                auth.headers.insert("x-key".to_owned(), "secret".to_owned());
            }
            auth
        };
        let by_setup = |auth, tls| {
            let mut setup = to(db, &endpoint);
            (setup.auth, setup.tls) = (auth, tls);
            setup.build().unwrap()
        };
        let by_builder = |auth: eventbox::chip::AuthSettings, tls: Option<Tls>| {
            let config = GrpcConfig::new(endpoint.clone()).tls(tls.unwrap_or_else(Tls::system));
            let config = match auth.select().unwrap() {
                Some(auth) => config.auth(auth),
                None => config,
            };
            DurableEmitter::builder(db.pool.clone(), config).build().unwrap()
        };
        let _alone = ONE_GLOBAL.lock().await;
        let trusting = || Some(Tls::ca(pem.clone()));
        for emitter in [by_setup(settings(true), trusting()), by_builder(settings(true), trusting())] {
            emitter.start().await.unwrap();
            emitter.publish(event("x")).await.unwrap();
            assert!(emitter.flush(SOON).await.unwrap());
            emitter.stop(STOP).await;
        }
        for emitter in [
            by_setup(settings(false), trusting()),
            by_builder(settings(false), trusting()),
            by_setup(settings(true), None),
            by_builder(settings(true), None),
        ] {
            emitter.start().await.unwrap();
            emitter.publish(event("not let in")).await.unwrap();
            eventually(SOON, async || emitter.stats().rescheduled == 1).await;
            emitter.stop(STOP).await;
            db.run("DELETE FROM eventbox_outbox").await;
        }
        global::set_global(None);
    }
}
