//! The receipt, from the records of a run and nothing else.

use jiff::Timestamp;
use kernel::{Run, StepIx, StepState};
use schemas::{Change, Digest, End, Limits, Receipt, StepReceipt};

use crate::account::Account;

/// Room for changes in one receipt, in bytes; it counts the others, and the log has them all.
const CHANGES_BYTES: usize = Limits::RECEIPT_BYTES / 2;

/// What a change takes beside the name of its resource, at most.
const CHANGE_BYTES: usize = 512;

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
    /// What its facts say, step by step.
    pub account: &'a Account,
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
    // A step that acted, was seen to have left nothing, and then never got its turn again, is told as well.
    let begun = |ix: &StepIx| {
        !matches!(input.run.state(*ix), StepState::Pending | StepState::Prepared)
            || !input.account.tokens(ix.0).is_empty()
    };
    let mut room = CHANGES_BYTES;
    let mut of = |ix: StepIx| {
        let state = input.run.state(ix);
        let undone = matches!(state, StepState::Undone | StepState::Failed);
        let found = if undone { &[] } else { input.account.changes(ix.0) };
        let fits = |change: &&Change| {
            let bytes = change.resource.len() + CHANGE_BYTES;
            let fits = bytes <= room;
            room = if fits { room - bytes } else { 0 };
            fits
        };
        let listed: Vec<Change> = found.iter().take_while(fits).cloned().collect();
        StepReceipt {
            id: input.step_ids.get(ix.at()).cloned().unwrap_or_default(),
            state: state.as_str().to_owned(),
            tokens: input.account.tokens(ix.0).to_vec(),
            unlisted: (found.len() - listed.len()) as u64,
            changes: listed,
            left: what_is_left(state, end, input.account.left(ix.0)),
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
        replaced: input.account.replaced().to_vec(),
        decisions: input.decisions,
        approvals: input.approvals.to_vec(),
        log_size: input.log_size,
        log_root: input.log_root.to_owned(),
        anchor: input.anchor.to_owned(),
    }
}

fn what_is_left(state: StepState, end: End, detail: &str) -> Option<String> {
    match (end, state) {
        (End::Stuck, StepState::Stuck) => Some(format!("not put back: {detail}")),
        (End::Stuck, StepState::Applied | StepState::Verified) => {
            Some("still in place: something that depends on it, or the step itself, cannot be undone".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kernel::Graph;
    use schemas::{ChangeKind, OnFailure, RecordBody};

    use super::*;

    #[test]
    fn changes_without_room_are_counted_and_the_receipt_can_still_be_read() {
        let graph = Arc::new(Graph::new(&[Vec::new()], &[false]).unwrap());
        let run = Run::with_kept(graph, OnFailure::Undo, &[StepIx(0)]);
        let long = "x".repeat(Limits::PATH_BYTES);
        let change = |ix| Change {
            resource: format!("{long}{ix}"),
            change: ChangeKind::Deleted,
            before: None,
            after: None,
            rows: None,
        };
        let changes: Vec<Change> = (0..20_000).map(change).collect();
        let mut account = Account::default();
        account.take(&RecordBody::Verified { step: 0, after: None, changes, checks: Vec::new() });
        let input = ReceiptInput {
            run_id: "run",
            session: "s",
            run: &run,
            step_ids: &["a".to_owned()],
            account: &account,
            decisions: Digest::of(b""),
            approvals: &[],
            log_size: 1,
            log_root: "",
            anchor: "unanchored",
        };
        let receipt = receipt(&input, End::Committed, "", Timestamp::now());
        let step = &receipt.steps[0];
        assert!(step.unlisted > 0 && step.changes.len() as u64 + step.unlisted == 20_000);
        assert!(serde_json::to_vec(&receipt).unwrap().len() < Limits::RECEIPT_BYTES);
    }
}
