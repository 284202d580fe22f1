//! The site: `backout.toml` with the environments, and beside it `inventory.toml` with what people say of resources. Written by people, never
//! by a plan.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kernel::Facts;
use policy::{Inventory, SiteFacts, Tier};
use schemas::{Covers, Digest, Resource};
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// Largest file of a site.
const MAX_BYTES: u64 = 4 << 20;

/// `backout.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Site {
    environments: BTreeMap<String, Environment>,
    #[serde(skip)]
    texts: Texts,
}

/// The files as they were read: kept as one document, so that a decision can be explained later.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Texts {
    site: String,
    inventory: String,
}

impl Texts {
    /// Each file by its name, beside another version of it.
    pub(crate) fn beside<'a>(&'a self, other: &'a Self) -> [(&'static str, &'a str, &'a str); 2] {
        [("backout.toml", &self.site, &other.site), ("inventory.toml", &self.inventory, &other.inventory)]
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Environment {
    /// Folders beneath which plans may act; relative paths of plans start at the first.
    roots: Vec<PathBuf>,
    /// Whether the rules for production hold.
    #[serde(default)]
    production: bool,
    /// What it is to the house, where it is not production.
    tier: Option<Tier>,
    /// Resources that are backups of others, as `file:/srv/backups`.
    #[serde(default)]
    backups: Vec<Resource>,
    /// Whether irreversible steps may run, with two approvals.
    #[serde(default)]
    allow_irreversible: bool,
    /// Largest share of a table or folder that a step may delete, in percent.
    #[serde(default = "default_share")]
    max_delete_share: u64,
    /// What agents act with here, and how it is taken from them.
    #[serde(default)]
    credentials: Vec<Credential>,
}

/// What an agent acts with: a database role, a key of a cloud, a token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credential {
    /// What people call it.
    pub(crate) name: String,
    /// The agent whose it is; of every agent where left out.
    pub(crate) agent: Option<String>,
    /// The command that revokes it; revoking twice must be all right.
    pub(crate) revoke: Vec<String>,
    /// A command that uses it: once it is revoked, this must fail.
    pub(crate) probe: Vec<String>,
}

fn default_share() -> u64 {
    20
}

