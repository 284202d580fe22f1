//! The way of a plan through the stages, as the commands share it: check, assess, decide, load, run.

use std::sync::Arc;

use executor::{Conductor, Finished, Folded, Loaded, Names, Shell, Stop, fold};
use jiff::Timestamp;
use journal::{Entry, Journal as _, SqliteJournal};
use kernel::{DriverSet, Facts};
use planner::Planned;
use schemas::{
    Assessment, Code, Decisions, Digest, Document as _, End, Envelope, ExitCode, Manifest, OnFailure, Plan, Record,
    RecordBody, Role, RunSubject, Statement, Subject, TrustRoot, Verified,
};

use crate::home::Home;
use crate::judge;
use crate::lineage::Lineage;
use crate::look::Corrected;
use crate::output::Output;
use crate::problem::{Problem, chain};
use crate::votes;

/// A plan that was read: with its signer if it was signed.
pub(crate) struct ReadPlan {
    pub(crate) plan: Plan,
    pub(crate) digest: Digest,
    pub(crate) signer: Option<schemas::Signer>,
}

/// Reads a plan file, bare or signed. A signature is verified, not just looked at.
pub(crate) fn read_plan(bytes: &[u8], trust: Option<&TrustRoot>) -> Result<ReadPlan, Problem> {
    let invalid = |findings| {
        Problem::findings(ExitCode::Usage, "the plan is not valid", findings, "mend the plan, then backout plan check")
    };
    if !planner::is_envelope(bytes) {
        let plan = planner::parse(bytes).map_err(invalid)?;
        return Ok(ReadPlan { plan, digest: Digest::of(bytes), signer: None });
    }
    let refuse = |text: String| {
        Problem::identity(format!("the plan's signature is not good: {text}"), "backout plan sign PLAN --as AGENT")
    };
    let envelope = Envelope::from_json(bytes).map_err(|error| refuse(chain(&error)))?;
    let Some(trust) = trust else {
        let payload = envelope.unverified_payload().map_err(|error| refuse(error.to_string()))?;
        let plan = planner::parse(&payload).map_err(invalid)?;
        return Ok(ReadPlan { plan, digest: Digest::of(&payload), signer: None });
    };
    match envelope.verify::<Plan>(trust, &Role::Agent, Timestamp::now()) {
        Ok(verified) => {
            let signer = verified.signers().first().cloned();
            let digest = verified.digest();
            Ok(ReadPlan { plan: verified.into_document(), digest, signer })
        }
        // A payload that does not parse is told finding by finding, but only to whom the signature is good.
        Err(schemas::VerifyError::Payload(_)) => {
            let payload = envelope.unverified_payload().map_err(|error| refuse(error.to_string()))?;
            Err(planner::parse(&payload).map_err(invalid).err().unwrap_or_else(|| refuse("the payload".to_owned())))
        }
        Err(error) => Err(refuse(chain(&error))),
    }
}

/// Everything that can be found out without looking at the world.
pub(crate) fn check(plan: Plan, drivers: &DriverSet, facts: &Arc<Facts>) -> Result<Planned, Problem> {
    let expired = plan.expires.filter(|expires| Timestamp::now() >= *expires);
    let planned = planner::check(plan, drivers, facts).map_err(|findings| {
        Problem::findings(ExitCode::Usage, "the plan is not valid", findings, "mend the plan, then backout plan check")
    })?;
    match expired {
        None => Ok(planned),
        Some(at) => Err(Problem::new(
            ExitCode::Stale,
            Code::EXPIRED,
            format!("the plan expired at {at}"),
            "set a later expires, then backout plan sign PLAN --as AGENT",
        )),
    }
}

/// A manifest as it was issued.
pub(crate) struct Gated {
    pub(crate) digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) assessment: Assessment,
    pub(crate) decisions: Decisions,
    /// What the shadow bundle would decide otherwise.
    pub(crate) shadow: Vec<String>,
    /// The plan that it follows, where it names one.
    pub(crate) lineage: Option<Lineage>,
}

