//! `backout replay`: a corrected plan goes on from the last verified step of a halted run, after what came later is undone.

use clap::Args;
use executor::{Conductor, Folded};
use journal::Entry;
use kernel::{DriverSet, StepIx};
use schemas::{ExitCode, RecordBody};

use crate::commands::recover::find;
use crate::commands::run::{default_jobs, slots, tell};
use crate::flow::{self, Driving};
use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;
use crate::standing::changed_since;

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The session or run that was halted
    run: String,
    /// The manifest of the corrected plan
    manifest: String,
}

pub(crate) fn run(args: &ReplayArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let drivers = home.drivers()?;
    let mut journal = home.journal_to_write(std::time::Duration::from_secs(15))?;
    let records = flow::records(&journal)?;
    let line = find(&records, &args.run)?;
    let folded = flow::folded(home, &drivers, &journal, &line.run)?;
    if folded.run.ended().is_some() || folded.run.mode() == kernel::Mode::Forward {
        let title = format!("{} is not halted: only a run that waits after a failure can be replayed", line.run);
        return Err(Problem::usage(title, "backout run MANIFEST --on-failure hold"));
    }
    let kinds = folded.loaded.steps.iter().filter_map(|step| step.uses.split('.').next());
    crate::stops::refuse_stopped(home, &records, &folded.subject, kinds)?;
    let opening = crate::judge::admit(home, &drivers, &records, &args.manifest, &line.run)
        .inspect_err(|problem| flow::note_refusal(&mut journal, home, None, problem))?;
    let parse = |digest| {
        let payload = home.payload(digest)?;
        planner::parse(&payload).map_err(|findings| {
            Problem::findings(ExitCode::Integrity, "a kept plan does not parse", findings, "backout verify")
        })
    };
    let (old, new) = (parse(folded.loaded.plan)?, parse(opening.predicate.plan)?);
    if old.environment != new.environment || old.agent != new.agent {
        return Err(Problem::usage(
            "the corrected plan is for another environment or by another agent",
            "correct the plan",
        ));
    }
    let kept = verifier::keepable(&folded.run, &old.steps, &new.steps);
    let names: Vec<&str> =
        kept.iter().filter_map(|(_, ix)| new.steps.get(ix.at())).map(|step| step.id.as_str()).collect();
    output.note(&format!("keeps {} verified steps: {}", names.len(), names.join(", ")));

    // What stays must still be there: the corrected plan builds on it.
    let stays: Vec<StepIx> = kept.iter().map(|(old, _)| *old).collect();
    refuse_moved(&folded, &drivers, &stays)?;

    // First everything that does not stay is put back and proved.
    let slots = slots(default_jobs());
    let mut conductor = Conductor::new(folded, slots);
    let by = crate::home::who();
    let keep = kept.iter().map(|(old, _)| old.0).collect();
    for fact in [RecordBody::Reopened { by: by.clone() }, RecordBody::KeepRequested { keep, by }] {
        conductor.tell(fact).map_err(|error| Problem::usage(error.reason, "backout show RUN"))?;
    }
    let alive_until_ms = Some(home.alive_until_ms());
    let driving = Driving { home, drivers: drivers.clone(), alive_until_ms, output, leave: None };
    let rested = flow::drive(&driving, conductor, Box::new(journal))?;
    if rested.folded.run.ended().is_some() || !rested.folded.run.is_amendable() {
        let title = "what came after the kept steps could not be put back";
        output.note(title);
        return Ok(tell(&rested, output));
    }

    // Then the corrected plan takes the run over.
    refuse_moved(&rested.folded, &drivers, &stays)?;
    let fact = RecordBody::Amended {
        plan: opening.predicate.plan,
        manifest: opening.manifest,
        assessment: opening.predicate.assessment,
        decisions: opening.predicate.decisions,
        approvals: opening.approvals.clone(),
        kept: kept.iter().map(|(old, new)| (old.0, new.0)).collect(),
        steps: opening.loaded.steps.len() as u32,
        admitted: Some(opening.leave.decided),
        reserved: opening.reserved.clone(),
    };
    let (mut folded, mut journal) = (rested.folded, rested.journal);
    let subject = std::sync::Arc::new(folded.subject.clone());
    let mut loader = |_: &executor::Names| Ok(opening.loaded.clone());
    folded.take(fact.clone(), &mut loader).map_err(|error| Problem::failure("the plan cannot take over", &error))?;
    journal
        .append(jiff::Timestamp::now(), &[Entry { subject: Some(subject), fact }])
        .map_err(|error| Problem::journal(&error))?;
    let leave = Some(opening.leave.clone());
    let driving = Driving { home, drivers, alive_until_ms: None, output, leave };
    let rested = flow::drive(&driving, Conductor::new(folded, slots), journal)?;
    Ok(tell(&rested, output))
}

/// A verified step whose effects somebody changed is verified no more.
fn refuse_moved(folded: &Folded, drivers: &DriverSet, stays: &[StepIx]) -> Result<(), Problem> {
    let changed = changed_since(folded, drivers, stays, true);
    if changed.is_empty() {
        return Ok(());
    }
    let title = "what a kept step left is not there any more: the corrected plan cannot build on it";
    let next = format!("put back what is named, then replay again; or backout undo {}", folded.subject.session);
    Err(Problem::findings(ExitCode::Stale, title, changed, next))
}
