//! The built-in rules. Each has an id that is never given another meaning.

use schemas::{ChangeKind, Class, Code, Confidence, Decision, Decisions, Digest, Finding, Resource, WhoCanAct};
use serde::Serialize;

use crate::Engine;
use crate::request::{Outcome, Request, SiteFacts, StepFacts, Unknown};

/// The rules as text; their digest names them.
const RULES: &str = "\
BI-environment/1 the agent's key is bound to the environment, or nothing runs
BI-own-way-back/1 no step reaches backups, snapshots, journal, keys or configuration of backout
BI-wildcard-delete/1 nothing is deleted by wildcard in production
BI-share/1 no step deletes more than the site's share of a table or folder in production
BI-irreversible/1 irreversible steps run only where the site allows them
BI-unseen/1 in production every reversible step was looked at, or a library entry knows it
BI-unknown-check/1 what looks runs only programs that are known to only read, where the site does not allow irreversible steps
BI-allow/1 what no other rule refuses is allowed, with the approvals of its class
people: production: 0 trivially reversible, 1 with state, 1 with backup, 2 partially, 2 irreversible
people: elsewhere: 0, 0, 0, 1 partially, 2 irreversible
";

/// The first gate: deny by default, all reasons at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltIn;

/// What a decision id is computed from.
#[derive(Serialize)]
struct DecisionInput<'a> {
    policy: Digest,
    plan: Digest,
    assessment: Digest,
    environment: &'a str,
    step: &'a str,
    class: Class,
    rules: &'a [String],
    people: u64,
}

impl Engine for BuiltIn {
    fn digest(&self) -> Digest {
        Digest::of(RULES.as_bytes())
    }

    fn decide(&self, request: &Request<'_>) -> Outcome {
        let mut refusals = Vec::new();
        if !request.agent_environments.contains(&request.site.environment) {
            refusals.push(wrong_environment(request));
        }
        if !request.site.allow_irreversible {
            refusals.extend(request.unknown.iter().map(unknown_check));
        }
        let mut steps = Vec::with_capacity(request.steps.len());
        for step in &request.steps {
            let found = refused(step, request.site);
            let mut rules: Vec<String> = found.iter().flat_map(|finding| finding.rules.clone()).collect();
            if rules.is_empty() {
                rules.push("BI-allow/1".to_owned());
            }
            refusals.extend(found);
            let people = people(step.class(), request.site.production);
            steps.push(self.decision(request, step, rules, people));
        }
        let unknown = if request.unknown.is_empty() { 0 } else { 2 };
        let people = steps.iter().map(|decision| decision.people).max().unwrap_or(0).max(unknown);
        Outcome { decisions: Decisions { steps }, refusals, people }
    }
}

impl BuiltIn {
    fn decision(&self, request: &Request<'_>, step: &StepFacts<'_>, rules: Vec<String>, people: u64) -> Decision {
        let input = DecisionInput {
            policy: self.digest(),
            plan: request.plan,
            assessment: request.assessment,
            environment: &request.site.environment,
            step: &step.assessed.id,
            class: step.class(),
            rules: &rules,
            people,
        };
        let id = Digest::of(&serde_json::to_vec(&input).unwrap_or_default());
        Decision { id, step: step.assessed.id.clone(), class: step.class(), rules, people }
    }
}

/// Distinct people by class and kind of environment.
fn people(class: Class, production: bool) -> u64 {
    match (class, production) {
        (Class::TriviallyReversible, _) => 0,
        (Class::ReversibleWithState | Class::ReversibleWithBackup, true) => 1,
        (Class::ReversibleWithState | Class::ReversibleWithBackup, false) => 0,
        (Class::PartiallyReversible, true) => 2,
        (Class::PartiallyReversible, false) => 1,
        (Class::Irreversible, _) => 2,
    }
}

