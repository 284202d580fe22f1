//! A question to the policy: who wants to do what to what, under which facts. The canonical JSON of an ask is what a decision id names.
//!
//! Must never hold anything that a plan said, unless it can only make the answer stricter.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemas::{Class, Confidence, Digest, Hazard, Thing, Verb};
use serde::{Deserialize, Serialize};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// About one change of one step.
    Step(StepAsk),
    /// About a plan as a whole.
    Plan(PlanAsk),
}

/// May this step do this to that?
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepAsk {
    /// Who.
    pub principal: Principal,
    /// Does what.
    pub verb: Verb,
    /// To what.
    pub resource: Object,
    /// Under which facts.
    pub context: StepContext,
}

/// May this plan be admitted, or committed?
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanAsk {
    /// Who.
    pub principal: Principal,
    /// Which of the two.
    pub phase: PlanPhase,
    /// Name of the environment.
    pub environment: String,
    /// Its tier.
    pub tier: Tier,
    /// Under which facts.
    pub context: PlanContext,
}

/// The two questions about a plan as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanPhase {
    /// At the gate.
    Admit,
    /// When every step is verified.
    Commit,
}

impl PlanPhase {
    /// The name of its action in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Commit => "commit",
        }
    }
}

/// The agent's key, as the trust root has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// Its owner.
    pub id: String,
    /// What it is for.
    pub duties: BTreeSet<String>,
    /// Where it may act.
    pub environments: BTreeSet<String>,
}

/// What is changed, with what the inventory says of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// What kind of thing.
    pub thing: Thing,
    /// Its URI; empty where no rule of the bundle reads names, so that equal questions are asked once.
    pub name: String,
    /// Environment.
    pub environment: String,
    /// Tier of the environment.
    pub tier: Tier,
    /// Whether anybody described it.
    pub known: bool,
    /// Whether it is sensitive: said so, or unknown in production.
    pub sensitive: bool,
    /// Whether people alone change it.
    pub protected: bool,
    /// Whether others depend on it.
    pub shared: bool,
    /// The repair boundary for this kind of change.
    pub boundary: Boundary,
}

/// What an environment is to the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// A developer's own.
    Development,
    /// Like production, for trying.
    Staging,
    /// What users depend on.
    Production,
}

/// Where a change stands to the repair boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Nobody said.
    #[default]
    Undeclared,
    /// An agent may.
    Inside,
    /// With a second pair of eyes.
    At,
    /// Never: escalate.
    Outside,
}

/// How bad it is at worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Put right in a moment.
    Low,
    /// Noticed.
    Medium,
    /// Hurts.
    High,
    /// The house is at stake.
    Critical,
}

/// Whether an incident is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// None is.
    Normal,
    /// One is: the permits for repair hold, and no others.
    Repair,
}

/// Facts of one step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepContext {
    /// The class, computed.
    pub class: Class,
    /// Worst of catalogue, computation and declaration.
    pub risk: Risk,
    /// How the host knows.
    pub sure: Confidence,
    /// Blast radius, 0 to 100.
    pub score: i64,
    /// The words of a command; empty where no rule reads them.
    pub command: String,
    /// What it touches.
    pub target: Target,
    /// Harm that needs no delete.
    pub hazards: BTreeSet<Hazard>,
    /// What the session did, this plan included.
    pub session: SessionFacts,
    /// When.
    pub clock: Clock,
    /// Freezes and windows.
    pub calendar: CalendarFacts,
    /// What the site allows.
    pub site: SiteRules,
    /// What is known of the versions and backups that a repair uses.
    pub repair: RepairFacts,
    /// What work by people or by the host adds.
    pub evidence: Evidence,
}

/// Facts of a plan as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanContext {
    /// Steps.
    pub steps: i64,
    /// Resources that are changed.
    pub writes: i64,
    /// Resources that are deleted.
    pub deletes: i64,
    /// Steps that cannot be undone.
    pub irreversible: i64,
    /// Blast radius, 0 to 100.
    pub score: i64,
    /// The worst risk of a step, or of all together.
    pub risk: Risk,
    /// Harm that needs no delete.
    pub hazards: BTreeSet<Hazard>,
    /// When.
    pub clock: Clock,
    /// Freezes and windows.
    pub calendar: CalendarFacts,
    /// What the site allows.
    pub site: SiteRules,
    /// Changes that nobody declared; for commit.
    pub undeclared: i64,
    /// Checks that failed; for commit.
    pub checks_failed: i64,
    /// What work by people or by the host adds.
    pub evidence: Evidence,
}

