//! `backout verify`: is the log what was signed, and does every receipt say what the log says?

use std::time::Instant;

use clap::Args;
use journal::Tree;
use schemas::{Code, Digest, ExitCode, RecordBody};

use crate::commands::show::read_receipt;
use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {}

pub(crate) fn run(_args: &VerifyArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let started = Instant::now();
    // Opening recomputes the tree over every record and holds it against the signed checkpoint.
    let journal = home.journal()?;
    let opened = started.elapsed();
    let mut tree = Tree::default();
    let mut roots: Vec<(u64, String)> = vec![(0, tree.root().to_string())];
    let mut ended: std::collections::HashMap<String, (schemas::End, u64)> = std::collections::HashMap::new();
    let mut receipts: Vec<(String, Digest)> = Vec::new();
    let broken = |text: String| Problem::new(ExitCode::Integrity, Code::INTEGRITY, text, "keep .backout as evidence");
    let mut problems = Vec::new();
    journal
        .scan(0, |seq, body| {
            tree.push(body);
            let interesting = body.windows(7).any(|part| part == b"\"ended\"" || part == b"\"receip");
            if !interesting {
                return Ok(());
            }
            let Ok(record) = serde_json::from_slice::<schemas::Record>(body) else {
                problems.push(format!("record {seq} does not parse"));
                return Ok(());
            };
            let run = record.subject.map(|subject| subject.run).unwrap_or_default();
            match record.fact {
                RecordBody::Ended { end, .. } => {
                    ended.insert(run, (end, seq));
                    roots.push((tree.size(), tree.root().to_string()));
                }
                RecordBody::Receipted { receipt } => receipts.push((run, receipt)),
                _ => {}
            }
            Ok(())
        })
        .map_err(|error| Problem::journal(&error))?;
    if let Some(problem) = problems.pop() {
        return Err(broken(problem));
    }
    for (run, digest) in &receipts {
        let receipt = read_receipt(home, *digest)?;
        let said = &receipt.document().predicate;
        if said.run != *run {
            return Err(broken(format!("the receipt of {run} speaks of {}", said.run)));
        }
        let holds = roots.iter().any(|(size, root)| *size == said.log_size && *root == said.log_root);
        if !holds {
            return Err(broken(format!("the receipt of {run} quotes a log that is not this one")));
        }
    }
    let head = journal.head();
    let value = serde_json::json!({"records": head.size, "root": head.root, "receipts": receipts.len(), "vkey": journal.verifier().vkey(),
        "checkpoint": String::from_utf8_lossy(&journal.checkpoint().map_err(|error| Problem::journal(&error))?)});
    output.result(&value, || {
        format!(
            "the log is what was signed: {} records, root {}, checked in {:.3} s\n{} receipts agree with it\nkey {}\n",
            head.size,
            head.root,
            opened.as_secs_f64(),
            receipts.len(),
            journal.verifier().vkey()
        )
    });
    Ok(ExitCode::Done)
}
