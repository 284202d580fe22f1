//! `backout approve` and `reject`: one person's signed word on one manifest, with our key, with an SSH key, or signed on another machine.

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use policy::Vote;
use schemas::{
    Approval, Digest, Document as _, Envelope, ExitCode, Manifest, RecordBody, Role, Statement, Subject, Verdict, pae,
};

use crate::brief::Brief;
use crate::commands::read_input;
use crate::flow;
use crate::home::Home;
use crate::output::Output;
use crate::problem::{Problem, chain};
use crate::{judge, rules, votes};

/// Largest file that an approval is read from.
const MAX_BYTES: usize = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// The manifest: the beginning of its digest, or the session
    manifest: String,
    /// The key to sign with
    #[arg(long = "as", value_name = "KEY", conflicts_with_all = ["ssh", "print_payload", "signature"])]
    name: Option<String>,
    /// Sign with an SSH key by ssh-keygen; the public key where an agent holds the private one
    #[arg(long, value_name = "KEYFILE", conflicts_with_all = ["print_payload", "signature"])]
    ssh: Option<PathBuf>,
    /// Write what is to be signed, for a machine without backout: ssh-keygen -Y sign -n approval@backout -f KEY FILE
    #[arg(long, value_name = "FILE", conflicts_with = "signature")]
    print_payload: Option<PathBuf>,
    /// What was signed there
    #[arg(long, value_name = "FILE", requires = "signature")]
    payload: Option<PathBuf>,
    /// The signature that was made there
    #[arg(long, value_name = "FILE", requires = "payload")]
    signature: Option<PathBuf>,
    /// Say no: nobody else's yes counts any more
    #[arg(long)]
    reject: bool,
    /// Why
    #[arg(long, default_value = "")]
    reason: String,
    /// The session's name, for what is severe and cannot be asked
    #[arg(long, value_name = "SESSION")]
    confirm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RejectArgs {
    /// The manifest: the beginning of its digest, or the session
    manifest: String,
    /// The key to sign with
    #[arg(long = "as", value_name = "KEY", conflicts_with = "ssh", required_unless_present = "ssh")]
    name: Option<String>,
    /// Sign with an SSH key by ssh-keygen
    #[arg(long, value_name = "KEYFILE")]
    ssh: Option<PathBuf>,
    /// Why
    #[arg(long, default_value = "")]
    reason: String,
}

pub(crate) fn reject(args: &RejectArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let args = ApproveArgs {
        manifest: args.manifest.clone(),
        name: args.name.clone(),
        ssh: args.ssh.clone(),
        print_payload: None,
        payload: None,
        signature: None,
        reject: true,
        reason: args.reason.clone(),
        confirm: None,
    };
    run(&args, home, output)
}

