//! What another bundle decides differently: at each place looser, tighter, or both, each with a request that shows it.

use std::path::Path;

use cedar_policy::RequestEnv;
use policy::{Bundle, RuleSet};
use serde::Serialize;
use serde_json::Value;

use crate::solve::{ProverError, Solver, decided, in_runtime, name, places, schema, share_out, told};

/// Which way a difference goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The new bundle allows what the old one did not.
    Looser,
    /// The new bundle does not allow what the old one did.
    Tighter,
}

/// A difference at one place.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Action and type of resource.
    pub place: String,
    /// Which way.
    pub direction: Direction,
    /// The rules that decide the example in the old bundle.
    pub rules_before: Vec<String>,
    /// The rules that decide it in the new one.
    pub rules_after: Vec<String>,
    /// A request that is decided differently.
    pub example: Value,
}

/// Compares two bundles at every place. No difference means that they decide alike, whatever is asked.
pub fn diff(old: &Bundle, new: &Bundle, solver: &Path) -> Result<Vec<Difference>, ProverError> {
    let load = |bundle: &Bundle| bundle.rules().map_err(|error| ProverError::Bundle(error.to_string()));
    let (before, after) = (load(old)?, load(new)?);
    let found = share_out(&places(&schema()?), |places| {
        in_runtime(async {
            let mut solver = Solver::start(solver)?;
            let mut out = Vec::new();
            for place in places {
                out.extend(at(&mut solver, &before, &after, place).await?);
            }
            Ok(out)
        })
    })?;
    let mut found: Vec<Difference> = found.into_iter().flatten().collect();
    found.sort_by(|one, other| (&one.place, one.direction).cmp(&(&other.place, other.direction)));
    Ok(found)
}

/// The differences at one place.
async fn at(
    solver: &mut Solver,
    before: &RuleSet,
    after: &RuleSet,
    place: &RequestEnv,
) -> Result<Vec<Difference>, ProverError> {
    let one = solver.slice(before.rules.values().map(|rule| &rule.policy), place);
    let other = solver.slice(after.rules.values().map(|rule| &rule.policy), place);
    let same =
        one.len() == other.len() && one.iter().zip(&other).all(|(one, other)| one.to_string() == other.to_string());
    if same {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    let (compiled_one, compiled_other) = (solver.compile(&one, place)?, solver.compile(&other, place)?);
    for direction in [Direction::Looser, Direction::Tighter] {
        let (first, second) = match direction {
            Direction::Looser => (&compiled_other, &compiled_one),
            Direction::Tighter => (&compiled_one, &compiled_other),
        };
        let Some(example) = solver.only_first_allows(first, second, place).await? else { continue };
        out.push(Difference {
            place: name(place),
            direction,
            rules_before: decided(&one, &example).1,
            rules_after: decided(&other, &example).1,
            example: told(&example),
        });
    }
    Ok(out)
}
