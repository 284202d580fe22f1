//! Kind `sqlite`: statements in one transaction, tried out before, put back row by row or from a backup.
//!
//! The before-image is durable before the transaction commits, and what the transaction leaves is noted before it commits,
//! so that after a crash the content itself says whether it did.

mod backup;
mod params;
mod rows;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernel::{
    AfterImage, BeforeImage, CheckOutcome, Claim, Conflict, Driver, DriverError, Facts, Kind, Lowered, Output,
    Resource, Scope, Sighting, StepSpec, Token, UndoError, parameters,
};
use rusqlite::Connection;
use schemas::{
    Change, ChangeKind, Check, Class, Code, Confidence, Effectiveness, Finding, PlanStep, ResourceChange, RowCount,
    Share, StepAssessment, WayBack, schema_of_type,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapshots::{Root, SnapshotRef, Store};

use self::params::{Execute, Query};
use self::rows::{RowChange, content_digest, encoded, tables};
use self::session::{Effects, broken_bounds, counts, failed, limit, open, take_back, unknown_table, violations};
use crate::file::kernel_detail;
use crate::paths::{Place, place, place_or_finding, placed, snapshot_failed};

/// Milliseconds for trying statements out, where the step has no timeout: the database is locked for writers meanwhile.
const TRIAL_MS: u64 = 60_000;
/// Milliseconds for the statements themselves, where the step has no timeout.
const APPLY_MS: u64 = 10 * 60_000;
/// Milliseconds for a check.
const CHECK_MS: u64 = 60_000;

/// The kind.
pub(crate) struct Sqlite {
    store: Store,
}

/// What is kept of what was there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    digest_before: String,
    /// What the statements left when they were tried out.
    digest_meant: String,
    image: Image,
    sequences_before: BTreeMap<String, i64>,
    sequences_meant: BTreeMap<String, i64>,
    schema_changed: bool,
}

/// How the content is put back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Image {
    /// Row by row: tried out, and the digest was the same.
    Rows(SnapshotRef),
    /// The whole database.
    Backup(SnapshotRef),
}

/// What a transaction leaves, written before it commits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    digest_after: String,
    rows: Option<SnapshotRef>,
    sequences_after: BTreeMap<String, i64>,
    /// Rows changed, by table, dropped tables included.
    counts: BTreeMap<String, RowCount>,
}

/// What was seen of the content.
enum Seen {
    /// Before and left are one: the step changes nothing.
    Same,
    AsBefore,
    AsLeft,
    Foreign(Vec<Conflict>),
}

impl Sqlite {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    fn note_path(&self, step: &StepSpec, scope: &Scope) -> PathBuf {
        self.store.folder().join(format!("{}-{}.note", scope.run, step.id))
    }

    /// Writes what the transaction leaves, durably.
    fn write_note(&self, step: &StepSpec, scope: &Scope, effects: &Effects, by_rows: bool) -> Result<(), DriverError> {
        let rows = match by_rows {
            true => Some(self.store.put(&rows::pack(&effects.changes)).map_err(snapshot_failed)?),
            false => None,
        };
        let note = Note {
            digest_after: effects.digest_after.clone(),
            rows,
            sequences_after: effects.sequences_after.clone(),
            counts: effects.counts.clone(),
        };
        let bytes = serde_json::to_vec(&note).map_err(|error| DriverError::Image(error.to_string()))?;
        let path = self.note_path(step, scope);
        let temporary = path.with_extension("tmp");
        let io = |doing: &str| {
            let doing = format!("cannot {doing} {}", temporary.display());
            move |error| DriverError::io(doing, error)
        };
        std::fs::write(&temporary, bytes).map_err(io("write"))?;
        std::fs::File::open(&temporary).and_then(|file| file.sync_all()).map_err(io("sync"))?;
        std::fs::rename(&temporary, &path).map_err(io("rename"))?;
        std::fs::File::open(self.store.folder()).and_then(|folder| folder.sync_all()).map_err(io("sync"))
    }

