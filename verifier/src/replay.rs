//! Replay from last-known-good: which steps of a halted run a corrected plan may take over as they are.
//!
//! Must never keep a step that is not verified now, however the log once described it.

use std::collections::BTreeMap;

use kernel::{Run, StepIx, StepState};
use schemas::PlanStep;

/// A step that stays: its index in the old plan and in the new one.
pub type Kept = (StepIx, StepIx);

/// Steps that are verified, the same in both plans, and need only steps that are kept too.
pub fn keepable(run: &Run, old: &[PlanStep], new: &[PlanStep]) -> Vec<Kept> {
    let old_by_id: BTreeMap<&str, usize> = old.iter().enumerate().map(|(ix, step)| (step.id.as_str(), ix)).collect();
    let mut kept: BTreeMap<&str, Kept> = BTreeMap::new();
    // Needs may stand after what needs them: go on until nothing more is kept.
    loop {
        let before = kept.len();
        for (new_ix, step) in new.iter().enumerate() {
            let Some(old_ix) = old_by_id.get(step.id.as_str()).filter(|_| !kept.contains_key(step.id.as_str())) else {
                continue;
            };
            let verified = run.state(StepIx(*old_ix as u32)) == StepState::Verified;
            let same = old.get(*old_ix).is_some_and(|old| is_same(old, step));
            let needs_kept = step.needs.iter().all(|need| kept.contains_key(need.as_str()));
            if verified && same && needs_kept {
                kept.insert(&step.id, (StepIx(*old_ix as u32), StepIx(new_ix as u32)));
            }
        }
        if kept.len() == before {
            return kept.into_values().collect();
        }
    }
}

/// Whether two steps say the same. Parameters are compared as values: spaces in the text do not matter.
fn is_same(old: &PlanStep, new: &PlanStep) -> bool {
    let value = |step: &PlanStep| serde_json::to_value(step).ok();
    value(old).is_some() && value(old) == value(new)
}
