//! `backout approve`: one person's signed word on one manifest.

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use schemas::{
    Approval, Assessment, Digest, Document as _, Envelope, ExitCode, RecordBody, Role, Statement, Subject, Verdict,
};

use crate::flow;
use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;

/// Minutes for which an approval is good.
const MINUTES: i64 = 30;

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// The manifest: the beginning of its digest, or the session
    manifest: String,
    /// The key to sign with
    #[arg(long = "as", value_name = "KEY")]
    name: String,
    /// Say no: nobody else's yes counts any more
    #[arg(long)]
    reject: bool,
    /// Why
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) fn run(args: &ApproveArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let journal = home.journal()?;
    let (digest, verified) = flow::find_manifest(&flow::records(&journal)?, home, &args.manifest)?;
    drop(journal);
    let manifest = &verified.document().predicate;
    let now = Timestamp::now();
    if now >= manifest.expires {
        return Err(Problem::stale(format!("the manifest expired at {}", manifest.expires)));
    }
    let key = home.key(&args.name)?;
    let trust = home.trust()?;
    let role: Role =
        manifest.approvals.role.parse().map_err(|text: String| Problem::identity(text, "backout gate PLAN"))?;
    let owner = trust.document().key(key.id()).map(|key| key.owner.clone());
    let Some(owner) = owner.filter(|_| trust.document().holders(&role).contains(&key.id())) else {
        return Err(Problem::identity(format!("the key {} is not in role {role}", args.name), "backout key list"));
    };
    if owner == manifest.requester {
        return Err(Problem::identity(format!("{owner} asked for it and cannot approve it"), "ask somebody else"));
    }
    show_what(home, manifest, output);
    if !output.confirmed(&format!("{} it as {owner}?", if args.reject { "reject" } else { "approve" })) {
        return Err(Problem::usage("nothing was signed", "backout approve, and answer yes"));
    }
    let approval = Approval {
        environment: manifest.environment.clone(),
        verdict: if args.reject { Verdict::Reject } else { Verdict::Approve },
        reason: args.reason.clone(),
        trust_version: trust.document().version,
        issued: now,
        expires: now + SignedDuration::from_mins(MINUTES),
        nonce: flow::nonce()?,
    };
    let nonce = approval.nonce.clone();
    let payload = Statement::new(vec![Subject::new("manifest", digest)], approval).to_payload();
    let envelope = Envelope::sign(Statement::<Approval>::PAYLOAD_TYPE, &payload, &[&key]);
    let name = Digest::of(&payload);
    home.keep(name, &envelope.to_json())?;
    home.note(RecordBody::Approved {
        manifest: digest,
        approval: name,
        owner: owner.clone(),
        nonce,
        reject: args.reject,
    })?;
    let word = if args.reject { "rejected" } else { "approved" };
    let standing = crate::votes::approvals(home, &flow::records(&home.journal()?)?, digest, manifest, Timestamp::now());
    let next = match &standing {
        Ok(_) => format!("next: backout run {}", digest.short()),
        Err(problem) => {
            problem.findings.iter().map(|finding| format!("{}\nnext: {}", finding.detail, finding.hint)).collect()
        }
    };
    output.result(&serde_json::json!({"manifest": digest, "approval": name, "by": owner, "verdict": word, "complete": standing.is_ok()}), || {
        format!("{owner} {word} {}\n{next}\n", digest.short())
    });
    Ok(ExitCode::Done)
}

/// What is being approved, on standard error.
fn show_what(home: &Home, manifest: &schemas::Manifest, output: &Output) {
    let plan = home.payload(manifest.plan).ok().and_then(|bytes| planner::parse(&bytes).ok());
    let assessment = home.plain(manifest.assessment).ok().and_then(|bytes| Assessment::from_payload(&bytes).ok());
    if let (Some(plan), Some(assessment)) = (plan, assessment) {
        output.note(&super::plan::assessed(&plan, &assessment));
    }
}
