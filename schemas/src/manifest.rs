//! The manifest: the gate's signed word that a plan may run, against which world, under which policy and approvals.
//!
//! It is the only thing that the executor accepts. Must stay under 4 KiB, so that a KMS can sign it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::Limits;
use crate::plan::Class;
use crate::statement::Predicate;

/// The predicate of a manifest; the subject is the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Session of the plan.
    pub session: String,
    /// Owner of the key that signed the plan; cannot approve.
    pub requester: String,
    /// Environment that is changed.
    pub environment: String,
    /// SHA-256 of the plan's envelope payload.
    pub plan: Digest,
    /// SHA-256 of the assessment.
    pub assessment: Digest,
    /// SHA-256 of the decisions.
    pub decisions: Digest,
    /// SHA-256 of the policy's own text.
    pub policy: Digest,
    /// SHA-256 of the site configuration.
    pub site: Digest,
    /// Version of the trust root.
    pub trust_version: u64,
    /// The gate's verdict.
    pub verdict: GateVerdict,
    /// Number of steps.
    pub steps: u64,
    /// Steps by computed class.
    pub classes: BTreeMap<Class, u64>,
    /// What people must add.
    pub approvals: ApprovalsRequired,
    /// When the gate decided.
    pub issued: Timestamp,
    /// From this instant on the manifest is not accepted.
    pub expires: Timestamp,
    /// 128 random bits in hex; makes two manifests of one plan different.
    pub nonce: String,
}

/// What the gate said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    /// May run.
    Allow,
    /// May run once the approvals are there.
    Hold,
}

/// What people must add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalsRequired {
    /// Distinct people.
    pub people: u64,
    /// The role that they must hold, as `approver:production`.
    pub role: String,
}

/// Why the gate decided as it did: one entry per step, kept beside the manifest and named in it by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decisions {
    /// One per step, in the order of the plan.
    pub steps: Vec<Decision>,
}

/// The decision about one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Content-addressed: SHA-256 over everything that went in and came out.
    pub id: Digest,
    /// Id of the step.
    pub step: String,
    /// The computed class.
    pub class: Class,
    /// Rules that decided, by id.
    pub rules: Vec<String>,
    /// People that this step alone asks for.
    pub people: u64,
}

impl Predicate for Manifest {
    const TYPE: &'static str = "https://backout.dev/manifest/v1";
    const MAX_BYTES: usize = Limits::STATEMENT_BYTES;
}
