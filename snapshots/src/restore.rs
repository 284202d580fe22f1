//! Putting a captured tree back: only what differs, each file by rename, then proof by looking again.
//!
//! Must never remove a name that is outside the captured paths.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::beneath::Root;
use crate::capture::{scan, write_content};
use crate::entry::{Difference, Entry, EntryMeta, Node, Tree, Xattrs};
use crate::error::SnapshotError;
use crate::pack::{Hash, PackReader, Place};
use crate::store::{SnapshotRef, Store};

/// Makes `paths` beneath `root` what `wanted` captured, and proves it. `now` is what is there, as the caller last saw it;
/// `tag` goes into the names of temporary files, so that they can be found again after a crash.
pub fn restore(
    store: &Store,
    root: &Root,
    paths: &[PathBuf],
    wanted: &SnapshotRef,
    now: &Tree,
    tag: &str,
) -> Result<Tree, SnapshotError> {
    let (tree, places) = store.load(wanted)?;
    let differences = now.differences(&tree);
    let mut work = Work { root, reader: PackReader::new(store.folder()), tree: &tree, places: &places, tag };
    work.remove(&differences)?;
    work.make(&differences)?;
    work.finish_folders(&differences)?;
    work.sync(&differences)?;
    let found = scan(root, paths, Some(now))?;
    match tree.differences(&found).first() {
        None => Ok(found),
        Some(difference) => Err(not_restored(root, difference)),
    }
}

/// Changes a name of a folder, also where its owner, who runs this, made it read only: its mode stays.
pub(crate) fn writable<T>(folder: &OwnedFd, change: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match change() {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(rustix::fs::fstat(folder)?.st_mode & 0o7777);
            rustix::fs::fchmod(folder, mode | Mode::RWXU).map_err(|_| Errno::ACCESS)?;
            let changed = change();
            rustix::fs::fchmod(folder, mode)?;
            changed
        }
        other => other,
    }
}

/// Files or folders above which one sync of the file system is cheaper than one of each.
const MANY: usize = 32;

fn not_restored(root: &Root, difference: &Difference<'_>) -> SnapshotError {
    let say =
        |entry: Option<&Entry>| entry.map_or("absent".to_owned(), |entry| format!("{:?} {:?}", entry.node, entry.meta));
    let what = format!("wanted {}, found {}", say(difference.before), say(difference.after));
    SnapshotError::NotRestored { path: root.path().join(difference.path()), what }
}

struct Work<'a> {
    root: &'a Root,
    reader: PackReader,
    tree: &'a Tree,
    places: &'a [Option<Place>],
    tag: &'a str,
}

