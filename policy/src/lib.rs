//! The gate's decisions: what was assessed goes in, decisions with ids and all reasons come out.
//!
//! This crate must never look at the world, know a kind of step, or allow what no rule allows.

mod approvals;
mod ask;
mod blast;
mod bundle;
mod cases;
mod convert;
mod decide;
mod engine;
mod guard;
mod import;
mod index;
mod inventory;
mod limits;
mod lint;
mod needs;
mod request;
mod rule;
mod touch;
mod watch;

pub use approvals::{About, Counted, Vote, count, objection};
pub use ask::{
    Ask, Boundary, CalendarFacts, Clock, Evidence, Mode, Object, PlanAsk, PlanContext, PlanPhase, Principal,
    RepairFacts, Risk, SessionFacts, SiteRules, StepAsk, StepContext, Target, Tier,
};
pub use bundle::{Bundle, BundleError, DEFAULT_FILES, Listing};
pub use cases::{Case, CaseOutcome, Cases, Lookup, uncovered};
pub use decide::decide;
pub use engine::{Answered, DEFAULT_DENY, Engine};
pub use import::{Imported, safeclaw};
pub use inventory::{Described, Inventory, InventoryError};
pub use limits::{Budget, Entry, Limit, Per, Raise, budgets, over};
pub use needs::{Need, together};
pub use request::{Outcome, People, Request, SiteFacts, StepFacts, Unknown, way_back};
pub use rule::{Rule, RuleError, RuleSet, SCHEMA};
pub use watch::{Asks, Watch};
