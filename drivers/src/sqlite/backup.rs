//! Backups of a whole database: taken with the online backup API, and put back under the lock that nobody writes beside.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kernel::{DriverError, Scope, StepSpec, UndoError};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use snapshots::{Root, SnapshotRef, Tree, restore};

use super::session::{failed, open};
use super::{Before, Seen, Sqlite};
use crate::paths::snapshot_failed;

/// How long writers and readers may keep an undo from its lock.
const PATIENCE: Duration = Duration::from_secs(20);

impl Sqlite {
    /// Puts the whole database back, unless somebody wrote since the step.
    ///
    /// LAW no clobber: what is there is judged while the lock is held under which it is replaced.
    pub(super) fn undo_from_backup(
        &self,
        step: &StepSpec,
        before: &Before,
        reference: &SnapshotRef,
        path: &Path,
        scope: &Scope,
    ) -> Result<(), UndoError> {
        let scratch = Scratch::beside(self.store.folder(), &scope.run)?;
        let folder = scratch.0.as_path();
        let root = Root::open(folder).map_err(snapshot_failed)?;
        let paths = [PathBuf::from("backup.db")];
        restore(&self.store, &root, &paths, reference, &Tree::default(), &scope.run).map_err(snapshot_failed)?;
        let unpacked = folder.join("backup.db");
        let from = Connection::open(&unpacked).map_err(failed("open", &unpacked))?;
        // Dropped last: closing any descriptor of the file drops the locks that SQLite holds on it (POSIX).
        let header =
            File::open(path).map_err(|error| DriverError::io(format!("cannot open {}", path.display()), error))?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let mut db = open(path, false)?;
            let (seen, counted) = self.see_at(step, before, &db, &header, path, scope)?;
            match seen {
                Seen::AsBefore | Seen::Same => return Ok(()),
                Seen::Foreign(conflicts) => return Err(UndoError::Clobber(conflicts)),
                Seen::AsLeft => {}
            }
            let backup = Backup::new(&from, &mut db).map_err(failed("put back from", &unpacked))?;
            // A step of no pages takes the write lock and copies nothing.
            if !matches!(backup.step(0), Ok(StepResult::More | StepResult::Done)) {
                drop(backup);
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let unchanged = match counted {
                Some(counter) => change_counter(&header)? == counter,
                // In WAL mode others still read while the write lock is held.
                None => matches!(self.see(step, before, &open(path, false)?, scope)?.0, Seen::AsLeft),
            };
            if unchanged {
                return match backup.step(-1).map_err(failed("put back from", &unpacked))? {
                    StepResult::Done => Ok(()),
                    _ => Err(DriverError::Tool(format!("{} could not be put back whole", path.display())).into()),
                };
            }
        }
        Err(DriverError::Tool(format!("{} was never free to be put back", path.display())).into())
    }

    /// What is there, with the file's change counter of that very moment; none in WAL mode, which does not count there.
    fn see_at(
        &self,
        step: &StepSpec,
        before: &Before,
        db: &Connection,
        header: &File,
        path: &Path,
        scope: &Scope,
    ) -> Result<(Seen, Option<[u8; 4]>), DriverError> {
        let sql = failed("read", path);
        let mode: String = db.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(&sql)?;
        db.execute_batch("BEGIN").map_err(&sql)?;
        let seen = self.see(step, before, db, scope);
        let counter = if mode == "wal" { Ok(None) } else { change_counter(header).map(Some) };
        db.execute_batch("COMMIT").map_err(&sql)?;
        Ok((seen?.0, counter?))
    }

    pub(super) fn take_backup(&self, db: &Connection, scope: &Scope) -> Result<SnapshotRef, DriverError> {
        let scratch = Scratch::beside(self.store.folder(), &scope.run)?;
        let path = scratch.0.join("backup.db");
        let copied = Connection::open(&path).and_then(|mut copy| {
            Backup::new(db, &mut copy)
                .and_then(|backup| backup.run_to_completion(i32::MAX, Duration::from_millis(1), None))
        });
        copied.map_err(failed("back up to", &path))?;
        let root = Root::open(&scratch.0).map_err(snapshot_failed)?;
        let captured = self.store.capture(&root, &[PathBuf::from("backup.db")], None).map_err(snapshot_failed);
        captured.map(|(reference, _)| reference)
    }
}

/// The file change counter of the database header (sqlite.org/fileformat2.html, offset 24): it moves with every transaction that
/// writes, except in WAL mode.
fn change_counter(header: &File) -> Result<[u8; 4], DriverError> {
    let mut counter = [0u8; 4];
    header
        .read_exact_at(&mut counter, 24)
        .map_err(|error| DriverError::io("cannot read the database's header", error))?;
    Ok(counter)
}

/// A folder for one copy of a database, which goes with this value; what a crash leaves is known by its name.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(folder: &Path, run: &str) -> Result<Self, DriverError> {
        let path = folder.join(snapshots::temporary_name(run));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(|error| DriverError::io(format!("cannot create {}", path.display()), error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
