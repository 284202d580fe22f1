//! `backout key`: make a key and enrol it in the next trust root; list who may sign what.

use std::path::{Path, PathBuf};

use clap::Subcommand;
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
    /// List the keys of the trust root
    List,
}

#[derive(Serialize)]
struct Listed {
    keyid: String,
    owner: String,
    roles: Vec<String>,
    not_after: String,
}

pub(crate) fn run(command: &KeyCommand, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    match command {
        KeyCommand::List => list(home, output),
        KeyCommand::Add { public, owner, role } => {
            let version = add(public, owner, role, home)?;
            output.note(&format!("enrolled a key of {owner}; the trust root is version {version}"));
            list(home, output)
        }
        KeyCommand::New { name, owner, role, environment, duty } => {
            if !schemas::is_valid_id(name) {
                return Err(Problem::usage(format!("{name:?} is not a name"), "use letters, digits, `.`, `_`, `-`"));
            }
            let roles = parsed(role)?;
            let mut trust = home.trust()?.into_document();
            trust.version += 1;
            let key = NewKey { name, roles, environments: environment.clone(), duties: duty.clone() };
            enrol(home, &mut trust, &key, owner.as_deref().unwrap_or(name))?;
            publish(home, &trust)?;
            output.note(&format!("enrolled {name}; the trust root is version {}", trust.version));
            list(home, output)
        }
    }
}

/// Enrols a public key that somebody else holds the private half of.
fn add(public: &Path, owner: &str, roles: &[String], home: &Home) -> Result<u64, Problem> {
    let bytes = read_input(public, MAX_BYTES)?;
    let usage =
        |text: String| Problem::usage(format!("{}: {text}", public.display()), "ssh-keygen -t ed25519 makes one");
    let line = String::from_utf8(bytes).map_err(|error| usage(error.to_string()))?;
    let key = schemas::public_of_ssh(&line).map_err(|error| usage(error.to_string()))?;
    let mut trust = home.trust()?.into_document();
    trust.version += 1;
    for role in parsed(roles)? {
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
        })
        .collect();
    output.result(&serde_json::json!({"keys": listed}), || {
        let row = |key: &Listed| {
            vec![key.owner.clone(), key.roles.join(" "), key.keyid.chars().take(16).collect(), key.not_after.clone()]
        };
        table(&["owner", "roles", "key", "until"], listed.iter().map(row).collect())
    });
    Ok(ExitCode::Done)
}
