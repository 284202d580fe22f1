//! Every stable code that a finding or a refusal can carry. Must never be renamed: scripts and agents match on them.
//!
//! Each code has a page `schemas/errors/<code>.md` and a test that provokes it.

use std::fmt;

use serde::{Serialize, Serializer};

/// A stable code in kebab case, the name of its page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Code(&'static str);

impl Code {
    /// The document is not strict JSON, or too large.
    pub const PLAN_NOT_JSON: Self = Self("plan-not-json");
    /// The document does not fit its JSON Schema.
    pub const PLAN_SCHEMA: Self = Self("plan-schema");
    /// A count or a length is over a constant limit.
    pub const PLAN_LIMIT: Self = Self("plan-limit");
    /// Two steps have one id.
    pub const DUPLICATE_ID: Self = Self("duplicate-id");
    /// A step needs a step that the plan does not have.
    pub const UNKNOWN_NEED: Self = Self("unknown-need");
    /// Steps need each other in a circle.
    pub const CYCLE: Self = Self("cycle");
    /// No kind of step has this name.
    pub const UNKNOWN_KIND: Self = Self("unknown-kind");
    /// The parameters do not fit the kind's schema.
    pub const STEP_PARAMETERS: Self = Self("step-parameters");
    /// A path is malformed or leaves its root.
    pub const PATH_OUTSIDE_ROOTS: Self = Self("path-outside-roots");
    /// Two steps that are not ordered write overlapping resources.
    pub const WRITE_CONFLICT: Self = Self("write-conflict");
    /// A step reads what an unordered step writes.
    pub const READ_RACE: Self = Self("read-race");
    /// A reversible step comes after an irreversible one, or two irreversible steps are not ordered.
    pub const PIVOT_ORDER: Self = Self("pivot-order");
    /// The plan claims a better class than computed.
    pub const CLASS_CLAIM: Self = Self("class-claim");
    /// The way back of a library entry or of the plan cannot be bound.
    pub const UNDO_UNBOUND: Self = Self("undo-unbound");
    /// No site configuration for the environment that the plan names.
    pub const UNKNOWN_ENVIRONMENT: Self = Self("unknown-environment");
    /// What the step would act on could not be looked at.
    pub const PROBE_FAILED: Self = Self("probe-failed");
    /// A declared expectation cannot be met.
    pub const EXPECTATION: Self = Self("expectation");

