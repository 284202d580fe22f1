//! The manifest: the gate's signed word that a plan may run, against which world, under which policy and approvals.
//!
//! It is the only thing that the executor accepts. Must stay under 4 KiB, so that a KMS can sign it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blast::Blast;
use crate::digest::Digest;
use crate::grant::Ceiling;
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
    /// Longest time in minutes for which an approval is good.
    pub minutes: u64,
    /// Teams of which at least one each must be among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teams: Vec<String>,
}

/// Why the gate decided as it did: one entry per step, kept beside the manifest and named in it by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decisions {
    /// When they were made: `gate`, or `run` once people had spoken.
    pub phase: String,
    /// The bundle of rules.
    pub bundle: Digest,
    /// What went in beside plan, assessment and site: the agent, the session, the clock, the people.
    pub inputs: serde_json::Value,
    /// The blast radius of the whole.
    pub blast: Blast,
    /// About the plan as a whole.
    pub plan: Decision,
    /// One per step, in the order of the plan.
    pub steps: Vec<Decision>,
    /// The most that each step may be granted, in the order of the plan. Without them nothing acts forward.
    #[serde(default)]
    pub ceilings: Vec<Ceiling>,
}

/// What a decision comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// May run.
    Allow,
    /// May run once what is needed is there.
    Hold,
    /// May not run, whatever is added.
    Deny,
}

impl Ruling {
    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Hold => "hold",
            Self::Deny => "deny",
        }
    }
}

/// The decision about one step, or about the plan as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Content-addressed: SHA-256 over everything that went in and came out.
    pub id: Digest,
    /// Id of the step; empty for the plan as a whole.
    pub step: String,
    /// The computed class.
    pub class: Class,
    /// What was decided.
    pub ruling: Ruling,
    /// Rules that decided, by id.
    pub rules: Vec<String>,
    /// What is still needed, as `approvals>=1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// People that this step alone asks for.
    pub people: u64,
    /// Its blast radius, 0 to 100.
    pub score: u64,
    /// What the score is made of, for plans of up to 1,000 steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blast: Option<Blast>,
    /// The questions that were asked, by the digest of their canonical JSON.
    pub asked: Vec<Digest>,
}

impl Predicate for Manifest {
    const TYPE: &'static str = "https://backout.dev/manifest/v1";
    const MAX_BYTES: usize = Limits::STATEMENT_BYTES;
}
