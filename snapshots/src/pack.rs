//! Pack files: the contents of one capture, one after the other, in a file that appears whole or not at all.
//!
//! Must never be appended to once it has its name.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::SnapshotError;

/// A BLAKE3 hash (32 bytes), written as `blake3:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// From its text.
    pub fn parse(text: &str) -> Option<Self> {
        let hash = blake3::Hash::from_hex(text.strip_prefix("blake3:")?).ok()?;
        Some(Self(*hash.as_bytes()))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a content lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pack: Arc<str>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Default for Place {
    fn default() -> Self {
        Self { pack: Arc::from(""), offset: 0, len: 0 }
    }
}

/// A pack that is being written under a temporary name.
pub(crate) struct PackWriter {
    temporary: PathBuf,
    path: PathBuf,
    name: Arc<str>,
    file: BufWriter<File>,
    offset: u64,
}

impl PackWriter {
    pub(crate) fn create(folder: &Path) -> Result<Self, SnapshotError> {
        let name: Arc<str> = ulid::Ulid::generate().to_string().to_lowercase().into();
        let path = folder.join(format!("{name}.pack"));
        let temporary = folder.join(format!("{name}.tmp"));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(SnapshotError::std("cannot create", &temporary))?;
        Ok(Self { temporary, path, name, file: BufWriter::with_capacity(1 << 20, file), offset: 0 })
    }

    /// Where the next byte will lie.
    pub(crate) fn start(&self) -> u64 {
        self.offset
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.offset += bytes.len() as u64;
        self.file.write_all(bytes).map_err(SnapshotError::std("cannot write", &self.temporary))
    }

    /// The place of what was written since `start`.
    pub(crate) fn place_since(&self, start: u64) -> Place {
        Place { pack: self.name.clone(), offset: start, len: self.offset - start }
    }

    /// Makes the pack durable under its name; the folder is the caller's to sync.
    pub(crate) fn finish(mut self) -> Result<Arc<str>, SnapshotError> {
        self.file.flush().map_err(SnapshotError::std("cannot write", &self.temporary))?;
        self.file.get_ref().sync_data().map_err(SnapshotError::std("cannot sync", &self.temporary))?;
        std::fs::rename(&self.temporary, &self.path).map_err(SnapshotError::std("cannot rename", &self.temporary))?;
        Ok(self.name.clone())
    }

    /// Gives up what was written.
    pub(crate) fn discard(self) {
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Packs that are open for reading.
pub(crate) struct PackReader {
    folder: PathBuf,
    open: Option<(Arc<str>, File)>,
}

impl PackReader {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), open: None }
    }

    /// The bytes at `place`, not yet held against their name.
    pub(crate) fn read(&mut self, place: &Place) -> Result<Vec<u8>, SnapshotError> {
        let mut out = vec![0; usize::try_from(place.len).unwrap_or(usize::MAX)];
        self.read_part(place, 0, &mut out)?;
        Ok(out)
    }

    /// Fills `out` from `from` bytes into the place.
    pub(crate) fn read_part(&mut self, place: &Place, from: u64, out: &mut [u8]) -> Result<(), SnapshotError> {
        let path = self.folder.join(format!("{}.pack", place.pack));
        let file = match &mut self.open {
            Some((name, file)) if *name == place.pack => file,
            slot => {
                let file = File::open(&path).map_err(SnapshotError::std("cannot open", &path))?;
                &mut slot.insert((place.pack.clone(), file)).1
            }
        };
        file.read_exact_at(out, place.offset + from).map_err(SnapshotError::std("cannot read", &path))
    }
}
