//! The times of folders that hold what a step changes: a rename in a folder changes the folder's own time, and a way back that
//! claims to be exact puts that back too. Exact because steps are undone one after the other in reverse order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kernel::DriverError;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use snapshots::Root;

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

/// Puts them back; a folder that is gone is no folder that could have another time.
pub(crate) fn put_back(root: &Root, folders: &FolderTimes) -> Result<(), DriverError> {
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
