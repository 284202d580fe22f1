//! What a decision is made from, and what it comes to.

use schemas::{Class, Decisions, Digest, Finding, Resource, StepAssessment};

/// What the site says about an environment. Nothing here comes from a plan.
#[derive(Clone, Debug)]
pub struct SiteFacts {
    /// Name of the environment.
    pub environment: String,
    /// Whether it is production.
    pub production: bool,
    /// Resources that are backups of others.
    pub backups: Vec<Resource>,
    /// Journal, snapshots, keys, policy and configuration of backout itself.
    pub own: Vec<Resource>,
    /// Whether irreversible steps may run at all, with two approvals.
    pub allow_irreversible: bool,
    /// Largest share of a table or of a folder's files that may be deleted, in percent.
    pub max_delete_share: u64,
}

/// A step as the gate sees it.
#[derive(Clone, Debug)]
pub struct StepFacts<'a> {
    /// Its place in the plan.
    pub ix: usize,
    /// What was assessed.
    pub assessed: &'a StepAssessment,
    /// What it may change, completely.
    pub writes: &'a [Resource],
}

/// A command of a check, a capture or `present` that may do anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Where the plan names it.
    pub pointer: String,
    /// Its words.
    pub argv: Vec<String>,
}

/// Everything that a decision may depend on.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The plan.
    pub plan: Digest,
    /// The assessment.
    pub assessment: Digest,
    /// Environments that the agent's key is bound to.
    pub agent_environments: &'a [String],
    /// The site.
    pub site: &'a SiteFacts,
    /// Commands that run beside the steps to look, and are not known to only read.
    pub unknown: Vec<Unknown>,
    /// The steps.
    pub steps: Vec<StepFacts<'a>>,
}

/// What was decided.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One decision per step.
    pub decisions: Decisions,
    /// Why it may not run; empty where it may.
    pub refusals: Vec<Finding>,
    /// Distinct people that must approve.
    pub people: u64,
}

impl StepFacts<'_> {
    /// The class that counts: the worse of what was lowered and what was seen.
    pub fn class(&self) -> Class {
        self.assessed.class
    }
}
