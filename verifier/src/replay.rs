//! Replay from last-known-good: which steps of a halted run a corrected plan may take over as they are.
//!
//! Must never keep a step that is not verified now, however the log once described it.

use std::collections::HashMap;

use kernel::{Run, StepIx, StepState};
use schemas::PlanStep;

/// A step that stays: its index in the old plan and in the new one.
pub type Kept = (StepIx, StepIx);

/// Steps that are verified, the same in both plans, and need only steps that are kept too.
pub fn keepable(run: &Run, old: &[PlanStep], new: &[PlanStep]) -> Vec<Kept> {
    let old_by_id: HashMap<&str, usize> = old.iter().enumerate().map(|(ix, step)| (step.id.as_str(), ix)).collect();
    let new_by_id: HashMap<&str, usize> = new.iter().enumerate().map(|(ix, step)| (step.id.as_str(), ix)).collect();
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); new.len()];
    let mut missing: Vec<usize> = new.iter().map(|step| step.needs.len()).collect();
    for (ix, step) in new.iter().enumerate() {
        for need in step.needs.iter().filter_map(|need| new_by_id.get(need.as_str())) {
            if let Some(row) = dependents.get_mut(*need) {
                row.push(ix);
            }
        }
    }
    let mut kept = Vec::new();
    let mut free: Vec<usize> = (0..new.len()).filter(|ix| missing.get(*ix) == Some(&0)).collect();
    while let Some(new_ix) = free.pop() {
        let Some(step) = new.get(new_ix) else { continue };
        let Some(old_ix) = old_by_id.get(step.id.as_str()) else { continue };
        let verified = run.state(StepIx(*old_ix as u32)) == StepState::Verified;
        if !verified || !old.get(*old_ix).is_some_and(|old| is_same(old, step)) {
            continue;
        }
        kept.push((StepIx(*old_ix as u32), StepIx(new_ix as u32)));
        for dependent in dependents.get(new_ix).into_iter().flatten() {
            if let Some(count) = missing.get_mut(*dependent) {
                *count -= 1;
                if *count == 0 {
                    free.push(*dependent);
                }
            }
        }
    }
    kept.sort_unstable_by_key(|(_, new)| *new);
    kept
}

/// Whether two steps say the same. Parameters are compared as values: spaces in the text do not matter.
pub fn is_same(old: &PlanStep, new: &PlanStep) -> bool {
    let value = |step: &PlanStep| serde_json::to_value(step).ok();
    value(old).is_some() && value(old) == value(new)
}
