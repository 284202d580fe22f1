//! The receipt, from the records of a run and nothing else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kernel::{Run, StepIx, StepState};
use schemas::{Change, Digest, End, Receipt, RecordBody, StepReceipt};

/// What a receipt is made from.
pub struct ReceiptInput<'a> {
    /// Id of the run.
    pub run_id: &'a str,
    /// Session of the plan.
    pub session: &'a str,
    /// The run as folded from its records.
    pub run: &'a Run,
    /// Ids of the steps, by index.
    pub step_ids: &'a [String],
    /// Its facts, in order.
    pub facts: &'a [RecordBody],
    /// The decisions.
    pub decisions: Digest,
    /// The approvals that counted.
    pub approvals: &'a [Digest],
    /// Number of records in the log.
    pub log_size: u64,
    /// Root over them.
    pub log_root: &'a str,
    /// Where a checkpoint is kept elsewhere.
    pub anchor: &'a str,
}

/// Makes the receipt of a run that ended.
pub fn receipt(input: &ReceiptInput<'_>, end: End, reason: &str, ended: Timestamp) -> Receipt {
    let mut changes: BTreeMap<u32, Vec<Change>> = BTreeMap::new();
    let mut left: BTreeMap<u32, String> = BTreeMap::new();
    for fact in input.facts {
        match fact {
            RecordBody::Verified { step, changes: found, .. }
            | RecordBody::VerifyFailed { step, changes: found, .. }
            | RecordBody::Sighted { step, changes: found, .. } => {
                changes.insert(*step, found.clone());
                if let RecordBody::Sighted { detail, .. } = fact {
                    left.insert(*step, detail.clone());
                }
            }
            RecordBody::UndoReturned { step, message, .. } => {
                left.insert(*step, message.clone());
            }
            RecordBody::UndoSighted { step, detail, .. } if !detail.is_empty() => {
                left.insert(*step, detail.clone());
            }
            RecordBody::Amended { .. } => {
                changes.clear();
                left.clear();
            }
            _ => {}
        }
    }
    let begun = |ix: &StepIx| !matches!(input.run.state(*ix), StepState::Pending | StepState::Prepared);
    let mut of = |ix: StepIx| {
        let state = input.run.state(ix);
        let undone = matches!(state, StepState::Undone | StepState::Failed);
        StepReceipt {
            id: input.step_ids.get(ix.at()).cloned().unwrap_or_default(),
            state: state.as_str().to_owned(),
            changes: if undone { Vec::new() } else { changes.remove(&ix.0).unwrap_or_default() },
            left: what_is_left(state, end, left.get(&ix.0).map(String::as_str)),
        }
    };
    let steps: Vec<StepIx> = input.run.graph().steps().filter(begun).collect();
    Receipt {
        run: input.run_id.to_owned(),
        session: input.session.to_owned(),
        end,
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        ended,
        steps: steps.into_iter().map(&mut of).collect(),
        decisions: input.decisions,
        approvals: input.approvals.to_vec(),
        log_size: input.log_size,
        log_root: input.log_root.to_owned(),
        anchor: input.anchor.to_owned(),
    }
}

fn what_is_left(state: StepState, end: End, detail: Option<&str>) -> Option<String> {
    let detail = detail.unwrap_or("");
    match (end, state) {
        (End::Stuck, StepState::Stuck) => Some(format!("not put back: {detail}")),
        (End::Stuck, StepState::Applied | StepState::Verified) => {
            Some("still in place: something that depends on it, or the step itself, cannot be undone".to_owned())
        }
        _ => None,
    }
}
