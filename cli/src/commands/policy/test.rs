//! `backout policy test`: cases against a bundle, and rules that decide no case.

use std::path::{Path, PathBuf};

use library::Library;
use policy::{Bundle, CaseOutcome, Cases, Engine, uncovered};
use schemas::{Act, Class, ExitCode};

use crate::commands::read_input;
use crate::home::Home;
use crate::output::Output;
use crate::problem::{Problem, chain};
use crate::rules;

/// Largest file of cases.
const MAX_BYTES: usize = 8 << 20;

pub(super) fn run(
    folder: Option<&Path>,
    more: &[PathBuf],
    home: &dyn Fn() -> Result<Home, Problem>,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let bundle = super::bundle(folder, home)?;
    let engine = bundle.engine(jiff::Timestamp::now()).map_err(|error| rules::refuse(chain(&error)))?;
    let outcomes = outcomes(&bundle, &engine, more)?;
    let failed: Vec<&CaseOutcome> = outcomes.iter().filter(|outcome| !outcome.passed).collect();
    let idle = uncovered(&engine, &outcomes);
    let good = failed.is_empty() && idle.is_empty();
    let value =
        serde_json::json!({"cases": outcomes.len(), "failed": failed, "rules_without_a_case": idle, "passed": good});
    output.result(&value, || {
        let mut out = String::new();
        for outcome in &failed {
            out.push_str(&format!("FAILED {}: {}\n", outcome.name, outcome.why));
        }
        for rule in &idle {
            out.push_str(&format!("no case is decided by {rule}\n"));
        }
        out + &format!("{} cases, {} failed, {} rules without a case\n", outcomes.len(), failed.len(), idle.len())
    });
    Ok(if good { ExitCode::Done } else { ExitCode::Usage })
}

/// Runs the cases of a bundle and those in further files and folders.
pub(super) fn outcomes(bundle: &Bundle, engine: &Engine, more: &[PathBuf]) -> Result<Vec<CaseOutcome>, Problem> {
    let mut texts: Vec<(String, String)> =
        bundle.of("cases/").map(|(name, text)| (name.clone(), text.clone())).collect();
    for path in files(more)? {
        let bytes = read_input(&path, MAX_BYTES)?;
        texts.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let mut out = Vec::new();
    for (name, text) in texts {
        let cases = Cases::parse(&text)
            .map_err(|error| Problem::usage(format!("{name}: {error}"), "mend the file of cases"))?;
        out.extend(cases.run(engine, &known));
    }
    Ok(out)
}

fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>, Problem> {
    let mut out = Vec::new();
    for path in named {
        if !path.is_dir() {
            out.push(path.clone());
            continue;
        }
        let failed = |error| Problem::failure(&format!("cannot read {}", path.display()), &error);
        let mut inner = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            inner.push(entry.map_err(failed)?.path());
        }
        inner.retain(|file| file.extension().is_some_and(|end| end == "json"));
        inner.sort();
        out.extend(inner);
    }
    Ok(out)
}

/// What the library knows of a command: what it does, its class, and whether it is known.
fn known(argv: &[String]) -> (Act, Class, bool) {
    match Library::shipped().find(argv) {
        Some(found) => (found.act(), found.entry.class, true),
        None => {
            let program = argv.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
            (Act { named: format!("program:{program}"), ..Act::default() }, Class::Irreversible, false)
        }
    }
}