/// Check, assess, decide, sign. A refusal is a record like any other.
pub(crate) fn gate(home: &Home, bytes: &[u8], replay: Option<&str>) -> Result<Gated, Problem> {
    let trust = home.trust()?;
    let read = read_plan(bytes, Some(trust.document()))?;
    let Some(signer) = read.signer.clone() else {
        return Err(Problem::identity("the plan is not signed", "backout plan sign PLAN --as AGENT"));
    };
    if signer.owner != read.plan.agent {
        let title = format!("the plan names agent {} and was signed by {}", read.plan.agent, signer.owner);
        return Err(Problem::identity(title, "name the agent whose key signs"));
    }
    let corrects = replay.map(|name| corrected(home, name, &read.plan)).transpose()?;
    let records = records(&home.journal()?)?;
    if let Some(key) = &read.plan.idempotency_key {
        judge::refuse_repeated(&records, key, &signer.owner, read.digest)?;
    }
    let outcome = votes::refuse_rejected(&records, read.digest)
        .and_then(|()| judge::decide(home, &records, &read, &signer, trust.document(), bytes, corrects.as_ref()));
    if let Err(problem) = &outcome
        && !problem.findings.is_empty()
    {
        let fact = refused(home, Some(read.digest), problem)?;
        home.keep(read.digest, bytes)?;
        home.note(fact)?;
    }
    outcome
}

fn corrected(home: &Home, name: &str, plan: &Plan) -> Result<Corrected, Problem> {
    let (journal, drivers) = (home.journal()?, home.drivers()?);
    let line = crate::commands::find_run(&records(&journal)?, name)?;
    let folded = folded(home, &drivers, &journal, &line.run)?;
    let old = planner::parse(&home.payload(folded.loaded.plan)?).map_err(|findings| {
        Problem::findings(ExitCode::Integrity, "a kept plan does not parse", findings, "backout verify")
    })?;
    Ok(Corrected::of(&folded, &old, plan))
}

