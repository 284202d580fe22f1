//! The gate and its second look: a plan is judged when it comes in, and again when people have spoken and it is about to run.

use std::sync::Arc;

use executor::{Folded, Loaded, Names};
use jiff::{SignedDuration, Timestamp};
use kernel::{DriverSet, StepSpec};
use planner::Planned;
use policy::{Outcome, People, Principal, Request, StepFacts};
use schemas::{
    ApprovalsRequired, Code, Digest, Document as _, Envelope, ExitCode, Finding, GateVerdict, Manifest, Predicate as _,
    Record, RecordBody, Role, Ruling, Statement, StepAssessment, Subject, TrustRoot, Used, Verified, WhoCanAct,
};

use crate::flow::{Gated, Leave, Opening, ReadPlan, check, find_manifest, issued, load, nonce, used_by};
use crate::home::Home;
use crate::lineage::lineage;
use crate::look::{Corrected, assess, unknown_commands};
use crate::problem::{Problem, chain};
use crate::site::Site;
use crate::{changed, ledger, rules, stops, votes};

/// How long a manifest may be run after it was issued.
const MANIFEST_MINUTES: i64 = 60;

/// Check, assess, decide, sign.
pub(crate) fn decide(
    home: &Home,
    records: &[Record],
    read: &ReadPlan,
    signer: &schemas::Signer,
    trust: &TrustRoot,
    bytes: &[u8],
    corrects: Option<&Corrected>,
) -> Result<Gated, Problem> {
    let digest = read.digest;
    let (site, drivers) = (home.site()?, home.drivers()?);
    let engine = rules::in_force(home, records, trust)?;
    let facts = Arc::new(site.facts(&read.plan.environment, home.dir(), home.contains(&read.plan)?)?);
    let planned = check(read.plan.clone(), &drivers, &facts)?;
    let assessed = assess(&planned, &drivers, digest, corrects);
    let assessment = assessed.map_err(|findings| {
        Problem::findings(
            ExitCode::Refused,
            "the plan was refused",
            findings,
            "backout plan show PLAN, once it is mended",
        )
    })?;
    let lineage = lineage(home, records, &planned.plan, &assessment)?;
    let assessment_bytes = serde_json::to_vec(&assessment).unwrap_or_default();
    let gate_facts = site.gate_facts(&planned.plan.environment, home.own())?;
    // What takes over another run stands in its place.
    let entries = ledger::entries_but(records, corrects.map_or("", |corrected| corrected.run.as_str()));
    let request = Request {
        plan: digest,
        assessment: Digest::of(&assessment_bytes),
        principal: principal(trust, signer),
        site: &gate_facts,
        now: Timestamp::now(),
        session: ledger::session(&entries, &planned.plan.session, gate_facts.inventory.mode()),
        people: People::default(),
        own_resources: ledger::made_by(records, &planned.plan.session, &signer.owner, &planned.plan.environment),
        drilled: ledger::drilled(records, &planned.plan.environment, Timestamp::now()),
        unknown: unknown_commands(&planned.steps, &planned.plan.checks, &planned.facts, &drivers),
        steps: step_facts(&planned.steps, &assessment.steps),
    };
    let mut outcome = policy::decide(&engine, &request, "gate");
    home.keep(digest, bytes)?;
    home.keep(site.digest(), &site.document())?;
    home.keep(request.assessment, &assessment_bytes)?;
    if let Err(mut problem) = refuse_denied(&outcome) {
        problem.decisions = Some(Box::new(keep_decisions(home, &site, &mut outcome.decisions)?));
        return Err(problem);
    }
    refuse_over(home, records, trust, &entries, &request, &planned.plan.session, outcome.used.clone())?;
    let shadow = shadow(home, &request, &outcome);
    outcome.decisions.ceilings = tokens::ceilings(planned.steps.iter().zip(&assessment.steps));
    let names = (engine.digest(), site.digest(), keep_decisions(home, &site, &mut outcome.decisions)?);
    let manifest = manifest(&planned, &request, &outcome, signer, trust, names)?;
    let statement = Statement::new(vec![Subject::new("plan", digest)], manifest.clone());
    let payload = statement.to_payload();
    if payload.len() > Manifest::MAX_BYTES {
        return Err(Problem::usage("the manifest would be larger than 4 KiB", "use shorter names"));
    }
    let envelope = Envelope::sign(Statement::<Manifest>::PAYLOAD_TYPE, &payload, &[&home.key("gate")?]);
    let manifest_digest = Digest::of(&payload);
    home.keep(manifest_digest, &envelope.to_json())?;
    let key = read.plan.idempotency_key.clone().map(|key| (signer.owner.clone(), key));
    home.note(RecordBody::Gated {
        plan: digest,
        manifest: manifest_digest,
        assessment: request.assessment,
        request: key,
    })?;
    Ok(Gated { digest: manifest_digest, manifest, assessment, decisions: outcome.decisions, shadow, lineage })
}

