//! A bundle: policies, invariants and cases, named by one digest over all of them. It is signed as a whole and rises by a serial.
//!
//! Layout: `policies/*.cedar`, `exceptions/*.cedar` (narrow permits that end), `invariants/*.cedar`, `cases/*.json`. Nothing else is read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemas::{Digest, Document, Limits, StrictError, parse_strict};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::rule::{EXCEPTIONS, RuleError, RuleSet};

/// The default bundle: deny by default, and rules that a team can live with.
pub const DEFAULT_FILES: &[(&str, &str)] = &[
    ("policies/10-permits.cedar", include_str!("../default/policies/10-permits.cedar")),
    ("policies/20-guards.cedar", include_str!("../default/policies/20-guards.cedar")),
    ("policies/30-needs.cedar", include_str!("../default/policies/30-needs.cedar")),
    ("policies/40-repair.cedar", include_str!("../default/policies/40-repair.cedar")),
    ("invariants/INV-backup-identity.cedar", include_str!("../default/invariants/INV-backup-identity.cedar")),
    ("invariants/INV-backup-legal-hold.cedar", include_str!("../default/invariants/INV-backup-legal-hold.cedar")),
    ("invariants/INV-backup-two-people.cedar", include_str!("../default/invariants/INV-backup-two-people.cedar")),
    ("invariants/INV-commit.cedar", include_str!("../default/invariants/INV-commit.cedar")),
    ("invariants/INV-critical-two-people.cedar", include_str!("../default/invariants/INV-critical-two-people.cedar")),
    ("invariants/INV-environment.cedar", include_str!("../default/invariants/INV-environment.cedar")),
    ("invariants/INV-freeze.cedar", include_str!("../default/invariants/INV-freeze.cedar")),
    ("invariants/INV-irreversible-site.cedar", include_str!("../default/invariants/INV-irreversible-site.cedar")),
    (
        "invariants/INV-irreversible-two-people.cedar",
        include_str!("../default/invariants/INV-irreversible-two-people.cedar"),
    ),
    ("invariants/INV-protected.cedar", include_str!("../default/invariants/INV-protected.cedar")),
    ("invariants/INV-repair.cedar", include_str!("../default/invariants/INV-repair.cedar")),
    ("invariants/INV-safety.cedar", include_str!("../default/invariants/INV-safety.cedar")),
    ("invariants/INV-secret.cedar", include_str!("../default/invariants/INV-secret.cedar")),
    ("invariants/INV-wildcard.cedar", include_str!("../default/invariants/INV-wildcard.cedar")),
    ("cases/backups-and-secrets.json", include_str!("../../examples/policies/backups-and-secrets.json")),
    ("cases/calendar-and-repair.json", include_str!("../../examples/policies/calendar-and-repair.json")),
    ("cases/classes-and-people.json", include_str!("../../examples/policies/classes-and-people.json")),
    ("cases/commands-of-the-articles.json", include_str!("../../examples/policies/commands-of-the-articles.json")),
    ("cases/deletes.json", include_str!("../../examples/policies/deletes.json")),
    ("cases/hazards.json", include_str!("../../examples/policies/hazards.json")),
    ("cases/identities-and-inventory.json", include_str!("../../examples/policies/identities-and-inventory.json")),
    ("cases/plans.json", include_str!("../../examples/policies/plans.json")),
];

/// Largest bundle, all files together.
const MAX_BYTES: usize = 16 << 20;

/// The signed list of a bundle: which files, with which serial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Rises with each signed change; a lower one is refused.
    pub serial: u64,
    /// Whether everything that is to be proved of it was proved when it was signed.
    pub proved: bool,
    /// SHA-256 of each file by its name in the bundle.
    pub files: BTreeMap<String, Digest>,
}

impl Document for Listing {
    const PAYLOAD_TYPE: &'static str = "application/vnd.backout.policy.v1+json";
    const MAX_BYTES: usize = Limits::PLAN_BYTES;

    fn from_payload(payload: &[u8]) -> Result<Self, StrictError> {
        parse_strict(payload, Self::MAX_BYTES)
    }
}

