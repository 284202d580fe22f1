//! The plan: what an agent wants changed. Everything in it is a wish or a claim; nothing in it is believed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest::Digest;
use crate::envelope::Document;
use crate::limits::Limits;
use crate::strict::{StrictError, parse_strict};

/// A plan as an agent writes it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [{
    "session": "rotate-banner", "agent": "deploy-bot", "environment": "staging", "intent": "Change the banner of the shop",
    "steps": [{"id": "banner", "uses": "file.write", "with": {"path": "conf/banner.txt", "content": "open\n"}}]
}]))]
pub struct Plan {
    /// The `$id` of this schema, for editors.
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Name of the agent's session; letters, digits, `.`, `_`, `-`; at most 64 bytes.
    pub session: String,
    /// Name of the agent; its key must belong to this owner.
    pub agent: String,
    /// The environment that is to be changed.
    pub environment: String,
    /// Why, in the agent's words. Shown to people, never used to decide.
    pub intent: String,
    /// The refused or failed plan that this one follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    /// Two plans with one key are one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// After this instant the plan is not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The steps, in any order; `needs` is what orders them.
    pub steps: Vec<PlanStep>,
    /// Canary checks over the whole, run after all steps are verified and before the run is committed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// One step of a plan.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanStep {
    /// Unique in the plan; letters, digits, `.`, `_`, `-`; at most 64 bytes.
    pub id: String,
    /// Kind and operation, as `file.write`.
    pub uses: String,
    /// Parameters; each operation has a schema of its own (`backout schema KIND`).
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub with: Box<RawValue>,
    /// Ids of the steps that must be verified first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// The declared delta: what must have changed, no more and no less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expectation>,
    /// The reversibility that the agent claims; it may only be worse than the computed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The way back of a command that the library does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<UndoCommand>,
    /// Checks that must pass after the step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<Check>,
    /// Milliseconds after which the step is ended and counts as failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// How reversible a step is, from best to worst. Computed, never believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The old value is put back: a config value, a flag.
    TriviallyReversible,
    /// A previous version is put back: a git ref, a deployment.
    ReversibleWithState,
    /// A snapshot taken before is put back: deleted data, a migrated schema.
    ReversibleWithBackup,
    /// A compensating act leaves residue: a message, a call to somebody else's API.
    PartiallyReversible,
    /// No way back. Unknown is irreversible.
    Irreversible,
}

impl Class {
    /// All classes, from best to worst.
    pub const ALL: [Self; 5] = [
        Self::TriviallyReversible,
        Self::ReversibleWithState,
        Self::ReversibleWithBackup,
        Self::PartiallyReversible,
        Self::Irreversible,
    ];

    /// The name in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TriviallyReversible => "trivially_reversible",
            Self::ReversibleWithState => "reversible_with_state",
            Self::ReversibleWithBackup => "reversible_with_backup",
            Self::PartiallyReversible => "partially_reversible",
            Self::Irreversible => "irreversible",
        }
    }
}

/// The declared delta of a step. What is not named here is not bounded by the plan, but still by the assessment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Number of resources created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Bounds>,
    /// Number of resources updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Bounds>,
    /// Number of resources deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Bounds>,
    /// Rows changed, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, ExpectRows>,
}

impl Expectation {
    /// Whether it says anything of how many resources change.
    pub fn says_something(&self) -> bool {
        self.created.is_some() || self.updated.is_some() || self.deleted.is_some()
    }
}

/// Rows of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectRows {
    /// Rows inserted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inserted: Option<Bounds>,
    /// Rows updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Bounds>,
    /// Rows deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Bounds>,
}

/// An exact number, or inclusive bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Bounds {
    /// Exactly this many.
    Exactly(u64),
    /// At least `min` and at most `max`.
    Between {
        /// Inclusive lower bound.
        #[serde(default)]
        min: u64,
        /// Inclusive upper bound.
        #[serde(default = "no_upper_bound")]
        max: u64,
    },
}

fn no_upper_bound() -> u64 {
    Limits::INTEGER
}

impl Bounds {
    /// Whether `number` is within.
    pub fn holds(self, number: u64) -> bool {
        match self {
            Self::Exactly(exact) => number == exact,
            Self::Between { min, max } => (min..=max).contains(&number),
        }
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(exact) => write!(f, "exactly {exact}"),
            Self::Between { min, max } if *max >= Limits::INTEGER => write!(f, "at least {min}"),
            Self::Between { min, max } => write!(f, "{min} to {max}"),
        }
    }
}

/// The way back of a command, declared by the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UndoCommand {
    /// Program and arguments; `{name}` stands for a captured value.
    pub argv: Vec<String>,
    /// Values to capture before the step runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capture: Vec<Capture>,
}

/// A value taken from the output of a command before the step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The placeholder that it fills.
    pub name: String,
    /// Program and arguments; must only read.
    pub argv: Vec<String>,
    /// JSON pointer (RFC 6901) into its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// A regular expression whose first group is the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// A check: it looks and says yes or no.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Kind and check, as `sqlite.query` or `command.succeeds`.
    pub uses: String,
    /// Parameters of the check.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub with: Box<RawValue>,
}

/// What a run does after its first failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Put everything back.
    #[default]
    Undo,
    /// Halt and wait for `undo`, `recover` or `replay`.
    Hold,
}

impl Document for Plan {
    const PAYLOAD_TYPE: &'static str = "application/vnd.backout.plan.v1+json";
    const MAX_BYTES: usize = Limits::PLAN_BYTES;

    fn from_payload(payload: &[u8]) -> Result<Self, StrictError> {
        parse_strict(payload, Self::MAX_BYTES)
    }
}

/// Whether `id` may name a session, an agent, a step or an environment.
pub fn is_valid_id(id: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !id.is_empty() && id.len() <= Limits::ID_BYTES && id.bytes().all(good) && !id.starts_with(['.', '-'])
}

/// A JSON pointer (RFC 6901) from its parts.
pub fn pointer(parts: &[&str]) -> String {
    parts.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_open_when_left_out() {
        let between: Bounds = serde_json::from_str(r#"{"min":2}"#).unwrap();
        assert!(!between.holds(1) && between.holds(2) && between.holds(1 << 40));
        let exact: Bounds = serde_json::from_str("3").unwrap();
        assert!(exact.holds(3) && !exact.holds(4));
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(
            Plan::from_payload(br#"{"session":"s","agent":"a","environment":"e","intent":"i","steps":[],"x":1}"#)
                .is_err()
        );
    }

    #[test]
    fn ids_that_could_be_paths_or_options_are_refused() {
        for bad in ["", ".", "..", "-rf", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert!(!is_valid_id(bad), "{bad}");
        }
        assert!(is_valid_id("migrate_v2.1-a"));
    }
}
