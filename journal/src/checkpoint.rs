//! Checkpoints of the log as C2SP signed notes (c2sp.org/tlog-checkpoint, c2sp.org/signed-note).
//!
//! Must never accept a note that the log's own key did not sign, whoever else did.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemas::{SecretKey, public_from_hex};
use signed_note::{Note, StandardSigner, StandardVerifier, VerifierList, key_id, new_ed25519_verifier_key};
use tlog_tiles::checkpoint::Checkpoint;
use tlog_tiles::tlog::Hash;

use crate::error::JournalError;

const NAME: &str = "backout.dev/log";
const ALG_ED25519: u8 = 1;

/// Signs checkpoints, and nothing else.
pub struct LogSigner {
    signer: StandardSigner,
    verifier: LogVerifier,
}

/// Knows the log's public key.
#[derive(Clone, Debug)]
pub struct LogVerifier {
    key: String,
    origin: String,
}

impl LogSigner {
    /// A signer with the log's own key.
    pub fn new(key: &SecretKey) -> Result<Self, JournalError> {
        let bad = |_| JournalError::Integrity("the log key cannot sign notes".to_owned());
        let public = [&[ALG_ED25519], key.public().as_bytes().as_slice()].concat();
        let secret = STANDARD.encode([&[ALG_ED25519], key.signing_key().to_bytes().as_slice()].concat());
        let encoded = format!("PRIVATE+KEY+{NAME}+{:08x}+{secret}", key_id(NAME, &public));
        let signer = StandardSigner::new(&encoded).map_err(bad)?;
        Ok(Self { signer, verifier: LogVerifier::new(&key.public_hex())? })
    }

    /// Who checks what this one signs.
    pub fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    pub(crate) fn sign(&self, size: u64, root: Hash) -> Result<Vec<u8>, JournalError> {
        let bad = || JournalError::Integrity("a checkpoint could not be signed".to_owned());
        let checkpoint = Checkpoint::new(&self.verifier.origin, size, root, "").map_err(|_| bad())?;
        let mut note = Note::new(&checkpoint.to_bytes(), &[]).map_err(|_| bad())?;
        note.add_sigs(&[&self.signer]).map_err(|_| bad())?;
        Ok(note.to_bytes())
    }
}

impl LogVerifier {
    /// A verifier for the log key with these 64 hex digits.
    pub fn new(public_hex: &str) -> Result<Self, JournalError> {
        let bad = |_| JournalError::Integrity("the log's public key is not usable".to_owned());
        let public = public_from_hex(public_hex).map_err(bad)?;
        let short: String = schemas::KeyId::of(&public).to_string().chars().take(16).collect();
        Ok(Self { key: new_ed25519_verifier_key(NAME, &public), origin: format!("{NAME}/{short}") })
    }

    /// The key in the form of c2sp.org/signed-note, for third parties.
    pub fn vkey(&self) -> &str {
        &self.key
    }

    /// Size and root of a checkpoint, if the log's key signed it.
    pub(crate) fn open(&self, note: &[u8]) -> Result<(u64, Hash), JournalError> {
        let bad = |what: &str| JournalError::Integrity(format!("the checkpoint {what}"));
        let note = Note::from_bytes(note).map_err(|_| bad("is not a signed note"))?;
        let verifier = StandardVerifier::new(&self.key).map_err(|_| bad("has no usable key"))?;
        let known = VerifierList::new(vec![Box::new(verifier)]);
        note.verify(&known).map_err(|_| bad("is not signed by the log's key"))?;
        let checkpoint = Checkpoint::from_bytes(note.text()).map_err(|_| bad("is malformed"))?;
        if checkpoint.origin() != self.origin {
            return Err(bad("is of another log"));
        }
        Ok((checkpoint.size(), *checkpoint.hash()))
    }
}
