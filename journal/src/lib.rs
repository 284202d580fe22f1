//! The one write-ahead log, which is also the audit log: SQLite for durability, an RFC 6962 tree for proof.
//!
//! This crate must never interpret what a record says, and must never rewrite one.

mod checkpoint;
mod error;
mod head;
mod lease;
mod sqlite;
mod tree;

pub use checkpoint::{LogSigner, LogVerifier};
pub use error::JournalError;
pub use lease::{Holder, boot_id, boottime_ms, is_alive};
pub use sqlite::SqliteJournal;
pub use tree::Tree;

use std::sync::Arc;

use jiff::Timestamp;
use schemas::{RecordBody, RunSubject};

/// A record that is not yet in the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Whose fact it is.
    pub subject: Option<Arc<RunSubject>>,
    /// The fact.
    pub fact: RecordBody,
}

/// The log as it stands after an append: what a receipt quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// Number of records.
    pub size: u64,
    /// RFC 6962 root over them, base64.
    pub root: String,
}

/// The seam between executor and storage.
pub trait Journal: Send {
    /// Makes `entries` durable in one commit, all or none, and says what the log then is.
    ///
    /// After an error nothing may be assumed about them: only reading the log again can tell.
    fn append(&mut self, time: Timestamp, entries: &[Entry]) -> Result<LogHead, JournalError>;

    /// The log as it was last checked or written.
    fn head(&self) -> LogHead;

    /// Keeps the writer's lease alive for another term.
    fn renew_lease(&mut self) -> Result<(), JournalError>;
}
