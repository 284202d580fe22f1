//! An approval: one person's signed word on one manifest and on nothing else.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::statement::Predicate;

/// The predicate of an approval; the one subject is the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Environment of the manifest, repeated so that an approval for staging cannot be used in production.
    pub environment: String,
    /// Yes or no.
    pub verdict: Verdict,
    /// Why, in the person's words.
    pub reason: String,
    /// Version of the trust root that the person saw.
    pub trust_version: u64,
    /// When it was given.
    pub issued: Timestamp,
    /// From this instant on it does not count.
    pub expires: Timestamp,
    /// 128 random bits in hex; an approval counts once.
    pub nonce: String,
}

/// Yes or no. One reject vetoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The run may go on.
    Approve,
    /// It may not, whoever else approves.
    Reject,
}

impl Predicate for Approval {
    const TYPE: &'static str = "https://backout.dev/approval/v1";
    const MAX_BYTES: usize = Limits::STATEMENT_BYTES;
    const SSH_NAMESPACE: Option<&'static str> = Some("approval@backout");
}
