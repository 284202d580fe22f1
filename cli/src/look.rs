//! What a plan would do, as far as it can be seen before: the assessment, what it does not expect, and what runs beside it.

use std::collections::{BTreeMap, BTreeSet};

use executor::Folded;
use jiff::Timestamp;
use kernel::{Ahead, Driver, DriverError, DriverSet, Facts, Leaves, Left, StepIx, StepSpec};
use planner::Planned;
use schemas::{Assessment, Code, Confidence, Digest, Finding, Plan, StepAssessment};

use crate::problem::chain;

/// Looks at the world for every step, writing nothing.
pub(crate) fn assess(
    planned: &Planned,
    drivers: &DriverSet,
    digest: Digest,
    corrects: Option<&Corrected>,
) -> Result<Assessment, Vec<Finding>> {
    let mut assessed: Vec<(StepIx, StepAssessment)> = Vec::with_capacity(planned.steps.len());
    let (mut findings, mut trials) = (Vec::new(), Trials::default());
    for step in planned.in_order() {
        let Some(driver) = drivers.for_step(&step.uses) else { continue };
        if let Some(kept) = corrects.and_then(|corrects| corrects.kept.get(&step.ix)) {
            assessed.push((step.ix, kept.clone()));
            trials.done.insert(step.ix);
            continue;
        }
        match trials.look(planned, step, driver.as_ref(), corrects) {
            Ok(mut seen) => {
                seen.class = seen.class.max(step.lowered.class);
                findings.extend(surprises(step, &seen));
                seen.notes.extend(beside(step, drivers));
                if let Some(corrects) = corrects {
                    corrects.blur(step, &mut seen);
                }
                assessed.push((step.ix, seen));
            }
            Err(error) => {
                let place = format!("/steps/{}", step.ix.0);
                let hint = match &error {
                    DriverError::Refused(_) => "change what the step does or what it declares; nothing was done",
                    _ => "the step could not be looked at: mend the plan or the world",
                };
                findings.push(Finding::error(Code::PROBE_FAILED, place, chain(&error), hint).of_step(&step.id));
            }
        }
    }
    if !findings.is_empty() {
        schemas::sort_findings(&mut findings);
        return Err(findings);
    }
    assessed.sort_by_key(|(ix, _)| *ix);
    let steps = assessed.into_iter().map(|(_, assessed)| assessed).collect();
    let roots = planned.facts.roots.iter().map(|root| root.display().to_string()).collect();
    Ok(Assessment { plan: digest, taken: Timestamp::now(), roots, contains: planned.facts.contains, steps })
}

/// Steps that were tried out: what each would leave is there for those after it.
#[derive(Default)]
struct Trials {
    left: Vec<Left>,
    /// Steps that were tried out, with which of `left` theirs is; without one they would leave everything as it was.
    tried: BTreeMap<StepIx, Option<usize>>,
    /// Steps of a corrected plan that stay: the world has what they left.
    done: BTreeSet<StepIx>,
    /// For a step which of `left` surely come before it, in order.
    before: BTreeMap<StepIx, BTreeSet<usize>>,
    /// Steps before which somebody comes of whom it is not known what they leave.
    clouded: BTreeSet<StepIx>,
}

impl Trials {
    /// Tries the step out on top of what those before it would leave; what cannot be tried out is probed.
    fn look(
        &mut self,
        planned: &Planned,
        step: &StepSpec,
        driver: &dyn Driver,
        corrects: Option<&Corrected>,
    ) -> Result<StepAssessment, DriverError> {
        let mut before = BTreeSet::new();
        for need in planned.graph.needs(step.ix) {
            before.extend(self.before.get(need).into_iter().flatten().copied());
            before.extend(self.tried.get(need).copied().flatten());
        }
        let priors = planned.priors(step.ix);
        let known = |prior: &&StepSpec| self.tried.contains_key(&prior.ix) || self.done.contains(&prior.ix);
        let is_open = priors.iter().all(known) && !corrects.is_some_and(|corrects| corrects.is_undone(step));
        let left: Vec<Left> = before.iter().filter_map(|at| self.left.get(*at).cloned()).collect();
        if !before.is_empty() {
            self.before.insert(step.ix, before);
        }
        let is_unseen = |need: &&StepIx| {
            self.clouded.contains(need) || !(self.tried.contains_key(need) || self.done.contains(need))
        };
        let unseen: Vec<StepIx> = planned.graph.needs(step.ix).iter().filter(is_unseen).copied().collect();
        if !unseen.is_empty() {
            self.clouded.insert(step.ix);
        }
        let name = |ix: &StepIx| planned.steps.get(ix.at()).map(|step| step.id.clone());
        let unseen: Vec<String> = unseen.iter().filter_map(name).collect();
        let ahead = Ahead { left: &left, unseen: &unseen };
        let tried = if is_open { driver.try_out(step, &ahead)? } else { None };
        let Some(tried) = tried else { return driver.probe(step, &priors) };
        match tried.leaves {
            Leaves::Unknown => {}
            Leaves::AsItWas => drop(self.tried.insert(step.ix, None)),
            Leaves::Draft(left) => {
                self.tried.insert(step.ix, Some(self.left.len()));
                self.left.push(left);
            }
        }
        Ok(tried.assessment)
    }
}

