//! Kind `file`: write, append, replace, move, copy, delete, chmod, symlink.
//!
//! Every name changes in one atomic step of the file system, so that after a crash each name is as before or as meant;
//! what is neither was changed by somebody else and is never overwritten.

mod checks;
mod delete;
pub(crate) mod io;
mod lower;
mod params;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernel::{
    AfterImage, BeforeImage, CheckOutcome, Claim, Conflict, Driver, DriverError, Facts, Kind, Lowered, Output, Scope,
    Sighting, StepSpec, Token, UndoError,
};
use schemas::{
    Change, ChangeKind, Check, Confidence, Finding, PlanStep, ResourceChange, Share, StepAssessment, schema_of_type,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapshots::{Entry, Node, Root, SnapshotRef, Store, Tree, restore, scan};

use crate::folders::{FolderTimes, are_back, clear_leftovers, put_back, times_around};
use crate::paths::snapshot_failed;

pub(crate) use self::checks::params as check_params;

/// The kind.
pub(crate) struct File {
    store: Store,
}

/// What is kept of what was there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    root: PathBuf,
    paths: Vec<PathBuf>,
    snapshot: SnapshotRef,
    /// What each name is to be, blind to times.
    meant: BTreeMap<String, String>,
    /// Times of the folders that the names are in.
    folders: FolderTimes,
}

/// What the step left, by name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct After(BTreeMap<String, String>);

impl File {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    fn look(&self, before: &Before) -> Result<(Root, Tree, Tree), DriverError> {
        let root = Root::open(&before.root).map_err(snapshot_failed)?;
        let tree = self.store.tree(&before.snapshot).map_err(snapshot_failed)?;
        let now = scan(&root, &before.paths, Some(&tree)).map_err(snapshot_failed)?;
        Ok((root, tree, now))
    }

    fn scope(&self, step: &StepSpec) -> Result<(Root, Vec<PathBuf>), DriverError> {
        let (root, paths) = lower::scope_of(step)?;
        let paths = delete::narrowed(step, &root, paths)?;
        Ok((Root::open(&root).map_err(snapshot_failed)?, paths))
    }
}

impl Kind for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn operations(&self) -> &'static [&'static str] {
        &["write", "append", "replace", "move", "copy", "delete", "chmod", "symlink"]
    }

    fn checks(&self) -> &'static [&'static str] {
        &["digest", "contains", "exists", "absent"]
    }

    fn schema(&self, operation: &str) -> Option<Value> {
        let file = format!("file.{operation}.v1.json");
        Some(match operation {
            "write" => schema_of_type::<params::Write>(&file),
            "append" => schema_of_type::<params::Append>(&file),
            "replace" => schema_of_type::<params::Replace>(&file),
            "move" | "copy" => schema_of_type::<params::FromTo>(&file),
            "delete" => schema_of_type::<params::Delete>(&file),
            "chmod" => schema_of_type::<params::Chmod>(&file),
            "symlink" => schema_of_type::<params::Symlink>(&file),
            "digest" => schema_of_type::<params::DigestCheck>(&file),
            "contains" => schema_of_type::<params::ContainsCheck>(&file),
            "exists" | "absent" => schema_of_type::<params::PathCheck>(&file),
            _ => return None,
        })
    }

    fn lower(&self, step: &PlanStep, ix: usize, facts: &Facts) -> Result<Lowered, Vec<Finding>> {
        lower::lower(step, ix, facts)
    }
}

