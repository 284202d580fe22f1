//! Reading a tree: into a store, or only to look.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, Stat};

use crate::beneath::Root;
use crate::entry::{Content, Entry, Node, Tree, path_order};
use crate::error::SnapshotError;
use crate::pack::{Hash, PackWriter, Place};
use crate::walk::{Found, Walk};

/// Sparse files are named and stored by chunks of this many bytes, those of zeros left out.
pub(crate) const CHUNK: usize = 64 * 1024;
const BUFFER: usize = 1 << 20;

/// What is read at once of a file that may be small.
const FIRST: usize = 32 << 10;

/// Looks at `paths` beneath `root` without storing anything; `known` spares reading what did not change.
pub fn scan(root: &Root, paths: &[PathBuf], known: Option<&Tree>) -> Result<Tree, SnapshotError> {
    let empty = Tree::default();
    let known = known.unwrap_or(&empty);
    let places = vec![None; known.entries.len()];
    let mut readings = [Reading::looking(), Reading::looking()];
    read_tree(root, paths, known, &places, &mut readings).map(|(tree, _)| tree)
}

/// Looks at the names themselves and not into folders.
pub(crate) fn glance(root: &Root, paths: &[PathBuf]) -> Result<Tree, SnapshotError> {
    let empty = Tree::default();
    let (walk, mut reading) = (Walk::new(root, &empty, &[]), Reading::looking());
    let mut sorted: Vec<&PathBuf> = paths.iter().collect();
    sorted.sort_by(|a, b| path_order(a, b));
    let (mut entries, mut folders) = (Vec::with_capacity(sorted.len()), HashSet::from([PathBuf::new()]));
    for path in sorted {
        // What is in something that is no folder is not there, whatever that something leads to.
        let is_in_none =
            path.parent().is_some_and(|parent| sorted_before(&entries, parent) && !folders.contains(parent));
        if is_in_none {
            entries.push(crate::walk::absent(path));
            continue;
        }
        for (entry, _) in walk.start(std::slice::from_ref(path), &mut reading)? {
            if entry.node == Node::Folder {
                folders.insert(entry.path.clone());
            }
            entries.push(entry);
        }
    }
    Ok(Tree { entries })
}

/// Whether `path` is one of the entries so far.
fn sorted_before(entries: &[Entry], path: &Path) -> bool {
    entries.binary_search_by(|entry| path_order(&entry.path, path)).is_ok()
}

/// Reads the upper folder of an overlay, whole.
pub(crate) fn scan_upper(upper: &Root) -> Result<Tree, SnapshotError> {
    let empty = Tree::default();
    let walk = Walk::over_layer(upper, &empty);
    let mut readings = [Reading::looking(), Reading::looking()];
    walk_all(upper, &walk, &[PathBuf::new()], &mut readings).map(|(tree, _)| tree)
}

/// Reads `paths` with one thread for each of `readings`.
pub(crate) fn read_tree(
    root: &Root,
    paths: &[PathBuf],
    known: &Tree,
    known_places: &[Option<Place>],
    readings: &mut [Reading<'_>],
) -> Result<(Tree, Vec<Option<Place>>), SnapshotError> {
    let walk = Walk::new(root, known, known_places);
    walk_all(root, &walk, &outermost(paths), readings)
}

fn walk_all(
    root: &Root,
    walk: &Walk<'_>,
    paths: &[PathBuf],
    readings: &mut [Reading<'_>],
) -> Result<(Tree, Vec<Option<Place>>), SnapshotError> {
    let Some((first, others)) = readings.split_first_mut() else { return Ok((Tree::default(), Vec::new())) };
    let mut found = walk.start(paths, first)?;
    let folders = found.iter().any(|(entry, _)| entry.node == Node::Folder);
    if folders {
        let parts: Vec<Result<Found, SnapshotError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = others.iter_mut().map(|reading| scope.spawn(|| walk.work(reading))).collect();
            let mine = walk.work(first);
            let joined = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(SnapshotError::Integrity { what: "a reader panicked".to_owned() }))
            };
            threads.into_iter().map(joined).chain([mine]).collect()
        });
        for part in parts {
            found.extend(part?);
        }
    }
    found.sort_by(|a, b| path_order(&a.0.path, &b.0.path));
    link_names(root, &mut found)?;
    let (entries, places) = found.into_iter().unzip();
    Ok((Tree { entries }, places))
}

