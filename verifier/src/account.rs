//! What a run's facts say about each step, kept small: what changed, what is left. The receipt is made from it.

use std::collections::BTreeMap;

use schemas::{Change, Digest, RecordBody};

/// The account of a run, by step index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    changes: BTreeMap<u32, Vec<Change>>,
    tokens: BTreeMap<u32, Vec<String>>,
    replaced: Vec<String>,
    left: BTreeMap<u32, String>,
    receipt: Option<Digest>,
}

impl Account {
    /// Takes one fact over.
    pub fn take(&mut self, fact: &RecordBody) {
        match fact {
            RecordBody::Verified { step, changes, .. } | RecordBody::VerifyFailed { step, changes, .. } => {
                self.changed(*step, changes);
            }
            RecordBody::Sighted { step, changes, detail, .. } => {
                self.changed(*step, changes);
                self.leave(*step, detail);
            }
            RecordBody::ApplyStarted { step, token, .. } | RecordBody::UndoStarted { step, token } => {
                self.tokens.entry(*step).or_default().push(token.clone());
            }
            // Announced and never given out: there was no such token.
            RecordBody::ApplyWithdrawn { step } => drop(self.tokens.entry(*step).or_default().pop()),
            RecordBody::UndoReturned { step, message, .. } => self.leave(*step, message),
            RecordBody::UndoSighted { step, detail, .. } if !detail.is_empty() => self.leave(*step, detail),
            RecordBody::Receipted { receipt } => self.receipt = Some(*receipt),
            RecordBody::UndoRequested { .. } | RecordBody::Retried { .. } => self.receipt = None,
            _ => {}
        }
    }

    /// The account of the steps that a corrected plan keeps, under their new indices.
    pub fn carried(&self, kept: &[(u32, u32)]) -> Self {
        let changes = kept.iter().filter_map(|(old, new)| Some((*new, self.changes.get(old)?.clone()))).collect();
        let tokens = kept.iter().filter_map(|(old, new)| Some((*new, self.tokens.get(old)?.clone()))).collect();
        let stays = |step: &u32| kept.iter().any(|(old, _)| old == step);
        let gone = self.tokens.iter().filter(|(step, _)| !stays(step)).flat_map(|(_, tokens)| tokens.clone());
        let replaced = self.replaced.iter().cloned().chain(gone).collect();
        Self { changes, tokens, replaced, left: BTreeMap::new(), receipt: None }
    }

    /// What a step changed, as last observed.
    pub fn changes(&self, step: u32) -> &[Change] {
        self.changes.get(&step).map_or(&[], Vec::as_slice)
    }

    /// Ids of the tokens that were given out for a step, oldest first.
    pub fn tokens(&self, step: u32) -> &[String] {
        self.tokens.get(&step).map_or(&[], Vec::as_slice)
    }

    /// Ids of the tokens of steps that a corrected plan replaced.
    pub fn replaced(&self) -> &[String] {
        &self.replaced
    }

    /// What was last said about what a step left behind.
    pub fn left(&self, step: u32) -> &str {
        self.left.get(&step).map_or("", String::as_str)
    }

    /// The receipt of the end that is in force, by digest.
    pub fn receipt(&self) -> Option<Digest> {
        self.receipt
    }

    fn changed(&mut self, step: u32, changes: &[Change]) {
        if changes.is_empty() {
            self.changes.remove(&step);
        } else {
            self.changes.insert(step, changes.to_vec());
        }
    }

    fn leave(&mut self, step: u32, detail: &str) {
        if detail.is_empty() {
            self.left.remove(&step);
        } else {
            self.left.insert(step, detail.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::{ChangeKind, UndoReason};

    fn verified(step: u32, name: &str) -> RecordBody {
        let resource = name.to_owned();
        let change = Change { resource, change: ChangeKind::Updated, before: None, after: None, rows: None };
        RecordBody::Verified { step, after: None, changes: vec![change], checks: Vec::new() }
    }

    #[test]
    fn a_kept_step_keeps_its_changes_under_its_new_index() {
        let mut account = Account::default();
        account.take(&verified(0, "file:a"));
        account.take(&verified(1, "file:b"));
        let carried = account.carried(&[(1, 4)]);
        assert_eq!(carried.changes(4), account.changes(1));
        assert!(carried.changes(0).is_empty() && carried.changes(1).is_empty());
    }

    #[test]
    fn a_receipt_is_in_force_until_the_run_is_opened_again() {
        let mut account = Account::default();
        let receipt = Digest::of(b"receipt");
        account.take(&RecordBody::Receipted { receipt });
        assert_eq!(account.receipt(), Some(receipt));
        account.take(&RecordBody::UndoRequested { by: "uid 0".to_owned(), why: UndoReason::Asked });
        assert_eq!(account.receipt(), None);
    }
}
