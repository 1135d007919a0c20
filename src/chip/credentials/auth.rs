//! Credentials: basic, fixed headers, or a signed header that is renewed by its age.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::time::{Instant, timeout};

use crate::chip::error::{AuthConfigError, ConfigError};
use crate::clock;
use crate::cloudevent::hex;
use crate::error::BoxError;

/// Header of a signed token; in lower case on HTTP/2.
pub const AUTH_HEADER: &str = "X-Beholder-Node-Auth-Token";

/// Shortest time to live of a signed header.
pub const MIN_HEADERS_TTL: Duration = Duration::from_secs(600);

/// Longest time of a signature.
pub const SIGNER_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes signatures with a key that does not leave its keystore.
#[async_trait]
pub trait Signer: Send + Sync + 'static {
    /// Returns the Ed25519 signature (64 bytes, no prehash) over `data`. The id of the key is its public key in
    /// lower-case hex.
    async fn sign(&self, key_id: &str, data: &[u8]) -> Result<Vec<u8>, BoxError>;
}

/// A signer that gets its key later. Until then, signing fails.
#[derive(Clone, Default)]
pub struct LazySigner(Arc<Mutex<Option<Arc<dyn Signer>>>>);

impl LazySigner {
    /// Sets the key, or replaces it.
    pub fn set(&self, signer: Arc<dyn Signer>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(signer);
    }

    /// Returns whether the signer has a key.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

#[async_trait]
impl Signer for LazySigner {
    async fn sign(&self, key_id: &str, data: &[u8]) -> Result<Vec<u8>, BoxError> {
        let signer = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        signer.ok_or("keystore not yet available for signing")?.sign(key_id, data).await
    }
}

/// Reason why a call has no header.
#[derive(Debug, thiserror::Error)]
#[error("failed to create auth header: {problem}")]
pub struct AuthError {
    problem: String,
}

/// Credentials of a transport.
#[derive(Clone)]
#[non_exhaustive]
pub enum Auth {
    /// User and password.
    Basic {
        /// Name of the user.
        user: String,
        /// Password of the user.
        password: String,
    },
    /// Fixed headers.
    Static(BTreeMap<String, String>),
    /// Signed header.
    Rotating(Arc<RotatingAuth>),
}

/// Settings from which [`select`](Self::select) makes the credentials.
#[must_use = "call `select`, and give the result to `GrpcConfig::auth`"]
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct AuthSettings {
    /// Fixed headers; with a time to live, the first values of the rotating ones.
    pub headers: BTreeMap<String, String>,
    /// Time to live of a signed header; zero: no signed header.
    pub headers_ttl: Duration,
    /// Public key, 32 bytes in hex.
    pub public_key_hex: String,
    /// Signer; a [`LazySigner`] can get its key later.
    pub signer: Option<Arc<dyn Signer>>,
}

impl AuthSettings {
    /// Sets the fixed headers.
    pub fn with_headers(self, headers: BTreeMap<String, String>) -> Self {
        AuthSettings { headers, ..self }
    }

    /// Sets the time to live of a signed header.
    pub fn with_headers_ttl(self, headers_ttl: Duration) -> Self {
        AuthSettings { headers_ttl, ..self }
    }

    /// Sets the public key, 32 bytes in hex.
    pub fn with_public_key_hex(self, public_key_hex: impl Into<String>) -> Self {
        AuthSettings { public_key_hex: public_key_hex.into(), ..self }
    }

    /// Sets the signer.
    pub fn with_signer(self, signer: Arc<dyn Signer>) -> Self {
        AuthSettings { signer: Some(signer), ..self }
    }

    /// Returns rotating credentials with a time to live, else fixed ones with headers, else none.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Auth`] when the key is missing or not hex, or the time to live too short.
    pub fn select(self) -> Result<Option<Auth>, ConfigError> {
        if self.headers_ttl.is_zero() {
            return Ok(if self.headers.is_empty() { None } else { Some(Auth::Static(self.headers)) });
        }
        let key = decode_key(&self.public_key_hex).map_err(ConfigError::Auth)?;
        if self.headers_ttl < MIN_HEADERS_TTL {
            return Err(ConfigError::Auth(AuthConfigError::TtlTooShort));
        }
        let signer = self.signer.unwrap_or_else(|| Arc::new(LazySigner::default()));
        Ok(Some(Auth::Rotating(Arc::new(RotatingAuth::new(key, self.headers_ttl, signer, self.headers)))))
    }
}

impl Auth {
    /// Returns the headers of one call.
    pub(crate) async fn headers(&self) -> Result<BTreeMap<String, String>, AuthError> {
        match self {
            Auth::Basic { user, password } => {
                let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
                Ok(BTreeMap::from([("authorization".to_owned(), value)]))
            }
            Auth::Static(headers) => Ok(headers.clone()),
            Auth::Rotating(rotating) => rotating.headers().await,
        }
    }