/// Keeps decisions, allowed or not, with everything that is needed to make them again. Returns their digest.
fn keep_decisions(home: &Home, site: &Site, decisions: &mut schemas::Decisions) -> Result<Digest, Problem> {
    if let Some(inputs) = decisions.inputs.as_object_mut() {
        inputs.insert("site".to_owned(), serde_json::json!(site.digest()));
    }
    let bytes = serde_json::to_vec(decisions).unwrap_or_default();
    let digest = Digest::of(&bytes);
    home.keep(digest, &bytes)?;
    Ok(digest)
}

/// What the bundle in the folder `shadow` would decide otherwise, in a line each. It reports and decides nothing: not even its errors refuse.
fn shadow(home: &Home, request: &Request<'_>, outcome: &Outcome) -> Vec<String> {
    let folder = home.path("shadow");
    if !folder.is_dir() {
        return Vec::new();
    }
    let engine = match rules::read(&folder).and_then(|bundle| bundle.engine(Timestamp::now()).map_err(rules::refuse)) {
        Ok(engine) => engine,
        Err(problem) => return vec![problem.title],
    };
    let other = policy::decide(&engine, request, "gate");
    let said = |decision: &schemas::Decision| format!("{} {}", decision.ruling.as_str(), decision.needs.join(" "));
    let real = outcome.decisions.steps.iter().chain([&outcome.decisions.plan]);
    let pairs = real.zip(other.decisions.steps.iter().chain([&other.decisions.plan]));
    let different = pairs.filter(|(real, other)| said(real) != said(other)).map(|(real, other)| {
        let step = if real.step.is_empty() { "the plan as a whole" } else { &real.step };
        format!("{step}: {} here, {} there, by {}", said(real).trim(), said(other).trim(), other.rules.join(" "))
    });
    different.collect()
}

/// Two plans with one key of one agent are one request: another plan is refused, and so is one that ran, under whichever manifest.
pub(crate) fn refuse_repeated(records: &[Record], key: &str, agent: &str, plan: Digest) -> Result<(), Problem> {
    let refuse = |detail: String| {
        let hint = "backout status tells how it ended; a new request gets a new key";
        let finding =
            Finding::error(Code::IDEMPOTENCY, "/idempotency_key", detail, hint).for_whom(WhoCanAct::Retryable);
        Err(Problem::findings(ExitCode::Refused, "the request was made before", vec![finding], "backout status"))
    };
    for record in records {
        let RecordBody::Gated { plan: seen, manifest, request: Some((owner, used)), .. } = &record.fact else {
            continue;
        };
        if owner != agent || used != key {
            continue;
        }
        if *seen != plan {
            return refuse(format!("{key:?} was used for plan {}, and this is another one", seen.short()));
        }
        if records.iter().any(|record| used_by(&record.fact) == Some(*manifest)) {
            return refuse(format!("{key:?} was used for this plan, which ran already"));
        }
    }
    Ok(())
}

fn refuse_denied(outcome: &Outcome) -> Result<(), Problem> {
    if outcome.refusals.is_empty() {
        return Ok(());
    }
    let mut refusals = outcome.refusals.clone();
    schemas::sort_findings(&mut refusals);
    Err(Problem::findings(
        ExitCode::Refused,
        "the plan was refused; nothing was touched",
        refusals,
        "change the plan; no approval can change a forbidden one",
    ))
}

