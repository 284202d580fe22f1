//! `backout run`: run an approved manifest to one of the four ends.

use clap::{Args, ValueEnum};
use executor::{Conductor, Slots};
use schemas::{ExitCode, OnFailure};

use crate::flow::{self, Driving, Rested};
use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The manifest: the beginning of its digest, or the session
    manifest: String,
    /// Steps that act at the same time
    #[arg(long, default_value_t = default_jobs())]
    jobs: usize,
    /// What to do after the first failure
    #[arg(long, default_value = "undo")]
    on_failure: AfterFailure,
    /// Seconds to wait for another run of this folder
    #[arg(long, default_value_t = 30)]
    wait: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum AfterFailure {
    /// Put everything back
    Undo,
    /// Halt, and wait for undo, recover or replay
    Hold,
}

pub(crate) fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Slots for so many jobs.
pub(crate) fn slots(jobs: usize) -> Slots {
    let jobs = jobs.clamp(1, 256);
    Slots { jobs, ahead: jobs * 8 }
}

pub(crate) fn run(args: &RunArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let drivers = home.drivers()?;
    let mut journal = home.journal_to_write(std::time::Duration::from_secs(args.wait))?;
    let records = flow::records(&journal)?;
    super::recover::refuse_unfinished(&records)?;
    let opening = crate::judge::admit(home, &drivers, &records, &args.manifest, "").inspect_err(|problem| {
        let found = flow::find_manifest(&records, home, &args.manifest).ok();
        let plan = found.map(|(_, verified)| verified.document().predicate.plan);
        flow::note_refusal(&mut journal, home, plan, problem);
    })?;
    drop(records);
    let on_failure = match args.on_failure {
        AfterFailure::Undo => OnFailure::Undo,
        AfterFailure::Hold => OnFailure::Hold,
    };
    let leave = Some(opening.leave.clone());
    let folded = flow::open_run(opening, on_failure, &mut journal)?;
    let slots = slots(args.jobs);
    let driving = Driving { home, drivers, alive_until_ms: None, output, leave };
    let rested = flow::drive(&driving, Conductor::new(folded, slots), Box::new(journal))?;
    Ok(tell(&rested, output))
}

/// Says how a run came to rest.
pub(crate) fn tell(rested: &Rested, output: &Output) -> ExitCode {
    let subject = &rested.folded.subject;
    match &rested.receipt {
        Some(receipt) => output.result(receipt, || {
            let next = match receipt.end {
                schemas::End::RolledBack => {
                    format!("next: backout show {} tells what failed and what it said\n", subject.session)
                }
                _ => String::new(),
            };
            super::show::receipt_text(receipt, output) + &next
        }),
        None => {
            let reason = rested.folded.cause.as_ref().map_or("", |(_, reason)| reason.as_str());
            let value = serde_json::json!({"run": subject.run, "session": subject.session, "end": null, "state": "held", "reason": reason, "exit_code": rested.code.number()});
            output.result(&value, || {
                let session = &subject.session;
                let can_go_on = matches!(rested.folded.cause, Some((executor::Cause::Stopped, _)) | None);
                let go_on = if can_go_on { "      backout recover --resume goes on\n" } else { "" };
                format!("{} is held, and waits for a person: {reason}\nnext: backout show {session}\n      backout undo {session} puts everything back\n{go_on}      backout gate PLAN --replay {session}, then backout replay {session} MANIFEST, goes on with a corrected plan\n", subject.run)
            });
        }
    }
    rested.code
}