/// Sorts and drops what lies in another of the paths.
fn outermost(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut sorted: Vec<&PathBuf> = paths.iter().collect();
    sorted.sort_by(|a, b| path_order(a, b));
    let mut out: Vec<PathBuf> = Vec::new();
    for path in sorted {
        if !out.last().is_some_and(|outer| path.starts_with(outer)) {
            out.push(path.clone());
        }
    }
    out
}

/// Turns the second and later names of one file into links to the first.
fn link_names(root: &Root, found: &mut Found) -> Result<(), SnapshotError> {
    let mut names: HashMap<u64, (PathBuf, u64, u64)> = HashMap::new();
    for (entry, place) in found.iter_mut() {
        let is_file = matches!(entry.node, Node::File(_) | Node::HardLink(_));
        if !is_file || entry.stamp.links < 2 {
            continue;
        }
        match names.get_mut(&entry.stamp.inode) {
            None => {
                names.insert(entry.stamp.inode, (entry.path.clone(), entry.stamp.links, 1));
            }
            Some((first, _, seen)) => {
                *seen += 1;
                entry.node = Node::HardLink(first.clone());
                *place = None;
            }
        }
    }
    match names.values().find(|(_, links, seen)| links != seen) {
        Some((path, ..)) => Err(SnapshotError::LinksLeaveScope { path: root.path().join(path) }),
        None => Ok(()),
    }
}

/// One thread's way of reading contents: into a pack, or only to name them.
pub(crate) struct Reading<'a> {
    sink: Option<Sink<'a>>,
    /// Made when the first file is read: most looks see names alone.
    buffer: Vec<u8>,
}

struct Sink<'a> {
    folder: &'a Path,
    pack: Option<PackWriter>,
    stored: HashMap<Hash, Place>,
}

impl<'a> Reading<'a> {
    /// Names contents and stores nothing.
    pub(crate) fn looking() -> Self {
        Self { sink: None, buffer: Vec::new() }
    }

    /// Stores contents in a pack of its own in `folder`.
    pub(crate) fn storing(folder: &'a Path) -> Self {
        let sink = Sink { folder, pack: None, stored: HashMap::new() };
        Self { sink: Some(sink), buffer: Vec::new() }
    }

    /// The pack that was written, if anything was.
    pub(crate) fn into_pack(self) -> Option<PackWriter> {
        self.sink.and_then(|sink| sink.pack)
    }

    /// Whether a content that is known to lie at `place` need not be read again.
    pub(crate) fn accepts(&self, place: &Option<Place>) -> bool {
        self.sink.is_none() || place.is_some()
    }

    /// Reads an open file: its name, and its place if this reading stores.
    pub(crate) fn content(
        &mut self,
        fd: &OwnedFd,
        stat: &Stat,
        shown: &Path,
    ) -> Result<(Content, Option<Place>), SnapshotError> {
        let sparse = (stat.st_blocks as u64) * 512 < stat.st_size as u64;
        let start = match &mut self.sink {
            Some(sink) => sink.pack()?.start(),
            None => 0,
        };
        let mut hasher = blake3::Hasher::new();
        let size = if sparse {
            self.read_chunks(fd, stat, shown, &mut hasher)?
        } else {
            self.read_whole(fd, shown, &mut hasher)?
        };
        let content = Content { size, hash: Hash(*hasher.finalize().as_bytes()), sparse };
        let place = match &mut self.sink {
            None => None,
            Some(sink) => {
                let place = sink.pack()?.place_since(start);
                Some(sink.stored.entry(content.hash).or_insert(place).clone())
            }
        };
        Ok((content, place))
    }