/// The agent as the trust root has it.
fn principal(trust: &TrustRoot, signer: &schemas::Signer) -> Principal {
    let key = trust.key(signer.keyid);
    Principal {
        id: signer.owner.clone(),
        duties: key.map(|key| key.duties.iter().cloned().collect()).unwrap_or_default(),
        environments: key.map(|key| key.environments.iter().cloned().collect()).unwrap_or_default(),
    }
}

/// The files that the words of a command may name, as URIs: each word, and what follows an equals sign in it.
fn named_files(lowered: &kernel::Lowered) -> Vec<String> {
    let Some(cwd) = lowered.cwd.as_deref().map(std::path::Path::new) else { return Vec::new() };
    let words = lowered
        .argv
        .iter()
        .skip(1)
        .flat_map(|word| word.split(|letter: char| letter.is_whitespace() || "='\"<>|;&()".contains(letter)));
    let mut out: Vec<String> = Vec::new();
    for word in words.filter(|word| !word.is_empty() && !word.starts_with('-')) {
        let mut path = std::path::PathBuf::new();
        for part in cwd.join(word).components() {
            match part {
                std::path::Component::ParentDir => drop(path.pop()),
                std::path::Component::CurDir => {}
                part => path.push(part),
            }
        }
        out.push(schemas::Resource::file(path.display().to_string()).to_string());
    }
    out.sort();
    out.dedup();
    out
}

/// Steps as the policy sees them.
pub(crate) fn step_facts<'a>(steps: &'a [StepSpec], assessed: &'a [StepAssessment]) -> Vec<StepFacts<'a>> {
    let facts = |(step, assessed): (&'a StepSpec, &'a StepAssessment)| StepFacts {
        ix: step.ix.at(),
        assessed,
        writes: &step.lowered.writes,
        reads: &step.lowered.reads,
        names: named_files(&step.lowered),
        act: step.lowered.act.as_ref().filter(|_| !is_told_whole(assessed)),
        command: step.lowered.argv.join(" "),
        has_checks: !step.verify.is_empty(),
        way: policy::way_back(&step.uses, &step.lowered.argv),
    };
    steps.iter().zip(assessed).map(facts).collect()
}

/// A program of which nobody knows what it does, and that was tried out where nothing but files could change: what it changed is all.
fn is_told_whole(assessed: &StepAssessment) -> bool {
    assessed.confidence == schemas::Confidence::Verified && assessed.way_back.entry.is_none()
}

/// Refuses what would exceed a limit: by everything that is on record, the runs in flight included.
fn refuse_over(
    home: &Home,
    records: &[Record],
    trust: &TrustRoot,
    entries: &[policy::Entry],
    request: &Request<'_>,
    session: &str,
    used: Vec<Used>,
) -> Result<(), Problem> {
    let plan = policy::Entry {
        time: request.now,
        session: session.to_owned(),
        agent: request.principal.id.clone(),
        environment: request.site.environment.clone(),
        used,
    };
    let raises = ledger::raises(home, records, trust)?;
    let findings = policy::over(request.site.inventory.limits(), entries, &raises, &plan, request.now);
    if findings.is_empty() {
        return Ok(());
    }
    let title = "a limit would be exceeded; nothing was touched";
    Err(Problem::findings(ExitCode::Refused, title, findings, "backout limits"))
}

fn manifest(
    planned: &Planned,
    request: &Request<'_>,
    outcome: &Outcome,
    signer: &schemas::Signer,
    trust: &TrustRoot,
    (policy, site, decisions): (Digest, Digest, Digest),
) -> Result<Manifest, Problem> {
    let issued = request.now;
    let mut classes = std::collections::BTreeMap::new();
    for step in &request.steps {
        *classes.entry(step.class()).or_insert(0) += 1;
    }
    Ok(Manifest {
        session: planned.plan.session.clone(),
        requester: signer.owner.clone(),
        environment: planned.plan.environment.clone(),
        plan: request.plan,
        assessment: request.assessment,
        decisions,
        policy,
        site,
        trust_version: trust.version,
        verdict: if outcome.people == 0 { GateVerdict::Allow } else { GateVerdict::Hold },
        steps: request.steps.len() as u64,
        classes,
        approvals: ApprovalsRequired {
            people: outcome.people,
            role: Role::Approver(planned.plan.environment.clone()).to_string(),
            minutes: outcome.minutes,
            teams: outcome.teams.clone(),
        },
        issued,
        expires: issued + SignedDuration::from_mins(MANIFEST_MINUTES),
        nonce: nonce()?,
    })
}

