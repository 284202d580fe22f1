//! The head file beside the log: the last checkpoint once more, outside of SQLite's own files.
//!
//! A log that is shorter than its head was cut, whoever cut it: its write-ahead log deleted, or an older copy put back. The file
//! is written after each commit and synced when the log is closed, so that after a power cut it may be older than the log,
//! never newer. Who replaces both with older ones is found only by a checkpoint that is kept elsewhere.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tlog_tiles::tlog::Hash;

use crate::checkpoint::LogVerifier;
use crate::error::JournalError;

/// Room for one checkpoint: it is overwritten in place, within one sector.
const BYTES: usize = 512;
/// A reader may meet a writer in the middle of a word.
const TRIES: usize = 20;

/// The file of a writer.
#[derive(Debug)]
pub(crate) struct HeadFile(File);

fn path_of(journal: &Path) -> PathBuf {
    journal.with_extension("head")
}

fn io(source: std::io::Error) -> JournalError {
    JournalError::Io { doing: "written to its head file", source }
}

impl HeadFile {
    /// Makes the file with a first checkpoint.
    pub(crate) fn create(journal: &Path, note: &[u8]) -> Result<(), JournalError> {
        let file = File::options().create_new(true).write(true).mode(0o600).open(path_of(journal)).map_err(io)?;
        let head = Self(file);
        head.write(note)?;
        head.sync()
    }

    pub(crate) fn open(journal: &Path) -> Result<Self, JournalError> {
        File::options().write(true).open(path_of(journal)).map(Self).map_err(|error| missing(journal, &error))
    }

    /// Overwrites it.
    pub(crate) fn write(&self, note: &[u8]) -> Result<(), JournalError> {
        let mut block = vec![b'\n'; BYTES.max(note.len())];
        if let Some(start) = block.get_mut(..note.len()) {
            start.copy_from_slice(note);
        }
        self.0.write_all_at(&block, 0).map_err(io)
    }

    pub(crate) fn sync(&self) -> Result<(), JournalError> {
        self.0.sync_data().map_err(io)
    }
}

fn missing(journal: &Path, error: &std::io::Error) -> JournalError {
    JournalError::Integrity(format!("its head file {} cannot be opened: {error}", path_of(journal).display()))
}

/// Size and root that the log had at least.
pub(crate) fn read(journal: &Path, verifier: &LogVerifier) -> Result<(u64, Hash), JournalError> {
    let mut outcome = Err(JournalError::Integrity("its head file is empty".to_owned()));
    for _ in 0..TRIES {
        let bytes = std::fs::read(path_of(journal)).map_err(|error| missing(journal, &error))?;
        let end = bytes.iter().rposition(|byte| *byte != b'\n').map_or(0, |at| at + 2);
        outcome = verifier.open(bytes.get(..end).unwrap_or(&bytes));
        if outcome.is_ok() {
            return outcome;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    outcome
}
