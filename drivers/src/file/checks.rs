//! Checks on files: they read and say what they saw.

use kernel::{CheckOutcome, DriverError, Facts};
use schemas::{Check, Digest};
use serde::de::DeserializeOwned;
use snapshots::Root;

use super::io::read_beneath;
use super::params::{ContainsCheck, DigestCheck, PathCheck};
use crate::paths::{placed, snapshot_failed};

pub(super) fn check(check: &Check, facts: &Facts) -> Result<CheckOutcome, DriverError> {
    let operation = check.uses.split_once('.').map_or("", |(_, operation)| operation);
    match operation {
        "digest" => {
            let wanted: DigestCheck = params(check)?;
            let found = content(&wanted.path, facts)?.map(|bytes| Digest::of(&bytes));
            let saw = found.map_or("no such file".to_owned(), |digest| digest.to_string());
            Ok(CheckOutcome { passed: found == Some(wanted.sha256), saw: format!("{}: {saw}", wanted.path) })
        }
        "contains" => {
            let wanted: ContainsCheck = params(check)?;
            let found = content(&wanted.path, facts)?;
            let passed = found.as_ref().is_some_and(|bytes| String::from_utf8_lossy(bytes).contains(&wanted.text));
            let saw = if found.is_some() { format!("holds the text: {passed}") } else { "no such file".to_owned() };
            Ok(CheckOutcome { passed, saw: format!("{}: {saw}", wanted.path) })
        }
        other => {
            let wanted: PathCheck = params(check)?;
            let place = placed(&wanted.path, facts)?;
            let root = Root::open(&place.root).map_err(snapshot_failed)?;
            let there = root.stat(&place.relative).map_err(snapshot_failed)?.is_some();
            let saw = format!("{}: {}", wanted.path, if there { "exists" } else { "does not exist" });
            Ok(CheckOutcome { passed: there == (other == "exists"), saw })
        }
    }
}

fn content(path: &str, facts: &Facts) -> Result<Option<Vec<u8>>, DriverError> {
    let place = placed(path, facts)?;
    let root = Root::open(&place.root).map_err(snapshot_failed)?;
    match root.stat(&place.relative).map_err(snapshot_failed)? {
        None => Ok(None),
        Some(_) => read_beneath(&root, &place.relative).map(Some),
    }
}

/// The parameters of a check.
pub(crate) fn params<T: DeserializeOwned>(check: &Check) -> Result<T, DriverError> {
    serde_json::from_str(check.with.get())
        .map_err(|error| DriverError::Refused(format!("the parameters of check {} do not parse: {error}", check.uses)))
}
