//! `backout key`: make a key and enrol it in the next trust root; list who may sign what.

use clap::Subcommand;
use schemas::{ExitCode, Role};
use serde::Serialize;

use crate::commands::init::{NewKey, enrol, publish};
use crate::home::Home;
use crate::output::{Output, table};
use crate::problem::Problem;

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
        KeyCommand::New { name, owner, role, environment, duty } => {
            if !schemas::is_valid_id(name) {
                return Err(Problem::usage(format!("{name:?} is not a name"), "use letters, digits, `.`, `_`, `-`"));
            }
            let roles: Vec<Role> = role
                .iter()
                .map(|role| role.parse().map_err(|text: String| Problem::usage(text, "backout key new --help")))
                .collect::<Result<_, _>>()?;
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
