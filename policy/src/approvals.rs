//! Counting people: distinct owners, never keys; one reject vetoes; an approval is for one manifest and for a while.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use schemas::{Approval, ApprovalsRequired, Code, Digest, Finding, Statement, TrustRoot, Verdict, Verified, WhoCanAct};

/// Longest time that an approval may be good for, in minutes, whatever a rule says.
pub(crate) const MOST_MINUTES: u64 = 30;

/// An approval whose signature was verified for the role that the manifest names.
pub type Vote = Verified<Statement<Approval>>;

/// The approvals that counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Their digests.
    pub approvals: Vec<Digest>,
    /// Distinct people.
    pub people: Vec<String>,
    /// Teams that they are in.
    pub teams: BTreeSet<String>,
}

/// What votes are about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The manifest.
    pub manifest: Digest,
    /// Its environment.
    pub environment: &'a str,
    /// Who asked; cannot approve.
    pub requester: &'a str,
    /// The trust root in force.
    pub trust: &'a TrustRoot,
    /// When it is judged.
    pub now: Timestamp,
    /// Longest time that an approval may be good for, in minutes: what the rules ask for.
    pub minutes: u64,
}

/// Counts votes for a manifest. The error says what is missing, and for each vote that did not count why.
pub fn count(about: &About<'_>, required: &ApprovalsRequired, votes: &[Vote]) -> Result<Counted, Vec<Finding>> {
    let mut counted = Counted { approvals: Vec::new(), people: Vec::new(), teams: BTreeSet::new() };
    let (mut reasons, mut nonces) = (Vec::new(), BTreeSet::new());
    for vote in votes {
        let owner = vote.signers().first().map_or("", |signer| signer.owner.as_str());
        let said = &vote.document().predicate;
        // A no has no end: it stands however late it is.
        if said.verdict == Verdict::Reject && vote.document().sole_subject() == Some(about.manifest) {
            let detail = format!("{owner} rejected it: {}", said.reason);
            let hint = "change the plan; a new manifest needs new approvals";
            return Err(vec![Finding::error(Code::REJECTED, "", detail, hint).for_whom(WhoCanAct::Forbidden)]);
        }
        let repeated = || {
            let again = !nonces.insert(said.nonce.clone());
            let known = counted.people.iter().any(|known| known == owner);
            match (again, known) {
                (true, _) => Some((Code::APPROVAL_NONCE, "the same approval again".to_owned())),
                (_, true) => Some((Code::APPROVAL_SAME_PERSON, "counted already: people count, not keys".to_owned())),
                _ => None,
            }
        };
        match objection(vote, about).or_else(repeated) {
            Some((code, text)) => reasons.push((code, format!("{owner}: {text}"))),
            None => {
                counted.people.push(owner.to_owned());
                counted.teams.extend(about.trust.teams_of(owner, about.now));
                counted.approvals.push(vote.digest());
            }
        }
    }
    let missing = required.people.saturating_sub(counted.people.len() as u64);
    let absent: Vec<&str> =
        required.teams.iter().filter(|team| !counted.teams.contains(*team)).map(String::as_str).collect();
    if missing == 0 && absent.is_empty() {
        return Ok(counted);
    }
    let mut detail = format!("{missing} of {} approvals in role {} are missing", required.people, required.role);
    if !absent.is_empty() {
        detail = format!("{detail}; nobody of {} has spoken", absent.join(", "));
    }
    let hint = format!("backout approve {} --as NAME", about.manifest.short());
    let mut out =
        vec![Finding::error(Code::APPROVALS_MISSING, "", detail, hint.clone()).for_whom(WhoCanAct::NeedsApproval)];
    let uncounted = reasons
        .into_iter()
        .map(|(code, text)| Finding::error(code, "", text, hint.clone()).for_whom(WhoCanAct::NeedsApproval));
    out.extend(uncounted);
    Err(out)
}

/// Why a vote does not count by itself, with the code of that.
pub fn objection(vote: &Vote, about: &About<'_>) -> Option<(Code, String)> {
    let said = &vote.document().predicate;
    if vote.document().sole_subject() != Some(about.manifest) {
        return Some((Code::APPROVAL_MANIFEST, "it is for another manifest".to_owned()));
    }
    if said.environment != about.environment {
        return Some((Code::APPROVAL_ENVIRONMENT, format!("it is for environment {}", said.environment)));
    }
    if vote.signers().iter().any(|signer| signer.owner == about.requester) {
        return Some((Code::APPROVAL_REQUESTER, "who asks cannot approve".to_owned()));
    }
    if vote.signers().iter().any(|signer| about.trust.is_agent(&signer.owner)) {
        return Some((Code::APPROVAL_AGENT, "an agent cannot approve, whatever roles its keys have".to_owned()));
    }
    if said.trust_version != about.trust.version {
        let text = format!("it was made under trust root version {}", said.trust_version);
        return Some((Code::APPROVAL_TRUST, text));
    }
    if said.nonce.len() != 32 || !said.nonce.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Some((Code::APPROVAL_NONCE, "its nonce is not 128 bits in hex".to_owned()));
    }
    if about.now < said.issued {
        return Some((Code::APPROVAL_TIME, format!("it is dated {}, in the future", said.issued)));
    }
    if about.now >= said.expires {
        return Some((Code::APPROVAL_TIME, format!("it expired at {}", said.expires)));
    }
    let minutes = about.minutes.min(MOST_MINUTES);
    if said.expires.duration_since(said.issued) > SignedDuration::from_mins(minutes.cast_signed()) {
        return Some((Code::APPROVAL_TIME, format!("it is good for more than {minutes} minutes")));
    }
    None
}

