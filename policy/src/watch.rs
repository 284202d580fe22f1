//! The policy while a run goes on: what was allowed is asked again directly before it happens, with the clock and the calendar of that moment.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemas::{Digest, Ruling};

use crate::ask::{Ask, Clock, PlanPhase};
use crate::engine::Engine;
use crate::inventory::Inventory;

/// The questions of a plan: each once, and by step.
#[derive(Clone, Debug, Default)]
pub struct Asks {
    unique: BTreeMap<Digest, Ask>,
    steps: Vec<Vec<Digest>>,
    pub(crate) plan: Option<Ask>,
}

impl Asks {
    pub(crate) fn of_step(&mut self, ix: usize, digest: Digest, ask: Ask) {
        if self.steps.len() <= ix {
            self.steps.resize(ix + 1, Vec::new());
        }
        if let Some(step) = self.steps.get_mut(ix) {
            step.push(digest);
        }
        self.unique.entry(digest).or_insert(ask);
    }
}

/// An engine with the questions of one plan.
pub struct Watch {
    engine: Engine,
    asks: Asks,
    inventory: Inventory,
}

impl Watch {
    /// A watch over a plan that was allowed.
    pub fn new(engine: Engine, asks: Asks, inventory: Inventory) -> Self {
        Self { engine, asks, inventory }
    }

    /// Whether a step may act now, or by which rules not. A step that nobody asked about may not.
    pub fn may_act(&self, ix: usize, now: Timestamp) -> Result<(), String> {
        if self.engine.is_over(now) {
            return Err("an exception of the policy ended since the run began".to_owned());
        }
        let digests = self.asks.steps.get(ix).filter(|digests| !digests.is_empty());
        let Some(digests) = digests else { return Err("the policy was never asked about this step".to_owned()) };
        for digest in digests {
            let Some(ask) = self.asks.unique.get(digest) else {
                return Err("the policy was never asked about this step".to_owned());
            };
            self.allows(self.as_of(ask, now))?;
        }
        Ok(())
    }

    /// Whether the run may be committed with so many checks failed.
    pub fn may_commit(&self, checks_failed: usize, now: Timestamp) -> Result<(), String> {
        let Some(Ask::Plan(plan)) = &self.asks.plan else {
            return Err("the policy was never asked about this plan".to_owned());
        };
        let mut plan = plan.clone();
        plan.phase = PlanPhase::Commit;
        plan.context.checks_failed = i64::try_from(checks_failed).unwrap_or(i64::MAX);
        self.allows(self.as_of(&Ask::Plan(plan), now))
    }

    /// The question as it is now. Whole seconds, so that equal questions stay equal.
    fn as_of(&self, ask: &Ask, now: Timestamp) -> Ask {
        let clock = Clock::at(now.round(jiff::Unit::Second).unwrap_or(now));
        let mut ask = ask.clone();
        match &mut ask {
            Ask::Step(step) => {
                step.context.clock = clock;
                step.context.calendar = self.inventory.calendar(&step.resource.environment, now);
            }
            Ask::Plan(plan) => {
                plan.context.clock = clock;
                plan.context.calendar = self.inventory.calendar(&plan.environment, now);
            }
        }
        ask
    }

    fn allows(&self, ask: Ask) -> Result<(), String> {
        let answered = self.engine.answer(&ask);
        if answered.ruling == Ruling::Allow {
            return Ok(());
        }
        let why = |id: &String| self.engine.rule(id).map_or_else(|| id.clone(), |rule| format!("{id}: {}", rule.why));
        let rules: Vec<String> = answered.rules.iter().map(why).collect();
        Err(format!("the policy does not allow it any more: {}", [rules, answered.errors].concat().join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use schemas::{Class, Effectiveness, Resource, StepAssessment, WayBack};

    use super::*;
    use crate::ask::{Mode, Principal, SessionFacts, Tier};
    use crate::bundle::Bundle;
    use crate::decide::decide;
    use crate::request::{People, Request, SiteFacts, StepFacts};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_freeze_that_begins_in_the_middle_stops_the_next_step_and_a_failed_check_the_commit() {
        let freeze = "[[freeze]]\nname = \"f\"\nfrom = \"2026-12-18T00:00\"\nuntil = \"2027-01-04T00:00\"\n";
        let site = SiteFacts {
            environment: "e".to_owned(),
            tier: Tier::Staging,
            backups: Vec::new(),
            own: Vec::new(),
            allow_irreversible: false,
            max_delete_share: 20,
            inventory: Inventory::parse(freeze).unwrap(),
        };
        let way_back = WayBack { effectiveness: Effectiveness::Full, how: String::new(), entry: None };
        let assessed = StepAssessment::unseen("s", Class::TriviallyReversible, way_back);
        let writes = [Resource::file("/srv/x")];
        let principal = Principal {
            id: "bot".to_owned(),
            duties: ["change".to_owned()].into(),
            environments: ["e".to_owned()].into(),
        };
        let step = StepFacts {
            ix: 0,
            assessed: &assessed,
            writes: &writes,
            reads: &[],
            names: Vec::new(),
            act: None,
            command: String::new(),
            has_checks: false,
            way: String::new(),
        };
        let request = Request {
            plan: Digest::of(b"plan"),
            assessment: Digest::of(b"assessment"),
            principal,
            site: &site,
            now: at("2026-12-17T23:59:00Z"),
            session: SessionFacts { mode: Mode::Normal, writes: 0, deletes: 0, restarts: 0, rows: 0 },
            people: People::default(),
            own_resources: Default::default(),
            drilled: Default::default(),
            unknown: Vec::new(),
            steps: vec![step],
        };
        let engine = Bundle::shipped().engine(Timestamp::now()).unwrap();
        let outcome = decide(&engine, &request, "run");
        assert_eq!(outcome.refusals, Vec::new());
        let watch = Watch::new(engine, outcome.asks, site.inventory.clone());
        assert_eq!(watch.may_act(0, at("2026-12-17T23:59:59Z")), Ok(()));
        let error = watch.may_act(0, at("2026-12-18T00:00:00Z")).unwrap_err();
        assert!(error.contains("DENY-freeze/1"), "{error}");
        assert!(watch.may_act(1, at("2026-12-17T23:59:59Z")).is_err(), "nobody asked about it");
        assert_eq!(watch.may_commit(0, at("2026-12-17T23:59:59Z")), Ok(()));
        let error = watch.may_commit(1, at("2026-12-17T23:59:59Z")).unwrap_err();
        assert!(error.contains("DENY-undeclared/1"), "{error}");
    }
}
