//! `backout undo`: put back what a run did, unless somebody changed it since.

use clap::Args;
use executor::Conductor;
use kernel::StepIx;
use schemas::{Effectiveness, ExitCode, RecordBody, UndoReason};

use crate::commands::recover::find;
use crate::commands::run::{default_jobs, slots, tell};
use crate::flow::{self, Driving};
use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;
use crate::standing::{changed_since, later_writers};

#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// The session or run
    pub(crate) run: String,
    /// Put back what can be, and end stuck on what somebody changed since
    #[arg(long)]
    pub(crate) around: bool,
    /// Only look whether it could be put back
    #[arg(long)]
    pub(crate) dry_run: bool,
}

pub(crate) fn run(args: &UndoArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let drivers = home.drivers()?;
    let journal = home.journal_to_recover(std::time::Duration::from_secs(15))?;
    let records = flow::records(&journal)?;
    let line = find(&records, &args.run)?;
    let folded = flow::folded(home, &drivers, &journal, &line.run)?;
    if !folded.can_undo() {
        let end = folded.run.ended().map_or("not ended", |end| end.as_str());
        return Err(Problem::usage(format!("{} is {end}: there is nothing to undo", line.run), "backout show RUN"));
    }
    let was_open = folded.run.ended().is_none();
    let live: Vec<StepIx> = folded.run.graph().steps().filter(|ix| folded.run.state(*ix).is_live()).collect();
    let changed = if was_open { Vec::new() } else { changed_since(&folded, &drivers, &live, false) };
    if !changed.is_empty() && !args.around {
        let resources: Vec<String> = changed.iter().map(|finding| finding.pointer.clone()).collect();
        let next = match later_writers(&records, &line.run, &resources).as_slice() {
            [] => format!("look at what is named, then backout undo {} --around to put back the rest", args.run),
            [newest, ..] => format!("backout undo {newest} first: a later run wrote it"),
        };
        let title = "changed since the run: nothing was touched";
        return Err(Problem::findings(ExitCode::Stale, title, changed, next));
    }
    if args.dry_run {
        let assessed: Vec<&schemas::StepAssessment> =
            live.iter().filter_map(|ix| folded.loaded.assessed.get(ix.at())).collect();
        let names = |has_way: bool| -> Vec<&str> {
            let has = |it: &&&schemas::StepAssessment| (it.way_back.effectiveness != Effectiveness::None) == has_way;
            assessed.iter().filter(has).map(|it| it.id.as_str()).collect()
        };
        let (back, stays) = (names(true), names(false));
        output.result(&serde_json::json!({"run": line.run, "would_undo": back, "no_way_back": stays}), || {
            let none = if stays.is_empty() {
                String::new()
            } else {
                format!("no way back is known for {}: the run would be stuck there\n", stays.join(", "))
            };
            format!("{} steps would be put back: {}\n{none}nothing was done\n", back.len(), back.join(", "))
        });
        return Ok(if stays.is_empty() { ExitCode::Done } else { ExitCode::Stuck });
    }
    let slots = slots(default_jobs());
    let mut conductor = Conductor::new(folded, slots);
    let by = crate::home::who();
    let facts = was_open
        .then(|| RecordBody::Reopened { by: by.clone() })
        .into_iter()
        .chain([RecordBody::UndoRequested { by, why: UndoReason::Asked }]);
    for fact in facts {
        conductor.tell(fact).map_err(|error| Problem::usage(error.reason, "backout show RUN"))?;
    }
    let alive_until_ms = was_open.then(|| home.alive_until_ms());
    let driving = Driving { home, drivers, alive_until_ms, output, leave: None };
    let rested = flow::drive(&driving, conductor, Box::new(journal))?;
    Ok(tell(&rested, output))
}