    fn note(&self, step: &StepSpec, scope: &Scope) -> Result<Option<Note>, DriverError> {
        let path = self.note_path(step, scope);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| DriverError::Image(error.to_string()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DriverError::io(format!("cannot read {}", path.display()), error)),
        }
    }

    fn stored_rows(&self, reference: &SnapshotRef) -> Result<Vec<RowChange>, DriverError> {
        let bytes = self.store.blob(reference).map_err(snapshot_failed)?;
        rows::unpack(&bytes).ok_or_else(|| DriverError::Image("stored rows do not parse".to_owned()))
    }

    /// The rows that the step changes, as the transaction left them if it got that far.
    fn rows_of(&self, before: &Before, note: Option<&Note>) -> Result<Vec<RowChange>, DriverError> {
        match (note.and_then(|note| note.rows.as_ref()), &before.image) {
            (Some(reference), _) | (None, Image::Rows(reference)) => self.stored_rows(reference),
            (None, Image::Backup(_)) => Ok(Vec::new()),
        }
    }

    fn see(
        &self,
        step: &StepSpec,
        before: &Before,
        db: &Connection,
        scope: &Scope,
    ) -> Result<(Seen, Vec<RowChange>), DriverError> {
        let path = database(step)?.absolute();
        let note = self.note(step, scope)?;
        let changes = self.rows_of(before, note.as_ref())?;
        let resource = uri(&path, None);
        match &before.image {
            Image::Rows(_) => {
                see_rows(db, &changes, &resource).map_err(failed("read", &path)).map(|seen| (seen, changes))
            }
            Image::Backup(_) => {
                let now = content_digest(db).map_err(failed("read", &path))?;
                let left = note.map_or(before.digest_meant.clone(), |note| note.digest_after);
                let seen = match () {
                    () if now == left && now == before.digest_before => Seen::Same,
                    () if now == before.digest_before => Seen::AsBefore,
                    () if now == left => Seen::AsLeft,
                    () => Seen::Foreign(vec![Conflict {
                        resource,
                        before: before.digest_before.clone(),
                        left,
                        found: now,
                    }]),
                };
                Ok((seen, changes))
            }
        }
    }

    fn inventory(
        &self,
        step: &StepSpec,
        before: &Before,
        changes: &[RowChange],
        scope: &Scope,
    ) -> Result<Vec<Change>, DriverError> {
        let path = database(step)?.absolute();
        let noted = self.note(step, scope)?.map(|note| note.counts);
        let mut out: Vec<Change> = noted
            .unwrap_or_else(|| counts(changes))
            .into_iter()
            .map(|(table, rows)| Change {
                resource: uri(&path, Some(&table)),
                change: ChangeKind::Updated,
                before: None,
                after: None,
                rows: Some(rows),
            })
            .collect();
        if before.schema_changed {
            out.push(Change {
                resource: uri(&path, Some("sqlite_schema")),
                change: ChangeKind::Updated,
                before: Some(before.digest_before.clone()),
                after: Some(before.digest_meant.clone()),
                rows: None,
            });
        }
        Ok(out)
    }
}

/// A database, or a part of it, as a resource.
fn uri(path: &Path, part: Option<&str>) -> String {
    let path = path.display().to_string();
    match part {
        Some(part) => Resource::part("sqlite", path, part).to_string(),
        None => Resource::whole("sqlite", path).to_string(),
    }
}

