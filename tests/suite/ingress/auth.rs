//! The three kinds of credentials that the server checks, and TLS.

use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer, SigningKey};
use eventbox::ingress::{Credential, SIGNED_HEADER, Tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Code, Request};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

async fn guarded(credentials: Vec<Credential>) -> IngressHandle {
    let builder = credentials.into_iter().fold(Ingress::builder(), |builder, credential| builder.accept(credential));
    builder.serve("127.0.0.1:0").await.unwrap()
}

/// Publishes with these headers and returns the status.
async fn with_headers(server: &IngressHandle, headers: &[(&'static str, &str)]) -> (Code, String) {
    let mut request = Request::new(event("a", "k", "1"));
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    match client(server).await.publish(request).await {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanos_ago(ago: i64) -> u64 {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    u64::try_from(now - ago).unwrap()
}

fn signed(key: &SigningKey, nanos: u64) -> String {
    let public = key.verifying_key().to_bytes();
    let signature = key.sign(&[&public[..], &nanos.to_be_bytes()].concat());
    format!("2:{}:{nanos}:{}", hex(&public), hex(&signature.to_bytes()))
}

#[tokio::test]
async fn basic_authentication_is_checked() {
    let server = guarded(vec![Credential::basic("user", "pass")]).await;
    assert_eq!(with_headers(&server, &[("authorization", "Basic dXNlcjpwYXNz")]).await.0, Code::Ok);
    for (headers, told) in [
        (vec![], "the header authorization is missing"),
        (vec![("authorization", "Basic Og==")], "the header authorization does not have the expected value"),
    ] {
        let (code, message) = with_headers(&server, &headers).await;
        assert_eq!((code, message.as_str()), (Code::Unauthenticated, told));
    }
    assert_eq!(counts(&server).await.0, 1, "a refused event is not kept");
}

#[tokio::test]
async fn every_call_is_guarded() {
    let server = guarded(vec![Credential::headers([("x-a", "1")])]).await;
    let mut client = client(&server).await;
    let ping = client.ping(eventbox::proto::chipingress::pb::EmptyRequest {}).await.unwrap_err();
    assert_eq!(ping.code(), Code::Unauthenticated);
    let streamed = client.stream_events(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(streamed.code(), Code::Unauthenticated);
    let registered = client.register_schema(eventbox::proto::chipingress::pb::RegisterSchemaRequest::default()).await;
    assert_eq!(registered.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn all_static_headers_are_required() {
    let server = guarded(vec![Credential::headers([("X-A", "1"), ("X-B", "2")])]).await;
    assert_eq!(with_headers(&server, &[("x-a", "1"), ("x-b", "2"), ("x-c", "3")]).await.0, Code::Ok);
    assert_eq!(with_headers(&server, &[("x-a", "1")]).await.0, Code::Unauthenticated);
    assert_eq!(with_headers(&server, &[("x-a", "1"), ("x-b", "3")]).await.0, Code::Unauthenticated);
}

#[tokio::test]
async fn the_rotating_header_is_verified() {
    let known = SigningKey::from_bytes(&[7; 32]);
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let server = guarded(vec![Credential::signed([known.verifying_key().to_bytes()], HOUR).unwrap()]).await;
    let fresh = signed(&known, nanos_ago(0));
    assert_eq!(with_headers(&server, &[(SIGNED_HEADER, &fresh)]).await.0, Code::Ok);
    let nearly_old = signed(&known, nanos_ago(3_590_000_000_000));
    assert_eq!(with_headers(&server, &[(SIGNED_HEADER, &nearly_old)]).await.0, Code::Ok);

    let other_time = fresh.replacen(fresh.split(':').nth(2).unwrap(), &nanos_ago(1).to_string(), 1);
    let little_endian = {
        let (public, nanos) = (known.verifying_key().to_bytes(), nanos_ago(0));
        let signature = known.sign(&[&public[..], &nanos.to_le_bytes()].concat());
        format!("2:{}:{nanos}:{}", hex(&public), hex(&signature.to_bytes()))
    };
    for (value, code, told) in [
        (signed(&known, nanos_ago(3_601_000_000_000)), Code::Unauthenticated, "is too old"),
        (signed(&known, nanos_ago(-120_000_000_000)), Code::Unauthenticated, "is from the future"),
        (signed(&stranger, nanos_ago(0)), Code::PermissionDenied, "is not on the list"),
        (other_time, Code::Unauthenticated, "has a signature that does not verify"),
        (little_endian, Code::Unauthenticated, "has a signature that does not verify"),
        (fresh.to_uppercase(), Code::Unauthenticated, "has a key that is not 64 lower-case hex digits"),
        (fresh.replacen("2:", "1:", 1), Code::Unauthenticated, "is not made of 2:key:nanoseconds:signature"),
        (format!("{fresh}:"), Code::Unauthenticated, "is not made of 2:key:nanoseconds:signature"),
    ] {
        let (found, message) = with_headers(&server, &[(SIGNED_HEADER, &value)]).await;
        assert!(found == code && message.contains(told), "{value}: {found} {message}");
    }
    let (code, message) = with_headers(&server, &[]).await;
    assert_eq!(code, Code::Unauthenticated);
    assert_eq!(message, "the header x-beholder-node-auth-token is missing");
}

#[tokio::test]
async fn version_1_of_the_header_is_accepted_only_when_configured() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = key.verifying_key().to_bytes();
    let value = format!("1:{}:{}", hex(&public), hex(&key.sign(&public).to_bytes()));
    let strict = guarded(vec![Credential::signed([public], HOUR).unwrap()]).await;
    assert_eq!(with_headers(&strict, &[(SIGNED_HEADER, &value)]).await.0, Code::Unauthenticated);
    let both = [Credential::signed([public], HOUR), Credential::signed_version_1([public])];
    let lenient = guarded(both.into_iter().map(Result::unwrap).collect()).await;
    assert_eq!(with_headers(&lenient, &[(SIGNED_HEADER, &value)]).await.0, Code::Ok);
    assert_eq!(with_headers(&lenient, &[(SIGNED_HEADER, &signed(&key, nanos_ago(0)))]).await.0, Code::Ok);
}

#[tokio::test]
async fn any_of_several_credentials_is_accepted() {
    let server = guarded(vec![Credential::basic("", ""), Credential::headers([("x-a", "1")])]).await;
    assert_eq!(with_headers(&server, &[("authorization", "Basic Og==")]).await.0, Code::Ok);
    assert_eq!(with_headers(&server, &[("x-a", "1")]).await.0, Code::Ok);
    assert_eq!(with_headers(&server, &[("x-a", "2")]).await.0, Code::Unauthenticated);
}

#[test]
fn secrets_do_not_show() {
    let shown = format!("{:?} {:?}", Credential::basic("user", "pass"), Credential::headers([("x-a", "secret")]));
    assert_eq!(shown, r#"["authorization"] ["x-a"]"#);
}

/// The certificate authority of one test.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for a name. Returns the certificate and its key as PEM.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

async fn ping_over_tls(
    server: &IngressHandle,
    ca: &Authority,
    identity: Option<(String, String)>,
) -> Result<(), String> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca.pem)).domain_name("localhost");
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let channel = Channel::from_shared(format!("https://{}", server.local_addr())).unwrap().tls_config(tls).unwrap();
    let channel = channel.connect().await.map_err(|error| error.to_string())?;
    let ping = ChipIngressClient::new(channel).ping(eventbox::proto::chipingress::pb::EmptyRequest {}).await;
    ping.map(|_| ()).map_err(|status| status.to_string())
}

#[tokio::test]
async fn tls_shows_the_servers_certificate() {
    let ca = Authority::new();
    let (certificate, key) = ca.issue("localhost");
    let server = Ingress::builder().tls(Tls::new(certificate, key)).serve("127.0.0.1:0").await.unwrap();
    ping_over_tls(&server, &ca, None).await.unwrap();
    ping_over_tls(&server, &Authority::new(), None).await.unwrap_err();
    let mut plaintext =
        ChipIngressClient::new(Channel::from_shared(format!("http://{}", server.local_addr())).unwrap().connect_lazy());
    plaintext.ping(eventbox::proto::chipingress::pb::EmptyRequest {}).await.unwrap_err();
}

#[tokio::test]
async fn clients_need_a_certificate_of_the_authority() {
    let (ca, client_ca) = (Authority::new(), Authority::new());
    let (certificate, key) = ca.issue("localhost");
    let tls = Tls::new(certificate, key).client_ca(&client_ca.pem);
    let server = Ingress::builder().tls(tls).serve("127.0.0.1:0").await.unwrap();
    ping_over_tls(&server, &ca, Some(client_ca.issue("client"))).await.unwrap();
    ping_over_tls(&server, &ca, Some(ca.issue("client"))).await.unwrap_err();
    ping_over_tls(&server, &ca, None).await.unwrap_err();
}

#[tokio::test]
async fn an_unusable_key_is_reported_at_the_start() {
    let error = Ingress::builder().tls(Tls::new("no certificate", "no key")).serve("127.0.0.1:0").await.unwrap_err();
    assert_eq!(error.to_string(), "set up TLS: give a PEM certificate chain and its PEM key");
}
