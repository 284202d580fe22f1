//! Signatures that people make with the SSH key they have: SSHSIG (OpenSSH `PROTOCOL.sshsig`), Ed25519 alone, in one namespace.
//!
//! Must never accept a second spelling of a signature: what was parsed is written out again and must be the same bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use ssh_key::public::KeyData;
use ssh_key::{LineEnding, SshSig};

use crate::digest::hex_of;

/// Largest armored signature: an Ed25519 one has about 300 bytes.
const MAX_BYTES: usize = 1_024;

/// Why an SSH signature does not count.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SshSigError {
    /// Not one armored signature in its one spelling.
    #[error("not an armored SSH signature: {0}")]
    Malformed(String),
    /// Another kind of key.
    #[error("the key is not Ed25519")]
    OtherKey,
    /// Made for something else.
    #[error("it was made in the namespace {found:?} and not in {wanted:?}")]
    Namespace {
        /// What it says.
        found: String,
        /// What it must say.
        wanted: &'static str,
    },
    /// It is somebody else's.
    #[error("it names another key than the one that it is listed under")]
    AnotherKey,
    /// It does not verify.
    #[error("it does not verify")]
    Forged,
}

/// A parsed signature.
pub struct SshSignature(SshSig);

impl SshSignature {
    /// Parses what `ssh-keygen -Y sign` writes.
    pub fn parse(armored: &[u8]) -> Result<Self, SshSigError> {
        let malformed = |text: &str| SshSigError::Malformed(text.to_owned());
        if armored.len() > MAX_BYTES {
            return Err(malformed("it is too large"));
        }
        let parsed = SshSig::from_pem(armored).map_err(|error| SshSigError::Malformed(error.to_string()))?;
        let again = parsed.to_pem(LineEnding::LF).map_err(|error| SshSigError::Malformed(error.to_string()))?;
        if blob(again.as_bytes()) != blob(armored) || blob(armored).is_none() {
            return Err(malformed("it has a second spelling"));
        }
        if !parsed.reserved().is_empty() {
            return Err(malformed("its reserved field is in use"));
        }
        Ok(Self(parsed))
    }

    /// The key that it names.
    pub fn public(&self) -> Result<VerifyingKey, SshSigError> {
        let KeyData::Ed25519(key) = self.0.public_key() else { return Err(SshSigError::OtherKey) };
        VerifyingKey::from_bytes(&key.0).map_err(|_| SshSigError::OtherKey)
    }

    /// Verifies it for one key, one namespace and one message.
    pub fn verify(&self, key: &VerifyingKey, namespace: &'static str, message: &[u8]) -> Result<(), SshSigError> {
        if self.0.namespace() != namespace {
            return Err(SshSigError::Namespace { found: self.0.namespace().to_owned(), wanted: namespace });
        }
        if self.public()? != *key {
            return Err(SshSigError::AnotherKey);
        }
        if self.0.signature().algorithm() != ssh_key::Algorithm::Ed25519 {
            return Err(SshSigError::OtherKey);
        }
        let bytes: [u8; 64] = self.0.signature_bytes().try_into().map_err(|_| SshSigError::Forged)?;
        let signed = SshSig::signed_data(namespace, self.0.hash_alg(), message).map_err(|_| SshSigError::Forged)?;
        key.verify_strict(&signed, &Signature::from_bytes(&bytes)).map_err(|_| SshSigError::Forged)
    }
}

/// The bytes within the armor, if it is exactly one.
fn blob(armored: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(armored).ok()?.trim_end_matches('\n');
    let inner = text.strip_prefix("-----BEGIN SSH SIGNATURE-----\n")?.strip_suffix("\n-----END SSH SIGNATURE-----")?;
    STANDARD.decode(inner.replace('\n', "")).ok()
}

/// The public key of a line as `ssh-keygen` writes it (`ssh-ed25519 AAAA… comment`), in the 64 hex digits of a trust root.
pub fn public_of_ssh(line: &str) -> Result<String, SshSigError> {
    let key =
        ssh_key::PublicKey::from_openssh(line.trim()).map_err(|error| SshSigError::Malformed(error.to_string()))?;
    let KeyData::Ed25519(key) = key.key_data() else { return Err(SshSigError::OtherKey) };
    Ok(hex_of(&key.0))
}