impl Driver for File {
    fn probe(&self, step: &StepSpec, priors: &[&StepSpec]) -> Result<StepAssessment, DriverError> {
        crate::reach::refuse_repository(step)?;
        let (root_path, paths) = lower::scope_of(step)?;
        let mut assessment = assessment(step);
        if let [prior, ..] = priors {
            if delete::is_open_ended(step) {
                let text = format!("what it would delete depends on what step {} leaves: name each file", prior.id);
                return Err(DriverError::Refused(text));
            }
            assessment.confidence = Confidence::Simulated;
            assessment.notes.push(format!("acts on what step {} leaves", prior.id));
            let kind = if step.operation() == "delete" { ChangeKind::Deleted } else { ChangeKind::Updated };
            assessment.changes = step.lowered.writes.iter().map(|r| changed(r.to_string(), kind)).collect();
            assessment.reaches = crate::reach::beneath(step)?;
            return Ok(assessment);
        }
        let root = Root::open(&root_path).map_err(snapshot_failed)?;
        let tree = scan(&root, &paths, None).map_err(snapshot_failed)?;
        let mut step = step.clone();
        if let Some(matched) = delete::expand(&step, &root_path, &tree)? {
            let files = tree.entries.iter().filter(|entry| entry.exists() && entry.node != Node::Folder).count();
            assessment.by_wildcard = true;
            assessment.share = Some(Share { part: matched.len() as u64, whole: files as u64 });
            assessment.notes.push(format!("the pattern matches {} of {files} files", matched.len()));
            assessment.pinned = matched.iter().map(|path| root_path.join(path).display().to_string()).collect();
            step.pinned.clone_from(&assessment.pinned);
        }
        let goals = io::goals(&step, &root_path, &tree, &|path| io::read_beneath(&root, path))?;
        if let Some(odd) = goals.iter().find(|goal| goal.entry.path.to_str().is_none()) {
            let text = format!("{} is a name that is not UTF-8, which a record cannot hold", odd.entry.path.display());
            return Err(DriverError::Refused(text));
        }
        if assessment.share.is_none() {
            assessment.share = delete::share(&step, &root, &root_path, &goals)?;
        }
        describe(&mut assessment, &root_path, &tree, &goals, &root);
        Ok(assessment)
    }

    fn prepare(&self, step: &StepSpec, _scope: &Scope) -> Result<BeforeImage, DriverError> {
        crate::reach::refuse_repository(step)?;
        let (root, paths) = self.scope(step)?;
        let (snapshot, tree) = self.store.capture(&root, &paths, None).map_err(snapshot_failed)?;
        let read = |path: &Path| self.stored(&snapshot, path);
        let goals = io::goals(step, root.path(), &tree, &read)?;
        let meant = goals.iter().map(|goal| (key(&goal.entry.path), goal.entry.content_fingerprint())).collect();
        let folders = times_around(&root, goals.iter().map(|goal| goal.entry.path.as_path()))?;
        let fingerprints = fingerprints(root.path(), &tree, &goals);
        let root = root.path().to_owned();
        BeforeImage::new(fingerprints, &Before { root, paths, snapshot, meant, folders })
    }

    fn apply(&self, step: &StepSpec, before: &BeforeImage, token: Token, scope: &Scope) -> Result<Output, DriverError> {
        scope.may_apply(step, token)?;
        let before: Before = before.data()?;
        let (root, tree, now) = self.look(&before)?;
        if let Some(foreign) = survey(&before, &tree, &now, &scope.run).foreign.first() {
            return Err(DriverError::Stale(format!("{} changed since it was captured", foreign.resource)));
        }
        let goals = io::goals(step, &before.root, &tree, &|path| self.stored(&before.snapshot, path))?;
        io::reach(&root, &goals, &now, &scope.run)?;
        Ok(Output::default())
    }

    fn observe(&self, _step: &StepSpec, before: &BeforeImage, claim: Option<Claim>, scope: &Scope) -> Sighting {
        let looked = before.data::<Before>().and_then(|data| Ok((self.look(&data)?, data)));
        let ((_, tree, now), before) = match looked {
            Ok(looked) => looked,
            Err(error) => return Sighting::Unclear { detail: kernel_detail(&error) },
        };
        survey(&before, &tree, &now, &scope.run).sighting(claim)
    }

    fn conflicts(
        &self,
        _step: &StepSpec,
        before: &BeforeImage,
        after: Option<&AfterImage>,
        strict: bool,
        scope: &Scope,
    ) -> Result<Vec<Conflict>, DriverError> {
        let before: Before = before.data()?;
        let (_, tree, now) = self.look(&before)?;
        conflicts_of(&before, after, &tree, &now, strict, scope)
    }

    fn check_image(&self, before: &BeforeImage) -> Result<(), DriverError> {
        self.store.verify(&before.data::<Before>()?.snapshot).map_err(snapshot_failed)
    }

    fn undo(
        &self,
        step: &StepSpec,
        before: &BeforeImage,
        after: Option<&AfterImage>,
        token: Token,
        scope: &Scope,
    ) -> Result<(), UndoError> {
        scope.may_undo(step, token).map_err(DriverError::from)?;
        let before: Before = before.data()?;
        let (root, tree, now) = self.look(&before)?;
        let conflicts = conflicts_of(&before, after, &tree, &now, false, scope)?;
        if !conflicts.is_empty() {
            return Err(UndoError::Clobber(conflicts));
        }
        let restored = restore(&self.store, &root, &before.paths, &before.snapshot, &now, &scope.run);
        put_back(&root, &before.folders)?;
        restored.map(|_| ()).map_err(|error| snapshot_failed(error).into())
    }

