//! The walk over a tree with as many threads as cores; each reads what it finds, so that no folder is opened twice.
//!
//! Must never skip a name: what cannot be read whole is an error that names it.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::beneath::Root;
use crate::capture::Reading;
use crate::entry::{Entry, EntryMeta, Node, Stamp, Tree, Xattrs};
use crate::error::SnapshotError;
use crate::pack::Place;

/// A change that is younger than this when the walk begins may be followed by one with the same change time.
const SETTLE_NS: i64 = 50_000_000;
/// Largest value of one extended attribute (`XATTR_SIZE_MAX`).
const XATTR_BYTES: usize = 64 * 1024;

/// What a walk found, with the place of each content that was stored.
pub(crate) type Found = Vec<(Entry, Option<Place>)>;

/// What all threads share.
pub(crate) struct Walk<'a> {
    pub(crate) root: &'a Root,
    /// What was there the last time, by which unchanged files are recognised.
    pub(crate) known: &'a Tree,
    pub(crate) known_places: &'a [Option<Place>],
    queue: Mutex<Vec<(Arc<OwnedFd>, PathBuf)>>,
    open: AtomicUsize,
    failed: AtomicBool,
    started_ns: i64,
    /// Whether this is the upper folder of an overlay, where a device of number 0 is a name that was deleted.
    layer: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(root: &'a Root, known: &'a Tree, known_places: &'a [Option<Place>]) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Self {
            root,
            known,
            known_places,
            queue: Mutex::new(Vec::new()),
            open: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            started_ns: now.tv_sec * 1_000_000_000 + now.tv_nsec,
            layer: false,
        }
    }

    /// A walk over the upper folder of an overlay.
    pub(crate) fn over_layer(root: &'a Root, known: &'a Tree) -> Self {
        Self { layer: true, ..Self::new(root, known, &[]) }
    }

    /// Visits the scope paths themselves and queues the folders among them.
    pub(crate) fn start(&self, paths: &[PathBuf], reading: &mut Reading<'_>) -> Result<Found, SnapshotError> {
        let mut found = Found::new();
        for path in paths {
            if path.as_os_str().is_empty() {
                self.visit_root(&mut found)?;
                continue;
            }
            match self.root.parent_of(path) {
                Ok((folder, name)) => self.visit(&folder, name, path, reading, &mut found, true)?,
                Err(error) if crate::beneath::is_missing(&error) => found.push((absent(path), None)),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn visit_root(&self, found: &mut Found) -> Result<(), SnapshotError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.root.open_beneath(Path::new(""), flags, Mode::empty())?;
        let stat = fstat(&fd).map_err(SnapshotError::io("cannot stat", self.root.path()))?;
        let meta = self.meta(&fd, &stat, Path::new(""))?;
        found.push((Entry { path: PathBuf::new(), node: Node::Folder, meta, stamp: self.stamp(&stat) }, None));
        self.push(Arc::new(fd), PathBuf::new());
        Ok(())
    }

    fn push(&self, fd: Arc<OwnedFd>, path: PathBuf) {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push((fd, path));
    }

    /// Takes folders from the queue until all are done or one thread failed.
    pub(crate) fn work(&self, reading: &mut Reading<'_>) -> Result<Found, SnapshotError> {
        let mut found = Found::new();
        while self.open.load(Ordering::SeqCst) > 0 && !self.failed.load(Ordering::SeqCst) {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((fd, path)) = next else {
                std::thread::yield_now();
                continue;
            };
            let outcome = self.visit_folder(&fd, &path, reading, &mut found);
            self.open.fetch_sub(1, Ordering::SeqCst);
            if let Err(error) = outcome {
                self.failed.store(true, Ordering::SeqCst);
                return Err(error);
            }
        }
        Ok(found)
    }

    fn visit_folder(
        &self,
        fd: &OwnedFd,
        path: &Path,
        reading: &mut Reading<'_>,
        found: &mut Found,
    ) -> Result<(), SnapshotError> {
        let shown = || self.root.path().join(path);
        for entry in Dir::read_from(fd).map_err(|errno| SnapshotError::io("cannot list", &shown())(errno))? {
            let entry = entry.map_err(|errno| SnapshotError::io("cannot list", &shown())(errno))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                self.visit(fd, name, &path.join(name), reading, found, false)?;
            }
        }
        Ok(())
    }

    fn visit(
        &self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &Path,
        reading: &mut Reading<'_>,
        found: &mut Found,
        may_be_absent: bool,
    ) -> Result<(), SnapshotError> {
        let shown = self.root.path().join(path);
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if may_be_absent => {
                found.push((absent(path), None));
                return Ok(());
            }
            Err(Errno::NOENT) => return Err(SnapshotError::Changed { path: shown }),
            Err(errno) => return Err(SnapshotError::io("cannot stat", &shown)(errno)),
        };
        if stat.st_dev != self.root.device() {
            return Err(SnapshotError::CrossesMount { path: shown });
        }
        let stamp = self.stamp(&stat);
        let known = self.known_entry(path, &stat);
        let (node, meta, place) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => match known {
                Some((entry, place)) if reading.accepts(place) => {
                    (entry.node.clone(), entry.meta.clone(), place.clone())
                }
                _ => self.read_file(folder, name, path, &stat, reading)?,
            },
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd =
                    openat(folder, name, flags, Mode::empty()).map_err(SnapshotError::io("cannot open", &shown))?;
                let meta = match known {
                    Some((entry, _)) => entry.meta.clone(),
                    None => self.meta(&fd, &stat, path)?,
                };
                self.push(Arc::new(fd), path.to_owned());
                (Node::Folder, meta, None)
            }
            FileType::Symlink => {
                let target = readlinkat(folder, name, Vec::new()).map_err(SnapshotError::io("cannot read", &shown))?;
                let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
                let xattrs = link_xattrs(&through, &shown)?;
                let meta = EntryMeta { xattrs, ..plain_meta(&stat) };
                (Node::Symlink(OsString::from_vec(target.into_bytes())), meta, None)
            }
            FileType::CharacterDevice if self.layer && stat.st_rdev == 0 => {
                found.push((absent(path), None));
                return Ok(());
            }
            other => return Err(SnapshotError::Unsupported { path: shown, what: word(other) }),
        };
        found.push((Entry { path: path.to_owned(), node, meta, stamp }, place));
        Ok(())
    }

    /// The entry of the last time, if the file system says that nothing happened since.
    fn known_entry(&self, path: &Path, stat: &Stat) -> Option<(&Entry, &Option<Place>)> {
        let at = self.known.entries.binary_search_by(|entry| crate::entry::path_order(&entry.path, path)).ok()?;
        let entry = self.known.entries.get(at)?;
        let same = entry.stamp.settled
            && entry.stamp.inode == stat.st_ino
            && entry.stamp.ctime_ns == ctime_ns(stat)
            && matches!(entry.node, Node::File(_) | Node::Folder);
        same.then_some((entry, self.known_places.get(at)?))
    }

    fn read_file(
        &self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        reading: &mut Reading<'_>,
    ) -> Result<(Node, EntryMeta, Option<Place>), SnapshotError> {
        let shown = self.root.path().join(path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(folder, name, flags, Mode::empty()).map_err(SnapshotError::io("cannot read", &shown))?;
        let (content, place) = reading.content(&fd, stat, &shown)?;
        let meta = self.meta(&fd, stat, path)?;
        let after = fstat(&fd).map_err(SnapshotError::io("cannot stat", &shown))?;
        let state = |s: &Stat| (s.st_dev, s.st_ino, s.st_size, s.st_mtime, s.st_mtime_nsec, ctime_ns(s));
        if state(stat) != state(&after) || content.size != stat.st_size as u64 {
            return Err(SnapshotError::Changed { path: shown });
        }
        Ok((Node::File(content), meta, place))
    }

    fn meta(&self, fd: &OwnedFd, stat: &Stat, path: &Path) -> Result<EntryMeta, SnapshotError> {
        let shown = self.root.path().join(path);
        Ok(EntryMeta { xattrs: fd_xattrs(fd, &shown)?, ..plain_meta(stat) })
    }

    fn stamp(&self, stat: &Stat) -> Stamp {
        Stamp {
            inode: stat.st_ino,
            ctime_ns: ctime_ns(stat),
            links: stat.st_nlink,
            settled: ctime_ns(stat) < self.started_ns - SETTLE_NS,
        }
    }
}

