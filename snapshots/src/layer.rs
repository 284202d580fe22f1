//! The upper folder of an overlay: what a program changed of the folder below, and making that so.
//!
//! Must never take for a change what was only copied up, and never write over what is not as it was seen. The format is the
//! kernel's (`Documentation/filesystems/overlayfs.rst`): a device of number 0 is a name that was deleted, `user.overlay.opaque`
//! marks a folder through which nothing below is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::below::Below;
use crate::beneath::Root;
use crate::capture::scan_upper;
use crate::entry::{Entry, Node, Tree, Xattrs};
use crate::error::SnapshotError;
use crate::restore::{set_meta, temporary_name, times, writable};
use crate::walk::absent;

/// How the kernel's own attributes in an upper folder begin.
const OVERLAY: &[u8] = b"user.overlay.";

/// What an upper folder holds.
#[derive(Debug)]
pub struct Layer {
    upper: Root,
    /// Its entries without the kernel's own attributes; deleted names are absent.
    tree: Tree,
    opaque: BTreeSet<PathBuf>,
}

/// One name that a layer changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Relative to the root.
    pub path: PathBuf,
    /// What is there; absent where nothing is.
    pub before: Entry,
    /// What will be.
    pub after: Entry,
}

impl Layer {
    /// Gives an empty upper folder the owner, mode, attributes and time of the folder that it will lie over: a view shows those of the
    /// upper folder. `top` is the uppermost of the layers between, of which effects do not tell the time.
    pub fn begin(upper: &Path, under: &Below<'_>, top: Option<&Path>) -> Result<(), SnapshotError> {
        let seen = under.glance(&[PathBuf::new()])?;
        let Some(entry) = seen.entries.first() else { return Ok(()) };
        let mut meta = entry.meta.clone();
        if let Some(top) = top {
            let stat = rustix::fs::stat(top).map_err(SnapshotError::io("cannot stat", top))?;
            (meta.mtime_s, meta.mtime_ns) = (stat.st_mtime, stat.st_mtime_nsec as u32);
        }
        let fd = Root::open(upper)?.open_beneath(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        set_meta(&fd, &meta, upper)
    }

    /// Reads an upper folder, contents included; messages call it by the path of the folder that it lies over.
    pub fn read(upper: &Path, over: &Path) -> Result<Self, SnapshotError> {
        let upper = Root::open(upper)?.shown_as(over);
        let (mut tree, mut opaque) = (scan_upper(&upper)?, BTreeSet::new());
        for entry in &mut tree.entries {
            let own = |name: &[u8]| name.starts_with(OVERLAY);
            for (name, value) in entry.meta.xattrs.iter().filter(|(name, _)| own(name)) {
                match (name.as_slice(), value.as_slice()) {
                    (b"user.overlay.opaque", b"y") => drop(opaque.insert(entry.path.clone())),
                    (b"user.overlay.redirect" | b"user.overlay.metacopy" | b"user.overlay.whiteout", _) => {
                        let what = format!("{} uses a form of layer that is not expected here", entry.path.display());
                        return Err(SnapshotError::Integrity { what });
                    }
                    _ => {}
                }
            }
            entry.meta.xattrs.retain(|(name, _)| !own(name));
        }
        Ok(Self { upper, tree, opaque })
    }

    /// What it changes of what lies below, in an order in which a folder comes before what is in it. A file that was only copied up and
    /// a folder of which only the time differs are no changes.
    pub fn effects(&self, under: &Below<'_>) -> Result<Vec<Effect>, SnapshotError> {
        let names: Vec<PathBuf> = self.tree.entries.iter().map(|entry| entry.path.clone()).collect();
        let lower = under.glance(&names)?;
        self.refuse_split_links(under.root, &lower)?;
        let mut found: BTreeMap<&Path, Effect> = BTreeMap::new();
        let deep = self.hidden(&lower);
        let below = under.scan(&deep)?;
        for entry in below.entries.iter().filter(|entry| entry.exists()) {
            let effect = Effect { path: entry.path.clone(), before: entry.clone(), after: absent(&entry.path) };
            found.insert(&entry.path, effect);
        }
        for entry in &self.tree.entries {
            let before = below.get(&entry.path).or_else(|| lower.get(&entry.path)).cloned();
            let before = before.unwrap_or_else(|| absent(&entry.path));
            found.insert(&entry.path, Effect { path: entry.path.clone(), before, after: entry.clone() });
        }
        // A file that got another name is moved with it, or the two would be two files.
        let named_again = |effect: &Effect| match &effect.after.node {
            Node::HardLink(first) if effect.changes() => Some(first.clone()),
            _ => None,
        };
        let firsts: BTreeSet<PathBuf> = found.values().filter_map(named_again).collect();
        let mut out: Vec<Effect> =
            found.into_values().filter(|effect| effect.changes() || firsts.contains(&effect.path)).collect();
        out.sort_by(|a, b| crate::entry::path_order(&a.path, &b.path));
        Ok(out)
    }

    /// Takes out of the layer what is no effect: files that were only copied up and names that came and went. Over what somebody else
    /// leaves meanwhile they would hide it.
    pub fn drop_copies(&self, effects: &[Effect]) -> Result<(), SnapshotError> {
        let kept: BTreeSet<&Path> = effects.iter().map(|effect| effect.path.as_path()).collect();
        for entry in self.tree.entries.iter().rev().filter(|entry| !kept.contains(entry.path.as_path())) {
            let is_folder = entry.node == Node::Folder;
            if entry.path.as_os_str().is_empty() || self.opaque.contains(&entry.path) {
                continue;
            }
            let (folder, name) = self.upper.parent_of(&entry.path)?;
            let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match writable(&folder, || rustix::fs::unlinkat(&folder, name, flags)) {
                // A folder in which something else stays.
                Err(Errno::NOTEMPTY | Errno::EXIST) if is_folder => {}
                other => other.map_err(SnapshotError::io("cannot clear", &self.upper.path().join(&entry.path)))?,
            }
        }
        Ok(())
    }

    /// Folders of which the layer lets nothing through, and names that it deletes or makes something else.
    fn hidden(&self, lower: &Tree) -> Vec<PathBuf> {
        let is_hidden = |entry: &&Entry| {
            let is_folder = |entry: &Entry| entry.node == Node::Folder;
            let was_folder = lower.get(&entry.path).is_some_and(is_folder);
            entry.node == Node::Absent || self.opaque.contains(&entry.path) || (was_folder && !is_folder(entry))
        };
        self.tree.entries.iter().filter(is_hidden).map(|entry| entry.path.clone()).collect()
    }

    /// A file with other names that was changed by one of them is two files above: natively all names would show the change.
    fn refuse_split_links(&self, root: &Root, lower: &Tree) -> Result<(), SnapshotError> {
        for entry in lower.entries.iter().filter(|entry| entry.stamp.links > 1 && entry.node != Node::Folder) {
            let above = self.tree.get(&entry.path);
            if above.is_some_and(|above| above.exists() && above.node != Node::Folder && !entry.same_as(above)) {
                return Err(SnapshotError::LinksLeaveScope { path: root.path().join(&entry.path) });
            }
        }
        Ok(())
    }

    /// What a commit would do, if everything still lies there as `was` says.
    pub fn check(&self, root: &Root, was: &Tree) -> Result<Vec<Effect>, SnapshotError> {
        let effects = self.effects(&Below::new(root))?;
        let made: BTreeSet<&Path> =
            effects.iter().filter(|effect| effect.makes_folder()).map(|it| it.path.as_path()).collect();
        for effect in &effects {
            // What will be in a folder that is none yet is nowhere yet.
            if effect.path.parent().is_some_and(|parent| made.contains(parent)) {
                continue;
            }
            let known = was.get(&effect.path);
            let same = match known {
                Some(known) => known.node == effect.before.node && known.meta == effect.before.meta,
                None => !effect.before.exists(),
            };
            if !same || !root.is_still(&effect.path, known)? {
                return Err(SnapshotError::Meanwhile { path: root.path().join(&effect.path) });
            }
        }
        Ok(effects)
    }

    /// Makes `root` what the layer shows: every name by one rename. `was` is what lies there, by which a change that came meanwhile is
    /// noticed before anything is touched. The layer is used up. A crash in the middle leaves some names as they were and others as they
    /// will be, never one in between.
    pub fn commit(self, root: &Root, was: &Tree, tag: &str) -> Result<(), SnapshotError> {
        let effects = self.check(root, was)?;
        sync(&self.upper)?;
        let mut making = Commit { layer: &self, was, root, tag, linked: BTreeMap::new() };
        for effect in effects.iter().rev() {
            making.remove(effect)?;
        }
        for effect in &effects {
            making.make(effect)?;
        }
        making.finish_folders(&effects)?;
        sync(root)
    }
}

impl Effect {
    /// Whether it is there afterwards as a folder and was none before.
    fn makes_folder(&self) -> bool {
        self.after.node == Node::Folder && self.before.node != Node::Folder
    }

