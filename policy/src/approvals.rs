//! Counting people: distinct owners, never keys; one reject vetoes; an approval is for one manifest and for a while.

use jiff::Timestamp;
use schemas::{Approval, ApprovalsRequired, Code, Digest, Finding, Statement, Verdict, Verified, WhoCanAct};

/// Longest time that an approval may be good for, in minutes.
const MOST_MINUTES: i64 = 30;

/// An approval whose signature was verified for the role that the manifest names.
pub type Vote = Verified<Statement<Approval>>;

/// The approvals that counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Their digests.
    pub approvals: Vec<Digest>,
    /// Distinct people.
    pub people: Vec<String>,
}

/// Counts votes for a manifest. The error says what is missing, and why each vote that did not count did not.
pub fn count(
    manifest: Digest,
    environment: &str,
    requester: &str,
    required: &ApprovalsRequired,
    votes: &[Vote],
    now: Timestamp,
) -> Result<Counted, Vec<Finding>> {
    let mut counted = Counted { approvals: Vec::new(), people: Vec::new() };
    let (mut reasons, mut nonces) = (Vec::new(), std::collections::BTreeSet::new());
    for vote in votes {
        let owner = vote.signers().first().map_or("", |signer| signer.owner.as_str());
        let said = &vote.document().predicate;
        // A no has no end: it stands however late it is.
        if said.verdict == Verdict::Reject && vote.document().sole_subject() == Some(manifest) {
            let detail = format!("{owner} rejected it: {}", said.reason);
            let hint = "change the plan; a new manifest needs new approvals";
            return Err(vec![Finding::error(Code::REJECTED, "", detail, hint).for_whom(WhoCanAct::Forbidden)]);
        }
        match problem(vote, manifest, environment, requester, now) {
            Some(problem) => reasons.push(format!("{owner}: {problem}")),
            None if !nonces.insert(said.nonce.clone()) => reasons.push(format!("{owner}: the same approval again")),
            None if counted.people.iter().any(|known| known == owner) => {
                reasons.push(format!("{owner}: counted already"))
            }
            None => {
                counted.people.push(owner.to_owned());
                counted.approvals.push(vote.digest());
            }
        }
    }
    if counted.people.len() as u64 >= required.people {
        return Ok(counted);
    }
    let missing = required.people - counted.people.len() as u64;
    let why = if reasons.is_empty() { String::new() } else { format!(" (not counted: {})", reasons.join("; ")) };
    let detail = format!("{missing} of {} approvals in role {} are missing{why}", required.people, required.role);
    let hint = format!("backout approve {} --as NAME", manifest.short());
    Err(vec![Finding::error(Code::APPROVALS_MISSING, "", detail, hint).for_whom(WhoCanAct::NeedsApproval)])
}

fn problem(vote: &Vote, manifest: Digest, environment: &str, requester: &str, now: Timestamp) -> Option<String> {
    let said = &vote.document().predicate;
    if vote.document().sole_subject() != Some(manifest) {
        return Some("it is for another manifest".to_owned());
    }
    if said.environment != environment {
        return Some(format!("it is for environment {}", said.environment));
    }
    if vote.signers().iter().any(|signer| signer.owner == requester) {
        return Some("who asks cannot approve".to_owned());
    }
    if now < said.issued {
        return Some(format!("it is dated {}, in the future", said.issued));
    }
    if now >= said.expires {
        return Some(format!("it expired at {}", said.expires));
    }
    if (said.expires.as_second() - said.issued.as_second()) > MOST_MINUTES * 60 {
        return Some(format!("it is good for more than {MOST_MINUTES} minutes"));
    }
    None
}
