//! Steps that touch the same resources: unordered writers are refused, ordered ones know who wrote before them.
//!
//! Overlaps are found by sorting paths, so that a folder stands directly before what is in it.

use kernel::{Resource, StepIx, StepSpec};
use schemas::{Code, Finding};

/// Most pairs that are compared; a plan that needs more is refused rather than left unchecked.
const MOST_PAIRS: usize = 5_000_000;
/// Most steps that are visited to find out who comes after whom.
const MOST_VISITS: usize = 50_000_000;
/// Most findings about conflicts.
const MOST_FINDINGS: usize = 200;

struct Touch<'a> {
    resource: &'a Resource,
    step: StepIx,
    writes: bool,
}

/// For each step the earlier writers of what it touches; findings for what is not ordered.
pub(crate) fn find(
    steps: &[StepSpec],
    needs: &[Vec<StepIx>],
    order: &[u32],
    findings: &mut Vec<Finding>,
) -> Vec<Vec<StepIx>> {
    let mut writers = vec![Vec::new(); steps.len()];
    let position = |ix: StepIx| order.get(ix.at()).copied().unwrap_or(0);
    let mut touches: Vec<Touch<'_>> = steps.iter().flat_map(touches_of).collect();
    touches.sort_by(|a, b| {
        components(a.resource).cmp(components(b.resource)).then(position(a.step).cmp(&position(b.step)))
    });
    let mut open: Vec<&Touch<'_>> = Vec::new();
    let (mut pairs, mut visits, mut told) = (0usize, MOST_VISITS, 0usize);
    for touch in &touches {
        open.retain(|outer| starts_with(touch.resource, outer.resource));
        for other in open.iter().filter(|other| other.step != touch.step && (other.writes || touch.writes)) {
            pairs += 1;
            if pairs > MOST_PAIRS || visits == 0 {
                let detail = "too many steps touch the same resources to check their order";
                findings.push(Finding::error(Code::PLAN_LIMIT, "/steps", detail, "split the plan"));
                return writers;
            }
            if !other.resource.overlaps(touch.resource) {
                continue;
            }
            let (first, second) =
                if position(other.step) < position(touch.step) { (*other, touch) } else { (touch, *other) };
            if !reaches(needs, order, first.step, second.step, &mut visits) {
                told += 1;
                if told <= MOST_FINDINGS {
                    findings.push(unordered(steps, first, second));
                }
            } else if first.writes
                && let Some(row) = writers.get_mut(second.step.at())
                && !row.contains(&first.step)
            {
                row.push(first.step);
            }
        }
        // Of the writers of one very resource the last one is enough: it comes after all the others.
        if touch.writes {
            open.retain(|other| {
                !(other.writes && other.resource == touch.resource && ordered(needs, order, other, touch, &mut visits))
            });
        }
        open.push(touch);
    }
    writers
}

fn ordered(needs: &[Vec<StepIx>], order: &[u32], a: &Touch<'_>, b: &Touch<'_>, visits: &mut usize) -> bool {
    a.step == b.step || reaches(needs, order, a.step, b.step, visits)
}

fn touches_of(step: &StepSpec) -> impl Iterator<Item = Touch<'_>> {
    let writes = step.lowered.writes.iter().map(|resource| Touch { resource, step: step.ix, writes: true });
    let only_read = step.lowered.reads.iter().filter(|read| !step.lowered.writes.contains(read));
    writes.chain(only_read.map(|resource| Touch { resource, step: step.ix, writes: false }))
}

fn components(resource: &Resource) -> impl Iterator<Item = &str> {
    resource.path().split('/').filter(|part| !part.is_empty())
}

fn starts_with(inner: &Resource, outer: &Resource) -> bool {
    let mut inner = components(inner);
    components(outer).all(|part| inner.next() == Some(part))
}

fn unordered(steps: &[StepSpec], first: &Touch<'_>, second: &Touch<'_>) -> Finding {
    let id = |touch: &Touch<'_>| steps.get(touch.step.at()).map_or("", |step| step.id.as_str());
    let place = format!("/steps/{}", second.step.0);
    let hint = format!("let {} need {}, or the other way round", id(second), id(first));
    if first.writes && second.writes {
        let detail = format!(
            "/steps/{} and /steps/{} both write {} and neither comes after the other",
            first.step.0, second.step.0, second.resource
        );
        return Finding::error(Code::WRITE_CONFLICT, place, detail, hint).of_step(id(second));
    }
    let detail = format!(
        "/steps/{} and /steps/{} touch {}, one of them writes, and neither comes after the other",
        first.step.0, second.step.0, second.resource
    );
    Finding::error(Code::READ_RACE, place, detail, hint).of_step(id(second)).warning()
}

/// Whether `later` comes after `earlier`, directly or not.
pub(crate) fn reaches(
    needs: &[Vec<StepIx>],
    order: &[u32],
    earlier: StepIx,
    later: StepIx,
    visits: &mut usize,
) -> bool {
    let position = |ix: StepIx| order.get(ix.at()).copied().unwrap_or(0);
    let floor = position(earlier);
    let mut open = vec![later];
    let mut seen = std::collections::HashSet::new();
    while let Some(at) = open.pop() {
        *visits = visits.saturating_sub(1);
        for need in needs.get(at.at()).map_or(&[][..], Vec::as_slice) {
            if *need == earlier {
                return true;
            }
            if *visits > 0 && position(*need) > floor && seen.insert(*need) {
                open.push(*need);
            }
        }
    }
    false
}
