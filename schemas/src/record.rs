//! Records: one fact of a run each. The sequence of them is the audit log and the only state that survives a crash.
//!
//! Must never hold a secret or a token: tokens are named by id, large outputs by digest.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::act::{Thing, Verb};
use crate::assessment::Change;
use crate::digest::Digest;
use crate::plan::{Class, OnFailure};
use crate::receipt::End;

/// One leaf of the log. Its bytes as stored are what is hashed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Position in the log, from 0.
    pub seq: u64,
    /// Wall clock when it was written.
    pub time: Timestamp,
    /// Whose fact it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<RunSubject>,
    /// The fact.
    pub fact: RecordBody,
}

/// Which run a record belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSubject {
    /// Id of the run.
    pub run: String,
    /// Session of the plan.
    pub session: String,
    /// Agent that asked.
    pub agent: String,
    /// Environment.
    pub environment: String,
}

/// What an observation saw, as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SeenWord {
    /// Everything is as before the step.
    Absent,
    /// Everything is as the step leaves it.
    Present,
    /// Some of it.
    Partial,
    /// It cannot be told.
    Unclear,
}

/// What a plan uses up of the limits: so many resources of a kind, changed in one way by steps of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub thing: Thing,
    /// The class of the steps.
    pub class: Class,
    /// How many resources; those that the session itself made are not counted.
    pub count: u64,
    /// Rows updated or deleted.
    pub rows: u64,
}

/// Why everything is to be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UndoReason {
    /// Somebody wants it undone.
    Asked,
    /// The process that ran it was gone, or the run was halted, and recovery puts it back.
    Recovery,
    /// It was stopped, and the stop says so.
    Stopped,
}

/// Every kind of fact. `step` is the index of the step in the plan.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum RecordBody {
    /// A trust root came into force.
    TrustPinned { version: u64, digest: Digest },
    /// A plan, a run or an undo was refused before anything was touched.
    Refused {
        plan: Option<Digest>,
        codes: Vec<String>,
        findings: Digest,
        /// What the policy decided, where it came to that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decisions: Option<Digest>,
    },
    /// A bundle of policies came into force.
    PolicyPinned { serial: u64, digest: Digest },
    /// An operator raised a limit for a session, an agent or an environment.
    LimitRaised { limit: String, subject: String, by: u64, expires: Timestamp, document: Digest, owner: String },
    /// Somebody stopped something: a file in the folder of stops, named by its digest.
    Stopped { stop: Digest, id: String, covers: String },
    /// A credential was revoked after a stop, or could not be: `refused` says whether using it fails now.
    Revoked { stop: String, credential: String, environment: String, refused: bool, detail: String },
    /// A step of the runbook after an incident.
    Incident { id: String, session: String, step: String, detail: String },
    /// Operators lifted a stop.
    Lifted { id: String, lift: Digest, owners: Vec<String> },
    /// The gate signed a manifest.
    Gated {
        plan: Digest,
        manifest: Digest,
        assessment: Digest,
        /// The agent and its key for the request: a second plan with both is the same request, or none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<(String, String)>,
    },
    /// A person spoke.
    Approved { manifest: Digest, approval: Digest, owner: String, nonce: String, reject: bool },
    /// A run began.
    RunOpened {
        plan: Digest,
        manifest: Digest,
        assessment: Digest,
        decisions: Digest,
        approvals: Vec<Digest>,
        on_failure: OnFailure,
        steps: u32,
        /// What the policy decided when people had spoken, directly before the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        admitted: Option<Digest>,
        /// What it may use up of the limits; given back if the run ends with nothing done.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reserved: Vec<Used>,
    },
    /// The before-image of a step is durable.
    Prepared {
        step: u32,
        #[schemars(with = "serde_json::Value")]
        before: Box<RawValue>,
    },
    /// The step could not be prepared; nothing was touched.
    PrepareFailed { step: u32, stale: bool, reason: String },
    /// The step is about to act.
    ApplyStarted {
        step: u32,
        id: String,
        uses: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        argv: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        class: Class,
        decision: Option<Digest>,
        token: String,
    },
    /// The step was announced but never given to its driver.
    ApplyWithdrawn { step: u32 },
    /// The driver came back. A failure is a claim, not a fact about the world.
    ApplyReturned {
        step: u32,
        done: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Digest>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        timed_out: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stopped: bool,
        elapsed_ms: u64,
    },
    /// Somebody looked at a step in doubt.
    Sighted {
        step: u32,
        seen: SeenWord,
        #[schemars(with = "Option<serde_json::Value>")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Box<RawValue>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<Change>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// The effects are the declared ones and the checks passed.
    Verified {
        step: u32,
        #[schemars(with = "Option<serde_json::Value>")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Box<RawValue>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<Change>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        checks: Vec<String>,
    },
    /// They are not, or a check did not pass.
    VerifyFailed {
        step: u32,
        #[schemars(with = "Option<serde_json::Value>")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Box<RawValue>>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<Change>,
        reasons: Vec<String>,
    },
    /// The before-image is about to be put back.
    UndoStarted { step: u32, token: String },
    /// The driver came back from undoing.
    UndoReturned {
        step: u32,
        done: bool,
        /// Somebody else changed it since: nothing was overwritten.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        clobber: bool,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// Somebody looked after an undo.
    UndoSighted {
        step: u32,
        seen: SeenWord,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// A person wants a stuck step looked at again.
    Retried { step: u32, by: String },
    /// The plan's own checks.
    ChecksPassed { checks: Vec<String> },
    /// At least one did not pass.
    ChecksFailed { reasons: Vec<String> },
    /// Nothing new starts: a person, a signal or a clock said so.
    Halted { cause: String, timed_out: bool },
    /// A process took the run over after a crash.
    Reopened { by: String },
    /// A halted run goes on.
    ResumeRequested {
        by: String,
        /// What the policy decided, directly before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        admitted: Option<Digest>,
    },
    /// Put everything back, also of a committed run.
    UndoRequested { by: String, why: UndoReason },
    /// Put back everything but these steps.
    KeepRequested { keep: Vec<u32>, by: String },
    /// A corrected plan takes the place of the failed one; these steps (old index, new index) stay as they are.
    Amended {
        plan: Digest,
        manifest: Digest,
        assessment: Digest,
        decisions: Digest,
        approvals: Vec<Digest>,
        kept: Vec<(u32, u32)>,
        steps: u32,
        /// What the policy decided when people had spoken, directly before the plan took over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        admitted: Option<Digest>,
        /// What the run may use up of the limits from now on, instead of what it reserved before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reserved: Vec<Used>,
    },
    /// The run ended.
    Ended { end: End, exit_code: u8, reason: String },
    /// The receipt of the run was signed.
    Receipted { receipt: Digest },
}
