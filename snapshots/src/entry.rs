//! What a snapshot says of a tree: one entry for each name, in an order in which a folder comes before what is in it.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::encode;
use crate::pack::Hash;

/// A captured tree: entries sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Entries, by path.
    pub entries: Vec<Entry>,
}

/// One name of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the root.
    pub path: PathBuf,
    /// What is there.
    pub node: Node,
    /// Owner, mode, time, attributes; empty for what is absent.
    pub meta: EntryMeta,
    /// What the file system said, by which an unchanged file is recognised without reading it. Not part of the digest.
    pub stamp: Stamp,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Nothing: putting back means removing.
    Absent,
    /// A regular file.
    File(Content),
    /// Another name of a file that comes earlier in the tree.
    HardLink(PathBuf),
    /// A folder.
    Folder,
    /// A symlink and its target.
    Symlink(OsString),
}

/// Content of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Length in bytes.
    pub size: u64,
    /// Name of the content: of the bytes, or for a sparse file of its 64 KiB chunks that are not all zero.
    pub hash: Hash,
    /// Whether the file has holes.
    pub sparse: bool,
}

/// Extended attributes, sorted by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Everything of a file but name and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryMeta {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds of the modification time.
    pub mtime_s: i64,
    /// Nanoseconds of it.
    pub mtime_ns: u32,
    /// Extended attributes, ACLs among them, by name.
    pub xattrs: Xattrs,
}

/// What the file system said when the entry was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Inode.
    pub inode: u64,
    /// Change time in nanoseconds.
    pub ctime_ns: i64,
    /// Number of names.
    pub links: u64,
    /// Whether the change time is old enough that a later change must differ in it.
    pub settled: bool,
}

/// One name that differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Its entry in the first tree; `None` where it has none.
    pub before: Option<&'a Entry>,
    /// Its entry in the second tree.
    pub after: Option<&'a Entry>,
}

impl Entry {
    /// Whether two entries say the same, apart from what only the file system says.
    pub fn same_as(&self, other: &Self) -> bool {
        self.path == other.path && self.node == other.node && self.meta == other.meta
    }

    /// Whether something is there.
    pub fn exists(&self) -> bool {
        self.node != Node::Absent
    }

    /// A short text that is equal for equal entries: what is there, in hex.
    pub fn fingerprint(&self) -> String {
        if !self.exists() {
            return "absent".to_owned();
        }
        let mut logical = Vec::new();
        encode::logical(&mut logical, self);
        Hash::of(&logical).to_string()
    }

    /// Like [`Entry::fingerprint`], but blind to times: for comparing what a step makes with what it was said to make.
    pub fn content_fingerprint(&self) -> String {
        let mut timeless = self.clone();
        timeless.meta.mtime_s = 0;
        timeless.meta.mtime_ns = 0;
        timeless.fingerprint()
    }
}

impl Difference<'_> {
    /// The path that differs.
    pub fn path(&self) -> &Path {
        self.before.or(self.after).map_or(Path::new(""), |entry| &entry.path)
    }
}

impl Tree {
    /// BLAKE3 over everything that an observer can see of the tree but inode numbers and access times.
    pub fn digest(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::with_capacity(256);
        for entry in &self.entries {
            buffer.clear();
            encode::logical(&mut buffer, entry);
            hasher.update(&buffer);
        }
        Hash(*hasher.finalize().as_bytes())
    }

    /// Like [`Tree::digest`], but blind to times: equal for trees in which nobody's work differs.
    pub fn content_digest(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        for entry in &self.entries {
            hasher
                .update(entry.path.as_os_str().as_bytes())
                .update(&[0])
                .update(entry.content_fingerprint().as_bytes());
        }
        Hash(*hasher.finalize().as_bytes())
    }

    /// Adds another tree under a folder of this one.
    pub fn graft(&mut self, at: &Path, other: Self) {
        let moved = other.entries.into_iter().map(|mut entry| {
            entry.path = if entry.path.as_os_str().is_empty() { at.to_owned() } else { at.join(&entry.path) };
            if let Node::HardLink(first) = &mut entry.node {
                *first = at.join(&*first);
            }
            entry
        });
        self.entries.extend(moved);
        self.entries.sort_by(|a, b| path_order(&a.path, &b.path));
        self.entries.dedup_by(|a, b| a.path == b.path);
    }

    /// The entry of `path`.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| path_order(&entry.path, path)).ok()?;
        self.entries.get(at)
    }

    /// The entries of `top` and of all that is in it, in the order of the tree.
    pub fn below<'a>(&'a self, top: &'a Path) -> impl Iterator<Item = &'a Entry> {
        let start = self.entries.partition_point(|entry| path_order(&entry.path, top).is_lt());
        let inner = self.entries.get(start..).unwrap_or_default().iter();
        inner.take_while(move |entry| entry.path.starts_with(top))
    }

    /// Names that differ, in order; an entry that is absent equals a name that is not listed.
    pub fn differences<'a>(&'a self, after: &'a Self) -> Vec<Difference<'a>> {
        let mut out = Vec::new();
        let (mut left, mut right) = (self.entries.iter().peekable(), after.entries.iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return out,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => path_order(&a.path, &b.path),
            };
            let pair = Difference {
                before: if order.is_le() { left.next() } else { None },
                after: if order.is_ge() { right.next() } else { None },
            };
            let is_there = |entry: &&Entry| entry.exists();
            let same = match (pair.before.filter(is_there), pair.after.filter(is_there)) {
                (None, None) => true,
                (Some(a), Some(b)) => a.same_as(b),
                _ => false,
            };
            if !same {
                out.push(pair);
            }
        }
    }
}

/// Order of paths by components, so that a folder comes directly before what is in it.
pub(crate) fn path_order(a: &Path, b: &Path) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.as_os_str().as_bytes().iter().map(key).cmp(b.as_os_str().as_bytes().iter().map(key))
}
