//! The site configuration: environments with their roots and what is protected. Written by people, never by a plan.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kernel::Facts;
use policy::SiteFacts;
use schemas::{Digest, Resource};
use serde::Deserialize;

use crate::problem::Problem;

/// Largest `backout.toml`.
const MAX_BYTES: u64 = 1 << 20;

/// `backout.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Site {
    environments: BTreeMap<String, Environment>,
    #[serde(skip)]
    bytes: Vec<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Environment {
    /// Folders beneath which plans may act; relative paths of plans start at the first.
    roots: Vec<PathBuf>,
    /// Whether the rules for production hold.
    #[serde(default)]
    production: bool,
    /// Resources that are backups of others, as `file:/srv/backups`.
    #[serde(default)]
    backups: Vec<Resource>,
    /// Whether irreversible steps may run, with two approvals.
    #[serde(default)]
    allow_irreversible: bool,
    /// Largest share of a table or folder that a step may delete, in percent.
    #[serde(default = "default_share")]
    max_delete_share: u64,
}

fn default_share() -> u64 {
    20
}

impl Site {
    pub(crate) fn read(path: &Path) -> Result<Self, Problem> {
        let failed = |error| Problem::failure(&format!("cannot read {}", path.display()), &error);
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::from_bytes(&bytes, path)
    }

    /// The site that these bytes say, which came from `path`.
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, Problem> {
        let usage = |text: String| Problem::usage(format!("{}: {text}", path.display()), "mend the file");
        if bytes.len() as u64 > MAX_BYTES {
            return Err(usage(format!("larger than {MAX_BYTES} bytes")));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| usage(error.to_string()))?;
        let mut site: Self = toml::from_str(text).map_err(|error| usage(error.to_string()))?;
        site.bytes = bytes.to_vec();
        Ok(site)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
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
    pub(crate) fn facts(&self, name: &str, own: &Path) -> Result<Facts, Problem> {
        let environment = self.environment(name)?;
        let resolve = |root: &PathBuf| {
            root.canonicalize()
                .map_err(|error| Problem::failure(&format!("root {} of environment {name}", root.display()), &error))
        };
        let roots = environment.roots.iter().map(resolve).collect::<Result<_, _>>()?;
        Ok(Facts { environment: name.to_owned(), roots, protected: vec![own.to_owned()] })
    }

    /// Facts for the gate. `own` is what backout itself lives on.
    pub(crate) fn gate_facts(&self, name: &str, own: Vec<Resource>) -> Result<SiteFacts, Problem> {
        let environment = self.environment(name)?;
        Ok(SiteFacts {
            environment: name.to_owned(),
            production: environment.production,
            backups: environment.backups.clone(),
            own,
            allow_irreversible: environment.allow_irreversible,
            max_delete_share: environment.max_delete_share,
        })
    }
}
