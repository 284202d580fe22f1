//! The assessment: what backout saw when it looked at the world for a plan, writing nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::act::Hazard;
use crate::digest::Digest;
use crate::envelope::Document;
use crate::limits::Limits;
use crate::plan::Class;
use crate::strict::{StrictError, parse_strict};

/// What would change, step by step. Kept as a document of its own and named by digest in the manifest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assessment {
    /// The plan that was assessed.
    pub plan: Digest,
    /// When the world was looked at.
    pub taken: Timestamp,
    /// The roots of the environment, as their symlinks led then: the run and its undo act beneath these and no others.
    pub roots: Vec<String>,
    /// Whether the machine could run commands so that nothing changes but what is committed afterwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contains: bool,
    /// One entry per step, in the order of the plan.
    pub steps: Vec<StepAssessment>,
}

/// What one step would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepAssessment {
    /// Id of the step.
    pub id: String,
    /// Resources that would change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ResourceChange>,
    /// What was seen, by resource URI: opaque texts that must be the same just before the step runs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fingerprints: BTreeMap<String, String>,
    /// The reversibility as computed from what was seen.
    pub class: Class,
    /// The way back.
    pub way_back: WayBack,
    /// How sure.
    pub confidence: Confidence,
    /// A preview for people, a unified diff where there is text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preview: String,
    /// Patterns of the plan that were expanded and pinned: the run acts on these names and no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pinned: Vec<String>,
    /// Whether a pattern, not a list of names, chose what is deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_wildcard: bool,
    /// What share of the whole is deleted, where there is a whole; of several the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// Files that lie beneath what is declared and could be changed, where what will be changed could not be seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reaches: Vec<String>,
    /// Harm that needs no delete, where looking told it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hazards: Vec<Hazard>,
    /// Remarks, for example that the step depends on what an earlier one leaves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl StepAssessment {
    /// An assessment in which nothing has been seen.
    pub fn unseen(id: &str, class: Class, way_back: WayBack) -> Self {
        Self {
            id: id.to_owned(),
            changes: Vec::new(),
            fingerprints: BTreeMap::new(),
            class,
            way_back,
            confidence: Confidence::None,
            preview: String::new(),
            pinned: Vec::new(),
            by_wildcard: false,
            share: None,
            reaches: Vec::new(),
            hazards: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// A part of a whole: 4,312 of 4,320 files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// How many are touched.
    pub part: u64,
    /// How many there are.
    pub whole: u64,
}

impl Share {
    /// In percent, rounded up; nothing of nothing is nothing.
    pub fn percent(self) -> u64 {
        self.part.saturating_mul(100).div_ceil(self.whole.max(1))
    }

    /// The larger share of two.
    pub fn worse(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        [one, other].into_iter().flatten().max_by_key(|share| (share.percent(), share.part))
    }
}

/// The fingerprint of what could not be seen, as an earlier step of the plan may leave it otherwise: it is as assessed whatever it is.
pub const UNSEEN: &str = "unseen";

/// One resource that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceChange {
    /// Its URI, as `file:/srv/app/x`.
    pub resource: String,
    /// How it would change.
    pub change: ChangeKind,
    /// Bytes that would be written or deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Rows, for a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowCount>,
    /// Content of a file afterwards, where it was seen: `blake3:HEX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Rows of one table that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowCount {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
}

/// How a resource changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was not there before.
    Created,
    /// It was there and is different.
    Updated,
    /// It is not there any more.
    Deleted,
}

impl ChangeKind {
    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// One resource that did change: an entry of the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Its URI.
    pub resource: String,
    /// How it changed.
    pub change: ChangeKind,
    /// What it was, as an opaque fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Rows, for a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowCount>,
}

/// How the step can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WayBack {
    /// How much of it comes back.
    pub effectiveness: Effectiveness,
    /// How, in a sentence for people.
    pub how: String,
    /// The library entry that knows, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
}

/// How much a way back gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effectiveness {
    /// Everything, proved by digest.
    Full,
    /// Something stays behind.
    Partial,
    /// Only the damage is limited.
    MitigationOnly,
    /// There is none.
    None,
}

/// How the assessment knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The real effect was computed or tried out and taken back.
    Verified,
    /// Computed from a model, for example from what an earlier step is expected to leave.
    Simulated,
    /// Nobody knows.
    None,
}

impl Document for Assessment {
    const PAYLOAD_TYPE: &'static str = "application/vnd.backout.assessment.v1+json";
    const MAX_BYTES: usize = Limits::PLAN_BYTES * 2;

    fn from_payload(payload: &[u8]) -> Result<Self, StrictError> {
        parse_strict(payload, Self::MAX_BYTES)
    }
}
