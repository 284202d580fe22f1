//! `backout gate`: look, decide, and issue a signed manifest, or refuse with all reasons at once.

use std::path::PathBuf;

use clap::Args;
use schemas::{ExitCode, Limits};
use serde::Serialize;

use crate::commands::read_input;
use crate::flow;
use crate::home::Home;
use crate::output::{Output, table};
use crate::problem::Problem;

#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    /// The signed plan
    plan: PathBuf,
    /// The halted session or run that the plan corrects: its verified steps that stay the same are not looked at again
    #[arg(long, value_name = "RUN")]
    replay: Option<String>,
}

#[derive(Serialize)]
struct Issued<'a> {
    manifest: schemas::Digest,
    session: &'a str,
    verdict: schemas::GateVerdict,
    people: u64,
    role: &'a str,
    expires: String,
    blast: &'a schemas::Blast,
    #[serde(skip_serializing_if = "Option::is_none")]
    follows: Option<&'a crate::lineage::Lineage>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    shadow: &'a [String],
    /// Stops that keep it from running.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stopped: Vec<String>,
    decisions: &'a [schemas::Decision],
}

/// The stops that cover a plan, by what is known of it here. What cannot be read is told when it is to run.
fn stopped_by(home: &Home, manifest: &schemas::Manifest) -> Vec<String> {
    let subject = schemas::RunSubject {
        run: String::new(),
        session: manifest.session.clone(),
        agent: manifest.requester.clone(),
        environment: manifest.environment.clone(),
    };
    let standing = home.trust().map(|trust| crate::stops::standing(&home.path(crate::stops::FOLDER), trust.document()));
    let standing = standing.unwrap_or_else(|_| Ok(Vec::new())).unwrap_or_default();
    let covers = standing.into_iter().map(|it| it.stop).filter(|stop| stop.covers.covers(&subject, std::iter::empty()));
    covers.map(|stop| stop.id).collect()
}

pub(crate) fn run(args: &GateArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let bytes = read_input(&args.plan, Limits::ENVELOPE_BYTES)?;
    let gated = flow::gate(home, &bytes, args.replay.as_deref())?;
    let manifest = &gated.manifest;
    let issued = Issued {
        manifest: gated.digest,
        session: &manifest.session,
        verdict: manifest.verdict,
        people: manifest.approvals.people,
        role: &manifest.approvals.role,
        expires: manifest.expires.to_string(),
        blast: &gated.decisions.blast,
        follows: gated.lineage.as_ref(),
        shadow: &gated.shadow,
        stopped: stopped_by(home, manifest),
        decisions: if gated.decisions.steps.len() <= 1_000 { &gated.decisions.steps } else { &[] },
    };
    output.result(&issued, || {
        let mut out = format!("manifest {}\n", gated.digest);
        if gated.assessment.steps.len() <= 50 {
            let row = |(step, decision): (&schemas::StepAssessment, &schemas::Decision)| {
                let changes = step.changes.len().to_string();
                vec![
                    step.id.clone(),
                    step.class.as_str().to_owned(),
                    changes,
                    decision.people.to_string(),
                    decision.id.short(),
                    decision.rules.join(" "),
                ]
            };
            let rows = gated.assessment.steps.iter().zip(&gated.decisions.steps).map(row).collect();
            out.push_str(&table(&["step", "class", "changes", "people", "decision", "rules"], rows));
        }
        gated.lineage.iter().for_each(|lineage| out.push_str(&lineage.text()));
        out.push_str(&gated.decisions.blast.line());
        out.push('\n');
        gated.shadow.iter().for_each(|line| out.push_str(&format!("the shadow bundle decides otherwise: {line}\n")));
        issued.stopped.iter().for_each(|id| {
            out.push_str(&format!("stopped: nothing of it runs before {id} is lifted (backout stops)\n"))
        });
        let short = gated.digest.short();
        out.push_str(&match manifest.approvals.people {
            0 => match &args.replay {
                Some(run) => format!("allowed\nnext: backout replay {run} {short}\n"),
                None => format!("allowed\nnext: backout run {short}\n"),
            },
            people => format!(
                "waits for {people} approval{} in role {}{}\nnext: backout approve {short} --as NAME\n",
                if people == 1 { "" } else { "s" },
                manifest.approvals.role,
                manifest.approvals.teams.iter().map(|team| format!(", one of them of team {team}")).collect::<String>()
            ),
        });
        out
    });
    Ok(if manifest.approvals.people == 0 { ExitCode::Done } else { ExitCode::Waiting })
}