/// Checks that a manifest may run now: not expired, not used, nothing changed, approvals there, and the policy asked again with them.
/// `replaces` is the run that its plan takes over; empty where it takes over none.
pub(crate) fn admit(
    home: &Home,
    drivers: &DriverSet,
    records: &[Record],
    name: &str,
    replaces: &str,
) -> Result<Opening, Problem> {
    let (digest, verified) = find_manifest(records, home, name)?;
    let manifest = verified.document().predicate.clone();
    let now = Timestamp::now();
    if now >= manifest.expires {
        let title = format!("the manifest expired at {}", manifest.expires);
        return Err(Problem::new(ExitCode::Stale, Code::EXPIRED, title, "backout gate PLAN"));
    }
    let (trust, site) = (home.trust()?, home.site()?);
    let engine = rules::in_force(home, records, trust.document())?;
    refuse_stale(home, records, &manifest, engine.digest(), &site, trust.document())?;
    let runner = home.key("runner")?.id();
    trust.document().check_key(&Role::Runner, runner, now).map_err(|error| {
        Problem::identity(
            format!("the runner's key is not good: {error}"),
            "backout key list, then enrol a runner's key",
        )
    })?;
    votes::refuse_spent(records, digest, manifest.plan)?;
    let counted = votes::approvals(home, records, digest, &manifest, now)?;
    let names = Names { plan: manifest.plan, assessment: manifest.assessment, decisions: manifest.decisions };
    let loaded = load(home, drivers, &names)?;
    refuse_moved(home, &site, &loaded)?;
    let people = People { approvals: counted.people.len() as u64, teams: counted.teams };
    let asked = Asked {
        home,
        drivers,
        records,
        trust: trust.document(),
        site: &site,
        manifest: &manifest,
        now,
        run: replaces,
        begins: true,
    };
    let admitted = asked.again(engine, &loaded, people)?;
    let leave = leave(home, records, &verified, &loaded, &admitted)?;
    let reserved = admitted.used;
    Ok(Opening { manifest: digest, predicate: manifest, approvals: counted.approvals, loaded, reserved, leave })
}

/// Leave for a run that was halted or whose process is gone to go on: what was signed is verified as of when the run put it to use, and the
/// policy is asked again as of now.
pub(crate) fn resume(home: &Home, drivers: &DriverSet, records: &[Record], folded: &Folded) -> Result<Leave, Problem> {
    let (trust, site) = (home.trust()?, home.site()?);
    // One manifest is one run: what another run opened with it says nothing of this one.
    let uses: Vec<&Record> = records.iter().filter(|record| used_by(&record.fact) == Some(folded.manifest)).collect();
    let own = |record: &Record| record.subject.as_ref().is_some_and(|subject| subject.run == folded.subject.run);
    let [began] = uses.as_slice() else {
        let title = format!("the log puts the manifest to use {} times, and one manifest is one run", uses.len());
        return Err(Problem::new(
            ExitCode::Integrity,
            Code::INTEGRITY,
            title,
            "keep .backout as evidence; backout verify",
        ));
    };
    if !own(began) {
        return Err(Problem::stale("the log does not say when this run put the manifest to use"));
    }
    let verified = issued(home, trust.document(), folded.manifest, began.time)?;
    let manifest = &verified.document().predicate;
    refuse_other(began, manifest)?;
    if folded.loaded.plan != manifest.plan {
        return Err(Problem::stale("the run goes by another plan than the manifest names"));
    }
    refuse_moved(home, &site, &folded.loaded)?;
    votes::refuse_rejected(records, manifest.plan)?;
    let began = began.time;
    let engine = rules::in_force(home, records, trust.document())?;
    refuse_stale(home, records, manifest, engine.digest(), &site, trust.document())?;
    let counted = votes::approvals(home, records, folded.manifest, manifest, began)?;
    let people = People { approvals: counted.people.len() as u64, teams: counted.teams };
    let (now, run) = (Timestamp::now(), folded.subject.run.as_str());
    let asked =
        Asked { home, drivers, records, trust: trust.document(), site: &site, manifest, now, run, begins: false };
    let admitted = asked.again(engine, &folded.loaded, people)?;
    leave(home, records, &verified, &folded.loaded, &admitted)
}

