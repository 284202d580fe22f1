//! What a step could change although nobody can see that it will: the files beneath the folders that it declares.
//!
//! Must never leave a file out: the policy judges each that the inventory speaks of.

use std::path::Path;

use kernel::{DriverError, StepSpec};
use snapshots::{Node, Root, Tree, scan};

use crate::paths::{place, snapshot_failed};

/// Most files beneath the declared writes of a step whose effect cannot be seen before.
const MAX_REACHED: usize = 20_000;

/// Files that lie beneath the folders that a step declares: what it may change though nobody can see that it will.
pub(crate) fn beneath(step: &StepSpec) -> Result<Vec<String>, DriverError> {
    let mut out = Vec::new();
    for resource in step.lowered.writes.iter().filter(|resource| resource.scheme() == "file") {
        let found = place(resource.path(), &step.facts).map_err(DriverError::Refused)?;
        let root = Root::open(&found.root).map_err(snapshot_failed)?;
        let tree = scan(&root, std::slice::from_ref(&found.relative), None).map_err(snapshot_failed)?;
        note(&mut out, &found.root, &found.relative, &tree)?;
    }
    Ok(out)
}

/// Adds the files of a declared path that was scanned.
pub(crate) fn note(out: &mut Vec<String>, root: &Path, path: &Path, tree: &Tree) -> Result<(), DriverError> {
    let inside = tree.entries.iter().filter(|entry| entry.exists() && entry.path != path && entry.node != Node::Folder);
    out.extend(inside.map(|entry| format!("file:{}", root.join(&entry.path).display())));
    if out.len() > MAX_REACHED {
        let text = format!("more than {MAX_REACHED} files lie beneath its declared writes: declare them more narrowly");
        return Err(DriverError::Refused(text));
    }
    Ok(())
}

/// Refuses what lies inside a repository that has no work tree: its hooks are run by whoever pushes to it, its refs are git's.
pub(crate) fn refuse_repository(step: &StepSpec) -> Result<(), DriverError> {
    for resource in step.lowered.writes.iter().filter(|resource| resource.scheme() == "file") {
        let found = place(resource.path(), &step.facts).map_err(DriverError::Refused)?;
        for folder in found.relative.ancestors().skip(1) {
            let folder = found.root.join(folder);
            let is_repository =
                folder.join("HEAD").is_file() && folder.join("objects").is_dir() && folder.join("refs").is_dir();
            if is_repository {
                let text = format!("{} lies inside the repository {}", resource.path(), folder.display());
                return Err(DriverError::Refused(text));
            }
        }
    }
    Ok(())
}
