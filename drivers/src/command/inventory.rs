//! What changed in the folders that a command could write although it declared only something in them.
//!
//! By inode and change time alone, which no program can set: nothing is read, and nothing that happened is missed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kernel::DriverError;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use schemas::Resource;

/// How many names a message tells.
const TOLD: usize = 5;

/// Names in order, with inode and change time in nanoseconds.
type Stamps = Vec<(PathBuf, (u64, i64))>;

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
        let find = |all: &Stamps, path: &Path| {
            let at = all.binary_search_by(|(known, _)| known.as_path().cmp(path)).ok()?;
            all.get(at).map(|(_, stamp)| *stamp)
        };
        let changed = self.was.iter().filter(|(path, stamp)| find(&is, path) != Some(*stamp)).map(|(path, _)| path);
        let new = is.iter().map(|(path, _)| path).filter(|path| find(&self.was, path).is_none());
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
        look_into(&folder, declared, &mut open, &mut out)
            .map_err(|errno| DriverError::io(format!("cannot list {}", folder.display()), errno))?;
    }
    out.sort();
    Ok(out)
}

fn look_into(
    folder: &Path,
    declared: &[Resource],
    open: &mut Vec<PathBuf>,
    out: &mut Stamps,
) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(folder, flags, Mode::empty()) {
        // Gone since it was listed: then it is not there, as a later look will find.
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    // Most folders hold nothing that is declared, and need not be asked about each name.
    let holds_declared = declared.iter().any(|write| Path::new(write.path()).starts_with(folder));
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let path = folder.join(name);
        if holds_declared && contains(declared, &path) {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        // The time of a folder is a consequence of what happens in it, which is looked at itself.
        out.push((path.clone(), (stat.st_ino, if is_folder { 0 } else { changed_ns(&stat) })));
        if is_folder {
            open.push(path);
        }
    }
    Ok(())
}

fn changed_ns(stat: &Stat) -> i64 {
    stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec as i64
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
