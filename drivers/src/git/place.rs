//! Where a repository lies and what its work tree holds, never through a symlink and never outside of it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use git2::{Oid, Repository};
use kernel::DriverError;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use snapshots::Root;

use super::change::failed;
use crate::paths::snapshot_failed;

/// Opens the repository at `path`: a work tree with its own `.git` folder, or a bare one.
pub(super) fn open(path: &Path) -> Result<Repository, DriverError> {
    let refused = |text: String| Err(DriverError::Refused(text));
    let shown = path.display();
    if !path.canonicalize().is_ok_and(|real| real == path) {
        return refused(format!("{shown} is not there, or leads elsewhere by a symlink"));
    }
    let is_folder = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let folder = if is_folder(&path.join(".git")) { path.join(".git") } else { path.to_owned() };
    if !is_folder(&folder.join("objects")) || !is_folder(&folder.join("refs")) {
        return refused(format!("{shown} is no repository with a folder of its own"));
    }
    if folder.join("commondir").exists() {
        return refused(format!("{shown} is a linked work tree: use the main one"));
    }
    let flags = git2::RepositoryOpenFlags::NO_SEARCH;
    let repo = Repository::open_ext(path, flags, std::iter::empty::<&Path>())
        .map_err(failed(&format!("open {}", path.display())))?;
    let config = repo.config().map_err(failed("read the configuration"))?;
    if config.get_entry("core.worktree").is_ok() {
        return refused(format!("{shown} has core.worktree set: its files may lie anywhere"));
    }
    match repo.workdir() {
        Some(workdir) if workdir.components().ne(path.components()) => {
            refused(format!("{shown} has its work tree elsewhere"))
        }
        _ => Ok(repo),
    }
}

/// What a name of the work tree holds.
pub(super) enum Held {
    Nothing,
    /// Content and git's mode of a file or a symlink.
    Blob(Vec<u8>, u32),
    /// A folder, a device, anything that git does not store as a blob.
    Other,
}

/// Reads a name of the work tree; a symlink on the way is an error.
pub(super) fn held(workdir: &Path, path: &Path) -> Result<Held, DriverError> {
    let io = |errno: rustix::io::Errno| DriverError::io(format!("cannot read {}", workdir.join(path).display()), errno);
    let root = Root::open(workdir).map_err(snapshot_failed)?;
    let Some(stat) = root.stat(path).map_err(snapshot_failed)? else { return Ok(Held::Nothing) };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let (folder, name) = root.parent_of(path).map_err(snapshot_failed)?;
            let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(io)?;
            Ok(Held::Blob(target.into_bytes(), 0o120_000))
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
            let mut file = std::fs::File::from(root.open_beneath(path, flags, Mode::empty()).map_err(snapshot_failed)?);
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes)
                .map_err(|error| DriverError::io(format!("cannot read {}", path.display()), error))?;
            Ok(Held::Blob(bytes, if stat.st_mode & 0o111 != 0 { 0o100_755 } else { 0o100_644 }))
        }
        _ => Ok(Held::Other),
    }
}

/// What a name of the work tree holds, in the words of a tree entry.
pub(super) fn in_workdir(repo: &Repository, path: &Path) -> Result<String, DriverError> {
    Ok(match held(repo.workdir().unwrap_or(Path::new("/")), path)? {
        Held::Nothing => "absent".to_owned(),
        Held::Other => "a folder".to_owned(),
        Held::Blob(bytes, mode) => {
            let id = Oid::hash_object(git2::ObjectType::Blob, &bytes).map_err(failed("hash a file"))?;
            format!("{id} {mode:o}")
        }
    })
}

/// Removes a name of the work tree; one that is not there is removed already.
pub(super) fn remove(workdir: &Path, path: &Path) -> Result<(), DriverError> {
    let root = Root::open(workdir).map_err(snapshot_failed)?;
    if root.stat(path).map_err(snapshot_failed)?.is_none() {
        return Ok(());
    }
    let (folder, name) = root.parent_of(path).map_err(snapshot_failed)?;
    rustix::fs::unlinkat(&folder, name, AtFlags::empty())
        .map_err(|errno| DriverError::io(format!("cannot remove {}", path.display()), errno))
}

/// The reflog of a ref, which git throws away with the ref.
pub(super) fn reflog(repo: &Repository, name: &str) -> Option<Vec<u8>> {
    std::fs::read(repo.path().join("logs").join(name)).ok()
}

/// Puts a reflog back.
pub(super) fn put_reflog(repo: &Repository, name: &str, bytes: &[u8]) -> Result<(), DriverError> {
    let path = repo.path().join("logs").join(name);
    let io = |error| DriverError::io(format!("cannot put back {}", path.display()), error);
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(io)?;
    let temporary = path.with_file_name(format!(
        "{}.lock",
        String::from_utf8_lossy(path.file_name().map_or(b"log", |name| name.as_bytes()))
    ));
    std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &path)).map_err(io)
}

/// Whether a linked work tree has the branch checked out.
pub(super) fn is_checked_out_elsewhere(repo: &Repository, name: &str) -> bool {
    let linked = std::fs::read_dir(repo.path().join("worktrees")).into_iter().flatten().flatten();
    let mut heads = linked.filter_map(|entry| std::fs::read_to_string(entry.path().join("HEAD")).ok());
    heads.any(|head| head.trim().strip_prefix("ref: ") == Some(name))
}
