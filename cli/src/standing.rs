//! Whether what steps left still stands, by looking: before an undo touches anything, and before a replay builds on it.

use executor::Folded;
use kernel::{DriverSet, Scope, StepIx};
use schemas::{Code, Finding, Record, RecordBody, Resource};

/// What somebody else changed of what `steps` left, as findings. With `strict`, what is as before counts as well.
///
/// Of steps that wrote the same resource the last one speaks: what it left hides what those before it left.
pub(crate) fn changed_since(folded: &Folded, drivers: &DriverSet, steps: &[StepIx], strict: bool) -> Vec<Finding> {
    let scope = Scope::to_look(&folded.subject.run);
    let mut written: Vec<Resource> = Vec::new();
    let mut out = Vec::new();
    for ix in folded.acted.iter().rev().filter(|ix| steps.contains(ix)) {
        let Some(step) = folded.loaded.steps.get(ix.at()) else { continue };
        let hidden = step.lowered.writes.iter().any(|own| written.iter().any(|later| later.overlaps(own)));
        written.extend(step.lowered.writes.iter().cloned());
        let before = folded.befores.get(ix.at()).and_then(Option::as_ref);
        let (Some(driver), Some(before), false) = (drivers.for_step(&step.uses), before, hidden) else { continue };
        let after = folded.afters.get(ix.at()).and_then(Option::as_ref);
        let finding = |resource: &str, detail: String| {
            let hint = "look at it: keep the change, or put the resource back to what the step left";
            Finding::error(Code::CLOBBER, resource, detail, hint).of_step(&step.id)
        };
        match driver.conflicts(step, before, after, strict, &scope) {
            Err(error) => out.push(finding("", crate::problem::chain(&error))),
            Ok(conflicts) => out.extend(conflicts.iter().map(|c| {
                let detail =
                    format!("{} is {}; the step left {}, before it was {}", c.resource, c.found, c.left, c.before);
                finding(&c.resource, detail)
            })),
        }
    }
    out
}

/// Sessions of later runs that wrote one of these resources, the newest first.
pub(crate) fn later_writers(records: &[Record], run: &str, resources: &[String]) -> Vec<String> {
    let opened = records.iter().position(|record| {
        matches!(record.fact, RecordBody::RunOpened { .. }) && record.subject.as_ref().is_some_and(|s| s.run == run)
    });
    let mut out: Vec<String> = Vec::new();
    for record in records.iter().skip(opened.unwrap_or(0)).rev() {
        let (Some(subject), RecordBody::Verified { changes, .. }) = (&record.subject, &record.fact) else { continue };
        let touched = changes.iter().any(|change| resources.contains(&change.resource));
        if subject.run != run && touched && !out.contains(&subject.session) {
            out.push(subject.session.clone());
        }
    }
    out
}
