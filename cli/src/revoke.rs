//! Revoking what agents act with, after a stop: each credential by its own command of the site, then a probe that must fail.
//!
//! Must never say that something is revoked where the probe did not fail.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use schemas::{Covers, Record, RecordBody};
use serde::Serialize;

use crate::home::Home;
use crate::problem::Problem;
use crate::site::Credential;

/// How long a command has.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of one credential.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) environment: String,
    pub(crate) credential: String,
    /// Whether using it fails now.
    pub(crate) refused: bool,
    pub(crate) detail: String,
}

impl Outcome {
    /// In a line.
    pub(crate) fn told(&self) -> String {
        let word = if self.refused { "revoked" } else { "NOT REVOKED" };
        format!("{word} {} of {}: {}", self.credential, self.environment, self.detail)
    }
}

/// Revokes every credential that a stop covers, and notes what came of each. What cannot be noted now is told all the same.
pub(crate) fn all(home: &Home, stop: &str, covers: &Covers, records: &[Record]) -> Result<Vec<Outcome>, Problem> {
    let site = home.site()?;
    let mut wanted: Vec<(&str, &Credential)> = Vec::new();
    let each = narrowed(covers, records);
    for covers in &each {
        for (environment, it) in site.credentials(covers) {
            if !wanted.iter().any(|(name, known)| *name == environment && known.name == it.name) {
                wanted.push((environment, it));
            }
        }
    }
    let outcomes: Vec<Outcome> = wanted.into_iter().map(|(environment, it)| one(environment, it)).collect();
    for outcome in &outcomes {
        let fact = RecordBody::Revoked {
            stop: stop.to_owned(),
            credential: outcome.credential.clone(),
            environment: outcome.environment.clone(),
            refused: outcome.refused,
            detail: outcome.detail.clone(),
        };
        // A runner that is still putting things in order has the journal.
        let _ = home.note(fact);
    }
    Ok(outcomes)
}

/// A session is what agents did in environments; the log knows which. Of one that it does not know nothing is revoked.
fn narrowed(covers: &Covers, records: &[Record]) -> Vec<Covers> {
    let Some(session) = &covers.session else { return vec![covers.clone()] };
    let subjects = records.iter().filter_map(|record| record.subject.as_ref()).filter(|it| it.session == *session);
    let mut out: Vec<Covers> = Vec::new();
    for subject in subjects {
        let one = Covers {
            agent: Some(subject.agent.clone()),
            environment: Some(subject.environment.clone()),
            ..covers.clone()
        };
        if !out.contains(&one) {
            out.push(one);
        }
    }
    out
}

fn one(environment: &str, credential: &Credential) -> Outcome {
    let outcome = |refused, detail: String| Outcome {
        environment: environment.to_owned(),
        credential: credential.name.clone(),
        refused,
        detail,
    };
    // A probe that fails before anything is revoked proves nothing afterwards.
    let worked = matches!(attempt(&credential.probe), Attempt::Done);
    let revoked = attempt(&credential.revoke);
    let said = match &revoked {
        Attempt::Done => String::new(),
        Attempt::Failed(said) | Attempt::Unclear(said) => format!("; the command that revokes it: {said}"),
    };
    match attempt(&credential.probe) {
        Attempt::Done => outcome(false, format!("it still works{said}")),
        Attempt::Failed(_) if worked => outcome(true, format!("it worked before, and using it is refused now{said}")),
        Attempt::Failed(_) => {
            outcome(false, format!("using it fails, but it failed before too: nobody knows why{said}"))
        }
        Attempt::Unclear(why) => outcome(false, format!("nobody knows whether it still works: {why}{said}")),
    }
}

enum Attempt {
    Done,
    Failed(String),
    /// It could not be started, or took too long.
    Unclear(String),
}

fn attempt(argv: &[String]) -> Attempt {
    let Some((program, args)) = argv.split_first() else { return Attempt::Unclear("no command".to_owned()) };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Attempt::Unclear(format!("cannot start {program}: {error}")),
    };
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Attempt::Unclear(format!("{program} did not end within {} s", PATIENCE.as_secs()));
            }
        }
    };
    if status.success() {
        return Attempt::Done;
    }
    // What a shell says when there is no such program, and what a signal ended, is no refusal.
    match status.code() {
        Some(126 | 127) | None => Attempt::Unclear(format!("{program}: {status}")),
        Some(_) => Attempt::Failed(format!("{program}: {status}")),
    }
}
