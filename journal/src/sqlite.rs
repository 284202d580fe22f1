//! The log in a SQLite file: WAL, `synchronous=FULL`, one commit for each batch of records.
//!
//! Must never be opened for writing without a lease, and never be trusted before its tree was recomputed.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};
use schemas::{Record, RecordBody, RunSubject};
use serde::Serialize;

use crate::checkpoint::{LogSigner, LogVerifier};
use crate::error::JournalError;
use crate::head::{self, HeadFile};
use crate::lease::Silent;
use crate::tree::Tree;
use crate::{Entry, Journal, LogHead, lease};

/// Frames of the WAL after which SQLite copies them into the file.
const CHECKPOINT_PAGES: i64 = 8_000;
/// Bytes that one step is expected to need in the log, all its records together.
const BYTES_PER_STEP: usize = 3_000;
/// Largest growth in advance.
const RESERVE_MAX: usize = 24 << 20;

const SCHEMA: &str = "
    CREATE TABLE records (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), checkpoint BLOB NOT NULL);
    CREATE TABLE lease (one INTEGER PRIMARY KEY CHECK (one = 1), pid INTEGER NOT NULL, started INTEGER NOT NULL,
        boot TEXT NOT NULL, epoch INTEGER NOT NULL, expires_ms INTEGER NOT NULL);
    CREATE TABLE reserve (filler BLOB);
    PRAGMA application_id = 1111573588;
    PRAGMA user_version = 1;
";

/// The log.
pub struct SqliteJournal {
    db: Connection,
    tree: Tree,
    verifier: LogVerifier,
    writer: Option<Writer>,
}

struct Writer {
    signer: LogSigner,
    epoch: i64,
    head: HeadFile,
}

/// A record as it is written, without taking the entry apart.
#[derive(Serialize)]
struct RecordRef<'a> {
    seq: u64,
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a RunSubject>,
    fact: &'a RecordBody,
}

impl SqliteJournal {
    /// Makes an empty log at `path`, which must not exist; readable by its owner alone.
    pub fn create(path: &Path, signer: &LogSigner) -> Result<(), JournalError> {
        let io = |source| JournalError::Io { doing: "created", source };
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        options.open(path).map_err(io)?;
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let failed = JournalError::sqlite("created");
        let tx = db.unchecked_transaction().map_err(&failed)?;
        tx.execute_batch(SCHEMA).map_err(&failed)?;
        let note = signer.sign(0, Tree::default().root())?;
        tx.execute("INSERT INTO head (one, checkpoint) VALUES (1, ?1)", [&note]).map_err(&failed)?;
        tx.commit().map_err(&failed)?;
        HeadFile::create(path, &note)
    }

    /// Opens the log for reading and checks all of it: order, tree and signed checkpoint.
    pub fn open_to_read(path: &Path, verifier: LogVerifier) -> Result<Self, JournalError> {
        let db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let tree = checked_tree(path, &db, &verifier)?;
        Ok(Self { db, tree, verifier, writer: None })
    }

    /// Takes the writer's lease, then opens the log and checks all of it.
    pub fn open_to_write(path: &Path, signer: LogSigner) -> Result<Self, JournalError> {
        Self::open_as(path, signer, Silent::Keeps)
    }

    /// Like [`Self::open_to_write`], and a holder that lives but was silent for a term, for example because it is frozen, is
    /// ended first: it could go on acting later.
    pub fn open_to_recover(path: &Path, signer: LogSigner) -> Result<Self, JournalError> {
        Self::open_as(path, signer, Silent::IsEnded)
    }

    fn open_as(path: &Path, signer: LogSigner, silent: Silent) -> Result<Self, JournalError> {
        let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let epoch = lease::acquire(&mut db, silent)?;
        let verifier = signer.verifier().clone();
        let opened = checked_tree(path, &db, &verifier).and_then(|tree| Ok((tree, HeadFile::open(path)?)));
        let (tree, head) = opened.inspect_err(|_| drop(lease::release(&db, epoch)))?;
        Ok(Self { db, tree, verifier, writer: Some(Writer { signer, epoch, head }) })
    }

    /// The process that holds the writer's lease, if it lives.
    pub fn live_writer(&self) -> Option<u32> {
        lease::live_holder(&self.db)
    }

