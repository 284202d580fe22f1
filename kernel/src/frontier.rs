//! Which steps can go on, kept up to date with each transition so that a step costs the same in a large run as in a small one.
//!
//! INVARIANT: it is a function of graph and states (`the_frontier_equals_its_own_rebuild`); it must never hold a fact of its own.

use std::collections::BTreeSet;

use crate::graph::{Graph, StepIx};
use crate::transition::StepState;

const STATES: usize = StepState::ALL.len();

/// Sets of steps by what can be done with them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Frontier {
    counts: [u32; STATES],
    unmet: Vec<u32>,
    live_dependents: Vec<u32>,
    /// Pending, and all that is needed is verified.
    pub(crate) ready: BTreeSet<StepIx>,
    pub(crate) prepared: BTreeSet<StepIx>,
    pub(crate) in_doubt: BTreeSet<StepIx>,
    pub(crate) applied: BTreeSet<StepIx>,
    pub(crate) undo_in_doubt: BTreeSet<StepIx>,
    /// Applied or verified, and nothing that depends on it is live.
    pub(crate) exposed: BTreeSet<StepIx>,
}

impl Frontier {
    pub(crate) fn of(graph: &Graph, state_of: impl Fn(StepIx) -> StepState) -> Self {
        let mut frontier = Self {
            counts: [0; STATES],
            unmet: graph
                .steps()
                .map(|ix| count(graph.needs(ix), |need| state_of(need) != StepState::Verified))
                .collect(),
            live_dependents: graph.steps().map(|ix| count(graph.dependents(ix), |d| state_of(d).is_live())).collect(),
            ready: BTreeSet::new(),
            prepared: BTreeSet::new(),
            in_doubt: BTreeSet::new(),
            applied: BTreeSet::new(),
            undo_in_doubt: BTreeSet::new(),
            exposed: BTreeSet::new(),
        };
        for ix in graph.steps() {
            frontier.add(state_of(ix), 1);
            frontier.place(ix, state_of(ix));
        }
        frontier
    }

    /// Number of steps in `state`.
    pub(crate) fn count(&self, state: StepState) -> u32 {
        self.counts.get(state as usize).copied().unwrap_or(0)
    }

    /// Number of dependents of `ix` that are live.
    pub(crate) fn live_dependents(&self, ix: StepIx) -> u32 {
        self.live_dependents.get(ix.at()).copied().unwrap_or(0)
    }

    /// Number of needs of `ix` that are not verified.
    pub(crate) fn unmet(&self, ix: StepIx) -> u32 {
        self.unmet.get(ix.at()).copied().unwrap_or(0)
    }

    /// Takes over that `ix` went from `old` to `new`; `state_of` knows the states after the change.
    pub(crate) fn moved(
        &mut self,
        graph: &Graph,
        ix: StepIx,
        old: StepState,
        new: StepState,
        state_of: impl Fn(StepIx) -> StepState,
    ) {
        self.add(old, -1);
        self.add(new, 1);
        self.place(ix, new);
        if (old == StepState::Verified) != (new == StepState::Verified) {
            for dependent in graph.dependents(ix) {
                if let Some(unmet) = self.unmet.get_mut(dependent.at()) {
                    *unmet = if new == StepState::Verified { unmet.saturating_sub(1) } else { *unmet + 1 };
                }
                self.place(*dependent, state_of(*dependent));
            }
        }
        if old.is_live() != new.is_live() {
            for need in graph.needs(ix) {
                if let Some(live) = self.live_dependents.get_mut(need.at()) {
                    *live = if new.is_live() { *live + 1 } else { live.saturating_sub(1) };
                }
                self.place(*need, state_of(*need));
            }
        }
    }

    fn add(&mut self, state: StepState, by: i32) {
        if let Some(counter) = self.counts.get_mut(state as usize) {
            *counter = counter.saturating_add_signed(by);
        }
    }

    fn place(&mut self, ix: StepIx, state: StepState) {
        use StepState as S;
        let exposed = matches!(state, S::Applied | S::Verified) && self.live_dependents(ix) == 0;
        let ready = state == S::Pending && self.unmet(ix) == 0;
        put(&mut self.ready, ix, ready);
        put(&mut self.prepared, ix, state == S::Prepared);
        put(&mut self.in_doubt, ix, state == S::InDoubt);
        put(&mut self.applied, ix, state == S::Applied);
        put(&mut self.undo_in_doubt, ix, state == S::UndoInDoubt);
        put(&mut self.exposed, ix, exposed);
    }
}

fn put(set: &mut BTreeSet<StepIx>, ix: StepIx, is_in: bool) {
    if is_in {
        set.insert(ix);
    } else {
        set.remove(&ix);
    }
}

fn count(steps: &[StepIx], holds: impl Fn(StepIx) -> bool) -> u32 {
    steps.iter().filter(|ix| holds(**ix)).count() as u32
}