pub(crate) fn absent(path: &Path) -> Entry {
    Entry { path: path.to_owned(), node: Node::Absent, meta: EntryMeta::default(), stamp: Stamp::default() }
}

fn ctime_ns(stat: &Stat) -> i64 {
    stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec as i64
}

fn plain_meta(stat: &Stat) -> EntryMeta {
    EntryMeta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_s: stat.st_mtime,
        mtime_ns: stat.st_mtime_nsec as u32,
        xattrs: Vec::new(),
    }
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::Socket => "socket",
        FileType::Fifo => "pipe",
        FileType::BlockDevice | FileType::CharacterDevice => "device",
        _ => "thing of unknown type",
    }
}

fn fd_xattrs(fd: &OwnedFd, shown: &Path) -> Result<Xattrs, SnapshotError> {
    let fd = fd.as_fd();
    xattrs(shown, |buffer| rustix::fs::flistxattr(fd, buffer), |name, buffer| rustix::fs::fgetxattr(fd, name, buffer))
}

fn link_xattrs(path: &Path, shown: &Path) -> Result<Xattrs, SnapshotError> {
    xattrs(
        shown,
        |buffer| rustix::fs::llistxattr(path, buffer),
        |name, buffer| rustix::fs::lgetxattr(path, name, buffer),
    )
}

fn xattrs(
    shown: &Path,
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, SnapshotError> {
    let mut names = [0u8; 1024];
    let mut large = Vec::new();
    let listed = match list(&mut names) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(count) => names.get(..count).unwrap_or(&[]),
        Err(Errno::RANGE) => {
            large.resize(XATTR_BYTES, 0);
            let count = list(&mut large).map_err(SnapshotError::io("cannot list attributes of", shown))?;
            large.get(..count).unwrap_or(&[])
        }
        Err(errno) => return Err(SnapshotError::io("cannot list attributes of", shown)(errno)),
    };
    let mut out = Vec::new();
    for name in listed.split_inclusive(|byte| *byte == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        let mut value = vec![0u8; XATTR_BYTES];
        let count = get(name, &mut value).map_err(SnapshotError::io("cannot read attributes of", shown))?;
        value.truncate(count);
        out.push((name.to_bytes().to_vec(), value));
    }
    out.sort();
    Ok(out)
}
