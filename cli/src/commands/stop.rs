//! `backout stop`, `stops` and `resume`: nothing that a stop covers starts or goes on until operators say so.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use schemas::{
    Code, Covers, Digest, Document as _, Envelope, ExitCode, Lift, RecordBody, Statement, Stop, Subject, Then,
};

use crate::commands::recover::{RunLine, runs};
use crate::commands::undo::{self, UndoArgs};
use crate::flow;
use crate::home::{Home, who, write_durably};
use crate::output::{Output, table};
use crate::problem::Problem;
use crate::revoke::{self, Outcome};
use crate::stops::{self, FOLDER};

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Runs of this session
    #[arg(long)]
    session: Option<String>,
    /// Runs of this agent's plans
    #[arg(long)]
    agent: Option<String>,
    /// Runs in this environment
    #[arg(long)]
    environment: Option<String>,
    /// Runs of plans that have a step of this kind, as `command`
    #[arg(long)]
    kind: Option<String>,
    /// Everything; two operators lift it
    #[arg(long, conflicts_with_all = ["session", "agent", "environment", "kind"])]
    all: bool,
    /// Why
    #[arg(long)]
    reason: String,
    /// What becomes of what runs
    #[arg(long, default_value = "hold")]
    then: ThenWord,
    /// Take their credentials from the agents, by the commands of the site, before anything is put back
    #[arg(long)]
    revoke: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ThenWord {
    /// Halt, and wait for undo, recover or replay
    Hold,
    /// Put everything back
    Undo,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The stop, as `backout stops` names it
    stop: String,
    /// Keys of operators: one, or two of different people after `--all`
    #[arg(long = "as", value_name = "KEY", required = true)]
    names: Vec<String>,
    /// Why it may go on
    #[arg(long)]
    reason: String,
}

/// Writes the stop first: everything else may fail, and the stop stands.
pub(crate) fn stop(args: &StopArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let covers = Covers {
        session: args.session.clone(),
        agent: args.agent.clone(),
        environment: args.environment.clone(),
        kind: args.kind.clone(),
    };
    if covers.is_all() && !args.all {
        return Err(Problem::usage(
            "what is to be stopped?",
            "backout stop --all, or --session, --agent, --environment, --kind",
        ));
    }
    refuse_unknown(&covers, home)?;
    // What is put back while the agent can still act may be done again: first it is held, then revoked.
    let then = match (args.then, args.revoke) {
        (ThenWord::Undo, false) => Then::Undo,
        (ThenWord::Hold, _) | (ThenWord::Undo, true) => Then::Hold,
    };
    let (stop, noted) = put(home, covers, &args.reason, then)?;
    let reached = reached(home, &stop);
    let revoked = if args.revoke { revoke_all(home, &stop)? } else { Vec::new() };
    let value = serde_json::json!({"stop": stop, "reached": reached.as_ref().ok(), "unknown": reached.as_ref().err(), "noted": noted, "revoked": revoked});
    output.result(&value, || {
        let told = match &reached {
            Ok(runs) if runs.is_empty() => "nothing that it covers was running".to_owned(),
            Ok(runs) => format!("told to halt: {}", runs.join(", ")),
            Err(error) => format!("what was running cannot be told ({error}); the stop stands all the same"),
        };
        let revoked: String = revoked.iter().map(|outcome| outcome.told() + "\n").collect();
        let none = if args.revoke && revoked.is_empty() {
            "the site names no credentials of it: nothing was revoked\n"
        } else {
            ""
        };
        format!(
            "stopped {}: {told}\n{revoked}{none}nothing of it starts or goes on, also after a restart\n\
             next: backout status\n      {}\n",
            stop.covers.text(),
            stops::how_to_lift(&stop.id, &stop.covers)
        )
    });
    if revoked.iter().any(|outcome| !outcome.refused) {
        let title = "stopped, but not everything could be revoked: nothing was put back";
        return Err(Problem::new(
            ExitCode::Failure,
            Code::FAILURE,
            title,
            "revoke it by hand, then backout undo SESSION",
        ));
    }
    if args.revoke && matches!(args.then, ThenWord::Undo) {
        return undo_reached(home, &stop, output);
    }
    Ok(ExitCode::Done)
}

