//! Execution tokens: the ceiling that the gate puts over each step, and the grant with which the runner lets one act happen once.
//!
//! A grant must never reach a log or a file: its id does.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::envelope::Document;
use crate::limits::Limits;
use crate::strict::{StrictError, parse_strict};

/// The most that a step may ever be granted. Part of the decisions, which the gate signs by way of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// SHA-256 over kind, operation, resources and every input of the step, patterns expanded.
    pub reach: Digest,
    /// Whether it may do what cannot be undone.
    pub irreversible: bool,
}

/// What a grant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Acting.
    Apply,
    /// Putting back.
    Undo,
}

/// The runner's word that one act may happen once, within seconds, in one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The run.
    pub run: String,
    /// Number of the act in the run; never given twice, also not after a restart.
    pub act: u64,
    /// SHA-256 of the manifest, under whose decisions the ceiling stands.
    pub manifest: Digest,
    /// SHA-256 of the plan.
    pub plan: Digest,
    /// Id of the step.
    pub step: String,
    /// Kind and operation.
    pub uses: String,
    /// What for.
    pub deed: Deed,
    /// What may be changed, by URI.
    pub resources: Vec<String>,
    /// SHA-256 over everything that goes in, as in the ceiling.
    pub reach: Digest,
    /// Whether it may do what cannot be undone.
    pub irreversible: bool,
    /// The process that may use it: 128 random bits in hex.
    pub executor: String,
    /// When it was given.
    pub issued: Timestamp,
    /// From this instant on it is void.
    pub expires: Timestamp,
}

impl Grant {
    /// By what it is named in the log and in the receipt, and by what it is revoked.
    pub fn id(&self) -> String {
        Self::id_of(&self.run, self.act)
    }

    /// The id of the grant for act number `act` of `run`.
    pub fn id_of(run: &str, act: u64) -> String {
        format!("{run}.{act}")
    }
}

impl Document for Grant {
    const PAYLOAD_TYPE: &'static str = "application/vnd.backout.grant.v1+json";
    const MAX_BYTES: usize = Limits::PLAN_BYTES;

    fn from_payload(payload: &[u8]) -> Result<Self, StrictError> {
        parse_strict(payload, Self::MAX_BYTES)
    }
}
