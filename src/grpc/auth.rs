//! The authentication of clients by the credentials in their headers: fixed values or signatures.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use subtle::ConstantTimeEq;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::error::InvalidPublicKey;
use crate::clock;

/// The name of the header with a signed credential.
pub const SIGNED_HEADER: &str = "x-beholder-node-auth-token";

/// The longest time by which a signed header may be ahead of the clock of the server: one minute.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The usual maximum age of a signed header: one hour.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// A credential that a client must send.
///
/// A server with several credentials accepts a client that sends any of them.
#[derive(Clone)]
pub struct Credential(Kind);

#[derive(Clone)]
enum Kind {
    Headers { headers: Vec<(String, String)>, user: Option<String> },
    Signed { keys: Vec<VerifyingKey>, version: Version },
}

/// The two forms of a signed header.
#[derive(Clone, Copy)]
enum Version {
    /// `1:key:signature`, valid without a limit of time.
    One,
    /// `2:key:nanoseconds:signature`, valid up to the maximum age.
    Two { max_age: Duration },
}

impl fmt::Debug for Credential {
    // Leaves out the values of the headers, because they are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Headers { headers, .. } => f.debug_list().entries(headers.iter().map(|(name, _)| name)).finish(),
            Kind::Signed { keys, version: Version::One } => write!(f, "version 1 by one of {} keys", keys.len()),
            Kind::Signed { keys, version: Version::Two { max_age } } => {
                write!(f, "version 2 by one of {} keys within {max_age:?}", keys.len())
            }
        }
    }
}

impl Credential {
    /// Returns a credential of Basic authentication with a user and a password.
    #[must_use]
    pub fn basic(user: &str, password: &str) -> Self {
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let headers = vec![("authorization".to_owned(), format!("Basic {encoded}"))];
        Credential(Kind::Headers { headers, user: Some(user.to_owned()) })
    }

    /// Returns a credential of fixed headers.
    ///
    /// The client must send all of these headers with exactly these values. The server compares names in lower case,
    /// and values in a time that depends on their length only.
    #[must_use]
    pub fn headers<N: AsRef<str>, V: Into<String>>(headers: impl IntoIterator<Item = (N, V)>) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name.as_ref().to_ascii_lowercase(), value.into()));
        Credential(Kind::Headers { headers: headers.collect(), user: None })
    }

    /// Returns a credential of the rotating header (version 2), which is at most `max_age` old.
    ///
    /// The signature must verify with one of these Ed25519 public keys.
    ///
    /// # Errors
    ///
    /// [`InvalidPublicKey`] when the bytes are not a public key.
    pub fn signed(keys: impl IntoIterator<Item = [u8; 32]>, max_age: Duration) -> Result<Self, InvalidPublicKey> {
        Ok(Credential(Kind::Signed { keys: verifying(keys)?, version: Version::Two { max_age } }))
    }

    /// Returns a credential of the header without a time (version 1).
    ///
    /// The signature must verify with one of these Ed25519 public keys.
    ///
    /// # Errors
    ///
    /// [`InvalidPublicKey`] when the bytes are not a public key.
    pub fn signed_version_1(keys: impl IntoIterator<Item = [u8; 32]>) -> Result<Self, InvalidPublicKey> {
        Ok(Credential(Kind::Signed { keys: verifying(keys)?, version: Version::One }))
    }

    fn check(&self, metadata: &MetadataMap, now: Duration) -> Result<Caller, Status> {
        match &self.0 {
            Kind::Headers { headers, user } => {
                headers.iter().try_for_each(|(name, value)| check_header(metadata, name, value))?;
                Ok(Caller(user.clone()))
            }
            Kind::Signed { keys, version } => check_signed(metadata, keys, *version, now),
        }
    }
}

/// Reads an Ed25519 public key from 64 lower-case hex digits.
///
/// # Errors
///
/// [`InvalidPublicKey`] when the text has another form or is not a public key.
pub fn parse_public_key(hex: &str) -> Result<[u8; 32], InvalidPublicKey> {
    let bytes = unhex(hex).ok_or(InvalidPublicKey)?;
    verifying([bytes]).map(|_| bytes)
}

fn verifying(keys: impl IntoIterator<Item = [u8; 32]>) -> Result<Vec<VerifyingKey>, InvalidPublicKey> {
    keys.into_iter().map(|key| VerifyingKey::from_bytes(&key).map_err(|_| InvalidPublicKey)).collect()
}