/// Why a bundle is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Its files are not those of its list.
    #[error("{0}")]
    Files(String),
    /// Its rules do not load.
    #[error("the policy does not load: {0}")]
    Rules(#[from] RuleError),
}

/// A bundle in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    files: BTreeMap<String, String>,
}

impl Bundle {
    /// The default bundle.
    pub fn shipped() -> Self {
        let files = DEFAULT_FILES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Self { files: files.collect() }
    }

    /// A bundle of these files, by name.
    pub fn new(files: BTreeMap<String, String>) -> Result<Self, BundleError> {
        if let Some(name) = files.keys().find(|name| !is_file_name(name)) {
            let text = format!("{name} is none of policies/*.cedar, invariants/*.cedar, cases/*.json");
            return Err(BundleError::Files(text));
        }
        if files.values().map(String::len).sum::<usize>() > MAX_BYTES {
            return Err(BundleError::Files(format!("larger than {MAX_BYTES} bytes")));
        }
        if !files.keys().any(|name| name.starts_with("policies/")) {
            return Err(BundleError::Files("it has no policies/*.cedar".to_owned()));
        }
        Ok(Self { files })
    }

    /// Its files.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// The list of it, to be signed.
    pub fn listing(&self, serial: u64, proved: bool) -> Listing {
        let files = self.files.iter().map(|(name, text)| (name.clone(), Digest::of(text.as_bytes())));
        Listing { serial, proved, files: files.collect() }
    }

    /// Whether it is what a list names, file by file.
    pub fn check(&self, listing: &Listing) -> Result<(), BundleError> {
        let own = self.listing(listing.serial, listing.proved);
        for (name, digest) in &listing.files {
            match own.files.get(name) {
                None => return Err(BundleError::Files(format!("{name} is signed and is not there"))),
                Some(found) if found != digest => {
                    return Err(BundleError::Files(format!("{name} was changed since it was signed")));
                }
                Some(_) => {}
            }
        }
        match own.files.keys().find(|name| !listing.files.contains_key(*name)) {
            Some(name) => Err(BundleError::Files(format!("{name} is there and is not signed"))),
            None => Ok(()),
        }
    }

    /// Names its rules: what is decided depends on the policies alone.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.names())
    }

    /// What its digest is the digest of: the vocabulary, and each file of rules by name and digest.
    pub fn names(&self) -> Vec<u8> {
        let policies: BTreeMap<&String, Digest> =
            self.of_rules().map(|(name, text)| (name, Digest::of(text.as_bytes()))).collect();
        serde_json::to_vec(&(crate::rule::SCHEMA, policies)).unwrap_or_default()
    }

    /// The files that [`Self::names`] wrote down.
    pub fn names_of(bytes: &[u8]) -> Option<BTreeMap<String, Digest>> {
        serde_json::from_slice::<(String, BTreeMap<String, Digest>)>(bytes).ok().map(|(_, files)| files)
    }

    /// Its rules, loaded.
    pub fn rules(&self) -> Result<RuleSet, BundleError> {
        let files: Vec<(String, String)> = self.of_rules().map(|(name, text)| (name.clone(), text.clone())).collect();
        Ok(RuleSet::load(&files)?)
    }

    /// An engine over its rules, without the exceptions that ended.
    pub fn engine(&self, now: Timestamp) -> Result<Engine, BundleError> {
        Ok(Engine::at(self.rules()?, self.digest(), now)?)
    }

    fn of_rules(&self) -> impl Iterator<Item = (&String, &String)> {
        self.of("policies/").chain(self.of(EXCEPTIONS))
    }

    /// Files in one of its folders.
    pub fn of<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a String, &'a String)> {
        self.files.iter().filter(move |(name, _)| name.starts_with(folder))
    }
}

fn is_file_name(name: &str) -> bool {
    let Some((folder, file)) = name.split_once('/') else { return false };
    let stem = match folder {
        "policies" | "exceptions" | "invariants" => file.strip_suffix(".cedar"),
        "cases" => file.strip_suffix(".json"),
        _ => None,
    };
    stem.is_some_and(schemas::is_valid_id)
}
