//! `backout policy import`: rules that somebody wrote for another product. What cannot be said is an error, never dropped.

use std::path::Path;

use clap::ValueEnum;
use library::Library;
use schemas::{ExitCode, RecordBody};

use crate::commands::read_input;
use crate::flow;
use crate::home::{Home, write_durably};
use crate::output::Output;
use crate::problem::Problem;

/// Largest file.
const MAX_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Form {
    /// SafeClaw, YAML or JSON
    Safeclaw,
}

pub(super) fn safeclaw(
    file: &Path,
    to: Option<&Path>,
    partial: bool,
    home: &dyn Fn() -> Result<Home, Problem>,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let bytes = read_input(file, MAX_BYTES)?;
    let text = String::from_utf8_lossy(&bytes);
    let usage = |text: String| Problem::usage(format!("{}: {text}", file.display()), "mend the file");
    let imported = policy::safeclaw(&text, &samples(home)).map_err(usage)?;
    let rules = [("imported.cedar".to_owned(), imported.text.clone())];
    policy::RuleSet::load(&rules).map_err(|error| usage(format!("what it says does not load here: {error}")))?;
    let complete = imported.refused.is_empty();
    if imported.rules.is_empty() {
        let reasons = imported.refused.join("; ");
        return Err(Problem::usage(
            format!("no rule of it can be said here: {reasons}"),
            "docs/policy.md names what can",
        ));
    }
    if let Some(to) = to.filter(|_| complete || partial) {
        write_durably(to, imported.text.as_bytes(), 0o644)
            .map_err(|error| Problem::failure(&format!("cannot write {}", to.display()), &error))?;
    }
    output.result(&imported, || {
        let mut out = String::new();
        if to.is_none() && (complete || partial) {
            out.push_str(&imported.text);
        }
        for refused in &imported.refused {
            out.push_str(&format!("REFUSED {refused}\n"));
        }
        imported.remarks.iter().for_each(|remark| out.push_str(&format!("note: {remark}\n")));
        if !imported.limits.is_empty() {
            out.push_str(&format!("for inventory.toml:\n{}", imported.limits));
        }
        out.push_str(&format!(
            "{} rules came through, {} were refused\n",
            imported.rules.len(),
            imported.refused.len()
        ));
        out.push_str(match (complete, partial) {
            (false, false) => "nothing was written: --partial takes what can be said\n",
            _ => "next: put the file into policies/ of a copy of .backout/policy, then backout policy test COPY, diff COPY, sign COPY --as ONE --as ANOTHER\n",
        });
        out
    });
    Ok(if complete || partial { ExitCode::Done } else { ExitCode::Refused })
}

/// Commands that are known, and those that were run here.
fn samples(home: &dyn Fn() -> Result<Home, Problem>) -> Vec<String> {
    let mut out: Vec<String> = Library::shipped().entries().iter().flat_map(|entry| entry.positive.clone()).collect();
    let records = home().and_then(|home| flow::records(&home.journal()?));
    for record in records.unwrap_or_default() {
        if let RecordBody::ApplyStarted { argv, .. } = record.fact {
            out.push(argv.join(" "));
        }
    }
    out
}
