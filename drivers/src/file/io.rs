//! What a file step makes of what it finds, and the making of it: every file by rename, every folder synced.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kernel::{DriverError, StepSpec};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use schemas::Limits;
use snapshots::{Content, Entry, EntryMeta, Hash, Node, Root, Stamp, Tree, set_xattrs};

use super::lower::{content_of, parse_mode, relative_to};
use super::params::{Append, Chmod, FromTo, Replace, Symlink, Write};
use crate::paths::snapshot_failed;

/// One name and what it is to become.
pub(super) struct Goal {
    /// What is to be there; absent means that the name goes.
    pub(super) entry: Entry,
    /// How it gets there.
    pub(super) how: How,
}

/// How a name becomes what it is to be.
pub(super) enum How {
    /// Removed, with nothing left in it.
    Remove,
    /// Written whole.
    Bytes(Vec<u8>),
    /// A symlink in the entry's node.
    Link,
    /// Only the mode.
    Mode,
    /// A new folder.
    Folder,
    /// Copied from another name.
    Copy(PathBuf),
    /// Renamed from another name, with all that is in it.
    Rename(PathBuf),
    /// It comes or goes with another goal.
    Follows,
}

type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<Vec<u8>, DriverError>;

/// The goals of a step in a tree that is as `tree` says.
pub(super) fn goals(step: &StepSpec, root: &Path, tree: &Tree, read: ReadFile<'_>) -> Result<Vec<Goal>, DriverError> {
    let at = |path: &str| relative_to(root, path, step);
    match step.operation() {
        "write" => {
            let params: Write = step.params()?;
            let bytes = content_of(&params).map_err(DriverError::Refused)?;
            let mode = params.mode.as_deref().map(parse_mode).transpose().map_err(DriverError::Refused)?;
            let path = at(&params.path)?;
            written(tree, path, bytes, mode).map(|goal| vec![goal])
        }
        "append" => {
            let params: Append = step.params()?;
            let path = at(&params.path)?;
            let mut bytes = existing(tree, &path, read)?;
            bytes.extend_from_slice(params.content.as_bytes());
            written(tree, path, bytes, None).map(|goal| vec![goal])
        }
        "replace" => replaced(&step.params()?, tree, at, read).map(|goal| vec![goal]),
        "chmod" => {
            let params: Chmod = step.params()?;
            let mut entry = found(tree, &at(&params.path)?)?.clone();
            if matches!(entry.node, Node::Symlink(_)) {
                return Err(DriverError::Refused(format!("{} is a symlink, which has no mode", params.path)));
            }
            entry.meta.mode = parse_mode(&params.mode).map_err(DriverError::Refused)?;
            Ok(vec![Goal { entry, how: How::Mode }])
        }
        "symlink" => {
            let params: Symlink = step.params()?;
            linked(tree, at(&params.path)?, params.target).map(|goal| vec![goal])
        }
        "move" => moved(&step.params()?, tree, at),
        "copy" => copied(&step.params()?, tree, at),
        _ => super::delete::goals(step, root, tree),
    }
}

pub(super) fn found<'a>(tree: &'a Tree, path: &Path) -> Result<&'a Entry, DriverError> {
    let gone = || DriverError::Refused(format!("{} does not exist", path.display()));
    tree.get(path).filter(|entry| entry.exists()).ok_or_else(gone)
}

fn existing(tree: &Tree, path: &Path, read: ReadFile<'_>) -> Result<Vec<u8>, DriverError> {
    match found(tree, path)?.node {
        Node::File(_) => read(path),
        _ => Err(DriverError::Refused(format!("{} is not a regular file", path.display()))),
    }
}

fn replaced(
    params: &Replace,
    tree: &Tree,
    at: impl Fn(&str) -> Result<PathBuf, DriverError>,
    read: ReadFile<'_>,
) -> Result<Goal, DriverError> {
    let path = at(&params.path)?;
    let text = String::from_utf8(existing(tree, &path, read)?)
        .map_err(|_| DriverError::Refused(format!("{} is not text", path.display())))?;
    let (there, wanted) = (text.matches(&params.find).count() as u64, params.count.unwrap_or(1));
    if there != wanted {
        let message = format!("{} holds the text {there} times and {wanted} was declared", path.display());
        return Err(DriverError::Refused(message));
    }
    written(tree, path, text.replace(&params.find, &params.replace).into_bytes(), None)
}

/// The goal of a file with these bytes; owner, mode and attributes are those of the file that it takes the place of.
fn written(tree: &Tree, path: PathBuf, bytes: Vec<u8>, mode: Option<u32>) -> Result<Goal, DriverError> {
    let known = tree.get(&path).filter(|entry| entry.exists());
    let mut meta = match known.map(|entry| &entry.node) {
        None => own_meta(0o644),
        Some(Node::File(_) | Node::HardLink(_)) => known.map(|entry| entry.meta.clone()).unwrap_or_default(),
        Some(_) => return Err(DriverError::Refused(format!("{} is not a regular file", path.display()))),
    };
    meta.mode = mode.unwrap_or(meta.mode);
    let content = Content { size: bytes.len() as u64, hash: Hash::of(&bytes), sparse: false };
    Ok(Goal { entry: entry(path, Node::File(content), meta), how: How::Bytes(bytes) })
}

