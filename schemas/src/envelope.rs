//! DSSE v1.0.2 envelopes: the only form in which a signed document is read.
//!
//! Must never hand out a payload that was not verified, and must never decode a payload twice.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use ed25519_dalek::Signature as Ed25519Signature;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::keys::{KeyId, SecretKey};
use crate::limits::Limits;
use crate::sshsig::{SshSigError, SshSignature};
use crate::strict::{StrictError, parse_strict};
use crate::trust::{Role, TrustRoot};

/// A DSSE envelope: payload bytes in base64, their type, and signatures over the pre-authentication encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Media type of the payload; it is signed too.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The exact bytes of the document, base64 (RFC 4648).
    pub payload: String,
    /// One signature per key.
    pub signatures: Vec<Signature>,
}

/// One signature of an envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Id of the key; a hint that is recomputed, never trusted.
    pub keyid: KeyId,
    /// In base64: 64 bytes of Ed25519, or the armored file of an SSH signature.
    pub sig: String,
    /// What `sig` is.
    #[serde(default, skip_serializing_if = "SignatureKind::is_plain")]
    pub kind: SignatureKind,
}

/// How something was signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureKind {
    /// Ed25519 over the pre-authentication encoding.
    #[default]
    Ed25519,
    /// SSHSIG over the same bytes, for documents that take it.
    Sshsig,
}

impl SignatureKind {
    fn is_plain(&self) -> bool {
        *self == Self::Ed25519
    }
}

/// What a type must say of itself so that it can be signed and verified.
pub trait Document: Sized {
    /// The media type that its envelope must carry.
    const PAYLOAD_TYPE: &'static str;
    /// Largest payload in bytes.
    const MAX_BYTES: usize;
    /// The namespace in which SSH signatures of it count; none where they do not.
    const SSH_NAMESPACE: Option<&'static str> = None;

    /// Reads the exact signed bytes.
    fn from_payload(payload: &[u8]) -> Result<Self, StrictError>;
}

/// Who signed, as far as the trust root knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// Key that verified.
    pub keyid: KeyId,
    /// Owner of the key in the trust root.
    pub owner: String,
}

/// A document whose signatures were checked against a role. INVARIANT: made by [`Envelope::verify`] alone.
#[derive(Clone, Debug)]
pub struct Verified<T> {
    document: T,
    digest: Digest,
    signers: Vec<Signer>,
}

impl<T> Verified<T> {
    /// The document.
    pub fn document(&self) -> &T {
        &self.document
    }

    /// SHA-256 of the payload bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The distinct owners' keys that signed, in the order of the envelope.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Gives the document away.
    pub fn into_document(self) -> T {
        self.document
    }
}

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Not strict JSON of the envelope's shape.
    #[error("not a DSSE envelope")]
    Shape(#[source] StrictError),
    /// The payload is not base64.
    #[error("the payload is not base64")]
    Base64,
    /// More signatures than allowed.
    #[error("{found} signatures are more than the {} allowed", Limits::SIGNATURES)]
    TooManySignatures {
        /// Signatures found.
        found: usize,
    },
}

