//! The secret of the process: keys for the tokens of forms and for login cookies.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// A random secret, made at the start. After a restart, open forms and logins are not valid any more.
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// Makes a secret of 244 random bits.
    pub(crate) fn new() -> Self {
        let mut secret = [0; 32];
        let halves = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()];
        for (byte, random) in secret.iter_mut().zip(halves.concat()) {
            *byte = random;
        }
        Secret(secret)
    }

    /// Returns the code of texts under this secret. Hashing twice keeps others from extending a known text.
    fn code(&self, texts: &[&str]) -> [u8; 32] {
        let mut inner = Sha256::new();
        inner.update(self.0);
        for text in texts {
            // The length first, so that no two lists of texts are hashed alike.
            inner.update((text.len() as u64).to_be_bytes());
            inner.update(text.as_bytes());
        }
        let mut outer = Sha256::new();
        outer.update(self.0);
        outer.update(inner.finalize());
        outer.finalize().into()
    }

    /// Returns the code of texts in hexadecimal.
    pub(crate) fn sign(&self, texts: &[&str]) -> String {
        self.code(texts).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns whether two texts are equal. The time depends on their lengths only: their codes are compared, and in
    /// constant time.
    pub(crate) fn is_same(&self, one: &str, other: &str) -> bool {
        self.code(&["same", one]).ct_eq(&self.code(&["same", other])).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_depend_on_every_text_and_on_the_secret() {
        let secret = Secret::new();
        let code = secret.sign(&["csrf", "ab", "c"]);
        assert_eq!((code.len(), code == secret.sign(&["csrf", "ab", "c"])), (64, true));
        for other in [&["csrf", "a", "bc"][..], &["csrf", "abc"], &["login", "ab", "c"]] {
            assert_ne!(code, secret.sign(other));
        }
        assert_ne!(code, Secret::new().sign(&["csrf", "ab", "c"]));
        assert!(secret.is_same("token", "token"));
        for other in ["", "t", "toke", "tokens", "Token"] {
            assert!(!secret.is_same("token", other), "{other:?}");
        }
    }
}