fn wrong_environment(request: &Request<'_>) -> Finding {
    let environment = &request.site.environment;
    let bound = request.agent_environments.join(", ");
    let detail = format!(
        "the agent's key is bound to {} and the plan is for {environment}",
        if bound.is_empty() { "no environment" } else { &bound }
    );
    Finding::error(Code::POLICY_ENVIRONMENT, "/environment", detail, "plan for an environment of the key")
        .for_whom(WhoCanAct::Forbidden)
        .by_rule("BI-environment/1")
}

/// A check may do whatever a step may do, and has no way back.
fn unknown_check(unknown: &Unknown) -> Finding {
    let detail = format!("{} is run to look, and nobody knows that it only reads", unknown.argv.join(" "));
    let hint = "look with a kind of check that is not a command, or with a command that the library knows to only read";
    Finding::error(Code::POLICY_IRREVERSIBLE, &unknown.pointer, detail, hint)
        .for_whom(WhoCanAct::Forbidden)
        .by_rule("BI-unknown-check/1")
}

/// Every rule that refuses a step.
fn refused(step: &StepFacts<'_>, site: &SiteFacts) -> Vec<Finding> {
    let place = format!("/steps/{}", step.ix);
    let of = |code, detail: String, hint: &str, rule: &str| {
        Finding::error(code, place.clone(), detail, hint)
            .of_step(&step.assessed.id)
            .for_whom(WhoCanAct::Forbidden)
            .by_rule(rule)
    };
    let mut out = Vec::new();
    if let Some(reached) = first_reached(step, &site.own) {
        let detail = format!("it could change {reached}, which its own way back or record depends on");
        out.push(of(Code::POLICY_OWN_WAY_BACK, detail, "leave backout's own files alone", "BI-own-way-back/1"));
    }
    if let Some(reached) = first_reached(step, &site.backups) {
        let detail = format!("it could change {reached}, which is a backup");
        out.push(of(
            Code::POLICY_OWN_WAY_BACK,
            detail,
            "backups are changed by people who own them",
            "BI-own-way-back/1",
        ));
    }
    let deletes = step.assessed.changes.iter().filter(|change| change.change == ChangeKind::Deleted).count();
    if site.production && step.assessed.by_wildcard {
        let share = step.assessed.share_percent.map_or(String::new(), |share| format!(", {share} % of all"));
        let detail = format!("deletes {deletes} files by wildcard in production{share}");
        out.push(of(Code::POLICY_WILDCARD_DELETE, detail, "name each file in paths", "BI-wildcard-delete/1"));
    }
    if let Some(share) = step.assessed.share_percent.filter(|share| site.production && *share > site.max_delete_share) {
        let detail = format!("deletes {share} % of the whole and {} % is allowed", site.max_delete_share);
        out.push(of(Code::POLICY_SHARE, detail, "delete less at once", "BI-share/1"));
    }
    if step.class() == Class::Irreversible && !site.allow_irreversible {
        let detail = "it cannot be undone, and no rule of this site allows that".to_owned();
        out.push(of(
            Code::POLICY_IRREVERSIBLE,
            detail,
            "declare an undo that can be observed, or use a kind that has a way back",
            "BI-irreversible/1",
        ));
    }
    let known = step.assessed.way_back.entry.is_some() || step.assessed.confidence != Confidence::None;
    if site.production && !known && step.class() != Class::Irreversible {
        let detail = "nobody knows what it would change".to_owned();
        out.push(of(
            Code::POLICY_UNSEEN,
            detail,
            "use a command that the library knows, or a kind that can be looked at",
            "BI-unseen/1",
        ));
    }
    out
}

