//! The one file of this crate that looks at the world: `observe` and checks, never anything that changes it.

use kernel::{AfterImage, BeforeImage, Claim, Driver, DriverSet, Facts, Scope, Sighting, StepSpec};
use schemas::{Change, Check};

use crate::delta::undeclared;

/// What came of verifying a step.
#[derive(Clone, Debug)]
pub struct Verification {
    /// What the step left, for a later undo; none if it could not be told.
    pub after: Option<AfterImage>,
    /// What changed.
    pub changes: Vec<Change>,
    /// What the checks saw.
    pub checks: Vec<String>,
    /// Why it is not as declared; empty if it is.
    pub reasons: Vec<String>,
}

/// Holds what a step that said that it is done really did against what it declared, then runs its checks.
pub fn verify(
    driver: &dyn Driver,
    drivers: &DriverSet,
    step: &StepSpec,
    before: &BeforeImage,
    scope: &Scope,
) -> Verification {
    let mut out = Verification { after: None, changes: Vec::new(), checks: Vec::new(), reasons: Vec::new() };
    match driver.observe(step, before, Some(Claim::Done), scope) {
        Sighting::Present { after, changes } => {
            out.after = Some(after);
            out.changes = changes;
        }
        Sighting::Partial { after, changes, detail } => {
            out.after = Some(after);
            out.changes = changes;
            out.reasons.push(format!("only part of it is there: {detail}"));
        }
        Sighting::Absent => out.reasons.push("the driver said done, and nothing of it is there".to_owned()),
        Sighting::Unclear { detail } => out.reasons.push(format!("it cannot be told whether it is there: {detail}")),
    }
    out.reasons.extend(undeclared(&step.lowered.writes, step.expect.as_ref(), &out.changes));
    if out.reasons.is_empty() {
        let (checks, reasons) = run_checks(drivers, &step.verify, &step.facts, scope);
        out.checks = checks;
        out.reasons = reasons;
    }
    out
}

/// Runs checks; what passed, and why the others did not.
pub fn run_checks(drivers: &DriverSet, checks: &[Check], facts: &Facts, scope: &Scope) -> (Vec<String>, Vec<String>) {
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for check in checks {
        let Some(driver) = drivers.for_check(&check.uses) else {
            failed.push(format!("{}: no such check", check.uses));
            continue;
        };
        match driver.check(check, facts, scope) {
            Ok(outcome) if outcome.passed => passed.push(format!("{}: {}", check.uses, outcome.saw)),
            Ok(outcome) => failed.push(format!("{}: {}", check.uses, outcome.saw)),
            Err(error) => failed.push(format!("{}: {error}", check.uses)),
        }
    }
    (passed, failed)
}