/// What runs beside a step to look, in words for whoever approves it.
fn beside(step: &StepSpec, drivers: &DriverSet) -> Vec<String> {
    let say = |side: kernel::SideCommand| {
        let trust = if side.only_reads { "known to only read" } else { "NOT known to only read" };
        format!("looks with {} ({trust})", side.argv.join(" "))
    };
    let mut notes: Vec<String> =
        side_commands(&step.verify, drivers, &step.facts).chain(step.lowered.side.clone()).map(say).collect();
    if let Some(undo) = &step.undo {
        notes.push(format!("is undone with {}", undo.argv.join(" ")));
    }
    notes
}

fn side_commands<'a>(
    checks: &'a [schemas::Check],
    drivers: &'a DriverSet,
    facts: &'a Facts,
) -> impl Iterator<Item = kernel::SideCommand> + 'a {
    checks
        .iter()
        .flat_map(|check| drivers.for_check(&check.uses).map_or(Vec::new(), |driver| driver.commands_of(check, facts)))
}

/// Every command of a plan that looks, and is not known to only read, with the place where the plan names it.
pub(crate) fn unknown_commands(
    steps: &[StepSpec],
    checks: &[schemas::Check],
    facts: &Facts,
    drivers: &DriverSet,
) -> Vec<policy::Unknown> {
    let mut out = Vec::new();
    let mut note = |pointer: String, side: kernel::SideCommand| {
        if !side.only_reads {
            out.push(policy::Unknown { pointer, argv: side.argv });
        }
    };
    for step in steps {
        let pointer = format!("/steps/{}", step.ix.0);
        side_commands(&step.verify, drivers, &step.facts).for_each(|side| note(format!("{pointer}/verify"), side));
        step.lowered.side.iter().for_each(|side| note(pointer.clone(), side.clone()));
    }
    side_commands(checks, drivers, facts).for_each(|side| note("/checks".to_owned(), side));
    out
}

/// What a step would do that its plan does not expect, where that could be seen whole.
fn surprises(step: &StepSpec, assessed: &StepAssessment) -> Vec<Finding> {
    if assessed.confidence != Confidence::Verified {
        return Vec::new();
    }
    let seen: Vec<String> =
        assessed.changes.iter().take(5).map(|it| format!("{} {}", it.change.as_str(), it.resource)).collect();
    let more =
        if assessed.changes.len() > 5 { format!(" and {} more", assessed.changes.len() - 5) } else { String::new() };
    let finding = |text: String| {
        let hint = "correct expect, which counts resources and in rows the rows, or what the step does";
        let text = format!("{text}; it would change: {}{more}", seen.join(", "));
        Finding::error(Code::EXPECTATION, format!("/steps/{}/expect", step.ix.0), text, hint).of_step(&step.id)
    };
    verifier::unexpected(step.expect.as_ref(), &assessed.changes).into_iter().map(finding).collect()
}

/// What a corrected plan finds of the run that it corrects.
pub(crate) struct Corrected {
    /// Its id.
    pub(crate) run: String,
    /// Assessments of the steps that stay, by their place in the corrected plan.
    kept: BTreeMap<StepIx, StepAssessment>,
    /// What the steps that do not stay wrote: it is undone before the corrected plan goes on.
    undone: Vec<schemas::Resource>,
}

impl Corrected {
    pub(crate) fn of(folded: &Folded, old: &Plan, new: &Plan) -> Self {
        let kept = verifier::keepable(&folded.run, &old.steps, &new.steps);
        let stays = |ix: StepIx| kept.iter().any(|(old, _)| *old == ix);
        let goes = folded.loaded.steps.iter().filter(|step| folded.run.state(step.ix).is_live() && !stays(step.ix));
        let undone = goes.flat_map(|step| step.lowered.writes.clone()).collect();
        let assessed = |(old, new): &verifier::Kept| Some((*new, folded.loaded.assessed.get(old.at())?.clone()));
        let run = folded.subject.run.clone();
        Self { run, kept: kept.iter().filter_map(assessed).collect(), undone }
    }

    /// Whether the step touches what is undone before it runs.
    fn is_undone(&self, step: &StepSpec) -> bool {
        let mut touched = step.lowered.writes.iter().chain(&step.lowered.reads);
        touched.any(|resource| self.undone.iter().any(|undone| undone.overlaps(resource)))
    }

    /// What is seen of a resource that is about to be undone is not what the step will find.
    fn blur(&self, step: &StepSpec, assessed: &mut StepAssessment) {
        if self.is_undone(step) {
            assessed.fingerprints.clear();
            assessed.notes.push("acts on what is undone first, which could not be seen".to_owned());
        }
    }
}
