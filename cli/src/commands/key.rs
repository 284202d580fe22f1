//! `backout key`: make a key and enrol it in the next trust root; list who may sign what.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use jiff::Timestamp;
use schemas::{ExitCode, Role};
use serde::Serialize;

use crate::commands::init::{NewKey, enrol, publish, trusted};
use crate::commands::read_input;
use crate::home::Home;
use crate::output::{Output, table};
use crate::problem::Problem;

/// Largest public key file.
const MAX_BYTES: usize = 16 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and enrol it: the trust root gets the next version, signed by the root key
    New {
        /// Name of the key file
        name: String,
        /// Who holds it; the name where left out
        #[arg(long)]
        owner: Option<String>,
        /// What it may sign: agent, gate, approver:ENVIRONMENT, operator, runner, log, witness, root, policy, team:NAME
        #[arg(long, required = true)]
        role: Vec<String>,
        /// Environments that an agent's key is bound to
        #[arg(long)]
        environment: Vec<String>,
        /// What an agent's key is for, in the words of the policy: change, operate, secrets, backups
        #[arg(long)]
        duty: Vec<String>,
    },
    /// Enrol the SSH key that somebody has: they sign with it by `approve --ssh`
    Add {
        /// The public key, as `id_ed25519.pub`
        public: PathBuf,
        /// Who holds it
        #[arg(long)]
        owner: String,
        /// What it may sign: approver:ENVIRONMENT, operator, team:NAME
        #[arg(long, required = true)]
        role: Vec<String>,
    },
    /// Revoke keys: from now on their signatures do not count. Open manifests are stale
    Revoke {
        /// The beginning of the key's id, as `key list` prints it, or an owner: then all keys of that owner
        key: String,
    },
    /// List the keys of the trust root
    List,
}

#[derive(Serialize)]
struct Listed {
    keyid: String,
    owner: String,
    roles: Vec<String>,
    not_after: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    environments: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    duties: Vec<String>,
}

/// What agents' keys can be for: the words that the default bundle knows. A bundle of one's own may have others.
const DUTIES: [&str; 4] = ["change", "operate", "secrets", "backups"];

pub(crate) fn run(command: &KeyCommand, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    match command {
        KeyCommand::List => list(home, output),
        KeyCommand::Add { public, owner, role } => {
            let version = add(public, owner, role, home)?;
            output.note(&format!("enrolled a key of {owner}; {}", next_version(version)));
            list(home, output)
        }
        KeyCommand::Revoke { key } => {
            let mut trust = home.trust()?.into_document();
            trust.version += 1;
            let revoked = trust.revoke(
                |keyid, owner| owner == key || (key.len() >= 8 && keyid.to_string().starts_with(key)),
                Timestamp::now(),
            );
            if revoked == 0 {
                let title = format!("no key that counts begins with {key:?} (8 digits or more) or belongs to {key}");
                return Err(Problem::usage(title, "backout key list"));
            }
            publish(home, &trust)?;
            output.note(&format!("revoked {revoked} keys; {}", next_version(trust.version)));
            list(home, output)
        }
        KeyCommand::New { name, owner, role, environment, duty } => {
            if !schemas::is_valid_id(name) {
                return Err(Problem::usage(format!("{name:?} is not a name"), "use letters, digits, `.`, `_`, `-`"));
            }
            let roles = parsed(role)?;
            refuse_idle(&roles, environment, duty)?;
            warn(home, &roles, environment, duty, output)?;
            let mut trust = home.trust()?.into_document();
            trust.version += 1;
            let key = NewKey { name, roles, environments: environment.clone(), duties: duty.clone() };
            enrol(home, &mut trust, &key, owner.as_deref().unwrap_or(name))?;
            publish(home, &trust)?;
            output.note(&format!("enrolled {name}; {}", next_version(trust.version)));
            list(home, output)
        }
    }
}

fn next_version(version: u64) -> String {
    format!("the trust root is version {version}: open manifests are stale, gate their plans again")
}