pub(crate) fn run(args: &ApproveArgs, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let records = flow::records(&home.journal()?)?;
    let (digest, verified) = flow::find_manifest(&records, home, &args.manifest)?;
    let manifest = &verified.document().predicate;
    let now = Timestamp::now();
    if now >= manifest.expires {
        return Err(Problem::stale(format!("the manifest expired at {}", manifest.expires)));
    }
    // A no needs no policy that is good, and is never in vain.
    let engine = match rules::in_force(home, &records, home.trust()?.document()) {
        Err(problem) if !args.reject => return Err(problem),
        found => found.ok(),
    };
    if let Some(engine) = engine.as_ref().filter(|_| !args.reject) {
        votes::refuse_spent(&records, digest, manifest.plan)?;
        let (trust, site) = (home.trust()?, home.site()?);
        judge::refuse_stale(home, &records, manifest, engine.digest(), &site, trust.document())?;
    }
    let brief = Brief { home, records: &records, digest, manifest, engine: engine.as_ref() };
    if let Some(file) = &args.print_payload {
        show_what(&brief, output);
        return print_payload(args, digest, manifest, file, home, output);
    }
    let envelope = match (&args.name, &args.ssh, &args.payload, &args.signature) {
        (Some(name), ..) => {
            let payload = statement(args, digest, manifest, now, home)?;
            Envelope::sign(Statement::<Approval>::PAYLOAD_TYPE, &payload, &[&home.key(name)?])
        }
        (None, Some(key), ..) => {
            let payload = statement(args, digest, manifest, now, home)?;
            let armored = sign_with_ssh(key, &pae(Statement::<Approval>::PAYLOAD_TYPE, &payload))?;
            of_ssh(&payload, &armored)?
        }
        (None, None, Some(payload), Some(signature)) => {
            let payload = payload_of(&read_input(payload, MAX_BYTES)?)?;
            of_ssh(&payload, &read_input(signature, MAX_BYTES)?)?
        }
        _ => return Err(Problem::usage("nobody to sign as", "backout approve MANIFEST --as NAME, or --ssh KEYFILE")),
    };
    let trust = home.trust()?;
    let role: Role =
        manifest.approvals.role.parse().map_err(|text: String| Problem::identity(text, "backout gate PLAN"))?;
    let vote: Vote = envelope.verify(trust.document(), &role, now).map_err(|error| {
        Problem::identity(format!("the approval is not good: {}", chain(&error)), "backout key list")
    })?;
    votes::check(&vote, digest, manifest, trust.document(), &records, now)?;
    let owner = vote.signers().first().map(|signer| signer.owner.clone()).unwrap_or_default();
    let said = vote.document().predicate.clone();
    show_what(&brief, output);
    confirm(args, &owner, manifest, &said, output)?;
    home.keep(vote.digest(), &envelope.to_json())?;
    let reject = said.verdict == Verdict::Reject;
    home.note(RecordBody::Approved {
        manifest: digest,
        approval: vote.digest(),
        owner: owner.clone(),
        nonce: said.nonce,
        reject,
    })?;
    tell(home, digest, manifest, vote.digest(), &owner, reject, output)
}

/// Says what was signed, and what is still missing.
fn tell(
    home: &Home,
    digest: Digest,
    manifest: &Manifest,
    approval: Digest,
    owner: &str,
    reject: bool,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let word = if reject { "rejected" } else { "approved" };
    let standing = votes::approvals(home, &flow::records(&home.journal()?)?, digest, manifest, Timestamp::now());
    let next = match &standing {
        Ok(_) => format!("next: backout run {}", digest.short()),
        Err(problem) => {
            problem.findings.iter().map(|finding| format!("{}\nnext: {}", finding.detail, finding.hint)).collect()
        }
    };
    let value = serde_json::json!({"manifest": digest, "approval": approval, "by": owner, "verdict": word, "complete": standing.is_ok()});
    output.result(&value, || format!("{owner} {word} {}\n{next}\n", digest.short()));
    Ok(ExitCode::Done)
}

/// What is severe asks for the session's name, typed.
fn confirm(
    args: &ApproveArgs,
    owner: &str,
    manifest: &Manifest,
    said: &Approval,
    output: &Output,
) -> Result<(), Problem> {
    let word = if said.verdict == Verdict::Reject { "reject" } else { "approve" };
    let severe = manifest.approvals.people >= 2 && said.verdict == Verdict::Approve;
    let refused = |title: &str| Err(Problem::usage(title, "backout approve MANIFEST --as NAME --confirm SESSION"));
    match (&args.confirm, severe) {
        (Some(name), _) if *name != manifest.session => refused("--confirm names another session: nothing was signed"),
        (Some(_), _) => Ok(()),
        (None, true) => match output.typed(&format!("severe: type {} to {word} it as {owner}:", manifest.session)) {
            Some(typed) if typed == manifest.session => Ok(()),
            Some(_) => refused("another name was typed: nothing was signed"),
            None => refused("it is severe, and nobody can be asked: nothing was signed"),
        },
        (None, false) if output.confirmed(&format!("{word} it as {owner}?")) => Ok(()),
        (None, false) => Err(Problem::usage("nothing was signed", "backout approve, and answer yes")),
    }
}