    fn is_exact(&self, before: &BeforeImage) -> bool {
        let before = before.data::<Before>().ok().and_then(|before| Some((Root::open(&before.root).ok()?, before)));
        before.is_none_or(|(root, before)| are_back(&root, &before.folders))
    }

    fn check(&self, check: &Check, facts: &Facts, _scope: &Scope) -> Result<CheckOutcome, DriverError> {
        checks::check(check, facts)
    }

    fn end_leftovers(&self, _step: &StepSpec, before: Option<&BeforeImage>, scope: &Scope) -> Result<u32, DriverError> {
        let Some(before) = before.map(BeforeImage::data::<Before>).transpose()? else { return Ok(0) };
        let root = Root::open(&before.root).map_err(snapshot_failed)?;
        let tree = self.store.tree(&before.snapshot).map_err(snapshot_failed)?;
        clear_leftovers(&root, &tree, &before.folders, &scope.run)
    }
}

impl File {
    fn stored(&self, snapshot: &SnapshotRef, path: &Path) -> Result<Vec<u8>, DriverError> {
        let limit = schemas::Limits::STRING_BYTES as u64 * 8;
        let found = self.store.file(snapshot, path, limit).map_err(snapshot_failed)?;
        found.ok_or_else(|| DriverError::Refused(format!("{} is not in the before-image", path.display())))
    }
}

/// How every name of a step stands to what it was and what it was meant to be.
struct Survey {
    as_before: bool,
    as_meant: bool,
    after: BTreeMap<String, String>,
    changes: Vec<Change>,
    foreign: Vec<Conflict>,
}

impl Survey {
    fn sighting(self, claim: Option<Claim>) -> Sighting {
        if let [first, ..] = self.foreign.as_slice() {
            let detail = format!(
                "{} is {}, neither as before ({}) nor as the step leaves it ({})",
                first.resource, first.found, first.before, first.left
            );
            return Sighting::Unclear { detail };
        }
        // A step that changes nothing leaves what was: only its driver's word tells that it is there.
        if self.as_before && (!self.as_meant || claim != Some(Claim::Done)) {
            return Sighting::Absent;
        }
        if self.as_meant {
            return match AfterImage::new(&After(self.after)) {
                Ok(after) => Sighting::Present { after, changes: self.changes },
                Err(error) => Sighting::Unclear { detail: kernel_detail(&error) },
            };
        }
        match AfterImage::new(&After(self.after)) {
            Ok(after) => {
                let detail = "some names, or their times, are changed".to_owned();
                Sighting::Partial { after, changes: self.changes, detail }
            }
            Err(error) => Sighting::Unclear { detail: kernel_detail(&error) },
        }
    }
}

fn survey(before: &Before, tree: &Tree, now: &Tree, run: &str) -> Survey {
    let own = snapshots::temporary_prefix(run);
    let mut out =
        Survey { as_before: true, as_meant: true, after: BTreeMap::new(), changes: Vec::new(), foreign: Vec::new() };
    let absent = |path: &Path| io::gone(path.to_owned());
    let names: std::collections::BTreeSet<&Path> =
        tree.entries.iter().chain(&now.entries).map(|entry| entry.path.as_path()).collect();
    for path in names {
        let was = tree.get(path).cloned().unwrap_or_else(|| absent(path));
        let is = now.get(path).cloned().unwrap_or_else(|| absent(path));
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own)) {
            continue;
        }
        let meant = before.meant.get(&key(path)).cloned().unwrap_or_else(|| was.content_fingerprint());
        let found = is.content_fingerprint();
        // The time of a folder changes when a name in it does: that is no change of the folder's own.
        let same = was.same_as(&is) || (was.node == Node::Folder && was.content_fingerprint() == found);
        out.as_before &= same;
        out.as_meant &= found == meant;
        let resource = format!("file:{}", before.root.join(path).display());
        // What differs in its time alone holds nobody's work: putting it back sets the time.
        if !same && found != meant && found != was.content_fingerprint() {
            let conflict = Conflict { resource, before: short(&was), left: cut(&meant), found: short(&is) };
            out.foreign.push(conflict);
            continue;
        }
        out.after.insert(key(path), found);
        if !same {
            out.changes.push(change(resource, &was, &is));
        }
    }
    out
}