    /// Makes room for the records of `steps` steps now, so that a full disk is found before anything is touched, and so that
    /// commits overwrite allocated blocks instead of growing a file.
    pub fn reserve(&mut self, steps: usize) -> Result<(), JournalError> {
        let bytes = (steps.saturating_mul(BYTES_PER_STEP) + (256 << 10)).min(RESERVE_MAX);
        let failed = JournalError::sqlite("given room");
        self.db.execute("INSERT INTO reserve (filler) VALUES (zeroblob(?1))", [bytes as i64]).map_err(&failed)?;
        self.db.execute("DELETE FROM reserve", []).map_err(&failed)?;
        self.db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).map_err(&failed)
    }

    /// The head of the log as it was checked or last written.
    pub fn head(&self) -> LogHead {
        LogHead { size: self.tree.size(), root: self.tree.root().to_string() }
    }

    /// The signed checkpoint that stands in the log now.
    pub fn checkpoint(&self) -> Result<Vec<u8>, JournalError> {
        read_checkpoint(&self.db)
    }

    /// Who checks the checkpoints.
    pub fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    /// Calls `visit` with sequence number and stored bytes of every record from `from` on, in order.
    pub fn scan(
        &self,
        from: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let failed = JournalError::sqlite("read");
        let mut statement =
            self.db.prepare_cached("SELECT seq, body FROM records WHERE seq >= ?1 ORDER BY seq").map_err(&failed)?;
        let mut rows = statement.query([from as i64]).map_err(&failed)?;
        while let Some(row) = rows.next().map_err(&failed)? {
            let seq: i64 = row.get(0).map_err(&failed)?;
            let body = row.get_ref(1).map_err(&failed)?;
            let body = body.as_blob().map_err(|_| JournalError::Integrity(format!("record {seq} is not a blob")))?;
            visit(seq as u64, body)?;
        }
        Ok(())
    }

    /// All records, parsed, of one run or of all.
    pub fn records(&self, run: Option<&str>) -> Result<Vec<Record>, JournalError> {
        let needle = run.map(|run| format!("\"run\":\"{run}\""));
        let mut out = Vec::new();
        self.scan(0, |seq, body| {
            if let Some(needle) = &needle
                && !contains(body, needle.as_bytes())
            {
                return Ok(());
            }
            let record = parse(seq, body)?;
            if run.is_none() || record.subject.as_ref().map(|subject| subject.run.as_str()) == run {
                out.push(record);
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// Gives the lease up.
    pub fn release(&mut self) -> Result<(), JournalError> {
        match self.writer.take() {
            Some(writer) => {
                writer.head.sync()?;
                lease::release(&self.db, writer.epoch)
            }
            None => Ok(()),
        }
    }

    /// Lets no more than `pages` pages be used, so that tests can fill the disk.
    pub fn limit_pages(&self, pages: i64) -> Result<(), JournalError> {
        self.db.pragma_update(None, "max_page_count", pages).map_err(JournalError::sqlite("limited"))
    }

    fn append_in_transaction(&mut self, time: Timestamp, entries: &[Entry]) -> Result<Tree, JournalError> {
        let failed = JournalError::sqlite("written");
        let writer = self.writer.as_ref().ok_or(JournalError::Fenced)?;
        let tx = rusqlite::Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate).map_err(&failed)?;
        lease::check(&tx, writer.epoch)?;
        let mut tree = self.tree.clone();
        let note = {
            let mut insert = tx.prepare_cached("INSERT INTO records (seq, body) VALUES (?1, ?2)").map_err(&failed)?;
            for entry in entries {
                let seq = tree.size();
                let record = RecordRef { seq, time, subject: entry.subject.as_deref(), fact: &entry.fact };
                let body = serde_json::to_vec(&record).map_err(JournalError::Encode)?;
                insert.execute(params![seq as i64, body]).map_err(&failed)?;
                tree.push(&body);
            }
            let note = writer.signer.sign(tree.size(), tree.root())?;
            let mut head = tx.prepare_cached("UPDATE head SET checkpoint = ?1").map_err(&failed)?;
            head.execute([&note]).map_err(&failed)?;
            note
        };
        tx.commit().map_err(&failed)?;
        writer.head.write(&note)?;
        Ok(tree)
    }
}

impl Journal for SqliteJournal {
    fn append(&mut self, time: Timestamp, entries: &[Entry]) -> Result<LogHead, JournalError> {
        if !entries.is_empty() {
            self.tree = self.append_in_transaction(time, entries)?;
        }
        Ok(self.head())
    }

    fn head(&self) -> LogHead {
        Self::head(self)
    }

    fn renew_lease(&mut self) -> Result<(), JournalError> {
        let writer = self.writer.as_ref().ok_or(JournalError::Fenced)?;
        lease::renew(&self.db, writer.epoch)
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, JournalError> {
    let failed = JournalError::sqlite("opened");
    if !path.exists() {
        return Err(JournalError::Missing(path.display().to_string()));
    }
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(&failed)?;
    db.busy_timeout(std::time::Duration::from_secs(5)).map_err(&failed)?;
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).map_err(&failed)?;
    db.pragma_update(None, "synchronous", "FULL").map_err(&failed)?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(&failed)?;
    db.pragma_update(None, "trusted_schema", false).map_err(&failed)?;
    Ok(db)
}

fn read_checkpoint(db: &Connection) -> Result<Vec<u8>, JournalError> {
    db.query_row("SELECT checkpoint FROM head", [], |row| row.get(0))
        .optional()
        .map_err(JournalError::sqlite("read"))?
        .ok_or_else(|| JournalError::Integrity("the checkpoint is missing".to_owned()))
}

/// Recomputes the tree over the stored bytes and holds it against the signed checkpoint.
fn checked_tree(path: &Path, db: &Connection, verifier: &LogVerifier) -> Result<Tree, JournalError> {
    // Read before the log: a writer that goes on meanwhile makes the log longer, not shorter.
    let least = head::read(path, verifier)?;
    let failed = JournalError::sqlite("read");
    let tx = db.unchecked_transaction().map_err(&failed)?;
    let (size, root) = verifier.open(&read_checkpoint(&tx)?)?;
    let mut tree = Tree::default();
    let mut least_seen = least.0 == 0;
    let mut statement = tx.prepare("SELECT seq, body FROM records ORDER BY seq").map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    while let Some(row) = rows.next().map_err(&failed)? {
        let seq: i64 = row.get(0).map_err(&failed)?;
        if seq as u64 != tree.size() {
            return Err(JournalError::Integrity(format!("record {} is missing", tree.size())));
        }
        let body = row.get_ref(1).map_err(&failed)?;
        tree.push(body.as_blob().map_err(|_| JournalError::Integrity(format!("record {seq} is not a blob")))?);
        if tree.size() == least.0 {
            least_seen = tree.root() == least.1;
        }
    }
    if tree.size() != size {
        let found = tree.size();
        return Err(JournalError::Integrity(format!("{found} records are there and the checkpoint says {size}")));
    }
    if tree.size() < least.0 {
        let text = format!(
            "it has {} records and {} were written: it was cut, or an older copy was put back",
            tree.size(),
            least.0
        );
        return Err(JournalError::Integrity(text));
    }
    if !least_seen {
        return Err(JournalError::Integrity("it is not the log that its head file speaks of".to_owned()));
    }
    if tree.root() != root {
        return Err(JournalError::Integrity("a record is not what was signed".to_owned()));
    }
    Ok(tree)
}

fn parse(seq: u64, body: &[u8]) -> Result<Record, JournalError> {
    let record: Record = serde_json::from_slice(body)
        .map_err(|error| JournalError::Integrity(format!("record {seq} does not parse: {error}")))?;
    if record.seq != seq {
        return Err(JournalError::Integrity(format!("record {seq} calls itself {}", record.seq)));
    }
    Ok(record)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    std::str::from_utf8(haystack)
        .is_ok_and(|text| std::str::from_utf8(needle).is_ok_and(|needle| text.contains(needle)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::SecretKey;

    fn now() -> Timestamp {
        Timestamp::now()
    }

    fn signer() -> LogSigner {
        LogSigner::new(&SecretKey::from_seed([9; 32])).unwrap()
    }

    fn entry(step: u32) -> Entry {
        Entry { subject: None, fact: RecordBody::ApplyWithdrawn { step } }
    }

    fn filled(dir: &Path, count: u32) -> std::path::PathBuf {
        let path = dir.join("journal.db");
        SqliteJournal::create(&path, &signer()).unwrap();
        let mut journal = SqliteJournal::open_to_write(&path, signer()).unwrap();
        for step in 0..count {
            journal.append(now(), &[entry(step)]).unwrap();
        }
        path
    }

    fn open(path: &Path) -> Result<SqliteJournal, JournalError> {
        SqliteJournal::open_to_read(path, signer().verifier().clone())
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path(), 5);
        let records = open(&path).unwrap().records(None).unwrap();
        assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn every_edit_of_the_file_is_found_when_it_is_opened() {
        let edits = [
            "UPDATE records SET body = replace(body, 'step', 'stop') WHERE seq = 2",
            "DELETE FROM records WHERE seq = 2",
            "DELETE FROM records WHERE seq = 4",
            "INSERT INTO records SELECT 5, body FROM records WHERE seq = 4",
            "UPDATE records SET seq = 9 WHERE seq = 4",
            "UPDATE head SET checkpoint = x'00'",
            "DELETE FROM head",
            "UPDATE records SET body = 'text' WHERE seq = 0",
        ];
        for edit in edits {
            let dir = tempfile::tempdir().unwrap();
            let path = filled(dir.path(), 5);
            Connection::open(&path).unwrap().execute(edit, []).unwrap();
            assert!(matches!(open(&path), Err(JournalError::Integrity(_))), "{edit}");
        }
    }

    #[test]
    fn a_checkpoint_by_another_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path(), 5);
        let other = LogSigner::new(&SecretKey::from_seed([8; 32])).unwrap();
        let tree = open(&path).unwrap().tree.clone();
        let forged = other.sign(tree.size(), tree.root()).unwrap();
        Connection::open(&path).unwrap().execute("UPDATE head SET checkpoint = ?1", [forged]).unwrap();
        assert!(matches!(open(&path), Err(JournalError::Integrity(_))));
    }

    #[test]
    fn torn_bytes_in_the_file_are_found_when_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path(), 200);
        let mut bytes = std::fs::read(&path).unwrap();
        let mut found = 0;
        let places: Vec<usize> = (4096..bytes.len()).step_by(997).collect();
        for at in &places {
            bytes[*at] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let reading = open(&path).and_then(|journal| journal.records(None).map(|records| records.len()));
            // A flipped byte in a free page changes nothing that was signed.
            found += u32::from(!matches!(reading, Ok(200)));
            bytes[*at] ^= 0x40;
        }
        assert!(found as usize > places.len() / 2, "{found} of {}", places.len());
    }

    #[test]
    fn a_second_writer_waits_while_the_first_lives_and_a_fenced_one_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path(), 1);
        let mut first = SqliteJournal::open_to_write(&path, signer()).unwrap();
        // The same process may take its own lease over, which fences the first handle.
        let mut second = SqliteJournal::open_to_write(&path, signer()).unwrap();
        assert!(matches!(first.append(now(), &[entry(1)]), Err(JournalError::Fenced)));
        second.append(now(), &[entry(1)]).unwrap();
        drop(second);
        let db = Connection::open(&path).unwrap();
        // Process 1 lives; its start time makes it a holder that is alive, however long it was silent.
        let init = Holder1::read();
        for expires_ms in [i64::MAX, 1] {
            db.execute(
                "UPDATE lease SET pid = 1, started = ?1, boot = ?2, expires_ms = ?3",
                params![init.0, init.1, expires_ms],
            )
            .unwrap();
            let second = SqliteJournal::open_to_write(&path, signer());
            assert!(matches!(second, Err(JournalError::Busy { pid: 1, .. })));
        }
    }

    #[test]
    fn a_recovery_ends_a_frozen_holder_before_it_takes_the_lease() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path(), 1);
        let mut frozen = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", frozen.id())).unwrap();
        let started: i64 = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
        let db = Connection::open(&path).unwrap();
        db.execute(
            "UPDATE lease SET pid = ?1, started = ?2, boot = ?3, expires_ms = 1",
            params![frozen.id(), started, lease::Holder::me().boot],
        )
        .unwrap();
        // Reaps it, so that it does not stay as a zombie; a zombie counts as gone all the same.
        assert!(matches!(SqliteJournal::open_to_write(&path, signer()), Err(JournalError::Busy { .. })));
        let mut journal = SqliteJournal::open_to_recover(&path, signer()).unwrap();
        assert!(!frozen.wait().unwrap().success());
        journal.append(now(), &[entry(1)]).unwrap();
    }

    #[test]
    fn a_log_that_is_shorter_than_its_head_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path(), 3);
        let old = std::fs::read(&path).unwrap();
        let mut journal = SqliteJournal::open_to_write(&path, signer()).unwrap();
        journal.append(now(), &[entry(3)]).unwrap();
        drop(journal);
        open(&path).unwrap();
        std::fs::write(&path, old).unwrap();
        assert!(matches!(open(&path), Err(JournalError::Integrity(_))), "an older copy");
        std::fs::remove_file(path.with_extension("head")).unwrap();
        assert!(matches!(open(&path), Err(JournalError::Integrity(_))), "no head file");
    }

    struct Holder1;

    impl Holder1 {
        fn read() -> (i64, String) {
            let stat = std::fs::read_to_string("/proc/1/stat").unwrap();
            let started = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
            (started, lease::Holder::me().boot)
        }
    }

    #[test]
    fn a_full_disk_refuses_the_record_and_keeps_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path(), 3);
        let mut journal = SqliteJournal::open_to_write(&path, signer()).unwrap();
        journal.limit_pages(1).unwrap();
        let outcome = (0..10_000).find_map(|step| journal.append(now(), &[entry(step)]).err());
        assert!(matches!(outcome, Some(JournalError::Full(_))), "{outcome:?}");
        let size = journal.head().size;
        drop(journal);
        assert_eq!(open(&path).unwrap().head().size, size);
    }

    #[test]
    fn room_that_is_not_there_is_found_before_a_run_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = filled(dir.path(), 3);
        let mut journal = SqliteJournal::open_to_write(&path, signer()).unwrap();
        journal.limit_pages(20).unwrap();
        assert!(matches!(journal.reserve(1_000), Err(JournalError::Full(_))));
    }
}