/// An agent's key without an environment or a duty can do nothing at all.
fn refuse_idle(roles: &[Role], environments: &[String], duties: &[String]) -> Result<(), Problem> {
    let agent = roles.contains(&Role::Agent);
    match (agent, environments.is_empty() || duties.is_empty(), environments.is_empty() && duties.is_empty()) {
        (true, true, _) => Err(Problem::usage(
            "an agent's key is bound to environments and has duties: without them it may do nothing",
            "backout key new NAME --role agent --environment staging --duty change",
        )),
        (false, _, false) => {
            Err(Problem::usage("--environment and --duty are for agents' keys", "backout key new --help"))
        }
        _ => Ok(()),
    }
}

/// Words that nothing here knows may be typing errors.
fn warn(
    home: &Home,
    roles: &[Role],
    environments: &[String],
    duties: &[String],
    output: &Output,
) -> Result<(), Problem> {
    let site = home.site()?;
    let of_roles = roles.iter().filter_map(|role| if let Role::Approver(name) = role { Some(name) } else { None });
    for name in of_roles.chain(environments).filter(|name| !site.has(name)) {
        output.note(&format!("note: backout.toml has no environment {name:?}"));
    }
    for duty in duties.iter().filter(|duty| !DUTIES.contains(&duty.as_str())) {
        output.note(&format!("note: no rule of the default policy knows the duty {duty:?}: {}", DUTIES.join(", ")));
    }
    Ok(())
}

/// Enrols a public key that somebody else holds the private half of.
fn add(public: &Path, owner: &str, roles: &[String], home: &Home) -> Result<u64, Problem> {
    let bytes = read_input(public, MAX_BYTES)?;
    let usage =
        |text: String| Problem::usage(format!("{}: {text}", public.display()), "ssh-keygen -t ed25519 makes one");
    let line = String::from_utf8(bytes).map_err(|error| usage(error.to_string()))?;
    if line.contains("PRIVATE KEY") {
        return Err(Problem::usage(
            format!("{} is the private key, which nobody but its owner may see", public.display()),
            format!("backout key add {}.pub", public.display()),
        ));
    }
    let roles = parsed(roles)?;
    let is_for_people = |role: &Role| matches!(role, Role::Approver(_) | Role::Operator | Role::Team(_));
    if let Some(role) = roles.iter().find(|role| !is_for_people(role)) {
        let title = format!("an SSH key signs approvals and operators' words, and is nothing for the role {role}");
        return Err(Problem::usage(title, "backout key new NAME makes a key for it"));
    }
    let key = schemas::public_of_ssh(&line).map_err(|error| usage(error.to_string()))?;
    let mut trust = home.trust()?.into_document();
    trust.version += 1;
    for role in roles {
        let trusted = trusted(key.clone(), owner, &[], &[]);
        trust.enrol(trusted, &role).map_err(|error| Problem::failure("cannot enrol the key", &error))?;
    }
    publish(home, &trust)?;
    Ok(trust.version)
}

fn parsed(roles: &[String]) -> Result<Vec<Role>, Problem> {
    let parse = |role: &String| role.parse().map_err(|text: String| Problem::usage(text, "backout key new --help"));
    roles.iter().map(parse).collect()
}

fn list(home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let trust = home.trust()?;
    let listed: Vec<Listed> = trust
        .document()
        .listing()
        .into_iter()
        .map(|(keyid, key, roles)| Listed {
            keyid: keyid.to_string(),
            owner: key.owner.clone(),
            roles,
            not_after: key.not_after.to_string(),
            revoked_at: key.revoked_at.map(|at| at.to_string()),
            environments: key.environments.clone(),
            duties: key.duties.clone(),
        })
        .collect();
    output.result(&serde_json::json!({"keys": listed}), || {
        let row = |key: &Listed| {
            let until = key.revoked_at.as_ref().map_or_else(|| key.not_after.clone(), |at| format!("REVOKED {at}"));
            let bound = [key.environments.join(" "), key.duties.join(" ")];
            let bound = bound.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("; ");
            vec![key.owner.clone(), key.roles.join(" "), bound, key.keyid.chars().take(16).collect(), until]
        };
        table(&["owner", "roles", "environments; duties", "key", "until"], listed.iter().map(row).collect())
    });
    Ok(ExitCode::Done)
}