/// 128 random bits in hex.
pub(crate) fn nonce() -> Result<String, Problem> {
    let mut bits = [0u8; 16];
    getrandom::fill(&mut bits).map_err(|error| Problem::failure("the operating system gave no randomness", &error))?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A manifest that the gate issued, as the log names it: its signature is verified as of an instant.
pub(crate) fn issued(
    home: &Home,
    trust: &TrustRoot,
    digest: Digest,
    at: Timestamp,
) -> Result<Verified<Statement<Manifest>>, Problem> {
    let envelope = Envelope::from_json(&home.document(digest)?)
        .map_err(|error| Problem::identity(chain(&error), "backout gate PLAN"))?;
    let verified: Verified<Statement<Manifest>> = envelope.verify(trust, &Role::Gate, at).map_err(|error| {
        Problem::identity(format!("the manifest's signature is not good: {}", chain(&error)), "backout gate PLAN")
    })?;
    if verified.digest() != digest {
        return Err(Problem::identity("the manifest is not the one that the log names", "backout gate PLAN"));
    }
    Ok(verified)
}

/// Finds the one kept manifest whose digest starts with `name`, or the newest of a session of that name.
pub(crate) fn find_manifest(
    records: &[Record],
    home: &Home,
    name: &str,
) -> Result<(Digest, Verified<Statement<Manifest>>), Problem> {
    let wanted = name.strip_prefix("sha256:").unwrap_or(name);
    let trust = home.trust()?;
    let gated = records.iter().rev().filter_map(|record| match &record.fact {
        RecordBody::Gated { manifest, .. } => Some(*manifest),
        _ => None,
    });
    let used: std::collections::HashSet<Digest> = records.iter().filter_map(|record| used_by(&record.fact)).collect();
    let mut by_session: Option<(Digest, Verified<Statement<Manifest>>)> = None;
    for digest in gated {
        let is_named = wanted.len() >= 8 && digest.hex().starts_with(wanted);
        let verified = match issued(home, trust.document(), digest, Timestamp::now()) {
            Ok(verified) => verified,
            // Another manifest than the one that is looked for keeps nobody from it.
            Err(_) if !is_named => continue,
            Err(problem) => return Err(problem),
        };
        if is_named {
            return Ok((digest, verified));
        }
        let said = &verified.document().predicate;
        if said.session != name {
            continue;
        }
        let open = |digest: &Digest, said: &Manifest| !used.contains(digest) && Timestamp::now() < said.expires;
        match &by_session {
            None => by_session = Some((digest, verified)),
            Some((other, first)) if open(other, &first.document().predicate) && open(&digest, said) => {
                let title =
                    format!("session {name} has more than one manifest: {} and {}", other.short(), digest.short());
                return Err(Problem::usage(title, "name the manifest by the beginning of its digest"));
            }
            Some(_) => {}
        }
    }
    let next = "backout approvals lists them: name the session, or at least 8 digits of the digest";
    by_session.ok_or_else(|| Problem::usage(format!("no manifest is called {name:?}"), next))
}

/// Every record of the log.
pub(crate) fn records(journal: &SqliteJournal) -> Result<Vec<Record>, Problem> {
    journal.records(None).map_err(|error| Problem::journal(&error))
}

/// Loads the documents of a run by their digests, with the roots as they were when the gate decided.
pub(crate) fn load(home: &Home, drivers: &DriverSet, names: &Names) -> Result<Loaded, Problem> {
    let Names { plan, assessment, decisions } = *names;
    let broken = |text| Problem::new(ExitCode::Integrity, Code::INTEGRITY, text, "restore .backout/documents");
    let parsed = planner::parse(&home.payload(plan)?).map_err(|findings| {
        Problem::findings(ExitCode::Integrity, "a kept plan does not parse", findings, "restore .backout/documents")
    })?;
    let assessed = Assessment::from_payload(&home.plain(assessment)?).map_err(|error| broken(chain(&error)))?;
    let roots = assessed.roots.iter().map(std::path::PathBuf::from).collect();
    let protected = vec![home.dir().to_owned()];
    let environment = parsed.environment.clone();
    // Going back needs no site; whoever goes forward has read it.
    let backups = home.site().map(|site| site.backups(&environment)).unwrap_or_default();
    let facts = Arc::new(Facts { environment, roots, protected, backups, contains: assessed.contains });
    let checks = parsed.checks.clone();
    let planned = planner::check(parsed, drivers, &facts).map_err(|findings| {
        Problem::findings(ExitCode::Stale, "the plan does not fit the site any more", findings, "backout gate PLAN")
    })?;
    let decided: Decisions =
        serde_json::from_slice(&home.plain(decisions)?).map_err(|error| broken(error.to_string()))?;
    let mut steps = planned.steps;
    for (step, assessed) in steps.iter_mut().zip(&assessed.steps) {
        step.pinned.clone_from(&assessed.pinned);
    }
    Ok(Loaded {
        plan,
        steps: Arc::new(steps),
        graph: planned.graph,
        assessed: Arc::new(assessed.steps),
        checks,
        facts,
        decisions: Arc::new(decided.steps.iter().map(|decision| decision.id).collect()),
        decisions_digest: decisions,
        ceilings: Arc::new(decided.ceilings),
    })
}

/// A run from its records.
pub(crate) fn folded(home: &Home, drivers: &DriverSet, journal: &SqliteJournal, run: &str) -> Result<Folded, Problem> {
    let records = journal.records(Some(run)).map_err(|error| Problem::journal(&error))?;
    let Some(subject) = records.first().and_then(|record| record.subject.clone()) else {
        return Err(Problem::usage(format!("no run is called {run:?}"), "backout status"));
    };
    let facts = records.into_iter().map(|record| record.fact).collect();
    let mut why = None;
    let mut loader = |names: &Names| {
        load(home, drivers, names).map_err(|problem| {
            let title = problem.title.clone();
            why = Some(problem);
            title
        })
    };
    let folded = fold(subject, facts, &mut loader);
    folded.map_err(|error| {
        // A root that is not mounted is no broken log: the loader's own words are kept.
        why.unwrap_or_else(|| {
            let next = "keep .backout as evidence; backout log shows the records";
            Problem::new(ExitCode::Integrity, Code::INTEGRITY, chain(&error), next)
        })
    })
}

/// How a run is driven.
pub(crate) struct Driving<'a> {
    pub(crate) home: &'a Home,
    pub(crate) drivers: DriverSet,
    pub(crate) alive_until_ms: Option<i64>,
    pub(crate) output: &'a Output,
    /// What it needs to go forward; a run without it only goes back.
    pub(crate) leave: Option<Leave>,
}