/// A name that nothing can have is a slip of the pen, which would let the real thing run on. Whatever cannot be read believes everything: a
/// stop must work when nothing else does.
fn refuse_unknown(covers: &Covers, home: &Home) -> Result<(), Problem> {
    let among = |what: &str, name: &Option<String>, known: Vec<String>| match name {
        Some(name) if !known.is_empty() && !known.contains(name) => {
            let title = format!("nothing was stopped: there is no {what} {name:?}");
            Err(Problem::usage(title, format!("one of {}; or backout stop --all", known.join(", "))))
        }
        _ => Ok(()),
    };
    let kinds = home.drivers().map(|drivers| drivers.iter().map(|driver| driver.name().to_owned()).collect());
    among("kind", &covers.kind, kinds.unwrap_or_default())?;
    let environments = home.site().map(|site| site.roots().map(|(name, _)| name.to_owned()).collect::<BTreeSet<_>>());
    among("environment", &covers.environment, environments.unwrap_or_default().into_iter().collect())?;
    let trust = home.trust();
    let agents: Vec<String> = trust.map_or(Vec::new(), |trust| {
        let trust = trust.document();
        let keys = trust.holders(&schemas::Role::Agent).iter().filter_map(|id| trust.key(*id));
        keys.map(|key| key.owner.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    });
    among("agent", &covers.agent, agents)
}

/// Writes a stop, and notes it where the journal is free: the runner that holds it notes there why it halted.
fn put(home: &Home, covers: Covers, reason: &str, then: Then) -> Result<(Stop, bool), Problem> {
    let id = ulid::Ulid::generate().to_string().to_lowercase();
    let stop = Stop { id: id.clone(), covers, reason: reason.to_owned(), by: who(), time: Timestamp::now(), then };
    let bytes = serde_json::to_vec(&stop).unwrap_or_default();
    let path = home.path(FOLDER).join(format!("{id}.stop.json"));
    write_durably(&path, &bytes, 0o644)
        .map_err(|error| Problem::failure(&format!("NOT STOPPED: cannot write {}", path.display()), &error))?;
    let noted = home.note_now(RecordBody::Stopped { stop: Digest::of(&bytes), id, covers: stop.covers.text() });
    Ok((stop, noted.is_ok()))
}

/// Stops a session and holds it.
pub(crate) fn session(home: &Home, session: &str, reason: &str) -> Result<Stop, Problem> {
    let covers = Covers { session: Some(session.to_owned()), ..Covers::default() };
    put(home, covers, reason, Then::Hold).map(|(stop, _)| stop)
}

fn revoke_all(home: &Home, stop: &Stop) -> Result<Vec<Outcome>, Problem> {
    let records = home.journal().and_then(|journal| flow::records(&journal)).unwrap_or_default();
    revoke::all(home, &stop.id, &stop.covers, &records)
}

/// Puts back every run that the stop reached, once nothing can act with its credentials any more.
fn undo_reached(home: &Home, stop: &Stop, output: &Output) -> Result<ExitCode, Problem> {
    let runs =
        open_runs(home, stop).map_err(|text| Problem::usage(text, "backout status, then backout undo SESSION"))?;
    let mut code = ExitCode::Done;
    for line in runs {
        let args = UndoArgs { run: line.run, around: false, dry_run: false };
        let ended = undo::run(&args, home, output)?;
        code = if ended == ExitCode::RolledBack { code } else { ended };
    }
    Ok(code)
}

/// Runs that have not ended and that the stop covers.
fn reached(home: &Home, stop: &Stop) -> Result<Vec<String>, String> {
    let told = |line: RunLine| format!("{} of session {}", line.run, line.session);
    Ok(open_runs(home, stop)?.into_iter().map(told).collect())
}

fn open_runs(home: &Home, stop: &Stop) -> Result<Vec<RunLine>, String> {
    let journal = home.journal().map_err(|problem| problem.title)?;
    let records = flow::records(&journal).map_err(|problem| problem.title)?;
    let drivers = home.drivers().map_err(|problem| problem.title)?;
    let mut out = Vec::new();
    for line in runs(&records).into_iter().filter(|line| line.end.is_none()) {
        let covered = match flow::folded(home, &drivers, &journal, &line.run) {
            Ok(folded) => {
                let kinds = folded.loaded.steps.iter().filter_map(|step| step.uses.split('.').next());
                stop.covers.covers(&folded.subject, kinds)
            }
            // What cannot be read is told rather than left out.
            Err(_) => true,
        };
        if covered {
            out.push(line);
        }
    }
    Ok(out)
}

pub(crate) fn list(home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let trust = home.trust()?;
    let standing = stops::standing(&home.path(FOLDER), trust.document()).map_err(|error| {
        let title = format!("nobody can tell what is stopped, so everything is: {error}");
        Problem::new(ExitCode::Stopped, Code::STOPPED, title, "mend or make the folder .backout/stops")
    })?;
    let all: Vec<&Stop> = standing.iter().map(|it| &it.stop).collect();
    output.result(&serde_json::json!({"stops": all}), || {
        if all.is_empty() {
            return "nothing is stopped\n".to_owned();
        }
        let row = |stop: &&Stop| {
            vec![stop.id.clone(), stop.covers.text(), stop.by.clone(), stop.time.to_string(), stop.reason.clone()]
        };
        table(&["stop", "covers", "by", "since", "reason"], all.iter().map(row).collect())
    });
    Ok(if all.is_empty() { ExitCode::Done } else { ExitCode::Stopped })
}

pub(crate) fn resume(args: &ResumeArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let trust = home.trust()?;
    let standing = stops::standing(&home.path(FOLDER), trust.document())
        .map_err(|error| Problem::usage(error, "mend or make the folder .backout/stops"))?;
    let found = standing.iter().find(|it| it.stop.id == args.stop);
    let Some(found) = found else {
        return Err(Problem::usage(format!("no stop {} stands", args.stop), "backout stops lists them"));
    };
    let lift = Lift {
        stop: found.stop.id.clone(),
        reason: args.reason.clone(),
        issued: Timestamp::now(),
        nonce: flow::nonce()?,
    };
    let payload = Statement::new(vec![Subject::new("stop", found.digest)], lift).to_payload();
    let keys = args.names.iter().map(|name| home.key(name)).collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<&schemas::SecretKey> = keys.iter().collect();
    let envelope = Envelope::sign(Statement::<Lift>::PAYLOAD_TYPE, &payload, &keys);
    let by = stops::check_lift(&envelope, &found.stop, found.digest, trust.document()).map_err(|error| {
        let needed = stops::needed(&found.stop.covers);
        let next = format!("backout resume {} with {needed} --as of different operators; backout key list", args.stop);
        Problem::identity(format!("the stop stands: {error}"), next)
    })?;
    let path = stops::lift_of(&found.path);
    write_durably(&path, &envelope.to_json(), 0o644)
        .map_err(|error| Problem::failure(&format!("cannot write {}", path.display()), &error))?;
    let digest = Digest::of(&payload);
    home.keep(digest, &envelope.to_json())?;
    home.note(RecordBody::Lifted { id: found.stop.id.clone(), lift: digest, owners: by.clone() })?;
    stops::put_away(&found.path)
        .map_err(|error| Problem::failure(&format!("lifted; cannot put {} away", found.path.display()), &error))?;
    output.result(&serde_json::json!({"lifted": found.stop.id, "by": by}), || {
        format!(
            "{} may go on, by {}\nnext: backout status tells what was halted; recover, undo or replay decides about it\n",
            found.stop.covers.text(),
            by.join(" and ")
        )
    });
    Ok(ExitCode::Done)
}
