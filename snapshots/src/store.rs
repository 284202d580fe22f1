//! The store: packs of contents, and in each capture's own pack the tree that names them.
//!
//! Must never report a capture before its bytes were synced and read back.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::beneath::Root;
use crate::capture::{Reading, read_tree};
use crate::encode;
use crate::entry::{Content, Node, Tree};
use crate::error::SnapshotError;
use crate::pack::{Hash, PackReader, PackWriter, Place};

/// Largest content that is read back in one piece.
const PIECE: u64 = 4 << 20;

/// A folder of packs.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// Names a capture, or a blob: enough to find it again and to notice if it is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRef {
    pack: String,
    offset: u64,
    len: u64,
    hash: String,
}

impl Store {
    /// Opens the store in `folder`, making it if it is not there; readable by its owner alone.
    pub fn open(folder: &Path) -> Result<Self, SnapshotError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(SnapshotError::std("cannot create", folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Captures `paths` beneath `root` whole, or fails naming what could not be captured. A path that is not there is captured
    /// as absent. `last` spares reading what did not change since.
    pub fn capture(
        &self,
        root: &Root,
        paths: &[PathBuf],
        last: Option<&SnapshotRef>,
    ) -> Result<(SnapshotRef, Tree), SnapshotError> {
        let (known, known_places) = match last {
            Some(reference) => self.load(reference)?,
            None => (Tree::default(), Vec::new()),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let mut readings: Vec<Reading<'_>> = (0..threads).map(|_| Reading::storing(&self.folder)).collect();
        let outcome = read_tree(root, paths, &known, &known_places, &mut readings);
        let packs: Vec<PackWriter> = readings.into_iter().filter_map(Reading::into_pack).collect();
        match outcome {
            Ok((tree, places)) => self.seal(tree, &places, packs, &known_places),
            Err(error) => {
                packs.into_iter().for_each(PackWriter::discard);
                Err(error)
            }
        }
    }

    fn seal(
        &self,
        tree: Tree,
        places: &encode::Places,
        mut packs: Vec<PackWriter>,
        known: &[Option<Place>],
    ) -> Result<(SnapshotRef, Tree), SnapshotError> {
        let bytes = encode::tree(&tree, places);
        let mut last = match packs.pop() {
            Some(pack) => pack,
            None => PackWriter::create(&self.folder)?,
        };
        let start = last.start();
        last.write(&bytes)?;
        let place = last.place_since(start);
        for pack in packs {
            pack.finish()?;
        }
        last.finish()?;
        self.sync_folder()?;
        let reference = reference_to(&place, Hash::of(&bytes));
        self.read_back(&reference, &tree, places, known)?;
        Ok((reference, tree))
    }

    /// Reads every content that is new, and the tree, and holds them against their names.
    fn read_back(
        &self,
        reference: &SnapshotRef,
        tree: &Tree,
        places: &encode::Places,
        known: &[Option<Place>],
    ) -> Result<(), SnapshotError> {
        self.blob(reference)?;
        let known: std::collections::HashSet<(&str, u64)> =
            known.iter().flatten().map(|place| (&*place.pack, place.offset)).collect();
        let fresh: Vec<(&Content, &Place)> = tree
            .entries
            .iter()
            .zip(places)
            .filter_map(|(entry, place)| match (&entry.node, place) {
                (Node::File(content), Some(place)) if !known.contains(&(&place.pack, place.offset)) => {
                    Some((content, place))
                }
                _ => None,
            })
            .collect();
        let half = fresh.len().div_ceil(2).max(1);
        std::thread::scope(|scope| {
            let check = |part: &[(&Content, &Place)]| {
                let mut reader = PackReader::new(&self.folder);
                part.iter().try_for_each(|(content, place)| check_content(&mut reader, content, place))
            };
            let threads: Vec<_> = fresh.chunks(half).map(|part| scope.spawn(move || check(part))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(SnapshotError::Integrity { what: "a reader panicked".to_owned() }))
            })
        })
    }

    /// The tree of a capture.
    pub fn tree(&self, reference: &SnapshotRef) -> Result<Tree, SnapshotError> {
        self.load(reference).map(|(tree, _)| tree)
    }

    /// The bytes of one regular file of a capture, at most `max_bytes`; `None` if the capture has no such file.
    pub fn file(&self, reference: &SnapshotRef, path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, SnapshotError> {
        let (tree, places) = self.load(reference)?;
        let found = tree.entries.iter().zip(&places).find(|(entry, _)| entry.path == path);
        let Some((Node::File(content), Some(place))) = found.map(|(entry, place)| (&entry.node, place)) else {
            return Ok(None);
        };
        if content.size > max_bytes || content.sparse {
            let what = format!("{} is too large or sparse to be held in memory", path.display());
            return Err(SnapshotError::Integrity { what });
        }
        let mut reader = PackReader::new(&self.folder);
        check_content(&mut reader, content, place)?;
        reader.read(place).map(Some)
    }

    pub(crate) fn load(&self, reference: &SnapshotRef) -> Result<(Tree, encode::Places), SnapshotError> {
        let bytes = self.blob(reference)?;
        encode::parse(&bytes).ok_or_else(|| SnapshotError::Integrity { what: "a tree does not parse".to_owned() })
    }

    /// Stores bytes that are not a file, for example rows of a table; durable and read back when it returns.
    pub fn put(&self, bytes: &[u8]) -> Result<SnapshotRef, SnapshotError> {
        let mut pack = PackWriter::create(&self.folder)?;
        pack.write(bytes)?;
        let place = pack.place_since(0);
        pack.finish()?;
        self.sync_folder()?;
        let reference = reference_to(&place, Hash::of(bytes));
        self.blob(&reference)?;
        Ok(reference)
    }

    /// Reads everything that a capture names and holds it against its name.
    pub fn verify(&self, reference: &SnapshotRef) -> Result<(), SnapshotError> {
        let (tree, places) = self.load(reference)?;
        let mut reader = PackReader::new(&self.folder);
        tree.entries.iter().zip(&places).try_for_each(|(entry, place)| match (&entry.node, place) {
            (Node::File(content), Some(place)) => check_content(&mut reader, content, place),
            _ => Ok(()),
        })
    }

    /// The bytes that a reference names, held against their name.
    pub fn blob(&self, reference: &SnapshotRef) -> Result<Vec<u8>, SnapshotError> {
        let place = Place { pack: reference.pack.as_str().into(), offset: reference.offset, len: reference.len };
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !reference.pack.bytes().all(is_name) {
            return Err(SnapshotError::Integrity { what: "a pack has a name that is none".to_owned() });
        }
        let bytes = PackReader::new(&self.folder).read(&place)?;
        if Hash::of(&bytes).to_string() != reference.hash {
            return Err(SnapshotError::Integrity { what: format!("pack {} is not what was written", reference.pack) });
        }
        Ok(bytes)
    }

    fn sync_folder(&self) -> Result<(), SnapshotError> {
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(SnapshotError::std("cannot sync", &self.folder))
    }
}

fn reference_to(place: &Place, hash: Hash) -> SnapshotRef {
    SnapshotRef { pack: place.pack.to_string(), offset: place.offset, len: place.len, hash: hash.to_string() }
}

/// Holds a stored content against its name.
pub(crate) fn check_content(reader: &mut PackReader, content: &Content, place: &Place) -> Result<(), SnapshotError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; usize::try_from(place.len.min(PIECE)).unwrap_or(0)];
    let mut at = 0;
    while at < place.len {
        let count = buffer.len().min(usize::try_from(place.len - at).unwrap_or(buffer.len()));
        let part = buffer.get_mut(..count).unwrap_or_default();
        reader.read_part(place, at, part)?;
        hasher.update(part);
        at += count as u64;
    }
    if Hash(*hasher.finalize().as_bytes()) == content.hash {
        return Ok(());
    }
    Err(SnapshotError::Integrity {
        what: format!("content {} in pack {} is not what was written", content.hash, place.pack),
    })
}
