//! `backout init`: everything that one machine needs to try it. In production the keys live with their owners.

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use journal::{LogSigner, SqliteJournal};
use schemas::{Document as _, Envelope, ExitCode, Plan, RecordBody, Role, SecretKey, TrustRoot, TrustedKey};
use serde::Serialize;

use crate::home::{Home, write_durably};
use crate::output::Output;
use crate::problem::Problem;

/// The inventory that a new site begins with: nothing but how one is written.
const INVENTORY: &str = "\
# What people say of resources. Patterns stand over URIs: * within a part of a path, ** across. Of two entries the stricter counts.

# [[resource]]
# match = [\"file:/srv/app/keys/**\"]
# type = \"secret\"                       # file ref table service infra secret backup message
# owner = \"payments\"
# sensitive = true                       # one person approves
# protected = true                       # people alone change it
# shared = true                          # others depend on it
# dependents = [\"service:checkout\"]
# backup_of = [\"sqlite:/srv/app/shop.db*\"]
# boundary = \"at\"                       # inside, at (a second pair of eyes), outside (never)

# [[limit]]                              # counted over all plans; backout limits shows what is left
# name = \"deletes\"
# per = \"session\"                        # session, agent, environment
# at_most = 5
# verbs = [\"delete\", \"delete_rows\"]

# [[freeze]]
# name = \"year end\"
# from = \"2026-12-18T00:00\"
# until = \"2027-01-04T00:00\"
# time_zone = \"Europe/Vienna\"
# environments = [\"production\"]

# [[window]]
# environments = [\"production\"]
# days = [\"mon\", \"tue\", \"wed\", \"thu\"]
# from = \"08:00\"
# until = \"16:00\"

# [legal_hold]                           # the register, as it was asked last
# asked = \"2026-11-20T10:00:00Z\"
# good_for_hours = 24
# held = [\"file:/srv/backups/case-*\"]
";

/// Days for which the first trust root and its keys are good.
const DAYS: i64 = 365;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The folder to work on; this one where left out
    #[arg(default_value = ".")]
    folder: PathBuf,
}

#[derive(Serialize)]
struct Made {
    dir: PathBuf,
    sample: PathBuf,
}

/// A key to make: its name, its owner, its roles, the environments that it is bound to.
pub(crate) struct NewKey<'a> {
    pub(crate) name: &'a str,
    pub(crate) roles: Vec<Role>,
    pub(crate) environments: Vec<String>,
    /// What an agent's key is for.
    pub(crate) duties: Vec<String>,
}

pub(crate) fn run(args: &InitArgs, dir: Option<&Path>, output: &Output) -> Result<ExitCode, Problem> {
    let folder = args.folder.canonicalize().map_err(|error| {
        Problem::usage(format!("{}: {error}", args.folder.display()), "backout init FOLDER, with a folder that exists")
    })?;
    let root = folder.display().to_string();
    let site = format!(
        "# Environments: where plans may act. Read anew for every command; a change voids approvals.\n\n\
         [environments.staging]\nroots = [{root:?}]\n\n\
         # [environments.production]\n# roots = [\"/srv/app\"]\n# production = true\n# backups = [\"file:/srv/app/backups\"]\n"
    );
    let home = make(
        dir.map_or_else(|| folder.join(".backout"), Path::to_owned),
        &site,
        &["staging".to_owned(), "production".to_owned()],
    )?;
    let sample = folder.join("sample.plan.json");
    write_sample(&home, &sample)?;
    let made = Made { dir: home.dir().to_owned(), sample: sample.clone() };
    output.result(&made, || {
        format!(
            "made {}\n  keys: root, gate, runner, log, deploy-bot (agent), ada and grace (approvers, operators, owners of the policy)\n  site: {}\n  plan: {}\n\
             next: backout plan check {}\n      backout gate {}\n      backout run sample\n",
            home.dir().display(),
            home.path("backout.toml").display(),
            sample.display(),
            sample.display(),
            sample.display(),
        )
    });
    Ok(ExitCode::Done)
}

