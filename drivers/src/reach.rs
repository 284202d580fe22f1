//! What a step could change although nobody can see that it will: the files beneath the folders that it declares.
//!
//! Must never leave a file out: the policy judges each that the inventory speaks of.

use kernel::{DriverError, StepSpec};
use snapshots::{Node, Root, scan};

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
        let inside = tree
            .entries
            .iter()
            .filter(|entry| entry.exists() && entry.path != found.relative && entry.node != Node::Folder);
        out.extend(inside.map(|entry| format!("file:{}", found.root.join(&entry.path).display())));
        if out.len() > MAX_REACHED {
            let text =
                format!("more than {MAX_REACHED} files lie beneath its declared writes: declare them more narrowly");
            return Err(DriverError::Refused(text));
        }
    }
    Ok(out)
}