    /// Makes the next call use new credentials, if they rotate.
    pub(crate) fn refresh(&self) {
        if let Auth::Rotating(rotating) = self {
            rotating.lock().made_at = None;
        }
    }
}

impl std::fmt::Debug for Auth {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Auth::Basic { .. } => "Auth::Basic",
            Auth::Static(_) => "Auth::Static",
            Auth::Rotating(_) => "Auth::Rotating",
        })
    }
}

/// A signed header, made at the first call and renewed before its end.
///
/// At 80 % of its life the header is renewed in the background, while calls still use the old one. Without a valid
/// header calls wait; any number of them wait for one signature. If the signature fails, the call fails, and the next
/// call signs again. An expired header is never sent.
pub struct RotatingAuth {
    public_key: [u8; 32],
    ttl: Duration,
    signer: Arc<dyn Signer>,
    current: Mutex<Current>,
    signing: tokio::sync::Mutex<()>,
}

struct Current {
    headers: BTreeMap<String, String>,
    made_at: Option<Instant>,
    renewing: bool,
}

impl RotatingAuth {
    /// Makes rotating credentials from a key, a time to live and a signer. Initial headers count as made now. Those
    /// other than the token are sent with every call.
    #[must_use]
    pub fn new(
        public_key: [u8; 32],
        ttl: Duration,
        signer: Arc<dyn Signer>,
        initial: BTreeMap<String, String>,
    ) -> Self {
        let made_at = (!initial.is_empty()).then(Instant::now);
        let current = Mutex::new(Current { headers: initial, made_at, renewing: false });
        RotatingAuth { public_key, ttl, signer, current, signing: tokio::sync::Mutex::new(()) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the headers if they are valid, and whether they should be renewed.
    fn fresh(&self) -> Option<(BTreeMap<String, String>, bool)> {
        let current = self.lock();
        let age = current.made_at?.elapsed();
        (age <= self.ttl).then(|| (current.headers.clone(), age > self.ttl.mul_f64(0.8)))
    }

    async fn headers(self: &Arc<Self>) -> Result<BTreeMap<String, String>, AuthError> {
        if let Some((headers, soon)) = self.fresh() {
            if soon && !std::mem::replace(&mut self.lock().renewing, true) {
                let this = Arc::clone(self);
                // At most one at a time, and bounded by the signer's timeout.
                tokio::spawn(async move {
                    let signing = this.signing.lock().await;
                    if let Err(error) = this.renew().await {
                        tracing::warn!(%error, "the auth header could not be renewed ahead of its end");
                    }
                    drop(signing);
                    this.lock().renewing = false;
                });
            }
            return Ok(headers);
        }
        let _signing = self.signing.lock().await;
        if let Some((headers, _)) = self.fresh() {
            return Ok(headers);
        }
        self.renew().await
    }

    async fn renew(&self) -> Result<BTreeMap<String, String>, AuthError> {
        let token = self.token().await?;
        let mut current = self.lock();
        current.headers.retain(|name, _| !name.eq_ignore_ascii_case(AUTH_HEADER));
        current.headers.insert(AUTH_HEADER.to_owned(), token);
        current.made_at = Some(Instant::now());
        Ok(current.headers.clone())
    }

    /// Makes a token of version 2: the key, the time in nanoseconds, and a signature over both.
    async fn token(&self) -> Result<String, AuthError> {
        let since = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let key_id = hex(&self.public_key);
        let mut data = [0; 40];
        let (key, time) = data.split_at_mut(32);
        key.copy_from_slice(&self.public_key);
        time.copy_from_slice(&nanoseconds.to_be_bytes());
        match timeout(SIGNER_TIMEOUT, self.signer.sign(&key_id, &data)).await {
            Ok(Ok(signature)) => Ok(format!("2:{key_id}:{nanoseconds}:{}", hex(&signature))),
            Ok(Err(error)) => Err(AuthError { problem: error.to_string() }),
            Err(_) => Err(AuthError { problem: format!("the signer took longer than {} s", SIGNER_TIMEOUT.as_secs()) }),
        }
    }
}

fn decode_key(text: &str) -> Result<[u8; 32], AuthConfigError> {
    if text.is_empty() {
        return Err(AuthConfigError::PublicKeyRequired);
    }
    let invalid = |problem: String| AuthConfigError::InvalidPublicKey { problem };
    if text.len() % 2 == 1 {
        return Err(invalid("odd length hex string".to_owned()));
    }
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.ok_or_else(|| invalid("invalid hex digit".to_owned()))?;
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + u8::try_from(*digit).unwrap_or(0)))
        .collect();
    let length = bytes.len();
    bytes.try_into().map_err(|_| invalid(format!("a public key has 32 bytes, not {length}")))
}