/// The statement of an approval, to be signed.
fn statement(
    args: &ApproveArgs,
    digest: Digest,
    manifest: &Manifest,
    now: Timestamp,
    home: &Home,
) -> Result<Vec<u8>, Problem> {
    let approval = Approval {
        environment: manifest.environment.clone(),
        verdict: if args.reject { Verdict::Reject } else { Verdict::Approve },
        reason: args.reason.clone(),
        trust_version: home.trust()?.document().version,
        issued: now,
        expires: now + SignedDuration::from_mins(manifest.approvals.minutes.cast_signed()),
        nonce: flow::nonce()?,
    };
    Ok(Statement::new(vec![Subject::new("manifest", digest)], approval).to_payload())
}

fn print_payload(
    args: &ApproveArgs,
    digest: Digest,
    manifest: &Manifest,
    file: &Path,
    home: &Home,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let payload = statement(args, digest, manifest, Timestamp::now(), home)?;
    crate::home::write_durably(file, &pae(Statement::<Approval>::PAYLOAD_TYPE, &payload), 0o644)
        .map_err(|error| Problem::failure(&format!("cannot write {}", file.display()), &error))?;
    let (name, minutes) = (file.display(), manifest.approvals.minutes);
    let value = serde_json::json!({"manifest": digest, "payload": name.to_string(), "namespace": "approval@backout", "minutes": minutes});
    output.result(&value, || {
        format!(
            "wrote {name}: good for {minutes} minutes\nnext: ssh-keygen -Y sign -n approval@backout -f KEY {name}\n      \
             backout approve {} --payload {name} --signature {name}.sig\n",
            digest.short()
        )
    });
    Ok(ExitCode::Done)
}

fn of_ssh(payload: &[u8], armored: &[u8]) -> Result<Envelope, Problem> {
    Envelope::of_ssh(Statement::<Approval>::PAYLOAD_TYPE, payload, armored).map_err(|error| {
        let next = "ssh-keygen -Y sign -n approval@backout -f KEY FILE, with an ed25519 key";
        Problem::identity(format!("the SSH signature is not good: {}", chain(&error)), next)
    })
}

/// The payload within the bytes that were signed.
fn payload_of(signed: &[u8]) -> Result<Vec<u8>, Problem> {
    let wrong =
        || Problem::usage("that is not what --print-payload wrote", "backout approve MANIFEST --print-payload FILE");
    let head = format!("DSSEv1 {} {} ", Statement::<Approval>::PAYLOAD_TYPE.len(), Statement::<Approval>::PAYLOAD_TYPE);
    let rest = signed.strip_prefix(head.as_bytes()).ok_or_else(wrong)?;
    let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
    let payload = rest.get(space + 1..).unwrap_or_default().to_vec();
    if pae(Statement::<Approval>::PAYLOAD_TYPE, &payload) == signed { Ok(payload) } else { Err(wrong()) }
}

/// Has `ssh-keygen` sign: it knows agents, passphrases and hardware keys, and we do not.
fn sign_with_ssh(key: &Path, message: &[u8]) -> Result<Vec<u8>, Problem> {
    use std::io::Write as _;
    let failed = |text: String| {
        Problem::identity(
            format!("ssh-keygen did not sign: {text}"),
            "ssh-keygen -Y sign by hand, with --print-payload",
        )
    };
    let mut child = std::process::Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", "approval@backout", "-f"])
        .arg(key)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(message).map_err(|error| failed(error.to_string()))?;
    }
    let done = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !done.status.success() {
        return Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
    }
    Ok(done.stdout)
}

/// What is being approved, on standard error.
fn show_what(brief: &Brief<'_>, output: &Output) {
    match brief.text() {
        Some(text) => output.note(&text),
        None => output.note("what is to be approved cannot be shown: a kept document is missing or was changed"),
    }
}