/// Where the database of a step lies, which must be a regular file reached without symlinks.
fn database(step: &StepSpec) -> Result<Place, DriverError> {
    let resource = step.lowered.writes.first().map_or("", Resource::path);
    let found = place(resource, &step.facts).map_err(DriverError::Refused)?;
    let root = Root::open(&found.root).map_err(snapshot_failed)?;
    match root.stat(&found.relative).map_err(snapshot_failed)? {
        Some(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile => {
            Ok(found)
        }
        _ => Err(DriverError::Refused(format!("{resource} is not an existing database file"))),
    }
}

fn see_rows(db: &Connection, changes: &[RowChange], resource: &str) -> rusqlite::Result<Seen> {
    let known = tables(db)?.tables;
    let (mut as_before, mut as_left, mut conflicts) = (true, true, Vec::new());
    for change in changes {
        let Some(table) = known.iter().find(|table| table.name == change.table) else {
            let name = format!("{resource}#{}", change.table);
            conflicts.push(Conflict {
                resource: name,
                before: "table".to_owned(),
                left: "table".to_owned(),
                found: "no such table".to_owned(),
            });
            continue;
        };
        let Some(row) = change.before.as_ref().or(change.after.as_ref()) else { continue };
        let found = table.row(db, table.key_of(row))?;
        let (was, left) = (found == change.before, found == change.after);
        as_before &= was;
        as_left &= left;
        if !was && !left {
            let print = |row: &Option<Vec<_>>| {
                row.as_ref().map_or("absent".to_owned(), |row| snapshots::Hash::of(&encoded(row)).to_string())
            };
            conflicts.push(Conflict {
                resource: format!("{resource}#{} row {:?}", change.table, table.key_of(row)),
                before: print(&change.before),
                left: print(&change.after),
                found: print(&found),
            });
        }
    }
    Ok(match (conflicts.is_empty(), as_left, as_before) {
        (true, true, true) => Seen::Same,
        (true, true, false) => Seen::AsLeft,
        (true, false, true) => Seen::AsBefore,
        (true, false, false) => Seen::Foreign(vec![Conflict {
            resource: resource.to_owned(),
            before: "all rows as before".to_owned(),
            left: "all rows as the step leaves them".to_owned(),
            found: "some of each".to_owned(),
        }]),
        (false, ..) => Seen::Foreign(conflicts),
    })
}

fn fingerprint(effects: &Effects) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(effects.schema_changed.to_string().as_bytes());
    if effects.schema_changed || !effects.row_by_row {
        hasher.update(effects.digest_before.as_bytes());
    }
    for change in &effects.changes {
        hasher.update(change.table.as_bytes());
        hasher.update(&change.before.as_ref().map(|row| encoded(row)).unwrap_or_default());
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}

impl Kind for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn operations(&self) -> &'static [&'static str] {
        &["execute"]
    }

    fn checks(&self) -> &'static [&'static str] {
        &["query"]
    }

    fn schema(&self, operation: &str) -> Option<Value> {
        match operation {
            "execute" => Some(schema_of_type::<Execute>("sqlite.execute.v1.json")),
            "query" => Some(schema_of_type::<Query>("sqlite.query.v1.json")),
            _ => None,
        }
    }

    fn lower(&self, step: &PlanStep, ix: usize, facts: &Facts) -> Result<Lowered, Vec<Finding>> {
        let params: Execute = parameters(step, ix)?;
        if params.statements.is_empty() {
            let hint = "backout schema sqlite.execute shows the parameters";
            let place = format!("/steps/{ix}/with/statements");
            return Err(vec![
                Finding::error(Code::STEP_PARAMETERS, place, "there is no statement", hint).of_step(&step.id),
            ]);
        }
        let found = place_or_finding(&params.database, facts, &step.id, format!("/steps/{ix}/with/database"))
            .map_err(|finding| vec![*finding])?;
        let resource = Resource::whole("sqlite", found.absolute().display().to_string());
        Ok(Lowered {
            reads: vec![resource.clone()],
            writes: vec![resource],
            class: Class::ReversibleWithBackup,
            way_back: WayBack {
                effectiveness: Effectiveness::Full,
                how: "the captured rows or the backup are put back and compared by digest".to_owned(),
                entry: None,
            },
            argv: Vec::new(),
            cwd: None,
            act: None,
            side: Vec::new(),
        })
    }
}

impl Driver for Sqlite {
    fn probe(&self, step: &StepSpec, priors: &[&StepSpec]) -> Result<StepAssessment, DriverError> {
        let params: Execute = step.params()?;
        let path = database(step)?.absolute();
        let mut db = open(&path, params.foreign_keys.unwrap_or(true))?;
        limit(&mut db, step.timeout_ms.unwrap_or(TRIAL_MS), None);
        db.execute_batch("BEGIN IMMEDIATE").map_err(failed("try out the statements on", &path))?;
        for prior in
            priors.iter().filter(|prior| prior.uses == step.uses && prior.lowered.writes == step.lowered.writes)
        {
            session::run(&mut db, &prior.params::<Execute>()?.statements, &path, false)?;
        }
        let effects = session::run(&mut db, &params.statements, &path, priors.is_empty());
        db.execute_batch("ROLLBACK").map_err(failed("take back the trial on", &path))?;
        assessed(step, &effects?, &path, priors)
    }

