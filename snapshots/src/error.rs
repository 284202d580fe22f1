//! What can go wrong with a snapshot. Every variant that is about a file names it.

use std::path::{Path, PathBuf};

/// Why a snapshot could not be taken, read or put back.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system said no.
    #[error("{doing} {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Something that cannot be captured whole: a socket, a device, a pipe.
    #[error("{} is a {what}, which cannot be captured", .path.display())]
    Unsupported {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It changed while it was read.
    #[error("{} changed while it was read", .path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// A file has names outside the captured folders: putting it back would split it from them.
    #[error("{} has hard links outside what is captured", .path.display())]
    LinksLeaveScope {
        /// Which.
        path: PathBuf,
    },
    /// Another file system is mounted in the tree.
    #[error("{} is on another file system than its root", .path.display())]
    CrossesMount {
        /// Which.
        path: PathBuf,
    },
    /// A path that is absolute, empty, or has `..` in it.
    #[error("{} is not a plain path beneath its root", .path.display())]
    NotBeneath {
        /// Which.
        path: PathBuf,
    },
    /// The store does not hold what it should: exit code 11.
    #[error("the snapshot store fails its integrity check: {what}")]
    Integrity {
        /// What is wrong.
        what: String,
    },
    /// Somebody changed it between the last look and the moment in which it was to be replaced.
    #[error("{} changed while it was being put back; it was left alone", .path.display())]
    Meanwhile {
        /// Which.
        path: PathBuf,
    },
    /// After putting back, the tree is not what was captured.
    #[error("{} is not as captured after putting it back: {what}", .path.display())]
    NotRestored {
        /// Which.
        path: PathBuf,
        /// How it differs.
        what: String,
    },
}

impl SnapshotError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.to_owned();
        move |errno| Self::Io { doing, path, source: errno.into() }
    }

    pub(crate) fn std(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}