/// Leave to go forward: the policy of the moment, and the gate's own ceilings.
#[derive(Clone)]
pub(crate) struct Leave {
    pub(crate) warden: Arc<dyn executor::Warden>,
    pub(crate) brake: Arc<dyn executor::Brake>,
    pub(crate) warrant: tokens::Warrant,
    /// What the policy decided, directly before.
    pub(crate) decided: Digest,
}

/// How a run came to rest.
pub(crate) struct Rested {
    pub(crate) folded: Folded,
    pub(crate) receipt: Option<schemas::Receipt>,
    pub(crate) journal: SqliteJournalBox,
    pub(crate) code: ExitCode,
}

/// The journal as the executor gives it back.
pub(crate) type SqliteJournalBox = Box<dyn journal::Journal>;

/// Drives a run until it rests; an ended one gets its receipt.
pub(crate) fn drive(driving: &Driving<'_>, conductor: Conductor, journal: SqliteJournalBox) -> Result<Rested, Problem> {
    let (mint, checker) = tokens_of(driving, conductor.folded())?;
    let shell = Shell {
        drivers: driving.drivers.clone(),
        heartbeat: driving.home.path("heartbeat"),
        outputs: driving.home.path("outputs"),
        alive_until_ms: driving.alive_until_ms,
        signals: true,
        stop: Stop::default(),
        warden: driving.leave.as_ref().map(|leave| leave.warden.clone()),
        brake: driving.leave.as_ref().map(|leave| leave.brake.clone()),
        mint: Arc::new(mint),
        authority: Arc::new(checker),
    };
    let mut progress = {
        let folded = conductor.folded();
        crate::commands::progress::Progress::new(driving.output, &folded.subject.run, &folded.loaded.steps)
    };
    let finished = shell.run(conductor, journal, &mut |fact| progress.fact(fact)).map_err(|error| match &error {
        executor::ExecutorError::Journal(inner) => Problem::journal(inner),
        other => Problem::new(ExitCode::Bug, Code::FAILURE, chain(other), "backout recover"),
    })?;
    progress.done();
    let Finished { folded, mut journal } = finished;
    let Some(end) = folded.run.ended() else {
        // Whatever halted it, nothing was put back: it is held.
        return Ok(Rested { folded, receipt: None, journal, code: ExitCode::Stopped });
    };
    let receipt = issue_receipt(driving.home, &folded, end, journal.as_mut())?;
    let code = folded.exit_code(end);
    Ok(Rested { folded, receipt: Some(receipt), journal, code })
}

/// Who makes the tokens of a run in this process, and who takes them.
fn tokens_of(driving: &Driving<'_>, folded: &Folded) -> Result<(tokens::Mint, tokens::Checker), Problem> {
    let run = &folded.subject.run;
    let pair = match &driving.leave {
        None => tokens::pair_to_undo(tokens::Warrant::to_undo(folded.loaded.plan, folded.manifest), run, folded.acts),
        Some(leave) => {
            let (runner, trust) = (driving.home.key("runner")?, driving.home.trust()?);
            tokens::pair(runner, trust.document(), leave.warrant.clone(), run, folded.acts)
        }
    };
    pair.map_err(|error| Problem::identity(error.to_string(), "backout key list shows who is a runner"))
}

/// Makes, signs, keeps and records the receipt of a run that ended.
pub(crate) fn issue_receipt(
    home: &Home,
    folded: &Folded,
    end: End,
    journal: &mut dyn journal::Journal,
) -> Result<schemas::Receipt, Problem> {
    let receipt = make_receipt(folded, end, journal.head(), Timestamp::now());
    let envelope = sign_receipt(home, folded, &receipt)?;
    let digest = Digest::of(&envelope.unverified_payload().unwrap_or_default());
    home.keep(digest, &envelope.to_json())?;
    let entry =
        Entry { subject: Some(Arc::new(folded.subject.clone())), fact: RecordBody::Receipted { receipt: digest } };
    journal.append(Timestamp::now(), &[entry]).map_err(|error| Problem::journal(&error))?;
    Ok(receipt)
}