impl Site {
    /// Reads the site of a state folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, Problem> {
        let inventory = folder.join("inventory.toml");
        let texts = Texts {
            site: read(&folder.join("backout.toml"))?,
            inventory: if inventory.exists() { read(&inventory)? } else { String::new() },
        };
        Self::parse(texts)
    }

    /// The site that these texts say.
    pub(crate) fn parse(texts: Texts) -> Result<Self, Problem> {
        let usage = |text: String| Problem::usage(format!("backout.toml: {text}"), "mend the file");
        let mut site: Self = toml::from_str(&texts.site).map_err(|error| usage(error.to_string()))?;
        if let Some((name, _)) = site
            .environments
            .iter()
            .find(|(_, it)| it.production && it.tier.is_some_and(|tier| tier != Tier::Production))
        {
            return Err(usage(format!("environment {name} is production and says another tier")));
        }
        let relative = |it: &&Environment| it.roots.is_empty() || it.roots.iter().any(|root| !root.is_absolute());
        if let Some((name, _)) = site.environments.iter().find(|(_, it)| relative(it)) {
            return Err(usage(format!("environment {name}: roots are absolute paths, at least one")));
        }
        let all = site.environments.iter().flat_map(|(name, it)| it.credentials.iter().map(move |it| (name, it)));
        if let Some((name, it)) = all.into_iter().find(|(_, it)| it.revoke.is_empty() || it.probe.is_empty()) {
            return Err(usage(format!(
                "environment {name}: credential {} needs the commands revoke and probe",
                it.name
            )));
        }
        if let Some((name, it)) = site.environments.iter().find(|(_, it)| it.max_delete_share > 100) {
            return Err(usage(format!(
                "environment {name}: max_delete_share is a percentage, not {}",
                it.max_delete_share
            )));
        }
        site.texts = texts;
        Ok(site)
    }

    /// The files as they were read.
    pub(crate) fn texts(&self) -> &Texts {
        &self.texts
    }

    /// The files as one document.
    pub(crate) fn document(&self) -> Vec<u8> {
        serde_json::to_vec(&self.texts).unwrap_or_default()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.document())
    }

    /// What people say of resources.
    pub(crate) fn inventory(&self) -> Result<Inventory, Problem> {
        let refuse = |text: String| {
            Problem::new(
                schemas::ExitCode::Refused,
                schemas::Code::POLICY_ERROR,
                format!("inventory.toml: {text}"),
                "mend the file: without it nobody knows what is protected",
            )
        };
        let inventory = Inventory::parse(&self.texts.inventory).map_err(|error| refuse(error.to_string()))?;
        if let Some((name, place)) = inventory.environments().find(|(name, _)| !self.environments.contains_key(*name)) {
            let known: Vec<&str> = self.environments.keys().map(String::as_str).collect();
            let known = known.join(", ");
            return Err(refuse(format!("{place} names the environment {name:?}, and backout.toml has {known}")));
        }
        Ok(inventory)
    }

    /// Every root with its environment.
    pub(crate) fn roots(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.environments.iter().flat_map(|(name, it)| it.roots.iter().map(move |root| (name.as_str(), root.as_path())))
    }

    /// What can be revoked in an environment.
    pub(crate) fn credentials<'a>(&'a self, covers: &'a Covers) -> impl Iterator<Item = (&'a str, &'a Credential)> {
        let here = move |name: &str| covers.environment.as_deref().is_none_or(|wanted| wanted == name);
        let of = move |it: &Credential| match (&covers.agent, &it.agent) {
            (Some(wanted), Some(agent)) => wanted == agent,
            _ => true,
        };
        let each = self.environments.iter().filter(move |(name, _)| here(name));
        each.flat_map(move |(name, it)| {
            it.credentials.iter().filter(move |it| of(it)).map(move |it| (name.as_str(), it))
        })
    }

    /// Whether it has an environment of this name.
    pub(crate) fn has(&self, environment: &str) -> bool {
        self.environments.contains_key(environment)
    }

    fn environment(&self, name: &str) -> Result<&Environment, Problem> {
        let known: Vec<&str> = self.environments.keys().map(String::as_str).collect();
        self.environments.get(name).ok_or_else(|| {
            let detail = format!("the site has no environment {name:?}");
            let finding = schemas::Finding::error(
                schemas::Code::UNKNOWN_ENVIRONMENT,
                "/environment",
                detail,
                format!("one of {}", known.join(", ")),
            );
            Problem::findings(
                schemas::ExitCode::Usage,
                "the plan cannot be checked",
                vec![finding],
                "name an environment of backout.toml",
            )
        })
    }

    /// Facts for lowering: roots with their symlinks resolved once, here.
    pub(crate) fn facts(&self, name: &str, own: &Path, contains: bool) -> Result<Facts, Problem> {
        let environment = self.environment(name)?;
        let resolve = |root: &PathBuf| {
            root.canonicalize()
                .map_err(|error| Problem::failure(&format!("root {} of environment {name}", root.display()), &error))
        };
        let roots = environment.roots.iter().map(resolve).collect::<Result<_, _>>()?;
        Ok(Facts {
            environment: name.to_owned(),
            roots,
            protected: vec![own.to_owned()],
            backups: self.backups(name),
            contains,
        })
    }

    /// Folders of an environment that are backups.
    pub(crate) fn backups(&self, name: &str) -> Vec<PathBuf> {
        let found = self.environments.get(name).into_iter().flat_map(|it| &it.backups);
        found.filter(|it| it.scheme() == "file").map(|it| PathBuf::from(it.path())).collect()
    }

    /// Facts for the gate. `own` is what backout itself lives on.
    pub(crate) fn gate_facts(&self, name: &str, own: Vec<Resource>) -> Result<SiteFacts, Problem> {
        let environment = self.environment(name)?;
        Ok(SiteFacts {
            environment: name.to_owned(),
            tier: match (environment.production, environment.tier) {
                (true, _) => Tier::Production,
                (false, tier) => tier.unwrap_or(Tier::Staging),
            },
            backups: environment.backups.clone(),
            own,
            allow_irreversible: environment.allow_irreversible,
            max_delete_share: environment.max_delete_share,
            inventory: self.inventory()?,
        })
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    let failed = |error| Problem::failure(&format!("cannot read {}", path.display()), &error);
    let usage = |text: String| Problem::usage(format!("{}: {text}", path.display()), "mend the file");
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(usage(format!("larger than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| usage(error.to_string()))
}
