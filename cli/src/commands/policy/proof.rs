//! `backout policy prove` and `diff`: by a solver where it is there, and said so where it is not.

use std::path::{Path, PathBuf};

use policy::Bundle;
use prover::{Direction, ProverError};
use schemas::{Code, ExitCode};

use crate::home::Home;
use crate::output::Output;
use crate::problem::{Problem, chain};

/// Most examples that are printed whole.
const MAX_SHOWN: usize = 5;

fn solver() -> Result<PathBuf, Problem> {
    prover::find_solver().ok_or_else(|| failed(&ProverError::NoSolver))
}

fn failed(error: &ProverError) -> Problem {
    let next = match error {
        ProverError::NoSolver => "apt-get install cvc5, then the same command again; everything else works without",
        ProverError::NoAnswer { .. } => "an answer that is not yes is no: make the rule that it names simpler",
        ProverError::Bundle(_) => "backout policy check FOLDER",
    };
    Problem::new(ExitCode::Failure, Code::FAILURE, chain(error), next)
}

/// Proves a bundle. `None` where there is no solver.
pub(super) fn proof(bundle: &Bundle) -> Result<Option<prover::Proof>, Problem> {
    match prover::find_solver() {
        None => Ok(None),
        Some(solver) => prover::prove(bundle, &solver).map(Some).map_err(|error| failed(&error)),
    }
}

pub(super) fn prove(
    folder: Option<&Path>,
    home: &dyn Fn() -> Result<Home, Problem>,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let bundle = super::bundle(folder, home)?;
    let proof = prover::prove(&bundle, &solver()?).map_err(|error| failed(&error))?;
    output.result(&proof, || {
        let mut out = String::new();
        for violation in proof.violations.iter().take(MAX_SHOWN) {
            out.push_str(&format!(
                "DOES NOT HOLD {} at {}: {}\n  decided by {}\n{}\n",
                violation.what,
                violation.place,
                violation.says,
                violation.rules.join(", "),
                serde_json::to_string_pretty(&violation.example).unwrap_or_default()
            ));
        }
        if proof.violations.len() > MAX_SHOWN {
            out.push_str(&format!("and {} more; --format json has all\n", proof.violations.len() - MAX_SHOWN));
        }
        out + &format!(
            "{} questions answered; {} invariants hold; {} violations\n",
            proof.questions,
            proof.invariants.len(),
            proof.violations.len()
        )
    });
    Ok(if proof.violations.is_empty() { ExitCode::Done } else { ExitCode::Refused })
}

pub(super) fn diff(
    old: Option<&Path>,
    new: &Path,
    home: &dyn Fn() -> Result<Home, Problem>,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let (before, after) = (super::or_signed(old, home)?, super::bundle(Some(new), home)?);
    let found = prover::diff(&before, &after, &solver()?).map_err(|error| failed(&error))?;
    let looser = found.iter().filter(|it| it.direction == Direction::Looser).count();
    let value = serde_json::json!({"looser": looser, "tighter": found.len() - looser, "differences": found});
    output.result(&value, || {
        let mut out = String::new();
        for difference in &found {
            let word = if difference.direction == Direction::Looser { "LOOSER" } else { "TIGHTER" };
            out.push_str(&format!(
                "{word} {}: before by {}, after by {}\n",
                difference.place,
                named(&difference.rules_before),
                named(&difference.rules_after)
            ));
        }
        for difference in found.iter().take(1) {
            out.push_str(&format!(
                "for example {}\n",
                serde_json::to_string_pretty(&difference.example).unwrap_or_default()
            ));
        }
        if found.is_empty() {
            out.push_str("the same: whatever is asked, both decide alike\n");
        }
        out
    });
    Ok(ExitCode::Done)
}

fn named(rules: &[String]) -> String {
    if rules.is_empty() { policy::DEFAULT_DENY.to_owned() } else { rules.join(" ") }
}