    /// A delete by wildcard in production.
    pub const POLICY_WILDCARD_DELETE: Self = Self("policy-wildcard-delete");
    /// The step reaches backups, snapshots, the journal, keys or policy.
    pub const POLICY_OWN_WAY_BACK: Self = Self("policy-own-way-back");
    /// Irreversible, and no rule allows it.
    pub const POLICY_IRREVERSIBLE: Self = Self("policy-irreversible");
    /// A share of a table or tree that is too large.
    pub const POLICY_SHARE: Self = Self("policy-share");
    /// The agent's key is not bound to this environment.
    pub const POLICY_ENVIRONMENT: Self = Self("policy-environment");
    /// Nobody looked at what the step would do.
    pub const POLICY_UNSEEN: Self = Self("policy-unseen");
    /// No rule of the policy allows it, or a rule forbids it.
    pub const POLICY_DENIED: Self = Self("policy-denied");
    /// The inventory says that people alone change the resource.
    pub const POLICY_PROTECTED: Self = Self("policy-protected");
    /// It switches off backups, audit, alarms or a protection.
    pub const POLICY_HAZARD: Self = Self("policy-hazard");
    /// Commits of a shared branch would be dropped.
    pub const POLICY_FORCE_PUSH: Self = Self("policy-force-push");
    /// A change freeze holds.
    pub const POLICY_FREEZE: Self = Self("policy-freeze");
    /// No maintenance window is open.
    pub const POLICY_WINDOW: Self = Self("policy-window");
    /// The change is outside the repair boundary.
    pub const POLICY_BOUNDARY: Self = Self("policy-boundary");
    /// A rule asks for evidence that no signature gives.
    pub const POLICY_EVIDENCE: Self = Self("policy-evidence");
    /// The policy does not load, or a rule failed while it was evaluated.
    pub const POLICY_ERROR: Self = Self("policy-error");
    /// An idempotency key was used for another plan, or for one that ran.
    pub const IDEMPOTENCY: Self = Self("idempotency");
    /// A stop covers it.
    pub const STOPPED: Self = Self("stopped");
    /// The plan that it follows is not known.
    pub const UNKNOWN_PARENT: Self = Self("unknown-parent");
    /// A limit would be exceeded.
    pub const LIMIT: Self = Self("limit");
    /// Approvals are missing.
    pub const APPROVALS_MISSING: Self = Self("approvals-missing");
    /// An approval is for another manifest.
    pub const APPROVAL_MANIFEST: Self = Self("approval-manifest");
    /// An approval names another environment.
    pub const APPROVAL_ENVIRONMENT: Self = Self("approval-environment");
    /// Who asked for the change approved it.
    pub const APPROVAL_REQUESTER: Self = Self("approval-requester");
    /// The owner of an agent's key approved, with whatever key.
    pub const APPROVAL_AGENT: Self = Self("approval-agent");
    /// An approval was made under another version of the trust root.
    pub const APPROVAL_TRUST: Self = Self("approval-trust");
    /// An approval repeats a nonce, or has none of 128 bits.
    pub const APPROVAL_NONCE: Self = Self("approval-nonce");
    /// An approval is expired, from the future, or good for too long.
    pub const APPROVAL_TIME: Self = Self("approval-time");
    /// A second approval of one person.
    pub const APPROVAL_SAME_PERSON: Self = Self("approval-same-person");
    /// Somebody rejected.
    pub const REJECTED: Self = Self("rejected");
    /// A document's signature, signer or role is not good.
    pub const SIGNATURE: Self = Self("signature");
    /// Plan, policy or world changed since approval.
    pub const STALE: Self = Self("stale");
    /// The manifest expired.
    pub const EXPIRED: Self = Self("expired");
    /// Another run holds the journal.
    pub const JOURNAL_BUSY: Self = Self("journal-busy");
    /// The journal or a snapshot failed its integrity check.
    pub const INTEGRITY: Self = Self("integrity");
    /// Somebody else changed what an undo would overwrite.
    pub const CLOBBER: Self = Self("clobber");
    /// A command line was wrong.
    pub const USAGE: Self = Self("usage");
    /// The operating system or a tool failed.
    pub const FAILURE: Self = Self("failure");

    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::PLAN_NOT_JSON,
        Self::PLAN_SCHEMA,
        Self::PLAN_LIMIT,
        Self::DUPLICATE_ID,
        Self::UNKNOWN_NEED,
        Self::CYCLE,
        Self::UNKNOWN_KIND,
        Self::STEP_PARAMETERS,
        Self::PATH_OUTSIDE_ROOTS,
        Self::WRITE_CONFLICT,
        Self::READ_RACE,
        Self::PIVOT_ORDER,
        Self::CLASS_CLAIM,
        Self::UNDO_UNBOUND,
        Self::UNKNOWN_ENVIRONMENT,
        Self::PROBE_FAILED,
        Self::EXPECTATION,
        Self::POLICY_WILDCARD_DELETE,
        Self::POLICY_OWN_WAY_BACK,
        Self::POLICY_IRREVERSIBLE,
        Self::POLICY_SHARE,
        Self::POLICY_ENVIRONMENT,
        Self::POLICY_UNSEEN,
        Self::POLICY_DENIED,
        Self::POLICY_PROTECTED,
        Self::POLICY_HAZARD,
        Self::POLICY_FORCE_PUSH,
        Self::POLICY_FREEZE,
        Self::POLICY_WINDOW,
        Self::POLICY_BOUNDARY,
        Self::POLICY_EVIDENCE,
        Self::POLICY_ERROR,
        Self::IDEMPOTENCY,
        Self::UNKNOWN_PARENT,
        Self::STOPPED,
        Self::LIMIT,
        Self::APPROVALS_MISSING,
        Self::APPROVAL_MANIFEST,
        Self::APPROVAL_ENVIRONMENT,
        Self::APPROVAL_REQUESTER,
        Self::APPROVAL_AGENT,
        Self::APPROVAL_TRUST,
        Self::APPROVAL_NONCE,
        Self::APPROVAL_TIME,
        Self::APPROVAL_SAME_PERSON,
        Self::REJECTED,
        Self::SIGNATURE,
        Self::STALE,
        Self::EXPIRED,
        Self::JOURNAL_BUSY,
        Self::INTEGRITY,
        Self::CLOBBER,
        Self::USAGE,
        Self::FAILURE,
    ];

    /// The code as text.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}
