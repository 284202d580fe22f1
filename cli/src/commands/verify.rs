//! `backout verify`: is the log what was signed, and does every receipt say what the log says?

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use clap::Args;
use executor::{Folded, Loader};
use journal::{LogHead, SqliteJournal, Tree};
use kernel::DriverSet;
use schemas::{Code, Digest, End, ExitCode, Receipt, Record, RecordBody};

use crate::commands::show::read_receipt;
use crate::flow;
use crate::home::Home;
use crate::output::Output;
use crate::problem::{Problem, chain};

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {}

fn broken(text: String) -> Problem {
    Problem::new(ExitCode::Integrity, Code::INTEGRITY, text, "keep .backout as evidence")
}

pub(crate) fn run(_args: &VerifyArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let started = Instant::now();
    // Opening recomputes the tree over every record and holds it against the signed checkpoint.
    let journal = home.journal()?;
    let opened = started.elapsed();
    let checked = check_receipts(home, &journal)?;
    let head = journal.head();
    let value = serde_json::json!({"records": head.size, "root": head.root, "receipts": checked.receipts, "before_images": checked.images,
        "seconds": {"log": opened.as_secs_f64(), "runs": checked.folding.as_secs_f64()}, "vkey": journal.verifier().vkey(),
        "checkpoint": String::from_utf8_lossy(&journal.checkpoint().map_err(|error| Problem::journal(&error))?)});
    output.result(&value, || {
        format!(
            "the log is what was signed: {} records, root {}, checked in {:.3} s\n{} receipts, each made anew from the log and equal\n{} before-images, each read back whole\nkey {}\n",
            head.size,
            head.root,
            opened.as_secs_f64(),
            checked.receipts,
            checked.images,
            journal.verifier().vkey()
        )
    });
    Ok(ExitCode::Done)
}

/// Makes every receipt anew from the records before it and holds it against the signed one, and reads every before-image
/// that an undo would need.
fn check_receipts(home: &Home, journal: &SqliteJournal) -> Result<Checked, Problem> {
    let mut runs: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    let mut receipts: HashMap<Digest, Receipt> = HashMap::new();
    for record in flow::records(journal)? {
        if let RecordBody::Receipted { receipt } = &record.fact {
            receipts.insert(*receipt, read_receipt(home, *receipt)?.into_document().predicate);
        }
        if let Some(subject) = &record.subject {
            runs.entry(subject.run.clone()).or_default().push(record);
        }
    }
    let roots = roots_at(journal, receipts.values().map(|receipt| receipt.log_size).collect())?;
    let drivers = home.drivers()?;
    let (mut images, mut folding) = (0, std::time::Duration::ZERO);
    for (run, records) in runs {
        if records.iter().any(|record| matches!(record.fact, RecordBody::RunOpened { .. })) {
            let (folded, took) = check_run(home, &drivers, &run, records, &receipts, &roots)?;
            folding += took;
            images += check_images(&drivers, &folded)?;
        }
    }
    Ok(Checked { receipts: receipts.len(), images, folding })
}

/// The root of the log at each of these sizes that it has.
fn roots_at(journal: &SqliteJournal, mut sizes: Vec<u64>) -> Result<HashMap<u64, String>, Problem> {
    sizes.sort_unstable();
    sizes.dedup();
    let mut wanted = sizes.into_iter().peekable();
    let (mut tree, mut roots) = (Tree::default(), HashMap::new());
    let scanned = journal.scan(0, |_, body| {
        tree.push(body);
        if wanted.next_if_eq(&tree.size()).is_some() {
            roots.insert(tree.size(), tree.root().to_string());
        }
        Ok(())
    });
    scanned.map_err(|error| Problem::journal(&error))?;
    Ok(roots)
}

/// What was checked.
struct Checked {
    receipts: usize,
    images: usize,
    /// What folding every run and making its receipts took, without reading the log and the documents.
    folding: std::time::Duration,
}

/// Reads the before-images of everything that is still there.
fn check_images(drivers: &DriverSet, folded: &Folded) -> Result<usize, Problem> {
    let mut count = 0;
    for step in folded.loaded.steps.iter().filter(|step| folded.run.state(step.ix).is_live()) {
        let before = folded.befores.get(step.ix.at()).and_then(Option::as_ref);
        let (Some(driver), Some(before)) = (drivers.for_step(&step.uses), before) else { continue };
        driver.check_image(before).map_err(|error| {
            let text = format!(
                "the before-image of {} in {} is not what was kept: {}",
                step.id,
                folded.subject.run,
                chain(&error)
            );
            Problem::new(
                ExitCode::Integrity,
                Code::INTEGRITY,
                text,
                "restore .backout/snapshots from a copy; undo cannot put this back",
            )
        })?;
        count += 1;
    }
    Ok(count)
}

fn check_run(
    home: &Home,
    drivers: &DriverSet,
    run: &str,
    records: Vec<Record>,
    receipts: &HashMap<Digest, Receipt>,
    roots: &HashMap<u64, String>,
) -> Result<(Folded, std::time::Duration), Problem> {
    let mut records = records.into_iter();
    let Some(Record { subject: Some(subject), fact: opening, .. }) = records.next() else {
        return Err(broken(format!("{run} has no opening")));
    };
    let mut load = |names: &executor::Names| flow::load(home, drivers, names).map_err(|problem| problem.title);
    let load: &mut Loader<'_> = &mut load;
    let illegal = |error: executor::FoldError| broken(format!("{run}: {}", chain(&error)));
    let mut folded = executor::fold(subject, vec![opening], load).map_err(illegal)?;
    let mut ended: Option<(End, u64)> = None;
    let started = Instant::now();
    for record in records {
        if let RecordBody::Ended { end, .. } = &record.fact {
            ended = Some((*end, record.seq));
        }
        let receipt = match &record.fact {
            RecordBody::Receipted { receipt } => receipts.get(receipt),
            _ => None,
        };
        if let Some(said) = receipt {
            let Some((end, at)) = ended.filter(|(_, at)| said.log_size > *at && said.log_size <= record.seq) else {
                return Err(broken(format!("the receipt of {run} was signed before the run ended")));
            };
            let root = roots.get(&said.log_size).cloned().unwrap_or_default();
            let anew = flow::make_receipt(&folded, end, LogHead { size: said.log_size, root }, said.ended);
            if anew != *said {
                return Err(broken(format!(
                    "the receipt of {run} does not say what the log says (its end is at {at})"
                )));
            }
        }
        folded.take(record.fact, load).map_err(illegal)?;
    }
    Ok((folded, started.elapsed()))
}