/// The caller of a request that passed the gate: its name, if its credential has one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "shards"), allow(dead_code, reason = "only the shard API records callers"))]
pub(crate) struct Caller(pub(crate) Option<String>);

fn check_header(metadata: &MetadataMap, name: &str, value: &str) -> Result<(), Status> {
    match metadata.get(name) {
        // Else the time would tell how many bytes of a guess are right.
        Some(found) if found.as_bytes().ct_eq(value.as_bytes()).into() => Ok(()),
        Some(_) => Err(Status::unauthenticated(format!("the header {name} does not have the expected value"))),
        None => Err(Status::unauthenticated(format!("the header {name} is missing"))),
    }
}

fn check_signed(
    metadata: &MetadataMap,
    keys: &[VerifyingKey],
    version: Version,
    now: Duration,
) -> Result<Caller, Status> {
    let refused = |why: &str| Status::unauthenticated(format!("the header {SIGNED_HEADER} {why}"));
    let value = metadata.get(SIGNED_HEADER).ok_or_else(|| refused("is missing"))?;
    let value = value.to_str().map_err(|_| refused("is not text"))?;
    let fields: Vec<&str> = value.split(':').collect();
    let (claim, time, signature) = match (version, fields.as_slice()) {
        (Version::One, ["1", key, signature]) => (key, None, signature),
        (Version::Two { max_age }, ["2", key, time, signature]) => (key, Some((time, max_age)), signature),
        (Version::One, _) => return Err(refused("is not made of 1:key:signature")),
        (Version::Two { .. }, _) => return Err(refused("is not made of 2:key:nanoseconds:signature")),
    };
    let key: [u8; 32] = unhex(claim).ok_or_else(|| refused("has a key that is not 64 lower-case hex digits"))?;
    let signature: [u8; 64] =
        unhex(signature).ok_or_else(|| refused("has a signature that is not 128 lower-case hex digits"))?;
    let mut signed = key.to_vec();
    if let Some((time, max_age)) = time {
        let time: u64 = time.parse().map_err(|_| refused("has a time that is not a number of nanoseconds"))?;
        signed.extend_from_slice(&time.to_be_bytes());
        let time = Duration::from_nanos(time);
        if time > now + MAX_CLOCK_SKEW {
            return Err(refused("is from the future"));
        }
        if now.saturating_sub(time) > max_age {
            return Err(refused("is too old"));
        }
    }
    let claimed = VerifyingKey::from_bytes(&key).map_err(|_| refused("has a key that is not an Ed25519 public key"))?;
    let signature = Signature::from_bytes(&signature);
    claimed.verify_strict(&signed, &signature).map_err(|_| refused("has a signature that does not verify"))?;
    if keys.contains(&claimed) {
        return Ok(Caller(Some(format!("key {claim}"))));
    }
    Err(Status::permission_denied(format!("the key in the header {SIGNED_HEADER} is not on the list")))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.0.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if pairs.1.is_empty() { bytes?.try_into().ok() } else { None }
}

/// The check of the credentials of every call.
///
/// A call passes when it has any of the credentials, and then has its [`Caller`] as an extension. Without credentials
/// every call passes.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    credentials: Vec<Credential>,
}

impl Gate {
    pub(crate) fn new(credentials: Vec<Credential>) -> Self {
        Gate { credentials }
    }
}

impl Interceptor for Gate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let now = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut refusal = None;
        for credential in &self.credentials {
            match credential.check(request.metadata(), now) {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    return Ok(request);
                }
                Err(status) => refusal = Some(refusal.unwrap_or(status)),
            }
        }
        match refusal {
            None => Ok(request),
            Some(status) => {
                tracing::debug!(%status, "a server refused a call");
                Err(status)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_compared_whole() {
        let credential = Credential::headers([("X-Team", "ramp")]);
        let passes = |value: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("x-team", value.parse().unwrap());
            credential.check(&metadata, Duration::ZERO).is_ok()
        };
        assert!(passes("ramp"));
        for wrong in ["", "r", "ram", "ramps", "Ramp", "pmar", "gate"] {
            assert!(!passes(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn hex_is_strict() {
        assert_eq!(unhex("00ff"), Some([0, 255]));
        for wrong in ["00fF", "00f", "00ff0", "00ff00", "0-ff", ""] {
            assert_eq!(unhex::<2>(wrong), None, "{wrong}");
        }
    }
}