    /// Whether anything but the time of a folder differs.
    fn changes(&self) -> bool {
        if self.before.node == Node::Folder && self.after.node == Node::Folder {
            return self.before.content_fingerprint() != self.after.content_fingerprint();
        }
        (self.before.exists() || self.after.exists())
            && (self.before.node != self.after.node || self.before.meta != self.after.meta)
    }
}

struct Commit<'a> {
    layer: &'a Layer,
    was: &'a Tree,
    root: &'a Root,
    tag: &'a str,
    /// Where files with several names went, by the name that comes first.
    linked: BTreeMap<PathBuf, PathBuf>,
}

impl Commit<'_> {
    /// Removes what is gone, or is a folder and will be none, innermost first.
    fn remove(&self, effect: &Effect) -> Result<(), SnapshotError> {
        let was_folder = effect.before.node == Node::Folder;
        let will_be_folder = effect.after.node == Node::Folder;
        let goes = effect.before.exists() && (!effect.after.exists() || was_folder != will_be_folder);
        if !goes {
            return Ok(());
        }
        self.expect_still(effect, &effect.before)?;
        let (folder, name) = self.root.parent_of(&effect.path)?;
        let flags = if was_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        writable(&folder, || rustix::fs::unlinkat(&folder, name, flags))
            .map_err(SnapshotError::io("cannot remove", &self.shown(&effect.path)))
    }

    fn make(&mut self, effect: &Effect) -> Result<(), SnapshotError> {
        let shown = self.shown(&effect.path);
        if !matches!(effect.after.node, Node::Absent | Node::Folder) {
            let is_folder = effect.before.node == Node::Folder;
            let found = if is_folder { absent(&effect.path) } else { effect.before.clone() };
            self.expect_still(effect, &found)?;
        }
        match &effect.after.node {
            Node::Absent => Ok(()),
            Node::Folder if effect.before.node == Node::Folder => Ok(()),
            Node::Folder => {
                let (folder, name) = self.root.parent_of(&effect.path)?;
                writable(&folder, || rustix::fs::mkdirat(&folder, name, Mode::RWXU))
                    .map_err(SnapshotError::io("cannot create", &shown))
            }
            Node::HardLink(first) => {
                let first = first.clone();
                self.link(&first, effect)
            }
            Node::File(_) | Node::Symlink(_) => self.rename(effect),
        }
    }

    /// Directly before a name is replaced or removed: whoever wrote it since it was looked at keeps it.
    fn expect_still(&self, effect: &Effect, found: &Entry) -> Result<(), SnapshotError> {
        match self.root.is_still(&effect.path, Some(found))? {
            true => Ok(()),
            false => Err(SnapshotError::Meanwhile { path: self.shown(&effect.path) }),
        }
    }

    /// Moves a file or link from the layer to its place: whoever looks sees the one or the other.
    fn rename(&mut self, effect: &Effect) -> Result<(), SnapshotError> {
        let shown = self.shown(&effect.path);
        let (from, name) = self.layer.upper.parent_of(&effect.path)?;
        let (to, _) = self.root.parent_of(&effect.path)?;
        let opened = Mode::from_raw_mode(effect.after.meta.mode) | Mode::WUSR;
        let stripped = strip(&from, Path::new(name));
        if stripped == Err(Errno::ACCESS) {
            // A file that its owner made read only: the attributes are not its content.
            let set = |mode| rustix::fs::chmodat(&from, name, mode, AtFlags::empty());
            set(opened).map_err(SnapshotError::io("cannot strip", &shown))?;
            strip(&from, Path::new(name)).map_err(SnapshotError::io("cannot strip", &shown))?;
            set(Mode::from_raw_mode(effect.after.meta.mode)).map_err(SnapshotError::io("cannot strip", &shown))?;
        } else {
            stripped.map_err(SnapshotError::io("cannot strip", &shown))?;
        }
        match writable(&from, || writable(&to, || rustix::fs::renameat(&from, name, &to, name))) {
            Err(Errno::XDEV) => self.copy(effect, &from, &to),
            other => other.map_err(SnapshotError::io("cannot rename", &shown)),
        }
    }

    /// The same where the layer lies on another file system: a copy beside its place, durable, then a rename.
    fn copy(&mut self, effect: &Effect, from: &OwnedFd, to: &OwnedFd) -> Result<(), SnapshotError> {
        let shown = self.shown(&effect.path);
        let failed = |errno: Errno| SnapshotError::io("cannot copy", &shown)(errno);
        let Some(name) = effect.path.file_name() else { return Ok(()) };
        let temporary = temporary_name(self.tag);
        if let Node::Symlink(target) = &effect.after.node {
            writable(to, || rustix::fs::symlinkat(target.as_os_str(), to, &*temporary)).map_err(failed)?;
            crate::restore::set_link_meta(to, &temporary, &effect.after.meta).map_err(failed)?;
        } else {
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = std::fs::File::from(rustix::fs::openat(from, name, read, Mode::empty()).map_err(failed)?);
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let make = || rustix::fs::openat(to, &*temporary, write, Mode::RUSR | Mode::WUSR);
            let made = writable(to, make).map_err(failed)?;
            let mut target = std::fs::File::from(made);
            let filled = copy_data(&mut source, &mut target)
                .map_err(SnapshotError::std("cannot copy", &shown))
                .and_then(|()| {
                    set_meta(
                        &OwnedFd::from(target.try_clone().map_err(SnapshotError::std("cannot copy", &shown))?),
                        &effect.after.meta,
                        &shown,
                    )
                })
                .and_then(|()| target.sync_all().map_err(SnapshotError::std("cannot sync", &shown)));
            if let Err(error) = filled {
                let _ = writable(to, || rustix::fs::unlinkat(to, &*temporary, AtFlags::empty()));
                return Err(error);
            }
        }
        self.linked.insert(effect.path.clone(), effect.path.clone());
        writable(to, || rustix::fs::renameat(to, &*temporary, to, name)).map_err(failed)
    }

    /// Another name of a file of the layer.
    fn link(&mut self, first: &Path, effect: &Effect) -> Result<(), SnapshotError> {
        if !self.linked.contains_key(first) {
            return self.rename(effect);
        }
        let failed = |errno: Errno| SnapshotError::io("cannot link", &self.shown(&effect.path))(errno);
        let (from, from_name) = self.root.parent_of(first)?;
        let (to, name) = self.root.parent_of(&effect.path)?;
        let temporary = temporary_name(self.tag);
        let link = || rustix::fs::linkat(&from, from_name, &to, &*temporary, AtFlags::empty());
        writable(&to, link).map_err(failed)?;
        writable(&to, || rustix::fs::renameat(&to, &*temporary, &to, name)).map_err(failed)
    }

    /// Gives the folders that the layer holds their times, and those that it changes owner, mode and attributes too, innermost first.
    fn finish_folders(&self, effects: &[Effect]) -> Result<(), SnapshotError> {
        let changed: BTreeSet<&Path> = effects.iter().map(|effect| effect.path.as_path()).collect();
        let around: BTreeSet<&Path> = effects.iter().filter_map(|effect| effect.path.parent()).collect();
        let touched = |entry: &&Entry| {
            let path = entry.path.as_path();
            // What was captured can be put back, so that its time may change.
            let captured = self.was.get(path).is_some();
            entry.node == Node::Folder && (changed.contains(path) || around.contains(path) || captured)
        };
        for entry in self.layer.tree.entries.iter().rev().filter(touched) {
            let shown = self.shown(&entry.path);
            let fd = self.root.open_beneath(&entry.path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            if changed.contains(entry.path.as_path()) {
                set_meta(&fd, &entry.meta, &shown)?;
            } else {
                rustix::fs::futimens(&fd, &times(&entry.meta))
                    .map_err(SnapshotError::io("cannot set times of", &shown))?;
            }
        }
        Ok(())
    }

    fn shown(&self, path: &Path) -> PathBuf {
        self.root.path().join(path)
    }
}

