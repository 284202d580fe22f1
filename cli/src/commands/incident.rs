//! `backout incident`: the runbook of the first minutes. Stop, preserve, assess, contain, then a plan; nothing is put back by it.
//!
//! Must never destroy evidence: everything that it keeps is new, and what was there stays as it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use kernel::{StepIx, StepState};
use schemas::{ExitCode, Record, RecordBody};
use serde_json::{Value, json};

use crate::commands::recover::{RunLine, runs};
use crate::commands::stop;
use crate::flow;
use crate::home::{Home, write_durably};
use crate::output::Output;
use crate::problem::Problem;
use crate::standing::changed_since;

#[derive(Debug, Subcommand)]
pub(crate) enum IncidentCommand {
    /// Stop a session, preserve what is there, say what it did, and how to go back
    Start(StartArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The session
    session: String,
    /// What happened, as far as it is known
    #[arg(long)]
    reason: String,
    /// Take its credentials from the agent, by the commands of the site
    #[arg(long)]
    revoke: bool,
}

pub(crate) fn run(command: &IncidentCommand, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    match command {
        IncidentCommand::Start(args) => start(args, home, output),
    }
}

/// What is kept of an incident.
struct Incident<'a> {
    home: &'a Home,
    id: String,
    session: String,
    folder: PathBuf,
    steps: Vec<Value>,
    /// Whether the runner still had the log when it was waited for: it is putting things in order, and is left to it.
    busy: bool,
}

fn start(args: &StartArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    refuse_unknown(home, &args.session)?;
    // First the stop, which needs nothing; then the rest, each part for itself.
    let stopped = stop::session(home, &args.session, &args.reason)?;
    let id = ulid::Ulid::generate().to_string().to_lowercase();
    let folder = home.path("incidents").join(&id);
    std::fs::create_dir_all(&folder)
        .map_err(|error| Problem::failure(&format!("cannot make {}", folder.display()), &error))?;
    let mut incident = Incident { home, id, session: args.session.clone(), folder, steps: Vec::new(), busy: false };
    incident.note("stop", &format!("stop {} of session {}: {}", stopped.id, args.session, args.reason));
    let records = incident.wait_for_rest()?;
    incident.preserve(&records)?;
    incident.assess(&records)?;
    incident.contain(&records, args.revoke.then_some(&stopped))?;
    let plan = incident.plan(&records, &stopped.id)?;
    let value = json!({"incident": incident.id, "folder": incident.folder, "steps": incident.steps, "plan": plan});
    write_durably(
        &incident.folder.join("incident.json"),
        &serde_json::to_vec_pretty(&value).unwrap_or_default(),
        0o600,
    )
    .map_err(|error| Problem::failure("cannot keep the incident", &error))?;
    output.result(&value, || incident.told(&plan));
    Ok(ExitCode::Done)
}

/// A session that the log does not know is a slip of the pen. Where the log cannot be read, everything is believed.
fn refuse_unknown(home: &Home, session: &str) -> Result<(), Problem> {
    let Ok(records) = home.journal().and_then(|journal| flow::records(&journal)) else { return Ok(()) };
    if runs(&records).iter().any(|line| line.session == session) {
        return Ok(());
    }
    let title = format!("no run of a session {session:?} is on record: nothing was stopped");
    Err(Problem::usage(title, "backout status; backout stop --session NAME stops one that has not begun"))
}

