//! `backout show`: one run, step by step, with its receipt if it has ended.

use std::collections::BTreeMap;

use clap::Args;
use kernel::StepState;
use schemas::{Document as _, End, Envelope, ExitCode, Receipt, Record, RecordBody, Role, Statement, Verified};

use crate::commands::recover::find;
use crate::flow;
use crate::home::Home;
use crate::output::{Output, table};
use crate::problem::{Problem, chain};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The session or run
    run: String,
}

pub(crate) fn run(args: &ShowArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let journal = home.journal()?;
    let records = flow::records(&journal)?;
    let line = find(&records, &args.run)?;
    let drivers = home.drivers()?;
    let folded = flow::folded(home, &drivers, &journal, &line.run)?;
    let receipt = folded.account.receipt().filter(|_| folded.run.ended().is_some());
    let receipt = receipt.map(|digest| read_receipt(home, digest)).transpose()?;
    let steps: Vec<(String, StepState)> =
        folded.loaded.steps.iter().map(|step| (step.id.clone(), folded.run.state(step.ix))).collect();
    let running = journal.live_writer().filter(|_| folded.run.ended().is_none());
    let said = what_failed_steps_said(home, &records, &line.run);
    let reason = folded.cause.as_ref().map(|(_, reason)| reason.clone());
    let value = serde_json::json!({
        "run": line.run, "session": line.session, "plan": folded.loaded.plan, "manifest": folded.manifest,
        "steps": steps.iter().map(|(id, state)| serde_json::json!({"id": id, "state": state.as_str()})).collect::<Vec<_>>(),
        "receipt": receipt.as_ref().map(|receipt| &receipt.document().predicate),
        "reason": reason, "running": running, "said": said,
    });
    output.result(&value, || {
        let mut out = format!(
            "{} of session {} in {}, plan {}\n",
            line.run,
            line.session,
            line.environment,
            folded.loaded.plan.short()
        );
        let rows = folded
            .loaded
            .steps
            .iter()
            .zip(&steps)
            .map(|(step, (id, state))| vec![id.clone(), step.uses.clone(), state.as_str().to_owned()]);
        out.push_str(&table(&["step", "uses", "state"], rows.take(SHOWN).collect()));
        out.push_str(&more(steps.len()));
        match &receipt {
            Some(receipt) => out.push_str(&receipt_text(&receipt.document().predicate, output)),
            None => {
                out.push_str(&reason.map_or(String::new(), |reason| format!("  because {reason}\n")));
                out.push_str(&match running {
                    Some(pid) => format!(
                        "running (process {pid})\nnext: backout stop --session {} --reason TEXT halts it\n",
                        line.session
                    ),
                    None => "not ended\nnext: backout recover\n".to_owned(),
                });
            }
        }
        for (step, text) in &said {
            out.push_str(&format!("{} said:\n", folded.loaded.steps.get(*step as usize).map_or("", |step| &step.id)));
            text.lines().for_each(|line| out.push_str(&format!("  | {line}\n")));
        }
        out
    });
    Ok(ExitCode::Done)
}

/// Bytes of what a failed step said that a person is shown: the end of it.
const SHOWN_OUTPUT: usize = 2_000;

/// What steps that failed wrote last, as it was kept.
fn what_failed_steps_said(home: &Home, records: &[Record], run: &str) -> BTreeMap<u32, String> {
    let of_run = records.iter().filter(|record| record.subject.as_ref().is_some_and(|subject| subject.run == run));
    let failed = of_run.filter_map(|record| match &record.fact {
        RecordBody::ApplyReturned { step, done: false, output: Some(output), .. } => Some((*step, *output)),
        _ => None,
    });
    let read = |(step, output): (u32, schemas::Digest)| {
        let bytes = std::fs::read(home.path("outputs").join(output.hex())).ok()?;
        // What was kept is what the record names, or it is nobody's word.
        let is_it = schemas::Digest::of(&bytes) == output;
        let end = bytes.get(bytes.len().saturating_sub(SHOWN_OUTPUT)..).unwrap_or_default();
        is_it.then(|| (step, String::from_utf8_lossy(end).into_owned()))
    };
    failed.filter_map(read).collect()
}

/// Steps that a person is shown.
const SHOWN: usize = 200;

/// A kept receipt, its signature verified for the time at which it was signed.
pub(crate) fn read_receipt(home: &Home, digest: schemas::Digest) -> Result<Verified<Statement<Receipt>>, Problem> {
    let envelope = Envelope::from_json(&home.document(digest)?)
        .map_err(|error| Problem::identity(chain(&error), "backout verify"))?;
    let payload = home.payload(digest)?;
    let said = Statement::<Receipt>::from_payload(&payload)
        .map_err(|error| Problem::identity(chain(&error), "backout verify"))?;
    let trust = home.trust()?;
    envelope.verify(trust.document(), &Role::Runner, said.predicate.ended).map_err(|error| {
        Problem::identity(format!("a receipt's signature is not good: {}", chain(&error)), "keep .backout as evidence")
    })
}

/// Changes of one step that a person is shown.
const SHOWN_CHANGES: usize = 5;

/// One change in a line, seen or foreseen.
pub(crate) fn change_line(kind: schemas::ChangeKind, resource: &str, rows: Option<schemas::RowCount>) -> String {
    let word = kind.as_str();
    let rows = rows.map_or(String::new(), |r| format!(" rows +{} ~{} -{}", r.inserted, r.updated, r.deleted));
    format!("  {word} {resource}{rows}\n")
}

/// Says that a list was cut.
fn more(steps: usize) -> String {
    match steps.saturating_sub(SHOWN) {
        0 => String::new(),
        hidden => format!("  … and {hidden} more steps: --format json has them all\n"),
    }
}

/// A receipt for people.
pub(crate) fn receipt_text(receipt: &Receipt, output: &Output) -> String {
    let end = receipt.end.as_str();
    let word = match receipt.end {
        End::Committed | End::RolledBack | End::Refused => end.to_owned(),
        End::Stuck => output.red("STUCK"),
    };
    let mut out = format!("{word}: {} of session {}\n", receipt.run, receipt.session);
    if let Some(reason) = &receipt.reason {
        out.push_str(&format!("  because {reason}\n"));
    }
    for step in receipt.steps.iter().take(SHOWN) {
        let count = step.changes.len() as u64 + step.unlisted;
        let changes = if count == 0 { String::new() } else { format!(", {count} changed") };
        out.push_str(&format!("  {:<14} {}{changes}\n", step.state, step.id));
        for change in step.changes.iter().take(SHOWN_CHANGES) {
            let line = change_line(change.change, &change.resource, change.rows);
            out.push_str(&format!("  {:<14} {line}", ""));
        }
        let hidden = count.saturating_sub(SHOWN_CHANGES as u64);
        if hidden > 0 {
            out.push_str(&format!("  {:<14}   … and {hidden} more: --format json has them\n", ""));
        }
        if let Some(left) = &step.left {
            out.push_str(&format!("  {:<14} -> {left}\n", ""));
        }
    }
    out.push_str(&more(receipt.steps.len()));
    if receipt.end == End::Stuck {
        let session = &receipt.session;
        out.push_str(&format!("next: look at what is named above, mend it, then backout recover {session}\n"));
    }
    out.push_str(&format!("  log {} records, root {}, {}\n", receipt.log_size, receipt.log_root, receipt.anchor));
    out
}