#[cfg(test)]
mod tests {
    use schemas::{Document as _, Envelope, Role, SecretKey, Subject, TrustedKey};

    use super::*;

    const MANIFEST: &[u8] = b"manifest";

    fn role() -> Role {
        Role::Approver("prod".to_owned())
    }

    /// Ada has two keys, grace and the bot have one each.
    fn trust() -> TrustRoot {
        let mut trust = TrustRoot::new(1, Timestamp::now() + SignedDuration::from_hours(1));
        for (seed, owner) in [(1, "ada"), (2, "ada"), (3, "grace"), (4, "bot")] {
            let key = TrustedKey::ed25519(
                SecretKey::from_seed([seed; 32]).public_hex(),
                owner,
                Timestamp::now() + SignedDuration::from_hours(1),
            );
            trust.enrol(key, &role()).unwrap();
        }
        trust
    }

    fn word(seed: u8, verdict: Verdict) -> Approval {
        Approval {
            environment: "prod".to_owned(),
            verdict,
            reason: String::new(),
            trust_version: 1,
            issued: Timestamp::now() - SignedDuration::from_secs(1),
            expires: Timestamp::now() + SignedDuration::from_mins(20),
            nonce: format!("{seed:032x}"),
        }
    }

    fn signed(seed: u8, approval: Approval, manifest: &[u8]) -> Vote {
        let payload = Statement::new(vec![Subject::new("manifest", Digest::of(manifest))], approval).to_payload();
        let key = SecretKey::from_seed([seed; 32]);
        let envelope = Envelope::sign(Statement::<Approval>::PAYLOAD_TYPE, &payload, &[&key]);
        envelope.verify(&trust(), &role(), Timestamp::now()).unwrap()
    }

    fn yes(seed: u8) -> Vote {
        signed(seed, word(seed, Verdict::Approve), MANIFEST)
    }

    fn counted(people: u64, votes: &[Vote]) -> Result<Counted, Vec<Finding>> {
        let required = ApprovalsRequired { people, role: role().to_string(), minutes: MOST_MINUTES, teams: Vec::new() };
        let trust = trust();
        let (environment, requester, now) = ("prod", "bot", Timestamp::now());
        let minutes = MOST_MINUTES;
        let about = About { manifest: Digest::of(MANIFEST), environment, requester, trust: &trust, now, minutes };
        count(&about, &required, votes)
    }

    #[test]
    fn people_are_counted_and_never_keys() {
        assert!(counted(2, &[yes(1), yes(2)]).is_err(), "two keys of one person");
        let both = counted(2, &[yes(1), yes(3)]).unwrap();
        assert_eq!(both.people, ["ada", "grace"]);
    }

    #[test]
    fn who_asks_cannot_approve() {
        assert!(counted(1, &[yes(4)]).is_err());
        assert!(counted(0, &[]).is_ok());
    }

    #[test]
    fn an_approval_is_for_one_manifest_one_environment_and_a_while() {
        let changed = |change: &dyn Fn(&mut Approval)| {
            let mut approval = word(1, Verdict::Approve);
            change(&mut approval);
            signed(1, approval, MANIFEST)
        };
        let hour = SignedDuration::from_hours(1);
        for (what, vote) in [
            ("another manifest", signed(1, word(1, Verdict::Approve), b"another")),
            ("another environment", changed(&|approval| approval.environment = "staging".to_owned())),
            ("expired", changed(&|approval| approval.expires = Timestamp::now() - SignedDuration::from_secs(1))),
            ("from the future", changed(&|approval| approval.issued = Timestamp::now() + hour)),
            ("too long", changed(&|approval| approval.expires = Timestamp::now() + hour)),
        ] {
            assert!(counted(1, &[vote]).is_err(), "{what}");
        }
        assert!(counted(1, &[yes(1)]).is_ok());
    }

    #[test]
    fn one_nonce_counts_once() {
        let again = signed(3, word(1, Verdict::Approve), MANIFEST);
        assert!(counted(2, &[yes(1), again]).is_err());
    }

    #[test]
    fn one_no_vetoes_however_late_it_is() {
        let mut late = word(3, Verdict::Reject);
        late.expires = Timestamp::now() - SignedDuration::from_secs(1);
        for no in [signed(3, word(3, Verdict::Reject), MANIFEST), signed(3, late, MANIFEST)] {
            let findings = counted(1, &[yes(1), no]).unwrap_err();
            assert_eq!(findings.first().map(|finding| finding.code), Some(Code::REJECTED));
        }
    }
}
