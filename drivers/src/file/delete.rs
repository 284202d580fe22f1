//! What a delete deletes: names as they stand in the plan, or names that a pattern matched when the plan was assessed.

use std::path::{Path, PathBuf};

use kernel::{DriverError, StepSpec};
use schemas::Share;
use snapshots::{Node, Root, Tree, scan};

use super::io::{Goal, How, below, found, gone};
use super::lower::{matcher, relative_to};
use super::params::Delete;
use crate::paths::snapshot_failed;

/// Names that the pattern of a step matches in `tree`, files and symlinks alone.
pub(super) fn expand(step: &StepSpec, root: &Path, tree: &Tree) -> Result<Option<Vec<PathBuf>>, DriverError> {
    if !has_pattern(step) {
        return Ok(None);
    }
    let params: Delete = step.params()?;
    let Some(glob) = &params.glob else { return Ok(None) };
    let matcher = matcher(glob).map_err(DriverError::Refused)?;
    let base = step.facts.roots.first().cloned().unwrap_or_default();
    let matches = |path: &Path| {
        let absolute = root.join(path);
        let written = if glob.starts_with('/') { Some(absolute.as_path()) } else { absolute.strip_prefix(&base).ok() };
        written.is_some_and(|path| matcher.is_match(path))
    };
    let there = tree.entries.iter().filter(|entry| entry.exists() && entry.node != Node::Folder);
    Ok(Some(there.map(|entry| entry.path.clone()).filter(|path| matches(path)).collect()))
}

/// The goals of a delete, innermost first.
pub(super) fn goals(step: &StepSpec, root: &Path, tree: &Tree) -> Result<Vec<Goal>, DriverError> {
    let params: Delete = step.params()?;
    let mut names: Vec<PathBuf> =
        params.paths.iter().map(|path| relative_to(root, path, step)).collect::<Result<_, _>>()?;
    names.extend(step.pinned.iter().map(|path| relative_to(root, path, step)).collect::<Result<Vec<_>, _>>()?);
    let mut out = Vec::new();
    for name in &names {
        if found(tree, name)?.node == Node::Folder && !params.recursive {
            return Err(DriverError::Refused(format!("{} is a folder: say recursive", name.display())));
        }
        for entry in below(tree, name) {
            out.push(Goal { entry: gone(entry.path.clone()), how: How::Remove });
        }
    }
    out.sort_by(|a, b| b.entry.path.cmp(&a.entry.path));
    out.dedup_by(|a, b| a.entry.path == b.entry.path);
    Ok(out)
}

/// Whether the step chooses by pattern.
pub(super) fn has_pattern(step: &StepSpec) -> bool {
    step.operation() == "delete" && step.params::<Delete>().is_ok_and(|params| params.glob.is_some())
}

/// The paths whose state matters to the step: for a pattern the pinned names, not the folder that it starts in.
pub(super) fn narrowed(step: &StepSpec, root: &Path, paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, DriverError> {
    if !has_pattern(step) {
        return Ok(paths);
    }
    let params: Delete = step.params()?;
    params.paths.iter().chain(&step.pinned).map(|path| relative_to(root, path, step)).collect()
}

/// Whether what it deletes is told only by looking: a pattern, or a folder with all that is in it.
pub(super) fn is_open_ended(step: &StepSpec) -> bool {
    step.operation() == "delete"
        && step.params::<Delete>().is_ok_and(|params| params.glob.is_some() || params.recursive)
}

/// So many names of one step are a share of their folder, like a pattern.
const MANY: usize = 10;

/// How much of what lies beside them a recursive delete takes, or one of many names.
pub(super) fn share(step: &StepSpec, root: &Root, base: &Path, goals: &[Goal]) -> Result<Option<Share>, DriverError> {
    if step.operation() != "delete" {
        return Ok(None);
    }
    let params: Delete = step.params()?;
    let going: std::collections::HashSet<&Path> = goals.iter().map(|goal| goal.entry.path.as_path()).collect();
    let mut worst = None;
    let mut parents = std::collections::BTreeSet::new();
    for path in params.paths.iter().filter(|_| params.recursive || params.paths.len() >= MANY) {
        let name = relative_to(base, path, step)?;
        parents.insert(name.parent().unwrap_or(Path::new("")).to_owned());
    }
    for parent in parents {
        let beside = scan(root, &[parent], None).map_err(snapshot_failed)?;
        let is_file = |entry: &&snapshots::Entry| entry.exists() && entry.node != Node::Folder;
        let whole = beside.entries.iter().filter(is_file).count() as u64;
        let gone = beside.entries.iter().filter(is_file).filter(|entry| going.contains(entry.path.as_path())).count();
        worst = Share::worse(worst, Some(Share { part: gone as u64, whole }));
    }
    Ok(worst)
}
