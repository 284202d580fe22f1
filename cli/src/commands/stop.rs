//! `backout stop`, `stops` and `resume`: nothing that a stop covers starts or goes on until operators say so.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use schemas::{
    Code, Covers, Digest, Document as _, Envelope, ExitCode, Lift, RecordBody, Statement, Stop, Subject, Then,
};

use crate::commands::recover::runs;
use crate::flow;
use crate::home::{Home, who, write_durably};
use crate::output::{Output, table};
use crate::problem::Problem;
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
    let id = ulid::Ulid::generate().to_string().to_lowercase();
    let stop = Stop {
        id: id.clone(),
        covers,
        reason: args.reason.clone(),
        by: who(),
        time: Timestamp::now(),
        then: match args.then {
            ThenWord::Hold => Then::Hold,
            ThenWord::Undo => Then::Undo,
        },
    };
    let bytes = serde_json::to_vec(&stop).unwrap_or_default();
    let path = home.path(FOLDER).join(format!("{id}.stop.json"));
    write_durably(&path, &bytes, 0o644)
        .map_err(|error| Problem::failure(&format!("NOT STOPPED: cannot write {}", path.display()), &error))?;
    let reached = reached(home, &stop);
    // The runner holds the journal while it runs, and notes there why it halted. Otherwise it is noted here.
    let noted =
        home.note_now(RecordBody::Stopped { stop: Digest::of(&bytes), id: id.clone(), covers: stop.covers.text() });
    let value = serde_json::json!({"stop": stop, "reached": reached.as_ref().ok(), "unknown": reached.as_ref().err(), "noted": noted.is_ok()});
    output.result(&value, || {
        let told = match &reached {
            Ok(runs) if runs.is_empty() => "nothing that it covers was running".to_owned(),
            Ok(runs) => format!("told to halt: {}", runs.join(", ")),
            Err(error) => format!("what was running cannot be told ({error}); the stop stands all the same"),
        };
        format!(
            "stopped {}: {told}\nnothing of it starts or goes on, also after a restart\n\
             next: backout status\n      backout resume {id} --as OPERATOR{} --reason TEXT, once it may go on\n",
            stop.covers.text(),
            if stop.covers.is_all() { " --as ANOTHER" } else { "" }
        )
    });
    Ok(ExitCode::Done)
}

/// Runs that have not ended and that the stop covers.
fn reached(home: &Home, stop: &Stop) -> Result<Vec<String>, String> {
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
            out.push(format!("{} of session {}", line.run, line.session));
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