/// Why an envelope does not prove what it says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VerifyError {
    /// Not an envelope.
    #[error("not an envelope")]
    Envelope(#[from] EnvelopeError),
    /// A document of another type.
    #[error("the payload type is {found:?} and {expected:?} was expected")]
    WrongType {
        /// Type found.
        found: String,
        /// Type expected.
        expected: &'static str,
    },
    /// Nobody in the role signed, or not enough distinct owners.
    #[error("{found} of {needed} owners in role {role} signed{}", reasons_text(.reasons))]
    NotEnoughSigners {
        /// Role asked for.
        role: String,
        /// Distinct owners found.
        found: usize,
        /// Distinct owners needed.
        needed: usize,
        /// Why each other signature does not count.
        reasons: Vec<String>,
    },
    /// The payload does not parse.
    #[error("the payload is not a valid document")]
    Payload(#[source] StrictError),
}

fn reasons_text(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
}

/// The pre-authentication encoding of DSSE: `DSSEv1 <len type> <type> <len body> <body>`.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {} {} ", payload_type.len(), payload_type, payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// Signs `payload` as a document of type `payload_type`.
    pub fn sign(payload_type: &str, payload: &[u8], keys: &[&SecretKey]) -> Self {
        let message = pae(payload_type, payload);
        let sign = |key: &&SecretKey| Signature {
            keyid: key.id(),
            sig: STANDARD.encode(key.sign(&message)),
            kind: SignatureKind::Ed25519,
        };
        let signatures = keys.iter().map(sign).collect();
        Self { payload_type: payload_type.to_owned(), payload: STANDARD.encode(payload), signatures }
    }

    /// An envelope whose signature was made elsewhere, by `ssh-keygen -Y sign` over [`pae`]. It is not verified here.
    pub fn of_ssh(payload_type: &str, payload: &[u8], armored: &[u8]) -> Result<Self, SshSigError> {
        let key = SshSignature::parse(armored)?.public()?;
        let signature =
            Signature { keyid: KeyId::of(&key), sig: STANDARD.encode(armored), kind: SignatureKind::Sshsig };
        Ok(Self {
            payload_type: payload_type.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: vec![signature],
        })
    }

    /// Reads an envelope, within the limits.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self = parse_envelope(bytes).map_err(EnvelopeError::Shape)?;
        if envelope.signatures.len() > Limits::SIGNATURES {
            return Err(EnvelopeError::TooManySignatures { found: envelope.signatures.len() });
        }
        Ok(envelope)
    }

    /// The JSON form: compact, with a final newline.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = serde_json::to_vec(self).unwrap_or_default();
        out.push(b'\n');
        out
    }

    /// The payload bytes, not verified: only for showing and for naming what a signature should have covered.
    pub fn unverified_payload(&self) -> Result<Vec<u8>, EnvelopeError> {
        STANDARD.decode(&self.payload).or_else(|_| URL_SAFE.decode(&self.payload)).map_err(|_| EnvelopeError::Base64)
    }

    /// Verifies that enough distinct owners of `role` signed at time `at`, then parses the payload.
    ///
    /// Every signature is checked with `verify_strict`; keys that are weak, expired, revoked or outside the role do not count.
    pub fn verify<T: Document>(
        &self,
        trust: &TrustRoot,
        role: &Role,
        at: Timestamp,
    ) -> Result<Verified<T>, VerifyError> {
        let payload = self.typed_payload(T::PAYLOAD_TYPE, T::MAX_BYTES)?;
        let message = pae(&self.payload_type, &payload);
        let mut signers: Vec<Signer> = Vec::new();
        let mut reasons = Vec::new();
        for signature in &self.signatures {
            match checked_signer(signature, &message, trust, role, at, T::SSH_NAMESPACE) {
                Ok(signer) if signers.iter().any(|known| known.owner == signer.owner) => {
                    reasons.push(format!("{} signed twice", signer.owner));
                }
                Ok(signer) => signers.push(signer),
                Err(reason) => reasons.push(reason),
            }
        }
        let needed = trust.threshold(role).max(1);
        if signers.len() < needed {
            return Err(VerifyError::NotEnoughSigners {
                role: role.to_string(),
                found: signers.len(),
                needed,
                reasons,
            });
        }
        let document = T::from_payload(&payload).map_err(VerifyError::Payload)?;
        Ok(Verified { document, digest: Digest::of(&payload), signers })
    }

    fn typed_payload(&self, expected: &'static str, max_bytes: usize) -> Result<Vec<u8>, VerifyError> {
        if self.signatures.len() > Limits::SIGNATURES {
            return Err(EnvelopeError::TooManySignatures { found: self.signatures.len() }.into());
        }
        if self.payload_type != expected {
            return Err(VerifyError::WrongType { found: self.payload_type.clone(), expected });
        }
        let payload = self.unverified_payload()?;
        if payload.len() > max_bytes {
            return Err(VerifyError::Payload(StrictError::TooLarge { found: payload.len(), allowed: max_bytes }));
        }
        Ok(payload)
    }
}

/// An envelope's own strings may be as long as its payload, so the limits on strings are applied to the payload instead.
fn parse_envelope(bytes: &[u8]) -> Result<Envelope, StrictError> {
    if bytes.len() > Limits::ENVELOPE_BYTES {
        return Err(StrictError::TooLarge { found: bytes.len(), allowed: Limits::ENVELOPE_BYTES });
    }
    if bytes.len() <= Limits::STRING_BYTES {
        return parse_strict(bytes, Limits::ENVELOPE_BYTES);
    }
    serde_json::from_slice(bytes).map_err(|error| StrictError::Malformed { message: error.to_string() })
}