    fn prepare(&self, step: &StepSpec, scope: &Scope) -> Result<BeforeImage, DriverError> {
        let params: Execute = step.params()?;
        let path = database(step)?.absolute();
        let mut db = open(&path, params.foreign_keys.unwrap_or(true))?;
        limit(&mut db, step.timeout_ms.unwrap_or(TRIAL_MS), None);
        db.execute_batch("BEGIN IMMEDIATE").map_err(failed("try out the statements on", &path))?;
        let effects = session::run(&mut db, &params.statements, &path, true);
        db.execute_batch("ROLLBACK").map_err(failed("take back the trial on", &path))?;
        let effects = effects?;
        let image = match effects.row_by_row {
            true => Image::Rows(self.store.put(&rows::pack(&effects.changes)).map_err(snapshot_failed)?),
            false => Image::Backup(self.take_backup(&db, scope)?),
        };
        let fingerprints = BTreeMap::from([(uri(&path, None), fingerprint(&effects))]);
        let before = Before {
            digest_before: effects.digest_before,
            digest_meant: effects.digest_after,
            image,
            sequences_before: effects.sequences_before,
            sequences_meant: effects.sequences_after,
            schema_changed: effects.schema_changed,
        };
        BeforeImage::new(fingerprints, &before)
    }

    fn apply(&self, step: &StepSpec, before: &BeforeImage, token: Token, scope: &Scope) -> Result<Output, DriverError> {
        scope.may_apply(step, token)?;
        let params: Execute = step.params()?;
        let before: Before = before.data()?;
        let path = database(step)?.absolute();
        let mut db = open(&path, params.foreign_keys.unwrap_or(true))?;
        limit(&mut db, step.timeout_ms.unwrap_or(APPLY_MS), Some(scope.cancel.clone()));
        db.execute_batch("BEGIN IMMEDIATE").map_err(failed("change", &path))?;
        let kept = self.see(step, &before, &db, scope).and_then(|(seen, _)| match seen {
            Seen::AsLeft if self.note(step, scope)?.is_some() => Ok(None),
            Seen::Same | Seen::AsBefore | Seen::AsLeft => {
                self.act(step, &params, &before, &mut db, &path, scope).map(Some)
            }
            Seen::Foreign(conflicts) => Err(DriverError::Stale(conflict_text(&conflicts))),
        });
        match kept {
            Ok(effects) => {
                db.execute_batch("COMMIT").map_err(failed("commit to", &path))?;
                let message = effects.map_or("it was committed before".to_owned(), |effects| row_text(&effects.counts));
                Ok(Output { message: message.into(), ..Output::default() })
            }
            Err(error) => {
                let _ = db.execute_batch("ROLLBACK");
                Err(error)
            }
        }
    }

    fn observe(&self, step: &StepSpec, before: &BeforeImage, claim: Option<Claim>, scope: &Scope) -> Sighting {
        let look = || {
            let before: Before = before.data()?;
            let db = open(&database(step)?.absolute(), false)?;
            let (seen, changes) = self.see(step, &before, &db, scope)?;
            Ok((seen, self.inventory(step, &before, &changes, scope)?))
        };
        match look() {
            Err(error) => Sighting::Unclear { detail: kernel_detail(&error) },
            Ok((Seen::AsBefore, _)) => Sighting::Absent,
            Ok((Seen::Foreign(conflicts), _)) => Sighting::Unclear { detail: conflict_text(&conflicts) },
            Ok((Seen::Same, _)) if claim != Some(Claim::Done) => Sighting::Absent,
            Ok((Seen::AsLeft | Seen::Same, changes)) => match AfterImage::new(&Value::Null) {
                Ok(after) => Sighting::Present { after, changes },
                Err(error) => Sighting::Unclear { detail: kernel_detail(&error) },
            },
        }
    }

    fn conflicts(
        &self,
        step: &StepSpec,
        before: &BeforeImage,
        _after: Option<&AfterImage>,
        strict: bool,
        scope: &Scope,
    ) -> Result<Vec<Conflict>, DriverError> {
        let before: Before = before.data()?;
        let path = database(step)?.absolute();
        Ok(match self.see(step, &before, &open(&path, false)?, scope)?.0 {
            Seen::Foreign(conflicts) => conflicts,
            Seen::AsBefore if strict => vec![Conflict {
                resource: uri(&path, None),
                before: before.digest_before.clone(),
                left: before.digest_meant.clone(),
                found: "as before the step".to_owned(),
            }],
            Seen::Same | Seen::AsBefore | Seen::AsLeft => Vec::new(),
        })
    }

    fn check_image(&self, before: &BeforeImage) -> Result<(), DriverError> {
        match before.data::<Before>()?.image {
            Image::Rows(reference) => self.store.blob(&reference).map(drop),
            Image::Backup(reference) => self.store.verify(&reference),
        }
        .map_err(snapshot_failed)
    }