fn linked(tree: &Tree, path: PathBuf, target: String) -> Result<Goal, DriverError> {
    let known = tree.get(&path).filter(|entry| entry.exists());
    if known.is_some_and(|entry| !matches!(entry.node, Node::Symlink(_))) {
        return Err(DriverError::Refused(format!("{} exists and is not a symlink", path.display())));
    }
    Ok(Goal { entry: entry(path, Node::Symlink(OsString::from(target)), own_meta(0o777)), how: How::Link })
}

fn moved(
    params: &FromTo,
    tree: &Tree,
    at: impl Fn(&str) -> Result<PathBuf, DriverError>,
) -> Result<Vec<Goal>, DriverError> {
    let (from, to) = from_to(params, tree, at)?;
    let mut out = Vec::new();
    for known in below(tree, &from) {
        let is_top = known.path == from;
        let node = rebased(known, &from, &to)?;
        let how = if is_top { How::Rename(from.clone()) } else { How::Follows };
        out.push(Goal { entry: entry(transplanted(&known.path, &from, &to), node, known.meta.clone()), how });
        out.push(Goal { entry: gone(known.path.clone()), how: How::Follows });
    }
    Ok(out)
}

fn copied(
    params: &FromTo,
    tree: &Tree,
    at: impl Fn(&str) -> Result<PathBuf, DriverError>,
) -> Result<Vec<Goal>, DriverError> {
    let (from, to) = from_to(params, tree, at)?;
    let goal = |known: &Entry| {
        let how = match &known.node {
            Node::Folder => How::Folder,
            Node::Symlink(_) => How::Link,
            Node::File(content) if !content.sparse => How::Copy(known.path.clone()),
            _ => {
                let what = "is sparse or has several names: copy it with a command";
                return Err(DriverError::Refused(format!("{} {what}", known.path.display())));
            }
        };
        let meta = EntryMeta { mode: known.meta.mode, xattrs: known.meta.xattrs.clone(), ..own_meta(0) };
        Ok(Goal { entry: entry(transplanted(&known.path, &from, &to), known.node.clone(), meta), how })
    };
    below(tree, &from).map(goal).collect()
}

fn from_to(
    params: &FromTo,
    tree: &Tree,
    at: impl Fn(&str) -> Result<PathBuf, DriverError>,
) -> Result<(PathBuf, PathBuf), DriverError> {
    let (from, to) = (at(&params.from)?, at(&params.to)?);
    found(tree, &from)?;
    if to.starts_with(&from) || from.starts_with(&to) {
        return Err(DriverError::Refused("one of the two paths lies in the other".to_owned()));
    }
    match tree.get(&to).filter(|entry| entry.exists()) {
        None => Ok((from, to)),
        Some(_) => Err(DriverError::Refused(format!("{} exists already", to.display()))),
    }
}

/// `top` and all that is in it.
pub(super) fn below<'a>(tree: &'a Tree, top: &'a Path) -> impl Iterator<Item = &'a Entry> {
    tree.below(top).filter(|entry| entry.exists())
}

fn transplanted(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_owned(),
    }
}

fn rebased(entry: &Entry, from: &Path, to: &Path) -> Result<Node, DriverError> {
    match &entry.node {
        Node::HardLink(first) if first.starts_with(from) => Ok(Node::HardLink(transplanted(first, from, to))),
        other => Ok(other.clone()),
    }
}

fn entry(path: PathBuf, node: Node, meta: EntryMeta) -> Entry {
    Entry { path, node, meta, stamp: Stamp::default() }
}

pub(super) fn gone(path: PathBuf) -> Entry {
    entry(path, Node::Absent, EntryMeta::default())
}

fn own_meta(mode: u32) -> EntryMeta {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    EntryMeta { mode, uid, gid, ..EntryMeta::default() }
}

/// Reads a regular file beneath `root` for a preview or a change of its text.
pub(crate) fn read_beneath(root: &Root, path: &Path) -> Result<Vec<u8>, DriverError> {
    let fd = root.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(snapshot_failed)?;
    let mut out = Vec::new();
    let limit = Limits::STRING_BYTES as u64 * 8;
    std::fs::File::from(fd)
        .take(limit + 1)
        .read_to_end(&mut out)
        .map_err(|error| DriverError::io(format!("cannot read {}", path.display()), error))?;
    if out.len() as u64 > limit {
        return Err(DriverError::Refused(format!("{} is larger than {limit} bytes", path.display())));
    }
    Ok(out)
}