fn first_reached<'a>(step: &StepFacts<'_>, protected: &'a [Resource]) -> Option<&'a Resource> {
    protected.iter().find(|resource| step.writes.iter().any(|write| write.overlaps(resource)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemas::{Effectiveness, ResourceChange, StepAssessment, WayBack};

    use super::*;

    fn assessed(class: Class) -> StepAssessment {
        StepAssessment {
            id: "s".to_owned(),
            changes: Vec::new(),
            fingerprints: BTreeMap::new(),
            class,
            way_back: WayBack { effectiveness: Effectiveness::Full, how: String::new(), entry: None },
            confidence: Confidence::Verified,
            preview: String::new(),
            pinned: Vec::new(),
            by_wildcard: false,
            share_percent: None,
            notes: Vec::new(),
        }
    }

    fn site(production: bool) -> SiteFacts {
        SiteFacts {
            environment: "e".to_owned(),
            production,
            backups: vec![Resource::file("/srv/backups")],
            own: vec![Resource::file("/srv/.backout")],
            allow_irreversible: false,
            max_delete_share: 20,
        }
    }

    /// The codes of the refusals and the number of people, for one step in one environment.
    fn decided(
        step: &StepAssessment,
        writes: &[Resource],
        site: &SiteFacts,
        unknown: Vec<Unknown>,
    ) -> (Vec<Code>, u64) {
        let environments = ["e".to_owned()];
        let request = Request {
            plan: Digest::of(b"plan"),
            assessment: Digest::of(b"assessment"),
            agent_environments: &environments,
            site,
            unknown,
            steps: vec![StepFacts { ix: 0, assessed: step, writes }],
        };
        let outcome = BuiltIn.decide(&request);
        (outcome.refusals.iter().map(|finding| finding.code).collect(), outcome.people)
    }

    #[test]
    fn people_grow_with_the_class_and_never_shrink_in_production() {
        let classes = [
            Class::TriviallyReversible,
            Class::ReversibleWithState,
            Class::ReversibleWithBackup,
            Class::PartiallyReversible,
            Class::Irreversible,
        ];
        let of = |production| classes.map(|class| people(class, production));
        assert_eq!(of(true), [0, 1, 1, 2, 2]);
        assert_eq!(of(false), [0, 0, 0, 1, 2]);
        assert!(of(true).is_sorted() && of(false).is_sorted());
    }

    #[test]
    fn every_rule_refuses_what_it_is_for_and_all_of_them_at_once() {
        let trivial = assessed(Class::TriviallyReversible);
        let at = |path: &str| vec![Resource::file(path)];
        assert_eq!(decided(&trivial, &at("/srv/x"), &site(true), Vec::new()), (Vec::new(), 0));
        for path in ["/srv/backups/x", "/srv", "/srv/.backout/keys"] {
            let (codes, _) = decided(&trivial, &at(path), &site(false), Vec::new());
            assert!(codes.contains(&Code::POLICY_OWN_WAY_BACK), "{path}");
        }
        let mut delete = assessed(Class::Irreversible);
        delete.by_wildcard = true;
        delete.share_percent = Some(21);
        let change = ChangeKind::Deleted;
        delete.changes = vec![ResourceChange { resource: "file:/srv/x".to_owned(), change, bytes: None, rows: None }];
        let (codes, _) = decided(&delete, &at("/srv/backups"), &site(true), Vec::new());
        let all =
            [Code::POLICY_OWN_WAY_BACK, Code::POLICY_WILDCARD_DELETE, Code::POLICY_SHARE, Code::POLICY_IRREVERSIBLE];
        assert_eq!(codes, all);
    }

    #[test]
    fn an_unknown_check_needs_what_an_irreversible_step_needs() {
        let trivial = assessed(Class::TriviallyReversible);
        let unknown = || vec![Unknown { pointer: "/checks".to_owned(), argv: vec!["probe".to_owned()] }];
        assert_eq!(decided(&trivial, &[], &site(false), unknown()).0, [Code::POLICY_IRREVERSIBLE]);
        let allowing = SiteFacts { allow_irreversible: true, ..site(false) };
        assert_eq!(decided(&trivial, &[], &allowing, unknown()), (Vec::new(), 2));
    }

    #[test]
    fn a_key_that_is_not_bound_to_the_environment_decides_nothing() {
        let trivial = assessed(Class::TriviallyReversible);
        let elsewhere = SiteFacts { environment: "other".to_owned(), ..site(false) };
        assert_eq!(decided(&trivial, &[], &elsewhere, Vec::new()).0, [Code::POLICY_ENVIRONMENT]);
    }
}
