//! What a decision is made from, and what it comes to.

use jiff::Timestamp;
use schemas::{Act, Class, Decisions, Digest, Finding, Resource, StepAssessment, Used};

use crate::ask::{Principal, SessionFacts, Tier};
use crate::inventory::Inventory;
use crate::watch::Asks;

/// What the site says about an environment. Nothing here comes from a plan.
#[derive(Clone, Debug)]
pub struct SiteFacts {
    /// Name of the environment.
    pub environment: String,
    /// What it is to the house.
    pub tier: Tier,
    /// Resources that are backups of others.
    pub backups: Vec<Resource>,
    /// Journal, snapshots, keys, policy and configuration of backout itself.
    pub own: Vec<Resource>,
    /// Whether irreversible steps may run at all, with two approvals.
    pub allow_irreversible: bool,
    /// Largest share of a table or of a folder's files that may be deleted, in percent.
    pub max_delete_share: u64,
    /// What people say of resources.
    pub inventory: Inventory,
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
    /// What it reads.
    pub reads: &'a [Resource],
    /// The files that the words of its command name: what is a secret among them is read, declared or not.
    pub names: Vec<String>,
    /// What it does beyond the changes that were seen.
    pub act: Option<&'a Act>,
    /// The words of a command.
    pub command: String,
    /// Whether the plan gives it checks.
    pub has_checks: bool,
    /// By what its way back is known again, as [`way_back`] names it.
    pub way: String,
}

/// By what a way back is known again in another plan: the kind of step, and the program where it runs one.
pub fn way_back(uses: &str, argv: &[String]) -> String {
    match argv.first().map(|program| program.rsplit('/').next().unwrap_or(program)) {
        Some(program) => format!("{uses} {program}"),
        None => uses.to_owned(),
    }
}

/// A command of a check, a capture or `present` that may do anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Where the plan names it.
    pub pointer: String,
    /// Its words.
    pub argv: Vec<String>,
}

/// Words of people that are good for this plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    /// How many distinct ones.
    pub approvals: u64,
    /// The teams that they are in.
    pub teams: std::collections::BTreeSet<String>,
}

/// Everything that a decision may depend on.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The plan.
    pub plan: Digest,
    /// The assessment.
    pub assessment: Digest,
    /// The agent.
    pub principal: Principal,
    /// The site.
    pub site: &'a SiteFacts,
    /// When.
    pub now: Timestamp,
    /// What the session did before this plan.
    pub session: SessionFacts,
    /// What people said so far.
    pub people: People,
    /// Resources that the session itself made: what is done to them uses up no limit.
    pub own_resources: std::collections::BTreeSet<String>,
    /// Kinds and programs whose way back was seen to work in this environment not long ago, as [`way_back`] names them.
    pub drilled: std::collections::BTreeSet<String>,
    /// Commands that run beside the steps to look, and are not known to only read.
    pub unknown: Vec<Unknown>,
    /// The steps.
    pub steps: Vec<StepFacts<'a>>,
}

/// What was decided.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One decision per step, and one about the plan.
    pub decisions: Decisions,
    /// Why it may not run; empty where it may, or may once people said so.
    pub refusals: Vec<Finding>,
    /// Distinct people that must approve.
    pub people: u64,
    /// Teams of which one each must be among them.
    pub teams: Vec<String>,
    /// How long their approvals are good at most, in minutes: the least that a rule which asks for people says.
    pub minutes: u64,
    /// What it uses up of the limits.
    pub used: Vec<Used>,
    /// The questions, to be asked again while the run goes on.
    pub asks: Asks,
}

impl StepFacts<'_> {
    /// The class that counts: the worse of what was lowered and what was seen.
    pub fn class(&self) -> Class {
        self.assessed.class
    }
}