/// Copies what is written of a file and leaves its holes.
fn copy_data(from: &mut std::fs::File, to: &mut std::fs::File) -> std::io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(&*from, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(&*from, rustix::fs::SeekFrom::Hole(start))?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        std::io::copy(&mut from.take(end - start), to)?;
        at = end;
    }
    Ok(())
}

/// Takes the kernel's own attributes off a name of the layer.
fn strip(folder: &OwnedFd, name: &Path) -> rustix::io::Result<()> {
    let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    let mut names = vec![0u8; 64 * 1024];
    let count = match rustix::fs::llistxattr(&through, &mut names) {
        Ok(count) => count,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    names.truncate(count);
    let own: Xattrs = names
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(OVERLAY))
        .map(|name| (name.to_vec(), Vec::new()))
        .collect();
    own.iter().try_for_each(|(name, _)| rustix::fs::lremovexattr(&through, name.as_slice()))
}

fn sync(root: &Root) -> Result<(), SnapshotError> {
    let fd = root.open_beneath(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    rustix::fs::syncfs(&fd).map_err(SnapshotError::io("cannot sync", root.path()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn holes_stay_holes_and_data_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut file = std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&from).unwrap();
        for (at, text) in [(0, "first"), (3 << 20, "middle"), (8 << 20, "last")] {
            file.seek(SeekFrom::Start(at)).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        }
        file.set_len(16 << 20).unwrap();
        let mut copy = std::fs::File::create(&to).unwrap();
        copy_data(&mut file, &mut copy).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20, "{:?}", copy.metadata());
        let (mut empty, mut hole) = (std::fs::File::open("/dev/null").unwrap(), std::fs::File::create(&from).unwrap());
        copy_data(&mut empty, &mut hole).unwrap();
        assert_eq!(hole.metadata().unwrap().len(), 0);
    }
}
