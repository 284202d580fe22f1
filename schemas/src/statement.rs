//! in-toto Statement v1: the frame of manifests, approvals and receipts.
//!
//! Must never be read without its predicate type being one that the reader asked for.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::envelope::Document;
use crate::strict::{StrictError, parse_strict};

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// What a predicate says of itself.
pub trait Predicate: Serialize + DeserializeOwned + JsonSchema {
    /// The URI that names it.
    const TYPE: &'static str;
    /// Largest statement in bytes.
    const MAX_BYTES: usize;
    /// The namespace in which SSH signatures of it count; none where they do not.
    const SSH_NAMESPACE: Option<&'static str> = None;
}

/// An in-toto Statement v1 about documents named by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Statement<P> {
    /// Always `https://in-toto.io/Statement/v1`.
    #[serde(rename = "_type")]
    statement_type: String,
    /// What the statement is about.
    pub subject: Vec<Subject>,
    /// Which predicate.
    #[serde(rename = "predicateType")]
    predicate_type: String,
    /// What is said.
    pub predicate: P,
}

/// One document that a statement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// A word for people: `plan`, `manifest`.
    pub name: String,
    /// The digests of its bytes.
    pub digest: SubjectDigest,
}

/// The digest set of a subject; SHA-256 is the only one in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubjectDigest {
    /// 64 lower-case hex digits.
    sha256: String,
}

impl Subject {
    /// A subject of this name and digest.
    pub fn new(name: &str, digest: Digest) -> Self {
        Self { name: name.to_owned(), digest: SubjectDigest { sha256: digest.hex() } }
    }

    /// The digest, if it is well formed.
    pub fn digest(&self) -> Option<Digest> {
        Digest::from_hex(&self.digest.sha256).ok()
    }
}

impl<P: Predicate> Statement<P> {
    /// A statement about `subject`.
    pub fn new(subject: Vec<Subject>, predicate: P) -> Self {
        Self { statement_type: STATEMENT_TYPE.to_owned(), subject, predicate_type: P::TYPE.to_owned(), predicate }
    }

    /// The bytes to sign: compact JSON.
    pub fn to_payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The one subject, where exactly one is allowed.
    pub fn sole_subject(&self) -> Option<Digest> {
        match self.subject.as_slice() {
            [one] => one.digest(),
            _ => None,
        }
    }
}

impl<P: Predicate> Document for Statement<P> {
    const PAYLOAD_TYPE: &'static str = "application/vnd.in-toto+json";
    const MAX_BYTES: usize = P::MAX_BYTES;
    const SSH_NAMESPACE: Option<&'static str> = P::SSH_NAMESPACE;

    fn from_payload(payload: &[u8]) -> Result<Self, StrictError> {
        let statement: Self = parse_strict(payload, P::MAX_BYTES)?;
        if statement.statement_type != STATEMENT_TYPE || statement.predicate_type != P::TYPE {
            let message = format!(
                "a {} with predicate {} was expected, not {}",
                STATEMENT_TYPE,
                P::TYPE,
                statement.predicate_type
            );
            return Err(StrictError::Malformed { message });
        }
        Ok(statement)
    }
}
