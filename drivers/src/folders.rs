//! The times of folders that hold what a step changes: a rename in a folder changes the folder's own time, and a way back that
//! claims to be exact puts that back too. Exact because steps are undone one after the other in reverse order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kernel::DriverError;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use snapshots::{Node, Root, Tree};

use crate::paths::snapshot_failed;

/// Folders with their modification times in seconds and nanoseconds.
pub(crate) type FolderTimes = Vec<(PathBuf, i64, u32)>;

/// The times of the folders that `paths` are in.
pub(crate) fn times_around<'a>(root: &Root, paths: impl Iterator<Item = &'a Path>) -> Result<FolderTimes, DriverError> {
    let folders: BTreeSet<&Path> = paths.filter_map(Path::parent).collect();
    let mut out = Vec::new();
    for folder in folders {
        if let Some(stat) = root.stat(folder).map_err(snapshot_failed)? {
            out.push((folder.to_owned(), stat.st_mtime, stat.st_mtime_nsec as u32));
        }
    }
    Ok(out)
}

/// Whether they are as they were; a folder that is gone has no time.
pub(crate) fn are_back(root: &Root, folders: &FolderTimes) -> bool {
    folders.iter().all(|(folder, seconds, nanos)| match root.stat(folder) {
        Ok(Some(stat)) => (stat.st_mtime, stat.st_mtime_nsec as u32) == (*seconds, *nanos),
        Ok(None) | Err(_) => true,
    })
}

/// Puts them back; a folder that is gone is no folder that could have another time.
pub(crate) fn put_back(root: &Root, folders: &[(PathBuf, i64, u32)]) -> Result<(), DriverError> {
    for (folder, seconds, nanos) in folders {
        let Ok(fd) = root.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) else { continue };
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: *seconds, tv_nsec: i64::from(*nanos) },
        };
        rustix::fs::futimens(&fd, &times)
            .map_err(|errno| DriverError::io(format!("cannot set the time of {}", folder.display()), errno))?;
    }
    Ok(())
}

/// Removes temporary files that a dead process of `run` left in the folders of a before-image and around it. A folder that one
/// was in gets its time back: nothing else of the dead process is left in it.
pub(crate) fn clear_leftovers(root: &Root, was: &Tree, around: &FolderTimes, run: &str) -> Result<u32, DriverError> {
    let mut count = 0;
    for entry in was.entries.iter().filter(|entry| entry.node == Node::Folder) {
        let cleared = clear(root, &entry.path, run)?;
        count += cleared;
        if cleared > 0 {
            put_back(root, &[(entry.path.clone(), entry.meta.mtime_s, entry.meta.mtime_ns)])?;
        }
    }
    for folder in around {
        let cleared = clear(root, &folder.0, run)?;
        count += cleared;
        if cleared > 0 {
            put_back(root, std::slice::from_ref(folder))?;
        }
    }
    Ok(count)
}

fn clear(root: &Root, folder: &Path, run: &str) -> Result<u32, DriverError> {
    let Ok(fd) = root.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) else { return Ok(0) };
    let failed = |errno| DriverError::io(format!("cannot clear {}", folder.display()), errno);
    let prefix = snapshots::temporary_prefix(run);
    let mut count = 0;
    for entry in Dir::read_from(&fd).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_owned();
        if name.to_bytes().starts_with(prefix.as_bytes()) {
            // Two steps in one folder are looked at side by side.
            match rustix::fs::unlinkat(&fd, &name, AtFlags::empty()) {
                Ok(()) => count += 1,
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
    Ok(count)
}
