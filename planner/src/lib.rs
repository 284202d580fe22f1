//! From bytes to a plan that may be looked at: schema, references, graph, lowering, conflicts, classes. All findings at once.
//!
//! This crate must never touch the world and never know the name of a kind.

mod conflicts;
mod graph;
mod lowering;
mod parse;

use std::sync::Arc;

use kernel::{DriverSet, Facts, Graph, StepIx, StepSpec};
use schemas::{Finding, Plan, Severity, sort_findings};

pub use parse::{is_envelope, parse};

/// A plan that passed every check that needs no look at the world.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Its steps in terms of resources, in the order of the plan.
    pub steps: Vec<StepSpec>,
    /// Which needs which.
    pub graph: Arc<Graph>,
    /// Each after all that it needs.
    order: Vec<StepIx>,
    /// For each step the earlier steps that last wrote what it touches.
    writers: Vec<Vec<StepIx>>,
    /// The environment that it was checked for.
    pub facts: Arc<Facts>,
    /// Findings that stop nothing.
    pub warnings: Vec<Finding>,
}

impl Planned {
    /// The earlier steps on whose effects `ix` acts, in an order in which they may run.
    pub fn priors(&self, ix: StepIx) -> Vec<&StepSpec> {
        let mut found = std::collections::BTreeSet::new();
        let mut open: Vec<StepIx> = self.writers_of(ix).to_vec();
        while let Some(at) = open.pop() {
            if found.insert(at) {
                open.extend_from_slice(self.writers_of(at));
            }
        }
        let mut priors: Vec<&StepSpec> = found.into_iter().filter_map(|ix| self.steps.get(ix.at())).collect();
        priors.sort_by_key(|step| self.depth(step.ix));
        priors
    }

    /// The steps in an order in which they may run: each after all that it needs.
    pub fn in_order(&self) -> impl Iterator<Item = &StepSpec> {
        self.order.iter().filter_map(|ix| self.steps.get(ix.at()))
    }

    fn writers_of(&self, ix: StepIx) -> &[StepIx] {
        self.writers.get(ix.at()).map_or(&[], Vec::as_slice)
    }

    /// Length of the longest chain of writers before `ix`; enough to order steps on one resource.
    fn depth(&self, ix: StepIx) -> usize {
        let mut depth = 0;
        let mut at = ix;
        while let Some(before) = self.writers_of(at).iter().max() {
            depth += 1;
            at = *before;
            if depth > self.steps.len() {
                break;
            }
        }
        depth
    }
}

/// Checks a parsed plan for an environment. The error is every finding, in document order.
pub fn check(plan: Plan, drivers: &DriverSet, facts: &Arc<Facts>) -> Result<Planned, Vec<Finding>> {
    let mut findings = parse::limits(&plan);
    let needs = graph::needs(&plan, &mut findings);
    let order = graph::order(&plan, &needs, &mut findings);
    let steps = lowering::steps(&plan, drivers, facts, &mut findings);
    lowering::checks(&plan, drivers, &mut findings);
    let mut writers = Vec::new();
    if let (Some(order), true) = (&order, steps.len() == plan.steps.len()) {
        writers = conflicts::find(&steps, &needs, order, &mut findings);
        graph::pivots(&steps, &needs, order, &mut findings);
    }
    sort_findings(&mut findings);
    let pivots: Vec<bool> = steps.iter().map(|step| step.lowered.class == schemas::Class::Irreversible).collect();
    let graph = Graph::new(&needs, &pivots);
    let order = graph::sequence(&order.unwrap_or_default());
    let is_error = |finding: &Finding| finding.severity == Severity::Error;
    match graph {
        Ok(graph) if !findings.iter().any(is_error) => {
            let facts = facts.clone();
            Ok(Planned { plan, steps, graph: Arc::new(graph), order, writers, facts, warnings: findings })
        }
        _ => Err(findings),
    }
}
