//! `backout policy explain` and `simulate`: what was decided before, decided again from the kept documents.
//!
//! Must never look at the world: a decision is a function of documents, and these are kept by digest.

use std::path::Path;
use std::sync::Arc;

use kernel::{DriverSet, Facts};
use policy::{Bundle, Engine, Outcome, People, Principal, Request, SessionFacts};
use schemas::{
    Assessment, Code, Decision, Decisions, Digest, Document as _, ExitCode, Plan, Record, RecordBody, Ruling,
};
use serde::Deserialize;

use crate::flow;
use crate::home::Home;
use crate::judge;
use crate::look::unknown_commands;
use crate::output::{Output, table};
use crate::problem::{Problem, chain};
use crate::rules;
use crate::site::Site;

/// What went into a decision beside plan, assessment and site.
#[derive(Deserialize)]
struct Inputs {
    principal: Principal,
    session: SessionFacts,
    now: jiff::Timestamp,
    approvals: u64,
    teams: std::collections::BTreeSet<String>,
    drilled: std::collections::BTreeSet<String>,
    plan: Digest,
    assessment: Digest,
    site: Digest,
    environment: String,
}

/// What the gate decided about a plan, and the manifest that came of it, if one did.
struct Past {
    manifest: Option<Digest>,
    session: String,
    decisions: Decisions,
}

impl Past {
    fn name(&self) -> String {
        self.manifest.map_or_else(|| "a refused plan".to_owned(), |manifest| manifest.short())
    }
}

fn broken(error: impl std::fmt::Display) -> Problem {
    Problem::new(ExitCode::Integrity, Code::INTEGRITY, error.to_string(), "restore .backout/documents from a copy")
}

/// Everything that the gate decided, allowed or not, the newest first.
fn past(home: &Home, records: &[Record]) -> Result<Vec<Past>, Problem> {
    let trust = home.trust()?;
    let mut out = Vec::new();
    for record in records.iter().rev() {
        let (manifest, decisions) = match &record.fact {
            RecordBody::Gated { manifest, .. } => {
                let verified = flow::issued(home, trust.document(), *manifest, record.time)?;
                (Some(*manifest), verified.document().predicate.decisions)
            }
            RecordBody::Refused { decisions: Some(decisions), .. } => (None, *decisions),
            RecordBody::RunOpened { manifest, admitted: Some(decisions), .. }
            | RecordBody::Amended { manifest, admitted: Some(decisions), .. } => (Some(*manifest), *decisions),
            RecordBody::ResumeRequested { admitted: Some(decisions), .. } => (None, *decisions),
            _ => continue,
        };
        let decisions: Decisions = serde_json::from_slice(&home.plain(decisions)?).map_err(broken)?;
        let session = planned(home, inputs(&decisions)?.plan)?.session;
        out.push(Past { manifest, session, decisions });
    }
    Ok(out)
}

/// A bundle at different times: the same engine but where it has exceptions, which end.
struct Engines {
    bundle: Bundle,
    last: Option<Engine>,
}

impl Engines {
    fn at(&mut self, now: jiff::Timestamp) -> Result<&Engine, Problem> {
        let changes = self.bundle.of("exceptions/").next().is_some();
        let engine = match self.last.take().filter(|_| !changes) {
            Some(engine) => engine,
            None => self.bundle.engine(now).map_err(|error| rules::refuse(chain(&error)))?,
        };
        Ok(self.last.insert(engine))
    }
}

fn inputs(decisions: &Decisions) -> Result<Inputs, Problem> {
    serde_json::from_value(decisions.inputs.clone()).map_err(broken)
}

fn planned(home: &Home, plan: Digest) -> Result<Plan, Problem> {
    planner::parse(&home.payload(plan)?).map_err(|_| broken("a kept plan does not parse"))
}

/// Decides again what was decided, from the documents that were kept, as of the time when it was.
fn again(home: &Home, drivers: &DriverSet, engines: &mut Engines, past: &Past) -> Result<Outcome, Problem> {
    let inputs = inputs(&past.decisions)?;
    let engine = engines.at(inputs.now)?;
    let plan = planned(home, inputs.plan)?;
    let assessment =
        Assessment::from_payload(&home.plain(inputs.assessment)?).map_err(|error| broken(chain(&error)))?;
    let site = Site::parse(serde_json::from_slice(&home.plain(inputs.site)?).map_err(broken)?)?;
    let facts = site.gate_facts(&inputs.environment, home.own())?;
    let roots = assessment.roots.iter().map(std::path::PathBuf::from).collect();
    let protected = vec![home.dir().to_owned()];
    let contains = assessment.contains;
    let lowering = Arc::new(Facts {
        environment: plan.environment.clone(),
        roots,
        protected,
        backups: site.backups(&plan.environment),
        contains,
    });
    let planned = planner::check(plan, drivers, &lowering).map_err(|findings| {
        Problem::findings(ExitCode::Stale, "the plan does not fit any more", findings, "backout gate PLAN")
    })?;
    let request = Request {
        plan: inputs.plan,
        assessment: inputs.assessment,
        principal: inputs.principal,
        site: &facts,
        now: inputs.now,
        session: inputs.session,
        people: People { approvals: inputs.approvals, teams: inputs.teams },
        own_resources: Default::default(),
        drilled: inputs.drilled,
        unknown: unknown_commands(&planned.steps, &planned.plan.checks, &planned.facts, drivers),
        steps: judge::step_facts(&planned.steps, &assessment.steps),
    };
    Ok(policy::decide(engine, &request, &past.decisions.phase))
}