impl Work<'_> {
    /// Removes what was not there or was of another type, innermost first.
    fn remove(&self, differences: &[Difference<'_>]) -> Result<(), SnapshotError> {
        for difference in differences.iter().rev() {
            let Some(found) = difference.before.filter(|entry| entry.exists()) else { continue };
            let is_folder = found.node == Node::Folder;
            let stays = difference.after.is_some_and(|wanted| match wanted.node {
                Node::Absent => false,
                Node::Folder => is_folder,
                // A file or link is put in the place of another by rename.
                Node::File(_) | Node::HardLink(_) | Node::Symlink(_) => !is_folder,
            });
            if stays {
                continue;
            }
            self.expect_still(&found.path, Some(found))?;
            let (folder, name) = self.root.parent_of(&found.path)?;
            let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match writable(&folder, || rustix::fs::unlinkat(&folder, name, flags)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(SnapshotError::io("cannot remove", &self.shown(&found.path))(errno)),
            }
        }
        Ok(())
    }

    /// Makes folders, files and links, outermost first; hard links last, when their files are there.
    fn make(&mut self, differences: &[Difference<'_>]) -> Result<(), SnapshotError> {
        let wanted = || differences.iter().filter_map(|difference| Some((difference.before, difference.after?)));
        // A folder in the place of a file, or the other way round, was removed before.
        let left = |found: Option<&'_ Entry>, entry: &Entry| {
            found.filter(|found| (found.node == Node::Folder) == (entry.node == Node::Folder)).cloned()
        };
        let mended = |found: Option<&Entry>, entry: &Entry| {
            found.is_some_and(|found| found.node == entry.node && single(found, entry))
        };
        let files = wanted().filter(|(found, entry)| matches!(entry.node, Node::File(_)) && !mended(*found, entry));
        let together = files.count() > MANY;
        let mut staged = Vec::new();
        for (found, entry) in wanted() {
            if matches!(entry.node, Node::Symlink(_)) || (matches!(entry.node, Node::File(_)) && mended(found, entry)) {
                self.expect_still(&entry.path, left(found, entry).as_ref())?;
            }
            match &entry.node {
                Node::Absent | Node::HardLink(_) => {}
                Node::Folder => self.make_folder(entry)?,
                Node::Symlink(target) => self.make_symlink(entry, target)?,
                Node::File(_) if mended(found, entry) => self.mend_meta(entry)?,
                Node::File(_) => match self.stage_file(entry, together) {
                    Ok(temporary) => staged.push((left(found, entry), entry, temporary)),
                    Err(error) => return Err(self.unstage(&staged, error)),
                },
            }
        }
        if let Err(error) = self.put_in_place(&staged, together) {
            return Err(self.unstage(&staged, error));
        }
        for (found, entry) in wanted() {
            if let Node::HardLink(first) = &entry.node {
                self.expect_still(&entry.path, left(found, entry).as_ref())?;
                self.make_link(entry, first)?;
            }
        }
        self.relink(differences)
    }

    fn expect_still(&self, path: &Path, found: Option<&Entry>) -> Result<(), SnapshotError> {
        match self.root.is_still(path, found)? {
            true => Ok(()),
            false => Err(SnapshotError::Meanwhile { path: self.shown(path) }),
        }
    }

    /// A file that was made anew has a new inode: names of it that did not differ must be linked to it again.
    fn relink(&self, differences: &[Difference<'_>]) -> Result<(), SnapshotError> {
        let changed: HashSet<&Path> = differences.iter().map(Difference::path).collect();
        let remade = |path: &Path| changed.contains(path);
        for entry in &self.tree.entries {
            if let Node::HardLink(first) = &entry.node
                && remade(first)
                && !remade(&entry.path)
            {
                self.make_link(entry, first)?;
            }
        }
        Ok(())
    }

    fn make_folder(&self, entry: &Entry) -> Result<(), SnapshotError> {
        if entry.path.as_os_str().is_empty() {
            return Ok(());
        }
        let (folder, name) = self.root.parent_of(&entry.path)?;
        match writable(&folder, || rustix::fs::mkdirat(&folder, name, Mode::RWXU)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(SnapshotError::io("cannot create", &self.shown(&entry.path))(errno)),
        }
    }

    fn make_symlink(&self, entry: &Entry, target: &OsStr) -> Result<(), SnapshotError> {
        let shown = self.shown(&entry.path);
        let (folder, name) = self.root.parent_of(&entry.path)?;
        let temporary = temporary_name(self.tag);
        writable(&folder, || rustix::fs::symlinkat(target, &folder, &*temporary))
            .map_err(SnapshotError::io("cannot create", &shown))?;
        set_link_meta(&folder, &temporary, &entry.meta)
            .map_err(SnapshotError::io("cannot set owner, attributes or times of", &shown))?;
        writable(&folder, || rustix::fs::renameat(&folder, &*temporary, &folder, name))
            .map_err(SnapshotError::io("cannot rename", &shown))
    }

    /// Writes a file under a temporary name beside its own, durable unless all are synced `together` later.
    fn stage_file(&mut self, entry: &Entry, together: bool) -> Result<String, SnapshotError> {
        let shown = self.shown(&entry.path);
        let Node::File(content) = &entry.node else {
            return Err(SnapshotError::Integrity { what: format!("{} is no file", shown.display()) });
        };
        let at = self.tree.entries.binary_search_by(|known| crate::entry::path_order(&known.path, &entry.path));
        let place = at.ok().and_then(|at| self.places.get(at)).and_then(Option::as_ref);
        let Some(place) = place else {
            return Err(SnapshotError::Integrity {
                what: format!("the content of {} was not stored", shown.display()),
            });
        };
        let (folder, _) = self.root.parent_of(&entry.path)?;
        let temporary = temporary_name(self.tag);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(&folder, &*temporary, flags, Mode::RUSR | Mode::WUSR);
        let fd = writable(&folder, make).map_err(SnapshotError::io("cannot create", &shown))?;
        // Its bytes are held against their name on the way: nothing gets its name before that.
        let (reader, mut hasher) = (&mut self.reader, blake3::Hasher::new());
        let mut read = |from, out: &mut [u8]| -> Result<(), SnapshotError> {
            reader.read_part(place, from, out)?;
            hasher.update(out);
            Ok(())
        };
        let filled = write_content(&fd, content, &mut read, place.len, &shown)
            .and_then(|()| match Hash(*hasher.finalize().as_bytes()) == content.hash {
                true => Ok(()),
                false => Err(SnapshotError::Integrity {
                    what: format!("the content of {} is not what was written", shown.display()),
                }),
            })
            .and_then(|()| set_meta(&fd, &entry.meta, &shown))
            .and_then(|()| match together {
                true => Ok(()),
                false => rustix::fs::fsync(&fd).map_err(SnapshotError::io("cannot sync", &shown)),
            });
        if filled.is_err() {
            let _ = writable(&folder, || rustix::fs::unlinkat(&folder, &*temporary, AtFlags::empty()));
        }
        filled.map(|()| temporary)
    }

    /// Renames every file that was staged to its name, once its bytes are durable.
    fn put_in_place(&self, staged: &[(Option<Entry>, &Entry, String)], together: bool) -> Result<(), SnapshotError> {
        if together {
            self.sync_all()?;
        }
        for (found, entry, temporary) in staged {
            self.expect_still(&entry.path, found.as_ref())?;
            let (folder, name) = self.root.parent_of(&entry.path)?;
            writable(&folder, || rustix::fs::renameat(&folder, temporary.as_str(), &folder, name))
                .map_err(SnapshotError::io("cannot rename", &self.shown(&entry.path)))?;
        }
        Ok(())
    }

    /// Removes what was staged and not put in its place; the error is what came before.
    fn unstage(&self, staged: &[(Option<Entry>, &Entry, String)], error: SnapshotError) -> SnapshotError {
        for (_, entry, temporary) in staged {
            if let Ok((folder, _)) = self.root.parent_of(&entry.path) {
                let _ = writable(&folder, || rustix::fs::unlinkat(&folder, temporary.as_str(), AtFlags::empty()));
            }
        }
        error
    }

    /// One sync of the file system in the place of many of single files.
    fn sync_all(&self) -> Result<(), SnapshotError> {
        let fd = self.root.open_beneath(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        rustix::fs::syncfs(&fd).map_err(SnapshotError::io("cannot sync", self.root.path()))
    }

    /// Only owner, mode, times or attributes differ.
    fn mend_meta(&self, entry: &Entry) -> Result<(), SnapshotError> {
        let fd = self.root.open_beneath(&entry.path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        set_meta(&fd, &entry.meta, &self.shown(&entry.path))
    }

    fn make_link(&self, entry: &Entry, first: &Path) -> Result<(), SnapshotError> {
        let shown = self.shown(&entry.path);
        let (from_folder, from_name) = self.root.parent_of(first)?;
        let (folder, name) = self.root.parent_of(&entry.path)?;
        let temporary = temporary_name(self.tag);
        writable(&folder, || rustix::fs::linkat(&from_folder, from_name, &folder, &*temporary, AtFlags::empty()))
            .map_err(SnapshotError::io("cannot link", &shown))?;
        writable(&folder, || rustix::fs::renameat(&folder, &*temporary, &folder, name))
            .map_err(SnapshotError::io("cannot rename", &shown))?;
        // Renaming one name of a file over another name of the same file leaves both (rename(2)).
        match writable(&folder, || rustix::fs::unlinkat(&folder, &*temporary, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(SnapshotError::io("cannot remove", &shown)(errno)),
        }
    }

    /// Sets what making and removing names changed in the captured folders, innermost first.
    fn finish_folders(&self, differences: &[Difference<'_>]) -> Result<(), SnapshotError> {
        let mut touched: HashSet<&Path> = HashSet::new();
        for difference in differences {
            touched.insert(difference.path());
            touched.extend(difference.path().parent());
        }
        let folders = self.tree.entries.iter().rev().filter(|entry| entry.node == Node::Folder);
        for entry in folders.filter(|entry| touched.contains(entry.path.as_path())) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = self.root.open_beneath(&entry.path, flags, Mode::empty())?;
            set_meta(&fd, &entry.meta, &self.shown(&entry.path))?;
        }
        Ok(())
    }

    /// Makes the names durable: one sync for each folder that changed, or of the whole file system where they are many.
    fn sync(&self, differences: &[Difference<'_>]) -> Result<(), SnapshotError> {
        // What is not a folder any more had its own folder changed, which is synced instead.
        let is_folder = |path: &&Path| self.tree.get(path).is_none_or(|entry| entry.node == Node::Folder);
        let parents = differences.iter().filter_map(|difference| difference.path().parent());
        let mut folders: Vec<&Path> = parents.filter(is_folder).collect();
        folders.sort();
        folders.dedup();
        if folders.len() > MANY {
            return self.sync_all();
        }
        for folder in folders {
            match self.root.open_beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
                Ok(fd) => rustix::fs::fsync(&fd).map_err(SnapshotError::io("cannot sync", &self.shown(folder)))?,
                Err(error) if crate::beneath::is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn shown(&self, path: &Path) -> PathBuf {
        self.root.path().join(path)
    }
}

/// Whether neither entry has other names, so that the inode can stay.
fn single(found: &Entry, wanted: &Entry) -> bool {
    found.stamp.links < 2 && wanted.stamp.links < 2
}

/// A name for a file that is not yet what it will be. Everything that starts with [`temporary_prefix`] of a run is that run's.
pub fn temporary_name(tag: &str) -> String {
    format!("{}{}", temporary_prefix(tag), ulid::Ulid::generate())
}

/// How the temporary names of `tag` start.
pub fn temporary_prefix(tag: &str) -> String {
    format!(".backout-tmp-{tag}-")
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

pub(crate) fn times(meta: &EntryMeta) -> Timestamps {
    let mtime = Timespec { tv_sec: meta.mtime_s, tv_nsec: i64::from(meta.mtime_ns) };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT }, last_modification: mtime }
}

fn set_owner_at(folder: &OwnedFd, name: &str, meta: &EntryMeta) -> rustix::io::Result<()> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid) {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner, attributes and times of a symlink; it has no mode.
pub(crate) fn set_link_meta(folder: &OwnedFd, name: &str, meta: &EntryMeta) -> rustix::io::Result<()> {
    set_owner_at(folder, name, meta)?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", raw(folder))).join(name);
    for (name, value) in &meta.xattrs {
        rustix::fs::lsetxattr(&through, name.as_slice(), value, XattrFlags::empty())?;
    }
    rustix::fs::utimensat(folder, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
}

/// Owner first (it clears setuid), then attributes, then mode, then times.
pub(crate) fn set_meta(fd: &OwnedFd, meta: &EntryMeta, shown: &Path) -> Result<(), SnapshotError> {
    let stat = rustix::fs::fstat(fd).map_err(SnapshotError::io("cannot stat", shown))?;
    if (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(SnapshotError::io("cannot own", shown))?;
    }
    set_xattrs(fd, &meta.xattrs).map_err(SnapshotError::io("cannot set attributes of", shown))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(meta.mode)).map_err(SnapshotError::io("cannot chmod", shown))?;
    rustix::fs::futimens(fd, &times(meta)).map_err(SnapshotError::io("cannot set times of", shown))
}

/// Gives a file these attributes and no others: a new one inherits the default ACL of its folder.
pub fn set_xattrs(fd: impl AsFd, wanted: &Xattrs) -> Result<(), Errno> {
    let mut names = vec![0u8; 64 * 1024];
    let count = match rustix::fs::flistxattr(&fd, &mut names) {
        Ok(count) => count,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    names.truncate(count);
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !wanted.iter().any(|(known, _)| known == name) {
            rustix::fs::fremovexattr(&fd, name)?;
        }
    }
    wanted.iter().try_for_each(|(name, value)| rustix::fs::fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()))
}