    fn read_whole(&mut self, fd: &OwnedFd, shown: &Path, hasher: &mut blake3::Hasher) -> Result<u64, SnapshotError> {
        let mut size = 0;
        if self.buffer.is_empty() {
            self.buffer.resize(FIRST, 0);
        }
        loop {
            let count = rustix::io::read(fd, &mut self.buffer).map_err(SnapshotError::io("cannot read", shown))?;
            let Some(bytes) = self.buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(size) };
            hasher.update(bytes);
            if let Some(sink) = &mut self.sink {
                sink.pack()?.write(bytes)?;
            }
            size += count as u64;
            if count == self.buffer.len() && count < BUFFER {
                self.buffer.resize(BUFFER, 0);
            }
        }
    }

    /// Reads the data between the holes, in chunks; a chunk is its number and its bytes.
    fn read_chunks(
        &mut self,
        fd: &OwnedFd,
        stat: &Stat,
        shown: &Path,
        hasher: &mut blake3::Hasher,
    ) -> Result<u64, SnapshotError> {
        let size = stat.st_size as u64;
        let mut at = 0u64;
        while at < size {
            let data = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => break,
                Err(errno) => return Err(SnapshotError::io("cannot read", shown)(errno)),
            };
            let number = data / CHUNK as u64;
            let chunk_at = number * CHUNK as u64;
            let want = CHUNK.min(usize::try_from(size - chunk_at).unwrap_or(CHUNK));
            let mut chunk = vec![0u8; want];
            read_at(fd, &mut chunk, chunk_at).map_err(SnapshotError::io("cannot read", shown))?;
            if chunk.iter().any(|byte| *byte != 0) {
                let head = number.to_le_bytes();
                hasher.update(&head).update(&chunk);
                if let Some(sink) = &mut self.sink {
                    sink.pack()?.write(&head)?;
                    sink.pack()?.write(&chunk)?;
                }
            }
            at = chunk_at + CHUNK as u64;
        }
        Ok(size)
    }
}

impl Sink<'_> {
    fn pack(&mut self) -> Result<&mut PackWriter, SnapshotError> {
        match &mut self.pack {
            Some(pack) => Ok(pack),
            slot => Ok(slot.insert(PackWriter::create(self.folder)?)),
        }
    }
}

fn read_at(fd: &OwnedFd, mut out: &mut [u8], mut at: u64) -> rustix::io::Result<()> {
    while !out.is_empty() {
        match rustix::io::pread(fd.as_fd(), &mut *out, at)? {
            0 => return Ok(()),
            count => {
                at += count as u64;
                out = out.get_mut(count..).unwrap_or_default();
            }
        }
    }
    Ok(())
}

/// Writes a content back into `file`, holes as holes.
pub(crate) fn write_content(
    file: &OwnedFd,
    content: &Content,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), SnapshotError>,
    stored: u64,
    shown: &Path,
) -> Result<(), SnapshotError> {
    let failed = |errno| SnapshotError::io("cannot write", shown)(errno);
    if !content.sparse {
        let mut buffer = vec![0u8; BUFFER.min(usize::try_from(stored).unwrap_or(BUFFER)).max(1)];
        let mut at = 0;
        while at < stored {
            let count = buffer.len().min(usize::try_from(stored - at).unwrap_or(buffer.len()));
            let part = buffer.get_mut(..count).unwrap_or_default();
            read(at, part)?;
            write_at(file, part, at).map_err(failed)?;
            at += count as u64;
        }
        return Ok(());
    }
    rustix::fs::ftruncate(file, content.size).map_err(failed)?;
    let mut at = 0;
    while at < stored {
        let mut head = [0u8; 8];
        read(at, &mut head)?;
        let chunk_at = u64::from_le_bytes(head) * CHUNK as u64;
        let count = (CHUNK as u64).min(content.size.saturating_sub(chunk_at));
        let mut chunk = vec![0u8; count as usize];
        read(at + 8, &mut chunk)?;
        write_at(file, &chunk, chunk_at).map_err(failed)?;
        at += 8 + count;
    }
    Ok(())
}

fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut at: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let count = rustix::io::pwrite(fd.as_fd(), bytes, at)?;
        at += count as u64;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}