fn all(decisions: &Decisions) -> impl Iterator<Item = &Decision> {
    std::iter::once(&decisions.plan).chain(&decisions.steps)
}

fn called(decision: &Decision) -> &str {
    if decision.step.is_empty() { "the plan as a whole" } else { &decision.step }
}

pub(super) fn explain(name: &str, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let wanted = name.strip_prefix("sha256:").unwrap_or(name);
    if wanted.len() < 8 {
        return Err(Problem::usage(
            "a decision is named by at least 8 digits of its id",
            "backout gate PLAN --format json",
        ));
    }
    let records = flow::records(&home.journal()?)?;
    let found = past(home, &records)?.into_iter().find_map(|past| {
        let at = all(&past.decisions).position(|decision| decision.id.hex().starts_with(wanted))?;
        Some((past, at))
    });
    let Some((past, at)) = found else {
        return Err(Problem::usage(format!("no decision is called {name:?}"), "backout gate PLAN --format json"));
    };
    let Some(decision) = all(&past.decisions).nth(at) else { return Err(broken("the decisions are not whole")) };
    let trust = home.trust()?;
    let bundle = rules::bundle_in_force(home, &records, trust.document())?;
    let engine = bundle.engine(jiff::Timestamp::now()).map_err(|error| rules::refuse(chain(&error)))?;
    let outcome = again(home, &home.drivers()?, &mut Engines { bundle, last: None }, &past)?;
    let same_rules = engine.digest() == past.decisions.bundle;
    let now = all(&outcome.decisions).nth(at);
    let alike = now
        .is_some_and(|now| (now.ruling, &now.rules, &now.needs) == (decision.ruling, &decision.rules, &decision.needs));
    let reproduced = now.is_some_and(|now| now.id == decision.id);
    let rules: Vec<serde_json::Value> = decision
        .rules
        .iter()
        .map(|id| {
            let rule = engine.rule(id).filter(|_| same_rules);
            serde_json::json!({"rule": id, "why": rule.map(|rule| rule.why.clone()), "file": rule.map(|rule| rule.file.clone())})
        })
        .collect();
    let value = serde_json::json!({
        "decision": decision, "manifest": past.manifest, "bundle": past.decisions.bundle, "inputs": past.decisions.inputs,
        "rules": rules, "same_policy": same_rules, "reproduced": reproduced,
    });
    output.result(&value, || {
        let mut out = format!(
            "{} of {}: {}, class {}, blast radius {}\n",
            called(decision),
            past.name(),
            decision.ruling.as_str(),
            decision.class.as_str(),
            decision.score
        );
        for id in &decision.rules {
            // Another bundle's text says nothing of this decision.
            let why = engine.rule(id).filter(|_| same_rules).map_or("", |rule| rule.why.as_str());
            out.push_str(&format!("  {id}  {why}\n"));
        }
        if !decision.needs.is_empty() {
            out.push_str(&format!("  needs {}\n", decision.needs.join(", ")));
        }
        out.push_str(match (reproduced, same_rules) {
            (true, _) => "decided again from the kept documents: the same id\n",
            (false, false) if alike => "the policy changed since; the rules in force decide the same\n",
            (false, false) => "the policy changed since; the rules in force decide otherwise\n",
            (false, true) => {
                "DECIDED AGAIN IT IS ANOTHER DECISION: the kept documents or this program are not what they were\n"
            }
        });
        out
    });
    Ok(if reproduced || !same_rules { ExitCode::Done } else { ExitCode::Integrity })
}

pub(super) fn simulate(folder: &Path, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let mut candidate = Engines { bundle: rules::read(folder)?, last: None };
    candidate.at(jiff::Timestamp::now())?;
    let records = flow::records(&home.journal()?)?;
    let drivers = home.drivers()?;
    let (mut asked, mut changes) = (0usize, Vec::new());
    for past in past(home, &records)? {
        let outcome = again(home, &drivers, &mut candidate, &past)?;
        for (before, after) in all(&past.decisions).zip(all(&outcome.decisions)) {
            asked += 1;
            if (before.ruling, &before.needs) != (after.ruling, &after.needs) {
                changes.push(Difference {
                    manifest: past.manifest.map_or_else(String::new, |manifest| manifest.short()),
                    session: past.session.clone(),
                    step: called(before).to_owned(),
                    before: before.ruling,
                    after: after.ruling,
                    needs_before: before.needs.join(" "),
                    needs_after: after.needs.join(" "),
                    rules: after.rules.join(" "),
                });
            }
        }
    }
    let value = serde_json::json!({"decisions": asked, "different": changes});
    output.result(&value, || {
        let row = |change: &Difference| {
            let said = |ruling: Ruling, needs: &str| format!("{} {needs}", ruling.as_str()).trim().to_owned();
            vec![
                change.session.clone(),
                change.step.clone(),
                said(change.before, &change.needs_before),
                said(change.after, &change.needs_after),
                change.rules.clone(),
            ]
        };
        let head = format!("{asked} decisions made again, {} are different\n", changes.len());
        if changes.is_empty() {
            return head;
        }
        head + &table(&["session", "step", "was", "would be", "by"], changes.iter().map(row).collect())
    });
    Ok(ExitCode::Done)
}

#[derive(serde::Serialize)]
struct Difference {
    manifest: String,
    session: String,
    step: String,
    before: Ruling,
    after: Ruling,
    needs_before: String,
    needs_after: String,
    rules: String,
}