/// A root that is a link leads where it led.
fn refuse_moved(home: &Home, site: &Site, loaded: &Loaded) -> Result<(), Problem> {
    if loaded.facts.roots == site.facts(&loaded.facts.environment, home.dir(), loaded.facts.contains)?.roots {
        return Ok(());
    }
    Err(Problem::stale("a root of the environment leads elsewhere since the gate decided"))
}

/// The record that put a manifest to use names what the manifest names: the log's keeper can lend nothing to another plan.
fn refuse_other(began: &Record, manifest: &Manifest) -> Result<(), Problem> {
    let names = match &began.fact {
        RecordBody::RunOpened { plan, assessment, decisions, .. }
        | RecordBody::Amended { plan, assessment, decisions, .. } => Some((*plan, *assessment, *decisions)),
        _ => None,
    };
    let whose = began.subject.as_ref().is_some_and(|subject| {
        (&subject.session, &subject.agent, &subject.environment)
            == (&manifest.session, &manifest.requester, &manifest.environment)
    });
    if whose && names == Some((manifest.plan, manifest.assessment, manifest.decisions)) {
        return Ok(());
    }
    let title = "the log opened the run with other documents than the manifest names";
    Err(Problem::new(ExitCode::Integrity, Code::INTEGRITY, title, "keep .backout as evidence; backout verify"))
}

fn leave(
    home: &Home,
    records: &[Record],
    verified: &Verified<Statement<Manifest>>,
    loaded: &Loaded,
    admitted: &Admitted,
) -> Result<Leave, Problem> {
    let manifest = &verified.document().predicate;
    let subject = schemas::RunSubject {
        run: String::new(),
        session: manifest.session.clone(),
        agent: manifest.requester.clone(),
        environment: manifest.environment.clone(),
    };
    let kinds = loaded.steps.iter().filter_map(|step| step.uses.split('.').next());
    stops::refuse_stopped(home, records, &subject, kinds.clone())?;
    let kinds = kinds.map(str::to_owned).collect();
    let (folder, trust) = (home.path(stops::FOLDER), home.trust()?.into_document());
    let brake = Arc::new(stops::Watch { folder, trust, subject, kinds });
    let warrant = tokens::Warrant::signed(verified, loaded.decisions_digest, loaded.ceilings.clone());
    let warrant = warrant.ok_or_else(|| Problem::stale("the decisions are not those that the manifest names"))?;
    Ok(Leave { warden: admitted.warden.clone(), brake, warrant, decided: admitted.decisions })
}

/// What the gate decided under is what is in force.
pub(crate) fn refuse_stale(
    home: &Home,
    records: &[Record],
    manifest: &Manifest,
    policy: Digest,
    site: &Site,
    trust: &TrustRoot,
) -> Result<(), Problem> {
    if manifest.policy != policy {
        return Err(changed::policy(home, manifest, policy));
    }
    if manifest.site != site.digest() {
        return Err(changed::site(home, manifest, site.texts()));
    }
    if manifest.trust_version != trust.version {
        return Err(changed::trust(home, records, manifest, trust));
    }
    Ok(())
}

/// A plan that may run, once people have spoken.
struct Admitted {
    used: Vec<Used>,
    warden: Arc<dyn executor::Warden>,
    decisions: Digest,
}

/// What a manifest is held against when it is about to run, read once.
struct Asked<'a> {
    home: &'a Home,
    drivers: &'a DriverSet,
    records: &'a [Record],
    trust: &'a TrustRoot,
    site: &'a Site,
    manifest: &'a Manifest,
    now: Timestamp,
    /// The run that goes on or is taken over: what it reserved is not counted beside.
    run: &'a str,
    /// Whether the manifest is put to use, and not just goes on.
    begins: bool,
}

