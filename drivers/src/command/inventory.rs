//! What changed in the folders that a command could write although it declared only something in them.
//!
//! By inode and change time alone, which no program can set: nothing is read, and nothing that happened is missed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kernel::DriverError;
use schemas::Resource;

/// How many names a message tells.
const TOLD: usize = 5;

/// Names with inode and change time in nanoseconds.
type Stamps = BTreeMap<PathBuf, (u64, i64)>;

/// The folders as they were.
pub(super) struct Inventory<'a> {
    folders: Vec<PathBuf>,
    declared: &'a [Resource],
    was: Stamps,
}

impl<'a> Inventory<'a> {
    /// Looks at what is in `folders` and not `declared`.
    pub(super) fn take(folders: &[PathBuf], declared: &'a [Resource]) -> Result<Self, DriverError> {
        let whole = |folder: &&PathBuf| !contains(declared, folder);
        let folders: Vec<PathBuf> = folders.iter().filter(whole).cloned().collect();
        let was = look(&folders, declared)?;
        Ok(Self { folders, declared, was })
    }

    /// What is not as it was and was not declared, in a sentence.
    pub(super) fn undeclared(&self) -> Result<Option<String>, DriverError> {
        let is = look(&self.folders, self.declared)?;
        let changed = self.was.iter().filter(|(path, stamp)| is.get(*path) != Some(stamp)).map(|(path, _)| path);
        let new = is.keys().filter(|path| !self.was.contains_key(*path));
        let all: Vec<String> = changed.chain(new).map(|path| path.display().to_string()).collect();
        let more = all.len().saturating_sub(TOLD);
        let told = all.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
        Ok((!all.is_empty()).then(|| match more {
            0 => format!("{told} changed and was not declared"),
            more => format!("{told} and {more} more changed and were not declared"),
        }))
    }
}

fn contains(declared: &[Resource], path: &Path) -> bool {
    let own = Resource::file(path.display().to_string());
    declared.iter().any(|write| write.contains(&own))
}

fn look(folders: &[PathBuf], declared: &[Resource]) -> Result<Stamps, DriverError> {
    let mut out = Stamps::new();
    let mut open: Vec<PathBuf> = folders.to_vec();
    while let Some(folder) = open.pop() {
        let failed = |error| DriverError::io(format!("cannot list {}", folder.display()), error);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if contains(declared, &path) {
                continue;
            }
            let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
            // The time of a folder is a consequence of what happens in it, which is looked at itself.
            if meta.is_dir() {
                open.push(path.clone());
            }
            let changed = if meta.is_dir() { 0 } else { meta.ctime() * 1_000_000_000 + meta.ctime_nsec() };
            out.insert(path, (meta.ino(), changed));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_declared_is_told_and_what_was_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["declared", "other", "gone"] {
            std::fs::write(at(name), "1").unwrap();
        }
        let declared = [Resource::file(at("declared").display().to_string())];
        let folders = [dir.path().to_owned()];
        let inventory = Inventory::take(&folders, &declared).unwrap();
        std::fs::write(at("declared"), "2").unwrap();
        assert_eq!(inventory.undeclared().unwrap(), None);
        std::fs::write(at("new"), "2").unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        let text = inventory.undeclared().unwrap().unwrap();
        assert!(text.contains("gone") && text.contains("new") && !text.contains("other"), "{text}");
    }
}
