//! The plan that a plan follows: what is the same as in it, and what is new and wants to be looked at.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    Assessment, Code, Digest, Document as _, ExitCode, Finding, Plan, PlanStep, Record, RecordBody, StepAssessment,
    WhoCanAct,
};
use serde::Serialize;

use crate::flow::used_by;
use crate::home::Home;
use crate::problem::{Problem, chain};

/// How a plan differs from the one that it names as its parent.
#[derive(Debug, Serialize)]
pub(crate) struct Lineage {
    pub(crate) parent: Digest,
    /// What became of the parent.
    pub(crate) became: String,
    /// Whether a person spoke about the parent, for the same environment.
    pub(crate) reviewed: bool,
    /// Whether its own checks are others.
    pub(crate) checks_changed: bool,
    /// Steps that say the same and would do the same.
    pub(crate) same: BTreeSet<String>,
    /// Steps that say or would do something else.
    pub(crate) changed: Vec<String>,
    pub(crate) new: Vec<String>,
    pub(crate) gone: Vec<String>,
}

impl Lineage {
    /// In a line.
    pub(crate) fn text(&self) -> String {
        let list = |what: &str, names: &[String]| match names {
            [] => String::new(),
            names => format!("; {what}: {}", names.join(", ")),
        };
        let checks = if self.checks_changed { "; the checks at the end are others" } else { "" };
        format!(
            "follows plan {}, which {}; {} steps are the same{}{}{}{checks}\n",
            self.parent.short(),
            self.became,
            self.same.len(),
            list("changed", &self.changed),
            list("new", &self.new),
            list("gone", &self.gone)
        )
    }
}

/// The lineage of a plan; none where it names no parent. A parent is a plan of the same agent that the gate has seen.
pub(crate) fn lineage(
    home: &Home,
    records: &[Record],
    plan: &Plan,
    assessed: &Assessment,
) -> Result<Option<Lineage>, Problem> {
    let Some(parent) = plan.parent else { return Ok(None) };
    let (mut became, mut gated) = (None, Vec::new());
    for record in records {
        match &record.fact {
            RecordBody::Refused { plan: Some(of), codes, .. } if *of == parent => {
                became = Some(format!("was refused: {}", codes.join(", ")));
            }
            RecordBody::Gated { plan: of, manifest, assessment, .. } if *of == parent => {
                became = Some(fate(records, *manifest));
                gated.push((*manifest, *assessment));
            }
            _ => {}
        }
    }
    let spoken = records.iter().any(|record| match &record.fact {
        RecordBody::Approved { manifest, .. } => gated.iter().any(|(of, _)| of == manifest),
        _ => false,
    });
    let old = became.as_ref().and_then(|_| home.payload(parent).ok()).and_then(|bytes| planner::parse(&bytes).ok());
    let (Some(became), Some(old)) = (became, old.filter(|old| old.agent == plan.agent)) else {
        let detail = format!("no plan {} of {} came to this gate", parent.short(), plan.agent);
        let hint = "name the digest that backout gate or backout plan sign printed, or leave parent out";
        let finding = Finding::error(Code::UNKNOWN_PARENT, "/parent", detail, hint).for_whom(WhoCanAct::Retryable);
        return Err(Problem::findings(
            ExitCode::Refused,
            "the plan follows one that nobody knows",
            vec![finding],
            hint,
        ));
    };
    let seen = match gated.last() {
        Some((_, digest)) => Some(
            Assessment::from_payload(&home.plain(*digest)?)
                .map_err(|error| Problem::failure(&chain(&error), &error))?,
        ),
        None => None,
    };
    let mut lineage = compare(parent, became, (&old, seen.as_ref()), (plan, assessed));
    lineage.reviewed = spoken && old.environment == plan.environment;
    Ok(Some(lineage))
}

/// What became of a manifest.
fn fate(records: &[Record], manifest: Digest) -> String {
    let rejected = records.iter().find_map(|record| match &record.fact {
        RecordBody::Approved { manifest: of, owner, reject: true, .. } if *of == manifest => Some(owner),
        _ => None,
    });
    if let Some(owner) = rejected {
        return format!("{owner} rejected");
    }
    let run = records.iter().find(|record| used_by(&record.fact) == Some(manifest));
    let Some(subject) = run.and_then(|record| record.subject.as_ref()) else { return "never ran".to_owned() };
    let end = records.iter().rev().find_map(|record| match &record.fact {
        RecordBody::Ended { end, .. } if record.subject.as_ref() == Some(subject) => Some(end.as_str()),
        _ => None,
    });
    end.map_or_else(|| "has not ended".to_owned(), |end| format!("ended {end}"))
}

fn compare(
    parent: Digest,
    became: String,
    (old, seen): (&Plan, Option<&Assessment>),
    (plan, assessed): (&Plan, &Assessment),
) -> Lineage {
    let before: BTreeMap<&str, &PlanStep> = old.steps.iter().map(|step| (step.id.as_str(), step)).collect();
    let looked: BTreeMap<&str, &StepAssessment> =
        seen.into_iter().flat_map(|seen| &seen.steps).map(|step| (step.id.as_str(), step)).collect();
    let mut out = Lineage {
        parent,
        became,
        reviewed: false,
        checks_changed: serde_json::to_value(&old.checks).ok() != serde_json::to_value(&plan.checks).ok(),
        same: BTreeSet::new(),
        changed: Vec::new(),
        new: Vec::new(),
        gone: Vec::new(),
    };
    for (step, assessed) in plan.steps.iter().zip(&assessed.steps) {
        let would_do_the_same = || looked.get(step.id.as_str()).is_none_or(|seen| *seen == assessed);
        match before.get(step.id.as_str()) {
            None => out.new.push(step.id.clone()),
            // Of a plan that never came to be looked at, the words are all there is to compare.
            Some(old) if verifier::is_same(old, step) && would_do_the_same() => {
                out.same.insert(step.id.clone());
            }
            Some(_) => out.changed.push(step.id.clone()),
        }
    }
    let now: BTreeSet<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
    out.gone = before.keys().filter(|id| !now.contains(*id)).map(|id| (*id).to_owned()).collect();
    out
}
