//! The receipt: how a run ended, signed, with everything that is needed to check it against the log.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::assessment::Change;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::statement::Predicate;

/// How a run ended. There is no fifth way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Every step applied, its real effects are the declared ones, every check passed.
    Committed,
    /// Every touched resource was observed to be as it was before.
    RolledBack,
    /// Something could not be undone or its state cannot be told.
    Stuck,
    /// Nothing was touched.
    Refused,
}

impl End {
    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled_back",
            Self::Stuck => "stuck",
            Self::Refused => "refused",
        }
    }
}

/// The predicate of a receipt; the subjects are plan and manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Id of the run.
    pub run: String,
    /// Session of the plan.
    pub session: String,
    /// How it ended.
    pub end: End,
    /// Why it did not commit, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ended.
    pub ended: Timestamp,
    /// One entry per step that acted or was begun.
    pub steps: Vec<StepReceipt>,
    /// Ids of the tokens of steps that a corrected plan replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// SHA-256 of the decisions.
    pub decisions: Digest,
    /// Approvals that counted, by digest.
    pub approvals: Vec<Digest>,
    /// Number of records in the log that this receipt speaks of.
    pub log_size: u64,
    /// RFC 6962 root over them, base64.
    pub log_root: String,
    /// Where a copy of the checkpoint is kept outside this host; `unanchored` where nowhere.
    pub anchor: String,
}

/// What became of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepReceipt {
    /// Id of the step.
    pub id: String,
    /// The state it ended in.
    pub state: String,
    /// Ids of the tokens with which it acted and was undone, by which they are revoked.
    #[serde(default)]
    pub tokens: Vec<String>,
    /// What changed, as observed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// How many more changed than are listed here; the log has them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: u64,
    /// What is left to do by hand, where something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Predicate for Receipt {
    const TYPE: &'static str = "https://backout.dev/receipt/v1";
    const MAX_BYTES: usize = Limits::RECEIPT_BYTES;
}
