//! `backout approvals`: every manifest that waits or may run, who has spoken, and what is missing.

use std::collections::HashSet;

use clap::Args;
use jiff::Timestamp;
use schemas::{Digest, ExitCode, RecordBody};
use serde::Serialize;

use crate::flow;
use crate::home::Home;
use crate::output::{Output, table};
use crate::problem::Problem;
use crate::{rules, votes};

#[derive(Debug, Args)]
pub(crate) struct ApprovalsArgs {
    /// Also what expired or ran
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Waiting {
    manifest: Digest,
    session: String,
    environment: String,
    requester: String,
    state: &'static str,
    people: u64,
    teams: Vec<String>,
    approved_by: Vec<String>,
    missing: Vec<String>,
    expires: String,
}

pub(crate) fn run(args: &ApprovalsArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let records = flow::records(&home.journal()?)?;
    let trust = home.trust()?;
    let now = Timestamp::now();
    let site = home.site()?;
    let policy = rules::bundle_in_force(home, &records, trust.document())?.digest();
    let used: HashSet<Digest> = records.iter().filter_map(|record| flow::used_by(&record.fact)).collect();
    let mut out = Vec::new();
    for record in &records {
        let RecordBody::Gated { manifest: digest, .. } = &record.fact else { continue };
        let verified = flow::issued(home, trust.document(), *digest, record.time)?;
        let manifest = &verified.document().predicate;
        let standing = votes::approvals(home, &records, *digest, manifest, now);
        let rejected = votes::refuse_rejected(&records, manifest.plan).is_err();
        let stale = crate::judge::refuse_stale(home, &records, manifest, policy, &site, trust.document());
        let state = match (&standing, used.contains(digest), now >= manifest.expires) {
            (_, true, _) => "used",
            _ if rejected => "rejected",
            (_, _, true) => "expired",
            _ if stale.is_err() => "stale",
            (Ok(_), ..) => "ready",
            (Err(_), ..) => "waiting",
        };
        if !args.all && !matches!(state, "ready" | "waiting" | "stale") {
            continue;
        }
        let spoke = records.iter().filter_map(|record| match &record.fact {
            RecordBody::Approved { manifest, owner, reject, .. } if manifest == digest => {
                Some(if *reject { format!("{owner} (no)") } else { owner.clone() })
            }
            _ => None,
        });
        out.push(Waiting {
            manifest: *digest,
            session: manifest.session.clone(),
            environment: manifest.environment.clone(),
            requester: manifest.requester.clone(),
            state,
            people: manifest.approvals.people,
            teams: manifest.approvals.teams.clone(),
            approved_by: spoke.collect::<std::collections::BTreeSet<_>>().into_iter().collect(),
            missing: match (&stale, &standing) {
                (Err(problem), _) => vec![problem.title.clone()],
                (Ok(()), Ok(_)) => Vec::new(),
                (Ok(()), Err(problem)) => problem.findings.iter().map(|finding| finding.detail.clone()).collect(),
            },
            expires: manifest.expires.to_string(),
        });
    }
    output.result(&serde_json::json!({"manifests": out}), || told(&out));
    Ok(ExitCode::Done)
}

fn told(out: &[Waiting]) -> String {
    if out.is_empty() {
        return "nothing waits\n".to_owned();
    }
    let row = |it: &Waiting| {
        vec![
            it.manifest.short(),
            it.session.clone(),
            it.environment.clone(),
            it.requester.clone(),
            it.state.to_owned(),
            format!("{} of {}", it.approved_by.iter().filter(|name| !name.ends_with("(no)")).count(), it.people),
            it.approved_by.join(" "),
            it.expires.clone(),
        ]
    };
    let head = ["manifest", "session", "environment", "asked by", "state", "approvals", "by", "until"];
    table(&head, out.iter().map(row).collect())
}
