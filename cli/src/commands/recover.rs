//! `backout recover`: after a crash or a stop, tell done, not done and unknown, then finish safely.

use clap::Args;
use executor::{Conductor, Folded};
use journal::SqliteJournal;
use kernel::{StepIx, StepState};
use schemas::{Digest, End, ExitCode, OnFailure, Record, RecordBody, UndoReason};
use serde::Serialize;

use crate::commands::run::{default_jobs, slots, tell};
use crate::flow::{self, Driving};
use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The session or run; all that are not finished where left out
    run: Option<String>,
    /// Go on forward where nothing failed, instead of putting everything back
    #[arg(long)]
    resume: bool,
    /// Only tell, do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What can be said about a run before anything is done about it.
#[derive(Serialize)]
struct Told {
    run: String,
    session: String,
    done: Vec<String>,
    not_done: Vec<String>,
    unknown: Vec<String>,
    stuck: Vec<String>,
}

/// A run as the log's index knows it.
pub(crate) struct RunLine {
    pub(crate) run: String,
    pub(crate) session: String,
    pub(crate) environment: String,
    pub(crate) opened: String,
    pub(crate) end: Option<(End, u8, String)>,
    /// Whether the end has its receipt: a crash can come between the two.
    pub(crate) receipted: bool,
    /// Whether it was halted and waits for a person.
    pub(crate) halted: bool,
    pub(crate) held_on_failure: bool,
}

/// Every run of the log, oldest first.
pub(crate) fn runs(records: &[Record]) -> Vec<RunLine> {
    let mut out: Vec<RunLine> = Vec::new();
    for record in records {
        let Some(subject) = &record.subject else { continue };
        let known = out.iter_mut().rev().find(|line| line.run == subject.run);
        match (&record.fact, known) {
            (RecordBody::RunOpened { on_failure, .. }, None) => out.push(RunLine {
                run: subject.run.clone(),
                session: subject.session.clone(),
                environment: subject.environment.clone(),
                opened: record.time.to_string(),
                end: None,
                receipted: false,
                halted: false,
                held_on_failure: matches!(on_failure, OnFailure::Hold),
            }),
            (RecordBody::Halted { .. }, Some(line)) => line.halted = true,
            (
                RecordBody::PrepareFailed { .. } | RecordBody::VerifyFailed { .. } | RecordBody::ChecksFailed { .. },
                Some(line),
            )
            | (RecordBody::ApplyReturned { done: false, .. }, Some(line)) => line.halted |= line.held_on_failure,
            (RecordBody::ResumeRequested { .. } | RecordBody::Amended { .. }, Some(line)) => line.halted = false,
            (RecordBody::Receipted { .. }, Some(line)) => line.receipted = true,
            (RecordBody::Ended { end, exit_code, reason }, Some(line)) => {
                line.end = Some((*end, *exit_code, reason.clone()));
            }
            (RecordBody::UndoRequested { .. } | RecordBody::Retried { .. }, Some(line)) => {
                line.end = None;
                line.receipted = false;
            }
            _ => {}
        }
    }
    out
}

/// The run that a user means: by its id, or the newest of a session.
pub(crate) fn find(records: &[Record], name: &str) -> Result<RunLine, Problem> {
    let found = runs(records).into_iter().rev().find(|line| line.run == name || line.session == name);
    found.ok_or_else(|| Problem::usage(format!("no run or session is called {name:?}"), "backout status"))
}

/// A new run starts only when no earlier one is unfinished.
pub(crate) fn refuse_unfinished(records: &[Record]) -> Result<(), Problem> {
    match runs(records).into_iter().find(|line| line.end.is_none()) {
        None => Ok(()),
        Some(line) => {
            let title = format!("{} of session {} is not finished", line.run, line.session);
            Err(Problem::new(ExitCode::Failure, schemas::Code::JOURNAL_BUSY, title, "backout recover"))
        }
    }
}

pub(crate) fn run(args: &RecoverArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let drivers = home.drivers()?;
    let mut worst = ExitCode::Done;
    let journal = home.journal_to_recover(std::time::Duration::from_secs(15))?;
    let records = flow::records(&journal)?;
    let names: Vec<String> = match &args.run {
        Some(name) => vec![find(&records, name)?.run],
        None => runs(&records).into_iter().filter(|line| !line.receipted).map(|line| line.run).collect(),
    };
    if names.is_empty() {
        let stuck = runs(&records).into_iter().rev().find(|line| matches!(line.end, Some((End::Stuck, ..))));
        output.result(&serde_json::json!({"recovered": [], "stuck": stuck.as_ref().map(|line| &line.run)}), || match &stuck {
            None => "nothing to recover: every run has ended\n".to_owned(),
            Some(line) => format!(
                "every run has ended, {} of session {} stuck\nnext: backout show {}, mend what it names, then backout recover {}\n",
                line.run, line.session, line.session, line.session
            ),
        });
        return Ok(ExitCode::Done);
    }
    let mut journal: Option<SqliteJournal> = Some(journal);
    for name in names {
        // One run that cannot be recovered must not keep the others from it.
        let open = match journal.take() {
            Some(journal) => journal,
            None => home.journal_to_recover(std::time::Duration::from_secs(15))?,
        };
        let code = match recover_one(&name, args, home, &drivers, open, output) {
            Ok(code) => code,
            Err(problem) => {
                output.problem(&problem);
                problem.exit
            }
        };
        worst = worse(worst, code);
    }
    Ok(worst)
}