/// The receipt that the log so far comes to.
pub(crate) fn make_receipt(folded: &Folded, end: End, head: journal::LogHead, ended: Timestamp) -> schemas::Receipt {
    let step_ids: Vec<String> = folded.loaded.steps.iter().map(|step| step.id.clone()).collect();
    let input = verifier::ReceiptInput {
        run_id: &folded.subject.run,
        session: &folded.subject.session,
        run: &folded.run,
        step_ids: &step_ids,
        account: &folded.account,
        decisions: folded.loaded.decisions_digest,
        approvals: &folded.approvals,
        log_size: head.size,
        log_root: &head.root,
        anchor: "unanchored",
    };
    let reason = folded.cause.as_ref().map_or("", |(_, reason)| reason.as_str());
    let reason = if end == End::Committed { "" } else { reason };
    verifier::receipt(&input, end, reason, ended)
}

fn sign_receipt(home: &Home, folded: &Folded, receipt: &schemas::Receipt) -> Result<Envelope, Problem> {
    let subjects = vec![Subject::new("plan", folded.loaded.plan), Subject::new("manifest", folded.manifest)];
    let payload = Statement::new(subjects, receipt.clone()).to_payload();
    Ok(Envelope::sign(Statement::<schemas::Receipt>::PAYLOAD_TYPE, &payload, &[&home.key("runner")?]))
}

/// The fact of a refusal; its findings are kept.
fn refused(home: &Home, plan: Option<Digest>, problem: &Problem) -> Result<RecordBody, Problem> {
    let findings = serde_json::to_vec(&problem.findings).unwrap_or_default();
    let codes = problem.findings.iter().map(|finding| finding.code.to_string()).collect();
    let digest = Digest::of(&findings);
    home.keep(digest, &findings)?;
    Ok(RecordBody::Refused { plan, codes, findings: digest, decisions: problem.decisions.as_deref().copied() })
}

/// Puts a refusal on record by whoever has the journal. It stands with or without its record.
pub(crate) fn note_refusal(journal: &mut dyn journal::Journal, home: &Home, plan: Option<Digest>, problem: &Problem) {
    if problem.findings.is_empty() {
        return;
    }
    if let Ok(fact) = refused(home, plan, problem) {
        let _ = journal.append(Timestamp::now(), &[Entry { subject: None, fact }]);
    }
}

/// Opens a run of a manifest: everything that was approved is checked again.
pub(crate) struct Opening {
    pub(crate) manifest: Digest,
    pub(crate) predicate: Manifest,
    pub(crate) approvals: Vec<Digest>,
    pub(crate) loaded: Loaded,
    pub(crate) reserved: Vec<schemas::Used>,
    pub(crate) leave: Leave,
}

/// The manifest that a record puts to use.
pub(crate) fn used_by(fact: &RecordBody) -> Option<Digest> {
    match fact {
        RecordBody::RunOpened { manifest, .. } | RecordBody::Amended { manifest, .. } => Some(*manifest),
        _ => None,
    }
}

/// A new run: its opening is durable when this returns.
pub(crate) fn open_run(
    opening: Opening,
    on_failure: OnFailure,
    journal: &mut SqliteJournal,
) -> Result<Folded, Problem> {
    let subject = RunSubject {
        run: format!("run-{}", ulid::Ulid::generate().to_string().to_lowercase()),
        session: opening.predicate.session.clone(),
        agent: opening.predicate.requester.clone(),
        environment: opening.predicate.environment.clone(),
    };
    let steps = opening.loaded.steps.len();
    journal.reserve(steps).map_err(|error| Problem::journal(&error))?;
    let fact = RecordBody::RunOpened {
        plan: opening.predicate.plan,
        manifest: opening.manifest,
        assessment: opening.predicate.assessment,
        decisions: opening.predicate.decisions,
        approvals: opening.approvals.clone(),
        on_failure,
        steps: steps as u32,
        admitted: Some(opening.leave.decided),
        reserved: opening.reserved.clone(),
    };
    let entry = Entry { subject: Some(Arc::new(subject.clone())), fact };
    journal.append(Timestamp::now(), &[entry]).map_err(|error| Problem::journal(&error))?;
    Ok(Folded::open(subject, opening.loaded, opening.manifest, opening.approvals, on_failure))
}
