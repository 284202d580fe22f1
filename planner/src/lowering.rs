//! Steps in terms of resources, by their kinds; what a kind says is wrong is explained by the kind's own schema.

use std::sync::Arc;

use kernel::{Driver, DriverSet, Facts, Lowered, StepIx, StepSpec};
use schemas::{Code, Finding, Plan, PlanStep};
use serde_json::Value;

/// Lowered steps; fewer than the plan has if some could not be lowered.
pub(crate) fn steps(
    plan: &Plan,
    drivers: &DriverSet,
    facts: &Arc<Facts>,
    findings: &mut Vec<Finding>,
) -> Vec<StepSpec> {
    let mut out = Vec::with_capacity(plan.steps.len());
    for (ix, step) in plan.steps.iter().enumerate() {
        let Some(driver) = drivers.for_step(&step.uses) else {
            findings.push(unknown(drivers, &step.uses, &format!("/steps/{ix}/uses")).of_step(&step.id));
            continue;
        };
        match driver.lower(step, ix, facts) {
            Ok(mut lowered) => {
                claim(step, ix, &mut lowered, findings);
                out.push(spec(step, ix, lowered, facts));
            }
            Err(found) => {
                let operation = step.uses.split_once('.').map_or("", |(_, operation)| operation);
                let explained = explain(driver.schema(operation), step, ix);
                findings.extend(if explained.is_empty() { found } else { explained });
            }
        }
    }
    out
}

/// A claim may only make the class worse.
fn claim(step: &PlanStep, ix: usize, lowered: &mut Lowered, findings: &mut Vec<Finding>) {
    let Some(claimed) = step.class else { return };
    if claimed >= lowered.class {
        lowered.class = claimed;
        return;
    }
    let detail = format!("claims {} and was computed as {}", claimed.as_str(), lowered.class.as_str());
    let hint = format!("leave class out, or claim {} or worse", lowered.class.as_str());
    findings.push(Finding::error(Code::CLASS_CLAIM, format!("/steps/{ix}/class"), detail, hint).of_step(&step.id));
}

fn spec(step: &PlanStep, ix: usize, lowered: Lowered, facts: &Arc<Facts>) -> StepSpec {
    StepSpec {
        ix: StepIx(ix as u32),
        id: step.id.clone(),
        uses: step.uses.clone(),
        with: step.with.clone(),
        expect: step.expect.clone(),
        undo: step.undo.clone(),
        verify: step.verify.clone(),
        timeout_ms: step.timeout_ms,
        lowered,
        pinned: Vec::new(),
        facts: facts.clone(),
    }
}

fn unknown(drivers: &DriverSet, uses: &str, place: &str) -> Finding {
    let shown: String = uses.chars().take(80).collect();
    let hint = match drivers.iter().any(|driver| is_check_of(driver.as_ref(), uses)) {
        true => "it is a check: put it under verify of a step, or under checks of the plan".to_owned(),
        false => format!("one of {}", drivers.names().join(", ")),
    };
    Finding::error(Code::UNKNOWN_KIND, place, format!("no kind of step is called {shown:?}"), hint)
}

fn is_check_of(driver: &dyn Driver, uses: &str) -> bool {
    uses.split_once('.').is_some_and(|(kind, check)| kind == driver.name() && driver.checks().contains(&check))
}

fn explain(schema: Option<Value>, step: &PlanStep, ix: usize) -> Vec<Finding> {
    let validator = schema.and_then(|schema| jsonschema::validator_for(&schema).ok());
    let value: Value = serde_json::from_str(step.with.get()).unwrap_or_default();
    let Some(validator) = validator else { return Vec::new() };
    let mut out = crate::parse::violations(&validator, &value, &format!("/steps/{ix}/with"));
    for finding in &mut out {
        finding.code = Code::STEP_PARAMETERS;
        finding.step = Some(step.id.clone());
        finding.hint = format!("backout schema {} shows the parameters", step.uses);
    }
    out
}

/// Checks of steps and of the plan must exist and have fitting parameters.
pub(crate) fn checks(plan: &Plan, drivers: &DriverSet, findings: &mut Vec<Finding>) {
    let of_steps = plan.steps.iter().enumerate().flat_map(|(ix, step)| {
        step.verify.iter().enumerate().map(move |(at, check)| (format!("/steps/{ix}/verify/{at}"), check))
    });
    let of_plan = plan.checks.iter().enumerate().map(|(at, check)| (format!("/checks/{at}"), check));
    for (place, check) in of_steps.chain(of_plan) {
        let Some(driver) = drivers.for_check(&check.uses) else {
            let names: Vec<String> = drivers
                .iter()
                .flat_map(|driver| {
                    driver.checks().iter().map(|check| format!("{}.{check}", driver.name())).collect::<Vec<_>>()
                })
                .collect();
            let detail = format!("no check is called {:?}", check.uses.chars().take(80).collect::<String>());
            findings.push(Finding::error(
                Code::UNKNOWN_KIND,
                format!("{place}/uses"),
                detail,
                format!("one of {}", names.join(", ")),
            ));
            continue;
        };
        let operation = check.uses.split_once('.').map_or("", |(_, operation)| operation);
        let validator = driver.schema(operation).and_then(|schema| jsonschema::validator_for(&schema).ok());
        let value: Value = serde_json::from_str(check.with.get()).unwrap_or_default();
        if let Some(validator) = validator.filter(|validator| !validator.is_valid(&value)) {
            let mut found = crate::parse::violations(&validator, &value, &format!("{place}/with"));
            found.iter_mut().for_each(|finding| finding.code = Code::STEP_PARAMETERS);
            findings.extend(found);
        }
    }
}
