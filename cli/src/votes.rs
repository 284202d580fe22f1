//! What people said of a manifest: every word is verified again whenever it counts.

use jiff::Timestamp;
use policy::Counted;
use schemas::{Code, Digest, Envelope, ExitCode, Finding, Manifest, Record, RecordBody, Role, TrustRoot};

use crate::flow::used_by;
use crate::home::Home;
use crate::problem::{Problem, chain};

/// A person's no: the plan must change.
fn rejected(detail: String, pointer: &str) -> Problem {
    let hint = "change the plan: one no vetoes it, and no later yes outweighs it";
    let finding = Finding::error(Code::REJECTED, pointer, detail, hint).for_whom(schemas::WhoCanAct::Forbidden);
    Problem::findings(
        ExitCode::Refused,
        "the plan was rejected",
        vec![finding],
        "change the plan, then backout gate PLAN",
    )
}

/// A plan that somebody said no to stays refused, also under a new manifest.
pub(crate) fn refuse_rejected(records: &[Record], plan: Digest) -> Result<(), Problem> {
    let manifests: std::collections::HashSet<Digest> = records
        .iter()
        .filter_map(|record| match &record.fact {
            RecordBody::Gated { plan: of, manifest, .. } if *of == plan => Some(*manifest),
            _ => None,
        })
        .collect();
    let no = records.iter().find_map(|record| match &record.fact {
        RecordBody::Approved { manifest, owner, reject: true, .. } if manifests.contains(manifest) => Some(owner),
        _ => None,
    });
    no.map_or(Ok(()), |owner| Err(rejected(format!("{owner} rejected this very plan"), "")))
}

/// A manifest that ran, or whose plan somebody said no to, runs no more.
pub(crate) fn refuse_spent(records: &[Record], manifest: Digest, plan: Digest) -> Result<(), Problem> {
    if records.iter().any(|record| used_by(&record.fact) == Some(manifest)) {
        return Err(Problem::stale("the manifest was run already, and one manifest is one run"));
    }
    refuse_rejected(records, plan)
}

/// The approvals of a manifest that count, or what is missing.
pub(crate) fn approvals(
    home: &Home,
    records: &[Record],
    digest: Digest,
    manifest: &Manifest,
    now: Timestamp,
) -> Result<Counted, Problem> {
    let trust = home.trust()?;
    let role: Role =
        manifest.approvals.role.parse().map_err(|text: String| Problem::identity(text, "backout gate PLAN"))?;
    let mut votes = Vec::new();
    for record in records {
        let RecordBody::Approved { manifest: about, approval, reject, owner, .. } = &record.fact else { continue };
        if *about != digest {
            continue;
        }
        // A no stays a no, whatever becomes of the document that says why.
        if *reject {
            return Err(rejected(format!("{owner} rejected it"), ""));
        }
        let envelope = Envelope::from_json(&home.document(*approval)?)
            .map_err(|error| Problem::identity(chain(&error), "backout approve"))?;
        // Its key is judged as of when the log took it: the signer's clock proves nothing.
        let vote: policy::Vote = envelope.verify(trust.document(), &role, record.time).map_err(|error| {
            Problem::identity(format!("an approval is not good: {}", chain(&error)), "backout approve")
        })?;
        if vote.digest() != *approval {
            return Err(Problem::identity("an approval is not the one that the log names", "backout verify"));
        }
        votes.push(vote);
    }
    let about = policy::About {
        manifest: digest,
        environment: &manifest.environment,
        requester: &manifest.requester,
        trust: trust.document(),
        now,
        minutes: manifest.approvals.minutes,
    };
    policy::count(&about, &manifest.approvals, &votes).map_err(|findings| {
        if let Some(no) = findings.iter().find(|finding| finding.code == Code::REJECTED) {
            return rejected(no.detail.clone(), "");
        }
        let next = format!("backout approve {} --as NAME", digest.short());
        Problem::findings(ExitCode::Waiting, "the run may not start yet", findings, next)
    })
}

/// Whether a word may be put on record at all: everything about it but whether it is enough.
pub(crate) fn check(
    vote: &policy::Vote,
    digest: Digest,
    manifest: &Manifest,
    trust: &TrustRoot,
    records: &[Record],
    now: Timestamp,
) -> Result<(), Problem> {
    let about = policy::About {
        manifest: digest,
        environment: &manifest.environment,
        requester: &manifest.requester,
        trust,
        now,
        minutes: manifest.approvals.minutes,
    };
    let objection = policy::objection(vote, &about).or_else(|| {
        let nonce = &vote.document().predicate.nonce;
        let used = records
            .iter()
            .any(|record| matches!(&record.fact, RecordBody::Approved { nonce: seen, .. } if seen == nonce));
        used.then(|| (Code::APPROVAL_NONCE, "its nonce was used already".to_owned()))
    });
    match objection {
        None => Ok(()),
        Some((code, text)) => {
            let owner = vote.signers().first().map_or("", |signer| signer.owner.as_str());
            let title = format!("the word of {owner} does not count: {text}");
            Err(Problem::new(
                ExitCode::Identity,
                code,
                title,
                "backout approve MANIFEST --as NAME, as somebody else or anew",
            ))
        }
    }
}
