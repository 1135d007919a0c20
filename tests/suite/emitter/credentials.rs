//! Credentials, as the server sees them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ed25519_dalek::{Signature, Signer as _, SigningKey, Verifier};
use eventbox::BoxError;
use eventbox::chip::{
    Auth, AuthConfigError, AuthSettings, ConfigError, GrpcConfig, GrpcTransport, LazySigner, Signer, Tls, Transport,
};
use tonic::{Code, Status};

use super::support::{Fake, GrpcServer};

const LIMIT: Duration = Duration::from_secs(10);
const TEN_MINUTES: Duration = Duration::from_secs(600);
const HEADER: &str = "x-beholder-node-auth-token";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A keystore with one key.
struct Keystore {
    key: SigningKey,
    signatures: AtomicUsize,
    broken: AtomicBool,
    key_ids: Mutex<Vec<String>>,
}

impl Keystore {
    fn new() -> Arc<Self> {
        let key = SigningKey::from_bytes(&[7; 32]);
        Arc::new(Keystore {
            key,
            signatures: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            key_ids: Mutex::default(),
        })
    }

    fn public_hex(&self) -> String {
        hex(&self.key.verifying_key().to_bytes())
    }

    fn signatures(&self) -> usize {
        self.signatures.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Signer for Keystore {
    async fn sign(&self, key_id: &str, data: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.signatures.fetch_add(1, Ordering::SeqCst);
        self.key_ids.lock().unwrap().push(key_id.to_owned());
        if self.broken.load(Ordering::SeqCst) {
            return Err("the keystore is locked".into());
        }
        // A signature takes 20 ms, so that concurrent callers meet.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(self.key.sign(data).to_bytes().to_vec())
    }
}

fn settings(keystore: &Arc<Keystore>) -> AuthSettings {
    let settings = AuthSettings::default().with_headers_ttl(TEN_MINUTES).with_public_key_hex(keystore.public_hex());
    settings.with_signer(Arc::clone(keystore) as _)
}

fn client(server: &GrpcServer, auth: Auth) -> GrpcTransport {
    GrpcTransport::new(&GrpcConfig::new(server.endpoint()).insecure().auth(auth)).unwrap()
}

async fn ping(client: &GrpcTransport) -> Result<String, Status> {
    client.ping(LIMIT).await
}

fn tokens(server: &GrpcServer) -> Vec<Option<String>> {
    let seen = server.seen.lock().unwrap();
    seen.iter().map(|headers| headers.get(HEADER).map(|value| value.to_str().unwrap().to_owned())).collect()
}

/// Basic credentials arrive as a header. Without TLS they need `insecure`.
#[tokio::test]
async fn basic_credentials_need_tls_or_insecure() {
    let server = GrpcServer::start(Fake::ok()).await;
    for (user, password, value) in [("user", "pass", "Basic dXNlcjpwYXNz"), ("", "", "Basic Og==")] {
        let basic = Auth::Basic { user: user.to_owned(), password: password.to_owned() };
        ping(&client(&server, basic.clone())).await.unwrap();
        assert_eq!(server.seen.lock().unwrap().pop().unwrap().get("authorization").unwrap(), value);
        let refused = GrpcTransport::new(&GrpcConfig::new(server.endpoint()).auth(basic.clone())).map(drop);
        assert_eq!(refused.unwrap_err(), ConfigError::Auth(AuthConfigError::NeedsTls));
        // The order of the options does not matter.
        GrpcTransport::new(&GrpcConfig::new("localhost:1").auth(basic).tls(Tls::system())).unwrap();
    }
}

/// The settings select no credentials, fixed headers, or rotating credentials.
#[test]
fn credentials_are_selected_by_the_settings() {
    let keystore = Keystore::new();
    let headers = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    assert!(AuthSettings::default().select().unwrap().is_none());
    let fixed = AuthSettings::default().with_headers(headers.clone());
    assert!(matches!(fixed.select().unwrap(), Some(Auth::Static(_))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    for signer in [None, Some(Arc::clone(&keystore) as Arc<dyn Signer>)] {
        let mut rotating = settings(&keystore).with_headers(headers.clone());
        rotating.signer = signer;
        assert!(matches!(rotating.select().unwrap(), Some(Auth::Rotating(_))));
    }
}

/// Wrong settings of rotating credentials are refused with exactly these texts.
#[test]
fn wrong_settings_are_refused_with_their_reason() {
    let keystore = Keystore::new();
    let refused = |change: &dyn Fn(&mut AuthSettings)| {
        let mut settings = settings(&keystore);
        change(&mut settings);
        settings.select().map(drop).unwrap_err().to_string()
    };
    for minutes in [5, 1] {
        let text = refused(&|settings| settings.headers_ttl = Duration::from_secs(minutes * 60));
        assert_eq!(text, "auth: headers TTL must be at least 10 minutes");
    }
    assert_eq!(
        refused(&|settings| settings.public_key_hex.clear()),
        "auth: public key hex required for rotating auth (TTL > 0)"
    );
    for bad in ["zz", "abc"] {
        let text = refused(&|settings| settings.public_key_hex = bad.to_owned());
        assert!(text.starts_with("auth: failed to decode public key hex: "), "{text}");
    }
}

/// An independent verifier accepts the signature of the header.
#[tokio::test]
async fn the_signed_header_verifies() {
    let (server, keystore) = (GrpcServer::start(Fake::ok()).await, Keystore::new());
    let auth = settings(&keystore).select().unwrap().unwrap();
    let client = client(&server, auth.clone());
    ping(&client).await.unwrap();
    client.refresh_credentials().await;
    ping(&client).await.unwrap();
    let tokens: Vec<String> = tokens(&server).into_iter().flatten().collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1]);
    for token in &tokens {
        let [version, key, time, signature] = token.split(':').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((version, key, key.len(), signature.len()), ("2", keystore.public_hex().as_str(), 64, 128));
        let mut signed = unhex(key);
        signed.extend(time.parse::<u64>().unwrap().to_be_bytes());
        assert_eq!(signed.len(), 40);
        let signature = Signature::from_slice(&unhex(signature)).unwrap();
        keystore.key.verifying_key().verify(&signed, &signature).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        assert!(now - time.parse::<u128>().unwrap() < 60_000_000_000);
    }
    assert!(keystore.key_ids.lock().unwrap().iter().all(|id| *id == keystore.public_hex()));
}

/// The initial headers are used until they expire. Then one signature serves all concurrent callers.
/// The client refreshes a header before it expires. Headers other than the token stay.
#[tokio::test]
async fn initial_headers_are_used_until_they_expire() {
    let (server, keystore) = (GrpcServer::start(Fake::ok()).await, Keystore::new());
    let initial =
        BTreeMap::from([(HEADER.to_owned(), "initial".to_owned()), ("x-mine".to_owned(), "stays".to_owned())]);
    let auth = settings(&keystore).with_headers(initial).select().unwrap().unwrap();
    let client = client(&server, auth);
    ping(&client).await.unwrap();
    assert_eq!((tokens(&server), keystore.signatures()), (vec![Some("initial".to_owned())], 0));

    tokio::time::pause();
    tokio::time::advance(TEN_MINUTES + Duration::from_millis(1)).await;
    tokio::time::resume();
    futures_util::future::try_join_all((0..10).map(|_| ping(&client))).await.unwrap();
    assert_eq!(keystore.signatures(), 1);
    let renewed = tokens(&server)[1..].to_vec();
    assert!(renewed.iter().all(|token| token == &renewed[0] && token.as_deref() != Some("initial")));
    assert!(server.seen.lock().unwrap().iter().all(|headers| headers.get("x-mine").unwrap() == "stays"));

    // After 80 % of its life the old header is used while the client makes a new one.
    tokio::time::pause();
    tokio::time::advance(TEN_MINUTES.mul_f64(0.85)).await;
    tokio::time::resume();
    ping(&client).await.unwrap();
    assert_eq!(tokens(&server).last().unwrap(), &renewed[0]);
    crate::support::eventually(crate::support::SOON, async || keystore.signatures() == 2).await;
    crate::support::eventually(crate::support::SOON, async || {
        ping(&client).await.unwrap();
        tokens(&server).last().unwrap() != &renewed[0]
    })
    .await;
    assert_eq!(keystore.signatures(), 2);
}

/// A signer that fails fails the call. The next call asks the signer again.
#[tokio::test]
async fn a_signer_that_fails_fails_the_call_and_is_asked_again() {
    let (server, keystore) = (GrpcServer::start(Fake::ok()).await, Keystore::new());
    keystore.broken.store(true, Ordering::SeqCst);
    let transport = client(&server, settings(&keystore).select().unwrap().unwrap());
    let status = ping(&transport).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.message(), "failed to create auth header: the keystore is locked");
    keystore.broken.store(false, Ordering::SeqCst);
    ping(&transport).await.unwrap();
    assert_eq!(keystore.signatures(), 2);

    let mut missing = settings(&keystore);
    missing.signer = None;
    let missing = missing.select().unwrap().unwrap();
    let status = ping(&client(&server, missing)).await.unwrap_err();
    assert!(status.message().contains("keystore not yet available for signing"), "{}", status.message());

    struct Never;
    #[async_trait]
    impl Signer for Never {
        async fn sign(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, BoxError> {
            std::future::pending().await
        }
    }
    let never = settings(&keystore).with_signer(Arc::new(Never)).select().unwrap().unwrap();
    let status = client(&server, never).ping(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

/// A lazy signer fails until its key is set, and signs after that.
#[tokio::test]
async fn a_lazy_signer_works_once_its_key_is_set() {
    let keystore = Keystore::new();
    let lazy = LazySigner::default();
    assert!(!lazy.is_set() && lazy.sign("", &[]).await.is_err());
    lazy.set(Arc::clone(&keystore) as _);
    assert!(lazy.is_set());
    assert_eq!(lazy.sign("id", b"data").await.unwrap(), keystore.key.sign(b"data").to_bytes());
}