    fn undo(
        &self,
        step: &StepSpec,
        before: &BeforeImage,
        _after: Option<&AfterImage>,
        token: Token,
        scope: &Scope,
    ) -> Result<(), UndoError> {
        scope.may_undo(step, token).map_err(DriverError::from)?;
        let before: Before = before.data()?;
        let path = database(step)?.absolute();
        match &before.image {
            Image::Rows(_) => self.undo_rows(step, &before, &mut open(&path, false)?, &path, scope),
            Image::Backup(reference) => self.undo_from_backup(step, &before, reference, &path, scope),
        }
    }

    fn check(&self, check: &Check, facts: &Facts, scope: &Scope) -> Result<CheckOutcome, DriverError> {
        let wanted: Query = crate::file::check_params(check)?;
        let path = placed(&wanted.database, facts)?.absolute();
        let mut db = open(&path, false)?;
        limit(&mut db, CHECK_MS, Some(scope.cancel.clone()));
        db.pragma_update(None, "query_only", true).map_err(failed("read", &path))?;
        let sql = "SELECT CAST((";
        let text = format!("{sql}{}) AS TEXT)", wanted.query.trim().trim_end_matches(';'));
        let found: Option<String> = db.query_row(&text, [], |row| row.get(0)).map_err(failed("query", &path))?;
        let saw = format!("{} gave {}", wanted.query, found.as_deref().unwrap_or("NULL"));
        Ok(CheckOutcome { passed: found.as_deref() == Some(wanted.equals.as_str()), saw })
    }

    fn end_leftovers(
        &self,
        _step: &StepSpec,
        _before: Option<&BeforeImage>,
        scope: &Scope,
    ) -> Result<u32, DriverError> {
        let prefix = snapshots::temporary_prefix(&scope.run);
        let mut count = 0;
        for entry in std::fs::read_dir(self.store.folder()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                count += u32::from(std::fs::remove_dir_all(entry.path()).is_ok());
            }
        }
        Ok(count)
    }
}

impl Sqlite {
    /// Runs the statements in the open transaction; what they leave is noted durably before the caller commits.
    fn act(
        &self,
        step: &StepSpec,
        params: &Execute,
        before: &Before,
        db: &mut Connection,
        path: &Path,
        scope: &Scope,
    ) -> Result<Effects, DriverError> {
        let effects = session::run(db, &params.statements, path, false)?;
        if let Some(broken) = broken_bounds(step.expect.as_ref(), &effects) {
            return Err(DriverError::Refused(broken));
        }
        let by_rows = matches!(before.image, Image::Rows(_));
        let covered = match &before.image {
            Image::Backup(_) => effects.digest_before == before.digest_before,
            Image::Rows(reference) => same_before(&self.stored_rows(reference)?, &effects.changes),
        };
        if !covered {
            return Err(DriverError::Stale(format!("{} changed since the before-image was taken", path.display())));
        }
        self.write_note(step, scope, &effects, by_rows)?;
        Ok(effects)
    }

    fn undo_rows(
        &self,
        step: &StepSpec,
        before: &Before,
        db: &mut Connection,
        path: &Path,
        scope: &Scope,
    ) -> Result<(), UndoError> {
        let sql = failed("put back", path);
        db.execute_batch("BEGIN IMMEDIATE").map_err(&sql)?;
        let outcome = self.undo_in_transaction(step, before, db, path, scope);
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        db.execute_batch(end).map_err(&sql)?;
        outcome
    }

    fn undo_in_transaction(
        &self,
        step: &StepSpec,
        before: &Before,
        db: &Connection,
        path: &Path,
        scope: &Scope,
    ) -> Result<(), UndoError> {
        let sql = failed("put back", path);
        let (seen, changes) = self.see(step, before, db, scope)?;
        match seen {
            Seen::AsBefore => return Ok(()),
            Seen::Foreign(conflicts) => return Err(UndoError::Clobber(conflicts)),
            Seen::AsLeft | Seen::Same => {}
        }
        let sequences = self.sequences_to_restore(step, before, db, path, scope)?;
        let known = tables(db).map_err(&sql)?.tables;
        let broken_before = violations(db).map_err(&sql)?;
        take_back(db, &known, &changes, &sequences).map_err(&sql)?;
        let broken = violations(db).map_err(&sql)?;
        if let Some(orphan) = broken.iter().find(|violation| !broken_before.contains(*violation)) {
            return Err(UndoError::Clobber(vec![Conflict {
                resource: uri(path, Some(&orphan.0)),
                before: "no row refers to what the step inserted".to_owned(),
                left: "likewise".to_owned(),
                found: format!("row {} refers to a row of {} that would go", orphan.1, orphan.2),
            }]));
        }
        match see_rows(db, &changes, "").map_err(&sql)? {
            Seen::AsBefore | Seen::Same => Ok(()),
            Seen::AsLeft | Seen::Foreign(_) => {
                Err(DriverError::Tool(format!("{} is not as before after putting rows back", path.display())).into())
            }
        }
    }