impl Incident<'_> {
    /// Notes a step with its time: here at once, and in the log as soon as it can be written.
    fn note(&mut self, step: &str, detail: &str) {
        let (id, session) = (self.id.clone(), self.session.clone());
        let fact = RecordBody::Incident { id, session, step: step.to_owned(), detail: detail.to_owned() };
        let noted = self.home.note(fact).is_ok();
        self.steps.push(json!({"time": Timestamp::now(), "step": step, "detail": detail, "on_record": noted}));
        let lines: String = self.steps.iter().map(|step| format!("{step}\n")).collect();
        // The folder is a second place; the first is the log.
        let _ = write_durably(&self.folder.join("timeline.jsonl"), lines.as_bytes(), 0o600);
    }

    /// The log, once the runner that was stopped has given it back.
    fn wait_for_rest(&mut self) -> Result<Vec<Record>, Problem> {
        if self.home.journal_to_recover(std::time::Duration::from_secs(10)).is_err() {
            self.busy = true;
        }
        flow::records(&self.home.journal()?)
    }

    fn own_runs(&self, records: &[Record]) -> Vec<RunLine> {
        runs(records).into_iter().filter(|line| line.session == self.session).collect()
    }

    /// Copies of the log with its signed head, and captures of everything that the session's steps may have written.
    fn preserve(&mut self, records: &[Record]) -> Result<(), Problem> {
        let journal = self.home.journal()?;
        let head = journal.head();
        let lines: String =
            records.iter().map(|record| serde_json::to_string(record).unwrap_or_default() + "\n").collect();
        self.keep("records.jsonl", lines.as_bytes())?;
        for name in ["journal.head", "trust-root.json", "backout.toml", "inventory.toml"] {
            if let Ok(bytes) = std::fs::read(self.home.path(name)) {
                self.keep(name, &bytes)?;
            }
        }
        self.note("preserve", &format!("the log, {} records, root {}", head.size, head.root));
        let (store, drivers) = (self.home.store()?, self.home.drivers()?);
        let (mut captured, mut missing) = (Vec::new(), Vec::new());
        for line in self.own_runs(records) {
            let folded = match flow::folded(self.home, &drivers, &journal, &line.run) {
                Ok(folded) => folded,
                Err(problem) => {
                    missing.push(format!("{}: {}", line.run, problem.title));
                    continue;
                }
            };
            for root in &folded.loaded.facts.roots {
                let writes = folded.loaded.steps.iter().flat_map(|step| &step.lowered.writes);
                let inside =
                    writes.filter_map(|write| Path::new(write.path()).strip_prefix(root).ok().map(Path::to_owned));
                let mut paths: Vec<PathBuf> = inside.collect();
                paths.sort();
                paths.dedup();
                let opened = snapshots::Root::open(root).map_err(|error| Problem::snapshot(&error))?;
                match store.capture(&opened, &paths, None) {
                    Ok((reference, tree)) => captured.push(
                        json!({"run": line.run, "root": root, "entries": tree.entries.len(), "snapshot": reference}),
                    ),
                    Err(error) => missing.push(crate::problem::chain(&error)),
                }
            }
        }
        self.keep("state.json", &serde_json::to_vec_pretty(&captured).unwrap_or_default())?;
        let left = if missing.is_empty() { String::new() } else { format!("; NOT captured: {}", missing.join("; ")) };
        self.note("preserve", &format!("the state of what it may have written, {} captures{left}", captured.len()));
        Ok(())
    }

    /// What acted, and what somebody changed since.
    fn assess(&mut self, records: &[Record]) -> Result<(), Problem> {
        let (journal, drivers) = (self.home.journal()?, self.home.drivers()?);
        for line in self.own_runs(records) {
            let Ok(folded) = flow::folded(self.home, &drivers, &journal, &line.run) else {
                self.note("assess", &format!("{}: its documents cannot be read", line.run));
                continue;
            };
            let state = |ix: StepIx| folded.run.state(ix);
            let live: Vec<StepIx> = folded.run.graph().steps().filter(|ix| state(*ix).is_live()).collect();
            let doubt = |ix: &StepIx| {
                !state(*ix).is_live()
                    && !matches!(
                        state(*ix),
                        StepState::Pending | StepState::Prepared | StepState::Undone | StepState::Failed
                    )
            };
            let doubtful = folded.run.graph().steps().filter(doubt).filter_map(|ix| folded.loaded.steps.get(ix.at()));
            let doubtful: Vec<&str> = doubtful.map(|step| step.id.as_str()).collect();
            let names: Vec<&str> =
                live.iter().filter_map(|ix| folded.loaded.steps.get(ix.at())).map(|step| step.id.as_str()).collect();
            let changed = changed_since(&folded, &drivers, &live, false);
            let others: Vec<&str> = changed.iter().map(|finding| finding.pointer.as_str()).collect();
            let end = line.end.as_ref().map_or("not ended", |(end, ..)| end.as_str());
            let mut text = format!(
                "{}, {end}: in effect {}",
                line.run,
                if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
            );
            if !doubtful.is_empty() {
                let _ = write!(text, "; on the way, in doubt or stuck: {}", doubtful.join(", "));
            }
            if !others.is_empty() {
                let _ = write!(text, "; changed by somebody else since: {}", others.join(", "));
            }
            self.note("assess", &text);
        }
        Ok(())
    }

    /// Ends what of it still runs, and takes its credentials away.
    fn contain(&mut self, records: &[Record], revoke: Option<&schemas::Stop>) -> Result<(), Problem> {
        if self.busy {
            self.note("contain", "the runner was told to stop and still works, perhaps on the way back: it is left to it; backout status");
            return self.revoke(records, revoke);
        }
        let ended: u32 = self.own_runs(records).into_iter().map(|line| drivers::end_processes(&line.run)).sum();
        self.note("contain", &format!("{ended} processes of it were still there, and were ended"));
        self.revoke(records, revoke)
    }

    /// Takes its credentials away, where that was asked for.
    fn revoke(&mut self, records: &[Record], revoke: Option<&schemas::Stop>) -> Result<(), Problem> {
        let Some(stop) = revoke else { return Ok(()) };
        let outcomes = crate::revoke::all(self.home, &stop.id, &stop.covers, records)?;
        if outcomes.is_empty() {
            self.note("contain", "the site names no credentials of it: take them away by hand");
        }
        for outcome in outcomes {
            self.note("contain", &outcome.told());
        }
        Ok(())
    }

    /// The commands of the way back, in order; nothing of it is done here.
    fn plan(&mut self, records: &[Record], stop: &str) -> Result<Vec<String>, Problem> {
        let mut plan = vec!["backout verify".to_owned()];
        // The last to act goes back first.
        for line in self.own_runs(records).into_iter().rev() {
            match line.end.as_ref().map(|(end, ..)| end.as_str()) {
                Some("committed") => {
                    plan.push(format!("backout undo {} --dry-run, then backout undo {}", line.run, line.run))
                }
                Some("rolled_back" | "refused") => {}
                Some(_) | None => plan.push(format!("backout recover {}: puts back what it left", line.run)),
            }
        }
        plan.push(format!("backout show {}", self.session));
        plan.push(format!("backout resume {stop} --as OPERATOR --reason TEXT, once it may go on"));
        self.keep("plan.txt", (plan.join("\n") + "\n").as_bytes())?;
        self.note("plan", &plan.join("; "));
        Ok(plan)
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> Result<(), Problem> {
        let path = self.folder.join(name);
        write_durably(&path, bytes, 0o600)
            .map_err(|error| Problem::failure(&format!("cannot write {}", path.display()), &error))
    }

    fn told(&self, plan: &[String]) -> String {
        let mut out = format!("incident {} of session {}, kept in {}\n", self.id, self.session, self.folder.display());
        for step in &self.steps {
            let word = |name: &str| step.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
            let _ = writeln!(out, "  {} {:9} {}", word("time"), word("step"), word("detail"));
        }
        let _ = writeln!(out, "nothing was put back; the way back, in this order:");
        for line in plan {
            let _ = writeln!(out, "  {line}");
        }
        out
    }
}