fn checked_signer(
    signature: &Signature,
    message: &[u8],
    trust: &TrustRoot,
    role: &Role,
    at: Timestamp,
    namespace: Option<&'static str>,
) -> Result<Signer, String> {
    let key = trust.key_for(role, signature.keyid, at).map_err(|error| error.to_string())?;
    let keyid = signature.keyid;
    if signature.kind == SignatureKind::Sshsig {
        let Some(namespace) = namespace else { return Err("an SSH signature does not count here".to_owned()) };
        let armored = STANDARD.decode(&signature.sig).map_err(|_| "the SSH signature is not base64".to_owned())?;
        let parsed = SshSignature::parse(&armored).map_err(|error| error.to_string())?;
        let verified = parsed.verify(&key.public, namespace, message);
        verified.map_err(|error| format!("the SSH signature of {}: {error}", key.owner))?;
        return Ok(Signer { keyid, owner: key.owner.to_owned() });
    }
    let bytes: [u8; 64] =
        STANDARD.decode(&signature.sig).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            format!("key {} has no 64-byte signature", Digest::of(keyid.to_string().as_bytes()).short())
        })?;
    key.public
        .verify_strict(message, &Ed25519Signature::from_bytes(&bytes))
        .map_err(|_| format!("the signature of {} does not verify", key.owner))?;
    Ok(Signer { keyid, owner: key.owner.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::tests::{NOW, trust_with};

    #[derive(Debug)]
    struct Note(String);

    impl Document for Note {
        const PAYLOAD_TYPE: &'static str = "text/note";
        const MAX_BYTES: usize = 64;

        fn from_payload(payload: &[u8]) -> Result<Self, StrictError> {
            Ok(Self(String::from_utf8_lossy(payload).into_owned()))
        }
    }

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    #[test]
    fn the_pre_authentication_encoding_is_that_of_the_specification() {
        // protocol.md of DSSE: PAE("http://example.com/HelloWorld", "hello world").
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn a_good_signature_verifies_and_names_its_owner() {
        let key = SecretKey::from_seed([1; 32]);
        let trust = trust_with(&[(&key, "ada", Role::Agent)]);
        let envelope = Envelope::sign(Note::PAYLOAD_TYPE, b"hi", &[&key]);
        let verified: Verified<Note> = envelope.verify(&trust, &Role::Agent, now()).unwrap();
        assert_eq!(verified.document().0, "hi");
        assert_eq!(verified.signers()[0].owner, "ada");
        assert_eq!(verified.digest(), Digest::of(b"hi"));
    }

    #[test]
    fn one_changed_byte_of_payload_type_or_signature_is_refused() {
        let key = SecretKey::from_seed([1; 32]);
        let trust = trust_with(&[(&key, "ada", Role::Agent)]);
        let good = Envelope::sign(Note::PAYLOAD_TYPE, b"hi", &[&key]);
        let mut payload = good.clone();
        payload.payload = STANDARD.encode(b"ho");
        let mut kind = good.clone();
        kind.payload_type = "text/other".to_owned();
        let mut sig = good.clone();
        let mut bytes = STANDARD.decode(&sig.signatures[0].sig).unwrap();
        bytes[0] ^= 1;
        sig.signatures[0].sig = STANDARD.encode(bytes);
        for bad in [payload, kind, sig] {
            assert!(bad.verify::<Note>(&trust, &Role::Agent, now()).is_err());
        }
    }

    #[test]
    fn two_keys_of_one_owner_count_once() {
        let (one, two) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let mut trust = trust_with(&[(&one, "ada", Role::Root), (&two, "ada", Role::Root)]);
        trust.set_threshold(&Role::Root, 2);
        let envelope = Envelope::sign(Note::PAYLOAD_TYPE, b"hi", &[&one, &two]);
        let error = envelope.verify::<Note>(&trust, &Role::Root, now()).unwrap_err();
        assert!(matches!(error, VerifyError::NotEnoughSigners { found: 1, needed: 2, .. }), "{error}");
    }

    #[test]
    fn a_key_outside_the_role_does_not_count() {
        let key = SecretKey::from_seed([1; 32]);
        let trust = trust_with(&[(&key, "ada", Role::Agent)]);
        let envelope = Envelope::sign(Note::PAYLOAD_TYPE, b"hi", &[&key]);
        assert!(envelope.verify::<Note>(&trust, &Role::Gate, now()).is_err());
    }

    #[test]
    fn a_crowd_of_signatures_is_refused_before_any_is_checked() {
        let key = SecretKey::from_seed([1; 32]);
        let mut envelope = Envelope::sign(Note::PAYLOAD_TYPE, b"hi", &[&key]);
        let one = envelope.signatures[0].clone();
        envelope.signatures = vec![one; 17];
        assert_eq!(Envelope::from_json(&envelope.to_json()), Err(EnvelopeError::TooManySignatures { found: 17 }));
    }
}