/// Does what the goals say, skipping what is already so.
pub(super) fn reach(root: &Root, goals: &[Goal], now: &Tree, tag: &str) -> Result<(), DriverError> {
    let mut folders = std::collections::BTreeSet::new();
    for goal in goals {
        let path = &goal.entry.path;
        let is_so = now.get(path).filter(|entry| entry.exists()).map(Entry::content_fingerprint)
            == goal.entry.exists().then(|| goal.entry.content_fingerprint());
        if is_so || matches!(goal.how, How::Follows) {
            continue;
        }
        let touched = match &goal.how {
            How::Rename(from) | How::Copy(from) => vec![path, from],
            _ => vec![path],
        };
        for name in touched {
            if !root.is_still(name, now.get(name)).map_err(snapshot_failed)? {
                return Err(DriverError::Stale(format!("{} changed meanwhile", root.path().join(name).display())));
            }
        }
        reach_one(root, goal, tag)?;
        folders.extend(path.parent().map(Path::to_owned));
        if let How::Rename(from) = &goal.how {
            folders.extend(from.parent().map(Path::to_owned));
        }
    }
    folders.iter().try_for_each(|folder| sync_folder(root, folder))
}

fn sync_folder(root: &Root, folder: &Path) -> Result<(), DriverError> {
    match root.stat(folder).map_err(snapshot_failed)? {
        None => Ok(()),
        Some(_) => {
            let fd = root.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
            let fd = fd.map_err(snapshot_failed)?;
            rustix::fs::fsync(&fd).map_err(|errno| DriverError::io(format!("cannot sync {}", folder.display()), errno))
        }
    }
}

fn reach_one(root: &Root, goal: &Goal, tag: &str) -> Result<(), DriverError> {
    let path = &goal.entry.path;
    let failed = |doing: &str| {
        let doing = format!("cannot {doing} {}", root.path().join(path).display());
        move |errno: Errno| DriverError::io(doing, errno)
    };
    let (folder, name) = root.parent_of(path).map_err(snapshot_failed)?;
    match &goal.how {
        How::Follows => Ok(()),
        How::Remove => remove(root, &folder, path).map_err(failed("remove")),
        How::Bytes(bytes) => put_file(&folder, name.as_ref(), &goal.entry.meta, bytes, tag).map_err(failed("write")),
        How::Copy(from) => {
            let bytes = read_beneath(root, from)?;
            put_file(&folder, name.as_ref(), &goal.entry.meta, &bytes, tag).map_err(failed("write"))
        }
        How::Folder => put_folder(&folder, name, &goal.entry.meta).map_err(failed("create")),
        How::Link => {
            let Node::Symlink(target) = &goal.entry.node else { return Ok(()) };
            let temporary = snapshots::temporary_name(tag);
            rustix::fs::symlinkat(target, &folder, &*temporary)
                .and_then(|()| rustix::fs::renameat(&folder, &*temporary, &folder, name))
                .map_err(failed("link"))
        }
        How::Mode => {
            let fd =
                root.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(snapshot_failed)?;
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(goal.entry.meta.mode)).map_err(failed("chmod"))
        }
        How::Rename(from) => {
            let (from_folder, from_name) = root.parent_of(from).map_err(snapshot_failed)?;
            rustix::fs::renameat_with(&from_folder, from_name, &folder, name, RenameFlags::NOREPLACE)
                .map_err(failed("move"))
        }
    }
}

fn remove(root: &Root, folder: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let Some(name) = path.file_name() else { return Err(Errno::INVAL) };
    let is_folder = root
        .stat(path)
        .ok()
        .flatten()
        .is_some_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory);
    rustix::fs::unlinkat(folder, name, if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() })
}

/// Writes a file under a temporary name, makes it durable, and renames it over `name`.
fn put_file(folder: &OwnedFd, name: &Path, meta: &EntryMeta, bytes: &[u8], tag: &str) -> Result<(), Errno> {
    let temporary = snapshots::temporary_name(tag);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, &*temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let outcome = fill(fd, meta, bytes).and_then(|()| rustix::fs::renameat(folder, &*temporary, folder, name));
    if outcome.is_err() {
        let _ = rustix::fs::unlinkat(folder, &*temporary, AtFlags::empty());
    }
    outcome
}

/// Makes a folder that is what it was said to be, whatever the folder around it hands down: group, setgid, default ACL.
fn put_folder(folder: &OwnedFd, name: &std::ffi::OsStr, meta: &EntryMeta) -> Result<(), Errno> {
    rustix::fs::mkdirat(folder, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
    rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
    set_xattrs(&fd, &meta.xattrs)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(meta.mode))
}

fn fill(fd: OwnedFd, meta: &EntryMeta, bytes: &[u8]) -> Result<(), Errno> {
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes).map_err(errno)?;
    let stat = rustix::fs::fstat(&file)?;
    if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    set_xattrs(&file, &meta.xattrs)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(meta.mode))?;
    file.sync_all().map_err(errno)
}