impl Asked<'_> {
    /// The plan as its agent signed it, by the name that the manifest has for it.
    fn plan(&self) -> Result<(schemas::Signer, Verified<schemas::Plan>), Problem> {
        let bad = |text: String| Problem::identity(text, "backout plan sign PLAN --as AGENT, then backout gate PLAN");
        let envelope =
            Envelope::from_json(&self.home.document(self.manifest.plan)?).map_err(|error| bad(chain(&error)))?;
        let plan: Verified<schemas::Plan> =
            envelope.verify(self.trust, &Role::Agent, self.now).map_err(|error| bad(chain(&error)))?;
        if plan.digest() != self.manifest.plan {
            return Err(bad("the kept plan is not the one that the manifest names".to_owned()));
        }
        match plan.signers().first().cloned() {
            Some(signer) if signer.owner == self.manifest.requester => Ok((signer, plan)),
            _ => Err(bad(format!("the kept plan is not signed by {} any more", self.manifest.requester))),
        }
    }

    /// The second question: with what people said, now. Every step must be allowed, not just held.
    fn again(&self, engine: policy::Engine, loaded: &Loaded, people: People) -> Result<Admitted, Problem> {
        let Self { home, records, manifest, .. } = *self;
        let (signer, plan) = self.plan()?;
        let begins = self.begins;
        if let Some(key) = plan.document().idempotency_key.as_ref().filter(|_| begins) {
            refuse_repeated(records, key, &signer.owner, manifest.plan)?;
        }
        let gate_facts = self.site.gate_facts(&manifest.environment, home.own())?;
        let entries = ledger::entries_but(records, self.run);
        let request = Request {
            plan: manifest.plan,
            assessment: manifest.assessment,
            principal: principal(self.trust, &signer),
            site: &gate_facts,
            now: self.now,
            session: ledger::session(&entries, &manifest.session, gate_facts.inventory.mode()),
            people,
            own_resources: ledger::made_by(records, &manifest.session, &signer.owner, &manifest.environment),
            drilled: ledger::drilled(records, &manifest.environment, self.now),
            unknown: unknown_commands(&loaded.steps, &loaded.checks, &loaded.facts, self.drivers),
            steps: step_facts(&loaded.steps, &loaded.assessed),
        };
        let mut outcome = policy::decide(&engine, &request, "run");
        let decisions = keep_decisions(home, self.site, &mut outcome.decisions)?;
        if let Err(mut problem) = refuse_denied(&outcome) {
            problem.decisions = Some(Box::new(decisions));
            return Err(problem);
        }
        let held = outcome.decisions.steps.iter().chain([&outcome.decisions.plan]).find(|it| it.ruling == Ruling::Hold);
        if let Some(held) = held {
            let detail = format!("{} is needed by {}", held.needs.join(", "), held.rules.join(", "));
            let hint = "backout gate PLAN: the need came up after the gate decided";
            let finding = Finding::error(Code::APPROVALS_MISSING, "", detail, hint)
                .of_step(&held.step)
                .for_whom(WhoCanAct::NeedsApproval);
            return Err(Problem::findings(
                ExitCode::Waiting,
                "the run may not start yet",
                vec![finding],
                "backout gate PLAN",
            ));
        }
        if begins {
            refuse_over(home, records, self.trust, &entries, &request, &manifest.session, outcome.used.clone())?;
        }
        let watch = policy::Watch::new(engine, std::mem::take(&mut outcome.asks), gate_facts.inventory.clone());
        Ok(Admitted { used: outcome.used, warden: Arc::new(OnDuty(watch)), decisions })
    }
}

/// The policy while a run goes on: asked again with the clock and the calendar of the moment.
struct OnDuty(policy::Watch);

impl executor::Warden for OnDuty {
    fn may_act(&self, ix: kernel::StepIx) -> Result<(), String> {
        self.0.may_act(ix.at(), Timestamp::now())
    }

    fn may_commit(&self, checks_failed: usize) -> Result<(), String> {
        self.0.may_commit(checks_failed, Timestamp::now())
    }
}