/// What a step touches, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// A pattern chose what is deleted.
    pub wildcard: bool,
    /// Resources.
    pub count: i64,
    /// The worst share of a whole that is deleted, in percent.
    pub share: i64,
    /// Rows that are updated or deleted.
    pub rows: i64,
}

/// What a session did before and would have done after this plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionFacts {
    /// Whether an incident is open.
    pub mode: Mode,
    /// Resources changed.
    pub writes: i64,
    /// Resources deleted.
    pub deletes: i64,
    /// Services restarted.
    pub restarts: i64,
    /// Rows updated or deleted.
    pub rows: i64,
}

/// The host's clock in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Now.
    pub now: Timestamp,
    /// 1 is Monday.
    pub weekday: i64,
    /// Minute of the day.
    pub minute: i64,
}

/// What the calendar says of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalendarFacts {
    /// A freeze holds.
    pub frozen: bool,
    /// A maintenance window is open, or none is declared.
    pub window: bool,
}

/// What the site allows in the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteRules {
    /// Whether irreversible steps may run at all.
    pub allows_irreversible: bool,
    /// Largest share of a whole that may be deleted, in percent.
    pub max_delete_share: i64,
}

/// Verified artifacts of a repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairFacts {
    /// The backup that is restored was read back and rehearsed.
    pub backup_verified: bool,
    /// The version that is put back ran before and passed its checks.
    pub version_tested: bool,
}

/// All that more work can add. Every rule that reads it can only be lifted by more of it, never by less.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Distinct people whose word is good.
    pub approvals: i64,
    /// Teams that they are in.
    pub teams: BTreeSet<String>,
    /// The register was asked, and nothing is held.
    pub legal_hold_clear: bool,
    /// A complete before-image is taken.
    pub snapshot: bool,
    /// What would change was computed and is what is declared.
    pub dry_run: bool,
    /// What changed is compared, or a check looks.
    pub verification: bool,
    /// There is a way back.
    pub compensation: bool,
    /// The way back was rehearsed in time.
    pub drill: bool,
}

impl Evidence {
    /// More than any rule may ask for.
    pub const MOST_APPROVALS: i64 = 1_000;

    /// All evidence that there can be, with these teams.
    pub fn granted(teams: &BTreeSet<String>) -> Self {
        Self {
            approvals: Self::MOST_APPROVALS,
            teams: teams.clone(),
            legal_hold_clear: true,
            snapshot: true,
            dry_run: true,
            verification: true,
            compensation: true,
            drill: true,
        }
    }
}

impl Clock {
    /// The clock at an instant.
    pub fn at(now: Timestamp) -> Self {
        let utc = now.to_zoned(jiff::tz::TimeZone::UTC);
        Self {
            now,
            weekday: i64::from(utc.weekday().to_monday_one_offset()),
            minute: i64::from(utc.hour()) * 60 + i64::from(utc.minute()),
        }
    }
}

impl Tier {
    /// The name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

impl Boundary {
    /// The name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undeclared => "undeclared",
            Self::Inside => "inside",
            Self::At => "at",
            Self::Outside => "outside",
        }
    }
}

impl Risk {
    /// The name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl Mode {
    /// The name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Repair => "repair",
        }
    }
}

/// The name in policies of how the host knows.
pub(crate) fn sure(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Verified => "verified",
        Confidence::Simulated => "simulated",
        Confidence::None => "none",
    }
}

impl Ask {
    /// SHA-256 of its canonical JSON.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// The evidence.
    pub fn evidence(&self) -> &Evidence {
        match self {
            Self::Step(ask) => &ask.context.evidence,
            Self::Plan(ask) => &ask.context.evidence,
        }
    }

    /// The same question with other evidence.
    pub fn with_evidence(&self, evidence: Evidence) -> Self {
        let mut other = self.clone();
        match &mut other {
            Self::Step(ask) => ask.context.evidence = evidence,
            Self::Plan(ask) => ask.context.evidence = evidence,
        }
        other
    }
}
