//! The graph of a run: which step needs which, in compressed rows. Must never be changed once it is made.

use std::collections::HashMap;

/// Index of a step in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepIx(pub u32);

impl StepIx {
    /// The index as a position in a list.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// Needs and dependents of every step, and which steps are pivots (irreversible).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Graph {
    needs: Rows,
    dependents: Rows,
    /// Pivots with the number of steps that come after each.
    pivots: Vec<(StepIx, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Rows {
    starts: Vec<u32>,
    items: Vec<StepIx>,
}

impl Rows {
    fn row(&self, ix: StepIx) -> &[StepIx] {
        let start = self.starts.get(ix.at()).copied().unwrap_or(0) as usize;
        let end = self.starts.get(ix.at() + 1).copied().unwrap_or(0) as usize;
        self.items.get(start..end).unwrap_or(&[])
    }
}

/// Why needs do not make a graph. The planner has better words; this is the kernel's own guard.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GraphError {
    /// A need points nowhere.
    #[error("step {step} needs step {need}, which is not in the plan")]
    UnknownNeed {
        /// Who needs.
        step: u32,
        /// What.
        need: u32,
    },
    /// Steps need each other in a circle.
    #[error("the needs of {left} steps form a circle")]
    Cycle {
        /// How many steps could not be ordered.
        left: usize,
    },
}

impl Graph {
    /// A graph from the needs of each step; `pivots` says which steps are irreversible.
    pub fn new(needs: &[Vec<StepIx>], pivots: &[bool]) -> Result<Self, GraphError> {
        let count = needs.len();
        for (ix, row) in needs.iter().enumerate() {
            if let Some(need) = row.iter().find(|need| need.at() >= count) {
                return Err(GraphError::UnknownNeed { step: ix as u32, need: need.0 });
            }
        }
        let rows = rows_of(needs);
        let dependents = transposed(needs);
        let mut graph = Self { needs: rows, dependents, pivots: Vec::new() };
        graph.check_acyclic()?;
        let marked = pivots.iter().enumerate().filter(|(_, pivot)| **pivot);
        graph.pivots = marked.map(|(ix, _)| (StepIx(ix as u32), graph.count_after(StepIx(ix as u32)))).collect();
        Ok(graph)
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.needs.starts.len().saturating_sub(1)
    }

    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All indices.
    pub fn steps(&self) -> impl Iterator<Item = StepIx> + use<> {
        (0..self.len() as u32).map(StepIx)
    }

    /// What `ix` needs.
    pub fn needs(&self, ix: StepIx) -> &[StepIx] {
        self.needs.row(ix)
    }

    /// What needs `ix`.
    pub fn dependents(&self, ix: StepIx) -> &[StepIx] {
        self.dependents.row(ix)
    }

    /// If `ix` is a pivot, the number of steps that come after it.
    pub fn pivot(&self, ix: StepIx) -> Option<u32> {
        self.pivots.binary_search_by_key(&ix, |(pivot, _)| *pivot).ok().and_then(|at| self.pivots.get(at)).map(|p| p.1)
    }

    fn check_acyclic(&self) -> Result<(), GraphError> {
        let mut unmet: Vec<u32> = self.steps().map(|ix| self.needs(ix).len() as u32).collect();
        let mut ready: Vec<StepIx> = self.steps().filter(|ix| self.needs(*ix).is_empty()).collect();
        let mut ordered = 0;
        while let Some(ix) = ready.pop() {
            ordered += 1;
            for dependent in self.dependents(ix) {
                if let Some(left) = unmet.get_mut(dependent.at()) {
                    *left -= 1;
                    if *left == 0 {
                        ready.push(*dependent);
                    }
                }
            }
        }
        if ordered == self.len() { Ok(()) } else { Err(GraphError::Cycle { left: self.len() - ordered }) }
    }

    /// Number of steps that come after `ix`, directly or not.
    fn count_after(&self, ix: StepIx) -> u32 {
        let mut seen = HashMap::new();
        let mut open = vec![ix];
        while let Some(at) = open.pop() {
            for dependent in self.dependents(at) {
                if seen.insert(*dependent, ()).is_none() {
                    open.push(*dependent);
                }
            }
        }
        seen.len() as u32
    }
}

fn rows_of(lists: &[Vec<StepIx>]) -> Rows {
    let mut starts = Vec::with_capacity(lists.len() + 1);
    starts.push(0);
    let mut items = Vec::new();
    for list in lists {
        items.extend_from_slice(list);
        starts.push(items.len() as u32);
    }
    Rows { starts, items }
}

fn transposed(lists: &[Vec<StepIx>]) -> Rows {
    let mut out = vec![Vec::new(); lists.len()];
    for (ix, list) in lists.iter().enumerate() {
        for need in list {
            if let Some(row) = out.get_mut(need.at()) {
                row.push(StepIx(ix as u32));
            }
        }
    }
    rows_of(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(needs: &[&[u32]], pivots: &[bool]) -> Result<Graph, GraphError> {
        let needs: Vec<Vec<StepIx>> = needs.iter().map(|row| row.iter().map(|ix| StepIx(*ix)).collect()).collect();
        Graph::new(&needs, pivots)
    }

    #[test]
    fn a_circle_and_an_unknown_need_are_refused() {
        assert_eq!(graph(&[&[1], &[0], &[]], &[]), Err(GraphError::Cycle { left: 2 }));
        assert_eq!(graph(&[&[7]], &[]), Err(GraphError::UnknownNeed { step: 0, need: 7 }));
    }

    #[test]
    fn a_pivot_knows_how_many_steps_come_after_it() {
        let diamond = graph(&[&[], &[0], &[0], &[1, 2]], &[true, false, false, true]).unwrap();
        assert_eq!(diamond.pivot(StepIx(0)), Some(3));
        assert_eq!(diamond.pivot(StepIx(3)), Some(0));
        assert_eq!(diamond.pivot(StepIx(1)), None);
        assert_eq!(diamond.dependents(StepIx(0)), [StepIx(1), StepIx(2)]);
    }
}
