//! Revoking what agents act with, after a stop: each credential by its own command of the site, then a probe that must fail.
//!
//! Must never say that something is revoked where the probe did not fail.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use schemas::{Covers, Record, RecordBody};
use serde::Serialize;

use crate::home::Home;
use crate::problem::Problem;
use crate::site::Credential;

/// How long a command has.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of what a command says that are kept.
const SAID: u64 = 400;

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
    let covers = narrowed(covers, records);
    let outcomes: Vec<Outcome> = site.credentials(&covers).map(|(environment, it)| one(environment, it)).collect();
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

/// A session is an agent in an environment; the log knows which.
fn narrowed(covers: &Covers, records: &[Record]) -> Covers {
    let Some(session) = &covers.session else { return covers.clone() };
    let subject = records.iter().rev().filter_map(|record| record.subject.as_ref()).find(|it| it.session == *session);
    let agent = subject.map(|subject| subject.agent.clone()).or_else(|| covers.agent.clone());
    let environment = subject.map(|subject| subject.environment.clone()).or_else(|| covers.environment.clone());
    Covers { agent, environment, ..covers.clone() }
}

fn one(environment: &str, credential: &Credential) -> Outcome {
    let outcome = |refused, detail: String| Outcome {
        environment: environment.to_owned(),
        credential: credential.name.clone(),
        refused,
        detail,
    };
    let revoked = attempt(&credential.revoke);
    // Whatever revoking said: only the probe knows.
    match (attempt(&credential.probe), revoked) {
        (Attempt::Done, Attempt::Done) => {
            outcome(false, "the command that revokes it went well, and it still works".to_owned())
        }
        (Attempt::Done, Attempt::Failed(said) | Attempt::Unclear(said)) => {
            outcome(false, format!("it still works; revoking: {said}"))
        }
        (Attempt::Failed(_), Attempt::Done) => outcome(true, "using it is refused".to_owned()),
        (Attempt::Failed(_), Attempt::Failed(said) | Attempt::Unclear(said)) => {
            outcome(true, format!("using it is refused, though the command that revokes it failed: {said}"))
        }
        (Attempt::Unclear(said), _) => outcome(false, format!("nobody knows whether it still works: {said}")),
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
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
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
    let mut said = Vec::new();
    if let Some(errors) = child.stderr.take() {
        let _ = errors.take(SAID).read_to_end(&mut said);
    }
    Attempt::Failed(format!("{program}: {status}: {}", String::from_utf8_lossy(&said).trim()))
}