/// Stuck is worse than everything, then integrity, then whatever is not done.
fn worse(a: ExitCode, b: ExitCode) -> ExitCode {
    let rank = |code: ExitCode| match code {
        ExitCode::Stuck => 100,
        ExitCode::Integrity => 99,
        other => other.number(),
    };
    if rank(b) > rank(a) { b } else { a }
}

fn recover_one(
    name: &str,
    args: &RecoverArgs,
    home: &Home,
    drivers: &kernel::DriverSet,
    mut journal: SqliteJournal,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let folded = flow::folded(home, drivers, &journal, name)?;
    if let Some(end) = folded.run.ended().filter(|end| *end != End::Stuck) {
        if folded.account.receipt().is_none() && !args.dry_run {
            let receipt = flow::issue_receipt(home, &folded, end, &mut journal)?;
            output.result(&receipt, || super::show::receipt_text(&receipt, output));
            return Ok(folded.exit_code(end));
        }
        output.note(&format!("{name} has ended; nothing to recover"));
        return Ok(ExitCode::Done);
    }
    let told = tell_before(&folded);
    output.event("recovering", &told);
    output.note(&told_text(&told));
    if args.dry_run {
        output.result(&told, || "nothing was done\n".to_owned());
        return Ok(ExitCode::Done);
    }
    let slots = slots(default_jobs());
    let goes_on = args.resume && folded.run.ended().is_none() && folded.run.mode() != kernel::Mode::Back;
    let leave = if goes_on { Some(may_resume(home, drivers, &mut journal, &folded)?) } else { None };
    let facts = opening_facts(&folded, args.resume, leave.as_ref().map(|leave| leave.decided));
    let mut conductor = Conductor::new(folded, slots);
    for fact in facts {
        conductor.tell(fact).map_err(|error| Problem::usage(error.reason, "backout recover without --resume"))?;
    }
    let alive_until_ms = Some(home.alive_until_ms());
    let driving = Driving { home, drivers: drivers.clone(), alive_until_ms, output, leave };
    let rested = flow::drive(&driving, conductor, Box::new(journal))?;
    Ok(tell(&rested, output))
}

/// Leave to go on forward; who does not get it can still put everything back.
fn may_resume(
    home: &Home,
    drivers: &kernel::DriverSet,
    journal: &mut SqliteJournal,
    folded: &Folded,
) -> Result<flow::Leave, Problem> {
    let records = flow::records(journal)?;
    crate::judge::resume(home, drivers, &records, folded).map_err(|mut problem| {
        flow::note_refusal(journal, home, Some(folded.loaded.plan), &problem);
        problem.next = format!("backout recover {}, without --resume, puts everything back", folded.subject.session);
        problem
    })
}

/// What recovery puts into the log before it does anything.
fn opening_facts(folded: &Folded, resume: bool, admitted: Option<Digest>) -> Vec<RecordBody> {
    let by = crate::home::who();
    let why = UndoReason::Recovery;
    if folded.run.ended() == Some(End::Stuck) {
        let stuck = folded.run.graph().steps().filter(|ix| folded.run.state(*ix) == StepState::Stuck);
        let mut facts: Vec<RecordBody> = vec![RecordBody::UndoRequested { by: by.clone(), why }];
        facts.extend(stuck.map(|ix| RecordBody::Retried { step: ix.0, by: by.clone() }));
        return facts;
    }
    let mut facts = vec![RecordBody::Reopened { by: by.clone() }];
    match (resume, folded.run.mode()) {
        (true, kernel::Mode::Held) => facts.push(RecordBody::ResumeRequested { by, admitted }),
        (true, _) => {}
        (false, _) => facts.push(RecordBody::UndoRequested { by, why }),
    }
    facts
}

fn tell_before(folded: &Folded) -> Told {
    let name = |ix: StepIx| folded.loaded.steps.get(ix.at()).map_or(String::new(), |step| step.id.clone());
    let of = |wanted: &[StepState]| -> Vec<String> {
        folded.run.graph().steps().filter(|ix| wanted.contains(&folded.run.state(*ix))).map(name).collect()
    };
    Told {
        run: folded.subject.run.clone(),
        session: folded.subject.session.clone(),
        done: of(&[StepState::Applied, StepState::Verified]),
        not_done: of(&[StepState::Pending, StepState::Prepared, StepState::Undone, StepState::Failed]),
        unknown: of(&[StepState::Applying, StepState::InDoubt, StepState::Undoing, StepState::UndoInDoubt]),
        stuck: of(&[StepState::Stuck]),
    }
}

fn told_text(told: &Told) -> String {
    let list = |names: &[String]| match names {
        [] => "none".to_owned(),
        names if names.len() > 20 => {
            format!("{} … ({} in all)", names.iter().take(20).cloned().collect::<Vec<_>>().join(", "), names.len())
        }
        names => names.join(", "),
    };
    format!(
        "{} of session {}\n  done:     {}\n  not done: {}\n  unknown:  {}\n  stuck:    {}",
        told.run,
        told.session,
        list(&told.done),
        list(&told.not_done),
        list(&told.unknown),
        list(&told.stuck)
    )
}
