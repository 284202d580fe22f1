//! What can go wrong with the log.

/// Why the log could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The log is not what was written: exit code 11.
    #[error("the journal fails its integrity check: {0}")]
    Integrity(String),
    /// The file is not there.
    #[error("the journal {0} is missing")]
    Missing(String),
    /// Another process holds the writer's lease.
    #[error("the journal is held by process {pid}, last heard of {silent_for_s} s ago")]
    Busy {
        /// Its process id.
        pid: u32,
        /// Seconds since it last renewed the lease.
        silent_for_s: i64,
    },
    /// This process lost the lease, for example because it was frozen: it must not act any more.
    #[error("this process lost the journal's lease to another: it must not act any more")]
    Fenced,
    /// No room: nothing was written.
    #[error("no room to write the journal")]
    Full(#[source] rusqlite::Error),
    /// SQLite failed.
    #[error("the journal cannot be {doing}")]
    Sqlite {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// The operating system failed.
    #[error("the journal cannot be {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: std::io::Error,
    },
    /// A record could not be put into bytes.
    #[error("a record cannot be written")]
    Encode(#[source] serde_json::Error),
}

impl JournalError {
    pub(crate) fn sqlite(doing: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(source),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Self::Integrity(source.to_string())
            }
            _ => Self::Sqlite { doing, source },
        }
    }
}
