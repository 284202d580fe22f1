//! `backout undo`: put back what a run did, unless somebody changed it since.

use clap::Args;
use executor::Conductor;
use schemas::{ExitCode, RecordBody, UndoReason};

use crate::commands::recover::find;
use crate::commands::run::{default_jobs, slots, tell};
use crate::flow::{self, Driving};
use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// The session or run
    run: String,
}

pub(crate) fn run(args: &UndoArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let drivers = home.drivers()?;
    let journal = home.journal_to_recover(std::time::Duration::from_secs(15))?;
    let line = find(&flow::records(&journal)?, &args.run)?;
    let folded = flow::folded(home, &drivers, &journal, &line.run)?;
    if !folded.can_undo() {
        let end = folded.run.ended().map_or("not ended", |end| end.as_str());
        return Err(Problem::usage(format!("{} is {end}: there is nothing to undo", line.run), "backout show RUN"));
    }
    let was_open = folded.run.ended().is_none();
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
    let alive_until_ms = executor::last_sign_of_life(&home.path("heartbeat")).filter(|_| was_open);
    let driving = Driving { home, drivers, alive_until_ms, output };
    let rested = flow::drive(&driving, conductor, Box::new(journal))?;
    Ok(tell(&rested, output))
}
