//! Paths beneath a root, by `openat2`: no `..`, no symlink, no magic link, whoever swaps what meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, statat};
use rustix::io::Errno;

use crate::entry::{Entry, Node};
use crate::error::SnapshotError;

/// A folder that is held open; everything else is named relative to it.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
    device: u64,
}

/// Whether `path` is relative, not empty, and made of names alone.
pub fn is_plain_relative(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl Root {
    /// Opens `path`, which must be a folder.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(SnapshotError::io("cannot open", path))?;
        let stat = rustix::fs::fstat(&fd).map_err(SnapshotError::io("cannot stat", path))?;
        Ok(Self { path: path.to_owned(), fd, device: stat.st_dev })
    }

    /// The same folder, which messages call by another path.
    pub(crate) fn shown_as(self, path: &Path) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// The path that it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    /// Opens `relative` beneath the root; an empty path is the root itself.
    pub fn open_beneath(&self, relative: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, SnapshotError> {
        let shown = self.path.join(relative);
        if relative.as_os_str().is_empty() {
            return rustix::fs::openat(&self.fd, ".", flags | OFlags::CLOEXEC, mode)
                .map_err(SnapshotError::io("cannot open", &shown));
        }
        if !is_plain_relative(relative) {
            return Err(SnapshotError::NotBeneath { path: shown });
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: something was renamed while the kernel looked; the kernel asks to try again.
        let opened = (0..64).find_map(|_| match openat2(&self.fd, relative, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN) => None,
            other => Some(other),
        });
        opened.unwrap_or(Err(Errno::AGAIN)).map_err(SnapshotError::io("cannot open", &shown))
    }

    /// The folder that `relative` is in, and the last name.
    pub fn parent_of<'a>(&self, relative: &'a Path) -> Result<(OwnedFd, &'a OsStr), SnapshotError> {
        let not_beneath = || SnapshotError::NotBeneath { path: self.path.join(relative) };
        if !is_plain_relative(relative) {
            return Err(not_beneath());
        }
        let name = relative.file_name().ok_or_else(not_beneath)?;
        let folder = relative.parent().unwrap_or(Path::new(""));
        let fd = self.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok((fd, name))
    }

    /// Whether `path` is still as `found` saw it, by inode, size and times: asked directly before it is replaced or removed, so
    /// that what somebody writes while a large tree is being changed is not lost.
    pub fn is_still(&self, path: &Path, found: Option<&Entry>) -> Result<bool, SnapshotError> {
        let Some(stat) = self.stat(path)? else { return Ok(found.is_none_or(|entry| !entry.exists())) };
        let Some(found) = found.filter(|entry| entry.exists()) else { return Ok(false) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Names that come and go change a folder's times; it is removed only when it is empty.
        if found.node == Node::Folder {
            return Ok(kind == FileType::Directory);
        }
        let size = match &found.node {
            Node::File(content) => stat.st_size as u64 == content.size,
            _ => true,
        };
        let mtime = (stat.st_mtime, stat.st_mtime_nsec as u32) == (found.meta.mtime_s, found.meta.mtime_ns);
        // Another name of the same file that was changed before this one moved the change time.
        let ctime = stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec as i64;
        let untouched = found.stamp.links > 1 || ctime == found.stamp.ctime_ns;
        Ok(stat.st_ino == found.stamp.inode && size && mtime && untouched)
    }

    /// `lstat` beneath the root; `None` if it or a folder on the way is not there.
    pub fn stat(&self, relative: &Path) -> Result<Option<Stat>, SnapshotError> {
        if relative.as_os_str().is_empty() {
            return rustix::fs::fstat(&self.fd).map(Some).map_err(SnapshotError::io("cannot stat", &self.path));
        }
        let (folder, name) = match self.parent_of(relative) {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(SnapshotError::io("cannot stat", &self.path.join(relative))(errno)),
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the error says that something on the path does not exist.
pub(crate) fn is_missing(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_root_can_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("root/up")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root/abs")).unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        for bad in ["../secret", "up/secret", "abs/etc/passwd", "/etc/passwd", "a/../../secret", "up"] {
            let opened = root.open_beneath(Path::new(bad), OFlags::RDONLY, Mode::empty());
            assert!(opened.is_err(), "{bad}");
        }
        assert!(root.stat(Path::new("up")).unwrap().is_some());
    }
}