    /// Counters that nobody moved since go back; those that moved on stay, or somebody else's ids would be given out twice.
    fn sequences_to_restore(
        &self,
        step: &StepSpec,
        before: &Before,
        db: &Connection,
        path: &Path,
        scope: &Scope,
    ) -> Result<BTreeMap<String, i64>, DriverError> {
        let left = self.note(step, scope)?.map_or(before.sequences_meant.clone(), |note| note.sequences_after);
        let now = rows::sequences(db).map_err(failed("read", path))?;
        let mut wanted = now.clone();
        let names: std::collections::BTreeSet<&String> = left.keys().chain(before.sequences_before.keys()).collect();
        for name in names {
            if now.get(name) == left.get(name) {
                match before.sequences_before.get(name) {
                    Some(seq) => wanted.insert(name.clone(), *seq),
                    None => wanted.remove(name),
                };
            }
        }
        Ok(wanted)
    }
}

/// Whether two runs of the statements touch the same rows with the same old values.
fn same_before(captured: &[RowChange], now: &[RowChange]) -> bool {
    let key = |change: &RowChange| (change.table.clone(), change.before.as_ref().map(|row| encoded(row)));
    let old = |changes: &[RowChange]| {
        let mut keys: Vec<_> = changes.iter().filter(|change| change.before.is_some()).map(key).collect();
        keys.sort();
        keys
    };
    captured.len() == now.len() && old(captured) == old(now)
}

fn conflict_text(conflicts: &[Conflict]) -> String {
    let first = conflicts
        .first()
        .map_or(String::new(), |c| format!("{} is neither as before nor as the step leaves it", c.resource));
    format!("{first} ({} in all)", conflicts.len())
}

fn row_text(counts: &BTreeMap<String, RowCount>) -> String {
    let one = |(table, rows): (&String, &RowCount)| {
        format!("{table}: {} inserted, {} updated, {} deleted", rows.inserted, rows.updated, rows.deleted)
    };
    counts.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn assessed(
    step: &StepSpec,
    effects: &Effects,
    path: &Path,
    priors: &[&StepSpec],
) -> Result<StepAssessment, DriverError> {
    let found = &effects.counts;
    if let Some(unknown) = unknown_table(step.expect.as_ref(), effects) {
        return Err(DriverError::Refused(unknown));
    }
    let change = |resource: String, rows| ResourceChange {
        resource,
        change: ChangeKind::Updated,
        bytes: None,
        rows,
        digest: None,
    };
    let mut changes: Vec<ResourceChange> =
        found.iter().map(|(table, rows)| change(uri(path, Some(table)), Some(*rows))).collect();
    if effects.schema_changed {
        changes.push(change(uri(path, Some("sqlite_schema")), None));
    }
    let share = found.iter().fold(None, |worst, (table, rows)| {
        let whole = effects.rows_before.get(table).copied().unwrap_or(0);
        Share::worse(worst, (whole > 0).then_some(Share { part: rows.deleted, whole }))
    });
    let way = if effects.row_by_row { "row by row, tried out" } else { "from a backup of the whole database" };
    let mut notes = vec![format!("can be put back {way}")];
    if !effects.triggers.is_empty() {
        notes.push(format!("triggers that may fire: {}", effects.triggers.join(", ")));
    }
    notes.extend(priors.iter().map(|prior| format!("acts on what step {} leaves", prior.id)));
    let mut fingerprints = BTreeMap::new();
    if priors.is_empty() {
        fingerprints.insert(uri(path, None), fingerprint(effects));
    }
    let unseen = StepAssessment::unseen(&step.id, step.lowered.class, step.lowered.way_back.clone());
    Ok(StepAssessment {
        changes,
        fingerprints,
        confidence: if priors.is_empty() { Confidence::Verified } else { Confidence::Simulated },
        preview: row_text(&effects.counts),
        share,
        notes,
        ..unseen
    })
}