/// Makes a state folder with one key for each purpose.
pub(crate) fn make(dir: PathBuf, site: &str, environments: &[String]) -> Result<Home, Problem> {
    if dir.join("trust-root.json").exists() {
        return Err(Problem::usage(format!("{} exists already", dir.display()), "backout status"));
    }
    let home = Home::at(dir);
    home.make_folders()?;
    let home =
        Home::at(home.dir().canonicalize().map_err(|error| Problem::failure("cannot use the state folder", &error))?);
    write(&home.path("backout.toml"), site.as_bytes(), 0o644)?;
    let approver: Vec<Role> = environments.iter().map(|name| Role::Approver(name.clone())).collect();
    let with = |role: Role| [approver.clone(), vec![role]].concat();
    let key = |name, roles| NewKey { name, roles, environments: Vec::new(), duties: Vec::new() };
    let keys = [
        key("root", vec![Role::Root]),
        key("gate", vec![Role::Gate]),
        key("runner", vec![Role::Runner]),
        key("log", vec![Role::Log]),
        NewKey {
            environments: environments.to_vec(),
            duties: vec!["change".to_owned(), "operate".to_owned()],
            ..key("deploy-bot", vec![Role::Agent])
        },
        key("ada", [with(Role::Operator), vec![Role::Policy]].concat()),
        key("grace", [with(Role::Operator), vec![Role::Policy]].concat()),
    ];
    let mut trust = TrustRoot::new(1, Timestamp::now() + SignedDuration::from_hours(DAYS * 24));
    for key in &keys {
        enrol(&home, &mut trust, key, key.name)?;
    }
    trust.set_threshold(&Role::Policy, 2);
    let signer = LogSigner::new(&home.key("log")?).map_err(|error| Problem::journal(&error))?;
    SqliteJournal::create(&home.path("journal.db"), &signer).map_err(|error| Problem::journal(&error))?;
    publish(&home, &trust)?;
    let owners = [home.key("ada")?, home.key("grace")?];
    crate::rules::put_in_force(&home, &policy::Bundle::shipped(), 1, true, &owners)?;
    write(&home.path("inventory.toml"), INVENTORY.as_bytes(), 0o644)?;
    Ok(home)
}

/// Makes a private key that is readable by its owner alone, and enrols it.
pub(crate) fn enrol(home: &Home, trust: &mut TrustRoot, key: &NewKey<'_>, owner: &str) -> Result<(), Problem> {
    let path = home.path("keys").join(format!("{}.key", key.name));
    if path.exists() {
        return Err(Problem::usage(format!("{} exists already", path.display()), "backout key list"));
    }
    let secret = SecretKey::generate().map_err(|error| Problem::failure("cannot make a key", &error))?;
    let pem = secret.to_pem().map_err(|error| Problem::failure("cannot write a key", &error))?;
    for role in &key.roles {
        let trusted = trusted(secret.public_hex(), owner, &key.environments, &key.duties);
        trust.enrol(trusted, role).map_err(|error| Problem::failure("cannot enrol a key", &error))?;
    }
    write(&path, pem.as_bytes(), 0o600)
}

/// A key of a trust root, good from now on for as long as the first trust root.
pub(crate) fn trusted(public: String, owner: &str, environments: &[String], duties: &[String]) -> TrustedKey {
    let end = Timestamp::now() + SignedDuration::from_hours(DAYS * 24);
    TrustedKey {
        environments: environments.to_vec(),
        duties: duties.to_vec(),
        ..TrustedKey::ed25519(public, owner, end)
    }
}

/// Signs the trust root with the root key, puts it in force, and notes it in the log.
pub(crate) fn publish(home: &Home, trust: &TrustRoot) -> Result<(), Problem> {
    let payload = serde_json::to_vec(trust).unwrap_or_default();
    let envelope = Envelope::sign(TrustRoot::PAYLOAD_TYPE, &payload, &[&home.key("root")?]);
    let digest = schemas::Digest::of(&payload);
    home.keep(digest, &envelope.to_json())?;
    write(&home.path("trust-root.json"), &envelope.to_json(), 0o644)?;
    home.note(RecordBody::TrustPinned { version: trust.version, digest })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Problem> {
    write_durably(path, bytes, mode)
        .map_err(|error| Problem::failure(&format!("cannot write {}", path.display()), &error))
}

fn write_sample(home: &Home, path: &Path) -> Result<(), Problem> {
    let plan = serde_json::json!({
        "session": "sample", "agent": "deploy-bot", "environment": "staging",
        "intent": "Show how a plan runs: write a greeting, make it private",
        "steps": [
            {"id": "greet", "uses": "file.write", "with": {"path": "greeting.txt", "content": "hello from backout\n"},
             "expect": {"created": 1}},
            {"id": "private", "uses": "file.chmod", "with": {"path": "greeting.txt", "mode": "0600"}, "needs": ["greet"],
             "verify": [{"uses": "file.contains", "with": {"path": "greeting.txt", "text": "hello"}}]}
        ]
    });
    let payload = serde_json::to_vec_pretty(&plan).unwrap_or_default();
    let envelope = Envelope::sign(Plan::PAYLOAD_TYPE, &payload, &[&home.key("deploy-bot")?]);
    write(path, &envelope.to_json(), 0o644)?;
    write(&path.with_file_name("sample.draft.json"), &payload, 0o644)
}
