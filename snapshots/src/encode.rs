//! The bytes of a tree: a logical part, which is what is hashed, and a physical part, which only this store reads.
//!
//! Layout: magic, count of entries, then for each entry its logical part (length-prefixed fields, little endian) and its
//! physical part (inode, change time, links, settled, pack number, offset). Then the table of packs. Must never change
//! without a new magic.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::entry::{Content, Entry, EntryMeta, Node, Stamp, Tree};
use crate::pack::{Hash, Place};

const MAGIC: &[u8; 8] = b"BKOTREE1";

/// Where the content of an entry lies, for files alone.
pub(crate) type Places = Vec<Option<Place>>;

/// Appends the part of `entry` that everybody can see.
pub(crate) fn logical(out: &mut Vec<u8>, entry: &Entry) {
    bytes(out, entry.path.as_os_str().as_bytes());
    match &entry.node {
        Node::Absent => out.push(0),
        Node::File(content) => {
            out.push(1);
            out.extend_from_slice(&content.size.to_le_bytes());
            out.extend_from_slice(&content.hash.0);
            out.push(u8::from(content.sparse));
        }
        Node::HardLink(first) => {
            out.push(2);
            bytes(out, first.as_os_str().as_bytes());
        }
        Node::Folder => out.push(3),
        Node::Symlink(target) => {
            out.push(4);
            bytes(out, target.as_bytes());
        }
    }
    let meta = &entry.meta;
    for number in [meta.mode, meta.uid, meta.gid, meta.mtime_ns] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&meta.mtime_s.to_le_bytes());
    out.extend_from_slice(&(meta.xattrs.len() as u32).to_le_bytes());
    for (name, value) in &meta.xattrs {
        bytes(out, name);
        bytes(out, value);
    }
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

/// The bytes of a tree with the places of its contents.
pub(crate) fn tree(tree: &Tree, places: &Places) -> Vec<u8> {
    let mut packs: Vec<&str> = Vec::new();
    let mut out = Vec::with_capacity(tree.entries.len() * 160 + 64);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(tree.entries.len() as u64).to_le_bytes());
    for (entry, place) in tree.entries.iter().zip(places) {
        logical(&mut out, entry);
        out.extend_from_slice(&entry.stamp.inode.to_le_bytes());
        out.extend_from_slice(&entry.stamp.ctime_ns.to_le_bytes());
        out.extend_from_slice(&entry.stamp.links.to_le_bytes());
        out.push(u8::from(entry.stamp.settled));
        let (number, place) = match place {
            None => (0, &Place::default()),
            Some(place) => (number_of(&mut packs, &place.pack), place),
        };
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&place.offset.to_le_bytes());
        out.extend_from_slice(&place.len.to_le_bytes());
    }
    out.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    for pack in packs {
        bytes(&mut out, pack.as_bytes());
    }
    out
}

/// 1 for the first pack, 2 for the second; 0 means none. The last one used is the likeliest.
fn number_of<'a>(packs: &mut Vec<&'a str>, pack: &'a str) -> u32 {
    if packs.last().is_some_and(|last| *last == pack) {
        return packs.len() as u32;
    }
    if let Some(at) = packs.iter().position(|known| *known == pack) {
        return at as u32 + 1;
    }
    packs.push(pack);
    packs.len() as u32
}

/// Reads what [`tree`] wrote; `None` for anything else.
pub(crate) fn parse(input: &[u8]) -> Option<(Tree, Places)> {
    let mut reader = Reader(input);
    if reader.take(8)? != MAGIC {
        return None;
    }
    let count = reader.u64()?;
    let mut tree = Tree::default();
    let mut raw = Vec::new();
    for _ in 0..count {
        let (path, node, meta) = parse_logical(&mut reader)?;
        let stamp = Stamp {
            inode: reader.u64()?,
            ctime_ns: reader.u64()? as i64,
            links: reader.u64()?,
            settled: reader.u8()? == 1,
        };
        raw.push((reader.u32()?, reader.u64()?, reader.u64()?));
        tree.entries.push(Entry { path, node, meta, stamp });
    }
    let packs: Vec<std::sync::Arc<str>> =
        (0..reader.u32()?).map(|_| Some(std::str::from_utf8(reader.bytes()?).ok()?.into())).collect::<Option<_>>()?;
    let place = |(number, offset, len): (u32, u64, u64)| match number.checked_sub(1) {
        None => Some(None),
        Some(at) => Some(Some(Place { pack: packs.get(at as usize)?.clone(), offset, len })),
    };
    let places = raw.into_iter().map(place).collect::<Option<Places>>()?;
    reader.0.is_empty().then_some((tree, places))
}

fn parse_logical(reader: &mut Reader<'_>) -> Option<(PathBuf, Node, EntryMeta)> {
    let path = PathBuf::from(reader.os_string()?);
    let node = match reader.u8()? {
        0 => Node::Absent,
        1 => {
            let size = reader.u64()?;
            let hash = Hash(reader.take(32)?.try_into().ok()?);
            Node::File(Content { size, hash, sparse: reader.u8()? == 1 })
        }
        2 => Node::HardLink(reader.os_string()?.into()),
        3 => Node::Folder,
        4 => Node::Symlink(reader.os_string()?),
        _ => return None,
    };
    let (mode, uid, gid, mtime_ns) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let mtime_s = reader.u64()? as i64;
    let xattrs = (0..reader.u32()?)
        .map(|_| Some((reader.bytes()?.to_vec(), reader.bytes()?.to_vec())))
        .collect::<Option<_>>()?;
    Some((path, node, EntryMeta { mode, uid, gid, mtime_s, mtime_ns, xattrs }))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.take(count as usize)
    }

    fn os_string(&mut self) -> Option<OsString> {
        Some(OsString::from_vec(self.bytes()?.to_vec()))
    }
}