fn conflicts_of(
    before: &Before,
    after: Option<&AfterImage>,
    tree: &Tree,
    now: &Tree,
    strict: bool,
    scope: &Scope,
) -> Result<Vec<Conflict>, DriverError> {
    let mut out = survey(before, tree, now, &scope.run).foreign;
    if let Some(after) = after {
        let left: After = after.data()?;
        let since = changed_since(&before.root, &left, tree, now, strict);
        out.extend(since.into_iter().filter(|new| !known(&out, &new.resource)).collect::<Vec<_>>());
    }
    Ok(out)
}

fn known(conflicts: &[Conflict], resource: &str) -> bool {
    conflicts.iter().any(|conflict| conflict.resource == resource)
}

/// Names that are not as the step left them, nor, unless `strict`, as before.
fn changed_since(root: &Path, left: &After, tree: &Tree, now: &Tree, strict: bool) -> Vec<Conflict> {
    let mut out = Vec::new();
    for (name, fingerprint) in &left.0 {
        let path = Path::new(name);
        let is = now.get(path).cloned().unwrap_or_else(|| io::gone(path.to_owned()));
        let was = tree.get(path).cloned().unwrap_or_else(|| io::gone(path.to_owned()));
        let found = is.content_fingerprint();
        if is.node == Node::Folder || found == *fingerprint || (!strict && found == was.content_fingerprint()) {
            continue;
        }
        let resource = format!("file:{}", root.join(path).display());
        out.push(Conflict { resource, before: short(&was), left: cut(fingerprint), found: short(&is) });
    }
    out
}

fn change(resource: String, was: &Entry, is: &Entry) -> Change {
    let kind = match (was.exists(), is.exists()) {
        (false, _) => ChangeKind::Created,
        (true, false) => ChangeKind::Deleted,
        (true, true) => ChangeKind::Updated,
    };
    let print = |entry: &Entry| entry.exists().then(|| entry.fingerprint());
    Change { resource, change: kind, before: print(was), after: print(is), rows: None }
}

fn changed(resource: String, change: ChangeKind) -> ResourceChange {
    ResourceChange { resource, change, bytes: None, rows: None, digest: None }
}

/// An assessment in which nothing has been seen yet.
pub(crate) fn assessment(step: &StepSpec) -> StepAssessment {
    let unseen = StepAssessment::unseen(&step.id, step.lowered.class, step.lowered.way_back.clone());
    StepAssessment { confidence: Confidence::Verified, ..unseen }
}

fn describe(assessment: &mut StepAssessment, root_path: &Path, tree: &Tree, goals: &[io::Goal], root: &Root) {
    assessment.fingerprints = fingerprints(root_path, tree, goals);
    for goal in goals {
        let was = tree.get(&goal.entry.path).filter(|entry| entry.exists());
        let kind = match (was, goal.entry.exists()) {
            (None, false) => continue,
            (None, true) => ChangeKind::Created,
            (Some(_), false) => ChangeKind::Deleted,
            (Some(was), true) if was.content_fingerprint() == goal.entry.content_fingerprint() => continue,
            (Some(_), true) => ChangeKind::Updated,
        };
        let size = |entry: &Entry| if let Node::File(content) = &entry.node { Some(content.size) } else { None };
        let bytes = if goal.entry.exists() { size(&goal.entry) } else { was.and_then(size) };
        let resource = format!("file:{}", root_path.join(&goal.entry.path).display());
        assessment.changes.push(ResourceChange { bytes, ..changed(resource, kind) });
        if let io::How::Bytes(new) = &goal.how {
            let old = was.and_then(|_| io::read_beneath(root, &goal.entry.path).ok()).unwrap_or_default();
            assessment.preview.push_str(&crate::preview::diff(&goal.entry.path, &old, new));
        }
    }
}

fn fingerprints(root: &Path, tree: &Tree, goals: &[io::Goal]) -> BTreeMap<String, String> {
    let touched = goals.iter().map(|goal| goal.entry.path.as_path());
    let absent = |path: &Path| io::gone(path.to_owned());
    touched
        .map(|path| {
            let entry = tree.get(path).cloned().unwrap_or_else(|| absent(path));
            (format!("file:{}", root.join(path).display()), entry.content_fingerprint())
        })
        .collect()
}

fn key(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn short(entry: &Entry) -> String {
    cut(&entry.content_fingerprint())
}

fn cut(fingerprint: &str) -> String {
    fingerprint.chars().take(19).collect()
}

/// An error with its cause, for a record.
pub(crate) fn kernel_detail(error: &DriverError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
