//! References between steps: duplicate ids, unknown needs, circles, and the place of irreversible steps.

use std::collections::HashMap;

use kernel::{StepIx, StepSpec};
use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use schemas::{Class, Code, Finding, Plan};

/// Needs as indices; unknown ones are findings and left out.
pub(crate) fn needs(plan: &Plan, findings: &mut Vec<Finding>) -> Vec<Vec<StepIx>> {
    let mut by_id: HashMap<&str, u32> = HashMap::with_capacity(plan.steps.len());
    for (ix, step) in plan.steps.iter().enumerate() {
        if let Some(first) = by_id.insert(&step.id, ix as u32) {
            let detail = format!("step /steps/{first} has the id {:?} too", step.id);
            let place = format!("/steps/{ix}/id");
            findings.push(
                Finding::error(Code::DUPLICATE_ID, place, detail, "give each step an id of its own").of_step(&step.id),
            );
        }
    }
    let mut out = Vec::with_capacity(plan.steps.len());
    for (ix, step) in plan.steps.iter().enumerate() {
        let mut row = Vec::with_capacity(step.needs.len());
        for (at, need) in step.needs.iter().enumerate() {
            match by_id.get(need.as_str()) {
                Some(found) => row.push(StepIx(*found)),
                None => {
                    let detail = format!("no step has the id {need:?}");
                    let place = format!("/steps/{ix}/needs/{at}");
                    findings.push(
                        Finding::error(Code::UNKNOWN_NEED, place, detail, "name a step of this plan").of_step(&step.id),
                    );
                }
            }
        }
        row.sort();
        row.dedup();
        out.push(row);
    }
    out
}

/// The steps themselves, by their positions.
pub(crate) fn sequence(positions: &[u32]) -> Vec<StepIx> {
    let mut steps: Vec<StepIx> = (0..positions.len() as u32).map(StepIx).collect();
    steps.sort_by_key(|ix| positions.get(ix.at()));
    steps
}

/// Position of every step in an order in which they may run; `None` and a finding for each circle if there is none.
pub(crate) fn order(plan: &Plan, needs: &[Vec<StepIx>], findings: &mut Vec<Finding>) -> Option<Vec<u32>> {
    let edges = needs.iter().enumerate().flat_map(|(ix, row)| row.iter().map(move |need| (need.0, ix as u32)));
    let mut graph: DiGraph<(), (), u32> = DiGraph::with_capacity(needs.len(), needs.len());
    for _ in needs {
        graph.add_node(());
    }
    for (from, to) in edges {
        graph.add_edge(NodeIndex::from(from), NodeIndex::from(to), ());
    }
    if let Ok(sorted) = toposort(&graph, None) {
        let mut position = vec![0; needs.len()];
        for (at, node) in sorted.into_iter().enumerate() {
            if let Some(slot) = position.get_mut(node.index()) {
                *slot = at as u32;
            }
        }
        return Some(position);
    }
    for circle in kosaraju_scc(&graph) {
        let first = circle.iter().map(|node| node.index()).min().unwrap_or(0);
        let needs_itself = needs.get(first).is_some_and(|row| row.contains(&StepIx(first as u32)));
        if circle.len() < 2 && !needs_itself {
            continue;
        }
        let mut ids: Vec<&str> =
            circle.iter().filter_map(|node| plan.steps.get(node.index())).map(|s| s.id.as_str()).collect();
        ids.sort_unstable();
        let shown = ids.iter().take(12).copied().collect::<Vec<_>>().join(", ");
        let detail = format!("{} steps need each other: {shown}", ids.len());
        let place = format!("/steps/{first}/needs");
        findings.push(Finding::error(Code::CYCLE, place, detail, "take one of the needs away"));
    }
    None
}

/// Irreversible steps come last, one after the other: nothing that could fail reversibly may follow one.
pub(crate) fn pivots(steps: &[StepSpec], needs: &[Vec<StepIx>], order: &[u32], findings: &mut Vec<Finding>) {
    let is_pivot = |ix: StepIx| steps.get(ix.at()).is_some_and(|step| step.lowered.class == Class::Irreversible);
    let mut pivots: Vec<&StepSpec> = steps.iter().filter(|step| is_pivot(step.ix)).collect();
    pivots.sort_by_key(|step| order.get(step.ix.at()).copied());
    for pair in pivots.windows(2) {
        let [first, second] = pair else { continue };
        if !crate::conflicts::reaches(needs, order, first.ix, second.ix, &mut usize::MAX.clone()) {
            let detail = format!("{} and {} cannot be undone and neither comes after the other", first.id, second.id);
            let place = format!("/steps/{}/needs", second.ix.0);
            let hint = format!("let {} need {}", second.id, first.id);
            findings.push(Finding::error(Code::PIVOT_ORDER, place, detail, hint).of_step(&second.id));
        }
    }
    if pivots.is_empty() {
        return;
    }
    for step in steps.iter().filter(|step| !is_pivot(step.ix)) {
        let row = needs.get(step.ix.at()).map_or(&[][..], Vec::as_slice);
        if let Some(need) = row.iter().find(|need| is_pivot(**need)) {
            let pivot = steps.get(need.at()).map_or("", |step| step.id.as_str());
            let detail = format!("{} comes after {pivot}, which cannot be undone", step.id);
            let place = format!("/steps/{}/needs", step.ix.0);
            let hint = format!("let {pivot} need {}", step.id);
            findings.push(Finding::error(Code::PIVOT_ORDER, place, detail, hint).of_step(&step.id));
        }
    }
}
