//! Kind `command`: a program with declared reads and writes, a captured past, and a way back from the plan or the library.
//!
//! What a program changes beyond its declared files is seen only through `capture` and `present`; what neither shows is
//! `Unclear`, never `Absent`.

mod beside;
mod confine;
mod contained;
mod inventory;
mod lower;
mod params;
pub(crate) mod process;
mod terraform;
#[cfg(test)]
mod tests;
mod trial;
mod walled;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::{
    AfterImage, Ahead, BeforeImage, CheckOutcome, Claim, Conflict, Driver, DriverError, Facts, Kind, Lowered, Output,
    Scope, SideCommand, Sighting, StepSpec, Token, TriedOut, UndoError,
};
use schemas::{Change, ChangeKind, Check, Confidence, Finding, PlanStep, Resource, StepAssessment, schema_of_type};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapshots::{Entry, Root, SnapshotRef, Store, Tree, restore, scan};

use self::beside::{Beside, SIDE_TIMEOUT_MS, digest_of};
pub use self::confine::Confinement;
use self::confine::Reach;
use self::params::{Commit, Run, Succeeds};
use self::process::{Ground, Program};
use crate::file::kernel_detail;
use crate::folders::{FolderTimes, are_back, clear_leftovers, put_back, times_around};
use crate::paths::{place, placed, snapshot_failed};

/// Milliseconds that a step has where the plan does not say.
const TIMEOUT_MS: u64 = 10 * 60 * 1000;

/// The kind.
pub(crate) struct Command {
    store: Store,
    /// Where commands run; on no machine of ours are they run without.
    confinement: Option<Arc<Confinement>>,
}

/// What is kept of what was there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    watched: Vec<Watched>,
    /// Captured values, in the store because they may be secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    captured: Option<SnapshotRef>,
    /// What `present` said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    present: bool,
}

/// Declared paths beneath one root.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Watched {
    root: PathBuf,
    paths: Vec<PathBuf>,
    snapshot: SnapshotRef,
    folders: FolderTimes,
}

/// What the step left.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    /// Changed names with their fingerprints.
    files: BTreeMap<String, String>,
    /// Digest of the captured values, where any are captured.
    captured: Option<String>,
}

/// Captured values by name.
type Captured = BTreeMap<String, String>;

/// One watched root as it was and as it is.
struct Compared<'a> {
    watched: &'a Watched,
    was: Tree,
    is: Tree,
}

impl Command {
    pub(crate) fn new(store: Store, confinement: Option<Arc<Confinement>>) -> Self {
        Self { store, confinement }
    }

    fn ground<'a>(&'a self, reach: &'a Reach) -> Ground<'a> {
        self.confinement.as_deref().map_or(Ground::Plain, |confinement| Ground::Walled(confinement, reach))
    }

    /// Runs a command beside the step: it writes nothing but `writes`.
    fn side(
        &self,
        beside: &Beside<'_>,
        argv: &[String],
        stdin: Option<&[u8]>,
        scope: &Scope,
    ) -> Result<Output, DriverError> {
        let reach = Reach::to_look(argv, beside.facts, beside.writes);
        let (env, ground) = (BTreeMap::new(), self.ground(&reach));
        let (cwd, timeout_ms) = (beside.cwd, beside.timeout_ms);
        process::run(&Program {
            argv,
            cwd,
            env: &env,
            stdin,
            timeout_ms,
            run: &scope.run,
            cancel: &scope.cancel,
            ground,
        })
    }

    fn compare<'a>(&self, before: &'a Before) -> Result<Vec<Compared<'a>>, DriverError> {
        let one = |watched: &'a Watched| {
            let was = self.store.tree(&watched.snapshot).map_err(snapshot_failed)?;
            let root = Root::open(&watched.root).map_err(snapshot_failed)?;
            let is = scan(&root, &watched.paths, Some(&was)).map_err(snapshot_failed)?;
            Ok(Compared { watched, was, is })
        };
        before.watched.iter().map(one).collect()
    }

    fn captured(&self, before: &Before) -> Result<Captured, DriverError> {
        let Some(reference) = &before.captured else { return Ok(Captured::new()) };
        let bytes = self.store.blob(reference).map_err(snapshot_failed)?;
        serde_json::from_slice(&bytes).map_err(|error| DriverError::Image(error.to_string()))
    }

    /// What can be seen of the step now.
    fn see(
        &self,
        step: &StepSpec,
        before: &BeforeImage,
        claim: Option<Claim>,
        scope: &Scope,
    ) -> Result<Seen, DriverError> {
        let params: Run = step.params()?;
        let way = lower::way(&params, step.undo.as_ref(), &step.facts);
        let before: Before = before.data()?;
        let compared = self.compare(&before)?;
        let mut seen = Seen { observable: way.files_only, ..Seen::default() };
        if lower::can_be_tried(&params, step.undo.is_some(), &step.facts) {
            // It changes the world by its commit alone: before that was announced nothing is its own, and then what was announced is.
            let confinement = self.confinement.as_ref();
            let announced = confinement.and_then(|confinement| confinement.announced(&scope.run, step.ix.at()));
            seen.observable = true;
            match (&announced, claim) {
                (None, Some(Claim::Done)) => {
                    return Err(DriverError::Image("the note of what its commit leaves is gone".to_owned()));
                }
                // Whoever came back from the step knows that it announced nothing. Nobody else can tell that from a note that is gone: what
                // differs then is somebody's, and not known whose.
                // One that announced nothing says as little: whatever differs is not its own, if the note is.
                _ if claim.is_none() && announced.as_ref().is_none_or(BTreeMap::is_empty) => {
                    seen.committed = Some(false);
                    compared.iter().for_each(|part| part.note(&mut seen, Some(i64::MIN), None));
                    return Ok(seen);
                }
                _ => {}
            }
            let left = announced.unwrap_or_default();
            seen.committed = Some(compared.iter().all(|part| part.has_all(&left)));
            compared.iter().for_each(|part| part.note(&mut seen, None, Some(&left)));
            return Ok(seen);
        }
        for part in &compared {
            part.note(&mut seen, scope.alive_until_ms, None);
        }
        if !way.captures.is_empty() {
            let now = self.capture(step, &params, &way, scope)?;
            seen.observable = true;
            seen.captured_differs = now != self.captured(&before)?;
            seen.after.captured = Some(digest_of(&now));
        }
        if !way.present.is_empty() {
            seen.observable = true;
            let now = self.present(step, &params, &way, scope)?;
            seen.present = Some(now && !before.present);
            seen.withdrawn = before.present && !now;
        }
        Ok(seen)
    }
}

/// What was seen of a step.
#[derive(Default)]
struct Seen {
    after: After,
    changes: Vec<Change>,
    /// Changes that came after the last sign of life of the process that ran the step.
    late: Vec<String>,
    captured_differs: bool,
    /// Whether the effect is there and was not before.
    present: Option<bool>,
    /// Whether the effect was there before and is not now.
    withdrawn: bool,
    observable: bool,
    /// Of a step that changes the world by a commit alone: whether all of the commit is there.
    committed: Option<bool>,
}

impl Seen {
    fn sighting(self, claim: Option<Claim>) -> Sighting {
        let differs = !self.changes.is_empty() || self.captured_differs || self.present == Some(true) || self.withdrawn;
        if claim == Some(Claim::Done) {
            return self.with_after(|after, changes| Sighting::Present { after, changes });
        }
        if !self.observable {
            let changed: Vec<&str> = self.changes.iter().take(5).map(|change| change.resource.as_str()).collect();
            let changed = match changed.as_slice() {
                [] => "nothing of what it declares is changed".to_owned(),
                some => format!("changed since: {}", some.join(", ")),
            };
            let detail = format!(
                "nothing shows whether the command had all of its effect ({changed}): it declared neither present nor a capture"
            );
            return Sighting::Unclear { detail };
        }
        if !differs {
            return Sighting::Absent;
        }
        if let [first, ..] = self.late.as_slice() {
            let why = match self.committed {
                Some(_) => "is neither as before nor as the step leaves it: somebody else changed it",
                None => "changed after the last sign of life of the process that ran the step",
            };
            let detail = format!("{first} {why}");
            return Sighting::Unclear { detail };
        }
        if self.committed == Some(true) {
            return self.with_after(|after, changes| Sighting::Present { after, changes });
        }
        match (claim, self.present, self.captured_differs) {
            (_, Some(true), _) => self.with_after(|after, changes| Sighting::Present { after, changes }),
            (None, None, true) => {
                let detail = "the captured values differ, and nobody can say whose change it is".to_owned();
                Sighting::Unclear { detail }
            }
            _ => self.with_after(|after, changes| Sighting::Partial {
                after,
                changes,
                detail: "something is changed".to_owned(),
            }),
        }
    }

    fn with_after(self, make: impl FnOnce(AfterImage, Vec<Change>) -> Sighting) -> Sighting {
        match AfterImage::new(&self.after) {
            Ok(after) => make(after, self.changes),
            Err(error) => Sighting::Unclear { detail: kernel_detail(&error) },
        }
    }
}

impl Compared<'_> {
    fn uri(&self, path: &Path) -> String {
        format!("file:{}", self.watched.root.join(path).display())
    }

    /// Whether everything that a commit was to leave here is there.
    fn has_all(&self, left: &BTreeMap<String, String>) -> bool {
        let here = |uri: &String| {
            Some(Path::new(uri.strip_prefix("file:")?).strip_prefix(&self.watched.root).ok()?.to_owned())
        };
        let is = |path: &Path| {
            self.is.get(path).filter(|entry| entry.exists()).map_or("absent".to_owned(), Entry::content_fingerprint)
        };
        left.iter().all(|(uri, wanted)| here(uri).is_none_or(|path| is(&path) == *wanted))
    }

    /// `announced` is what the commit of a contained step leaves: that alone is the step's, whenever it came.
    fn note(&self, seen: &mut Seen, alive_until_ms: Option<i64>, announced: Option<&BTreeMap<String, String>>) {
        for difference in self.was.differences(&self.is) {
            let uri = self.uri(difference.path());
            if announced.is_some_and(|left| !left.contains_key(&uri)) {
                continue;
            }
            let print = |entry: Option<&Entry>| entry.filter(|entry| entry.exists()).map(Entry::fingerprint);
            let (before, after) = (print(difference.before), print(difference.after));
            let change = match (&before, &after) {
                (None, _) => ChangeKind::Created,
                (Some(_), None) => ChangeKind::Deleted,
                (Some(_), Some(_)) => ChangeKind::Updated,
            };
            let timeless = |entry: Option<&Entry>| {
                entry.filter(|entry| entry.exists()).map_or("absent".to_owned(), Entry::content_fingerprint)
            };
            let only_time = timeless(difference.before) == timeless(difference.after);
            let changed_ms = difference.after.map_or(0, |entry| entry.stamp.ctime_ns / 1_000_000);
            let is_folder = |entry: Option<&Entry>| entry.is_some_and(|e| e.node == snapshots::Node::Folder);
            let foreign = match announced {
                // On the way a name that changes its type is nothing, and a folder gets owner and mode last.
                Some(left) => {
                    let is = timeless(difference.after);
                    let on_the_way = is == "absent" || is_folder(difference.after);
                    left.get(&uri).is_none_or(|wanted| *wanted != is && !on_the_way)
                }
                None => alive_until_ms.is_some_and(|alive| changed_ms > alive),
            };
            if !only_time && foreign {
                seen.late.push(uri.clone());
            }
            seen.after.files.insert(uri.clone(), timeless(difference.after));
            // The time of a folder in which names change is a consequence, not a change of its own.
            if !(only_time && is_folder(difference.before)) {
                seen.changes.push(Change { resource: uri, change, before, after, rows: None });
            }
        }
    }

    /// Names that are neither as before, unless `strict`, nor as the step left them.
    fn conflicts(&self, left: &After, strict: bool) -> Vec<Conflict> {
        let conflict = |difference: &snapshots::Difference<'_>| {
            let resource = self.uri(difference.path());
            let print = |entry: Option<&Entry>| entry.map_or("absent".to_owned(), Entry::content_fingerprint);
            let (before, found) = (print(difference.before), print(difference.after));
            let left = left.files.get(&resource).cloned().unwrap_or_else(|| "as before".to_owned());
            (left != found && before != found).then_some(Conflict { resource, before, left, found })
        };
        let mut out: Vec<Conflict> = self.was.differences(&self.is).iter().filter_map(conflict).collect();
        for (resource, fingerprint) in left.files.iter().filter(|(_, print)| strict || *print == "absent") {
            let path = Path::new(resource.trim_start_matches("file:"));
            let Ok(relative) = path.strip_prefix(&self.watched.root) else { continue };
            let is = self.is.get(relative).map_or("absent".to_owned(), Entry::content_fingerprint);
            let was = self.was.get(relative).map_or("absent".to_owned(), Entry::content_fingerprint);
            if is != *fingerprint && (strict || is != was) && !out.iter().any(|known| known.resource == *resource) {
                out.push(Conflict { resource: resource.clone(), before: was, left: fingerprint.clone(), found: is });
            }
        }
        out
    }
}

impl Kind for Command {
    fn name(&self) -> &'static str {
        "command"
    }

    fn operations(&self) -> &'static [&'static str] {
        &["run"]
    }

    fn checks(&self) -> &'static [&'static str] {
        &["succeeds"]
    }

    fn schema(&self, operation: &str) -> Option<Value> {
        match operation {
            "run" => Some(schema_of_type::<Run>("command.run.v1.json")),
            "succeeds" => Some(schema_of_type::<Succeeds>("command.succeeds.v1.json")),
            _ => None,
        }
    }

    fn commands_of(&self, check: &Check, facts: &Facts) -> Vec<SideCommand> {
        words::of_check(check, facts)
    }

    fn lower(&self, step: &PlanStep, ix: usize, facts: &Facts) -> Result<Lowered, Vec<Finding>> {
        lower::lower(step, ix, facts)
    }
}

impl Driver for Command {
    fn probe(&self, step: &StepSpec, priors: &[&StepSpec]) -> Result<StepAssessment, DriverError> {
        let params: Run = step.params()?;
        words::look_where_they_lead(step, &params)?;
        crate::reach::refuse_repository(step)?;
        let read_only = step.lowered.class == schemas::Class::TriviallyReversible && step.lowered.writes.is_empty();
        // What earlier steps leave cannot be told from what is there now; what lies there already can.
        let (fingerprints, reaches) =
            if priors.is_empty() { look(step)? } else { (BTreeMap::new(), crate::reach::beneath(step)?) };
        let mut notes =
            vec![format!("runs {} in {}", step.lowered.argv.join(" "), step.lowered.cwd.as_deref().unwrap_or("/"))];
        notes.extend(contained::note(step, &params).map(str::to_owned));
        notes.extend(priors.iter().map(|prior| format!("acts on what step {} leaves", prior.id)));
        let planned = if priors.is_empty() { terraform::saved_plan(self, step)? } else { None };
        let seen = read_only || planned.is_some();
        let planned = planned.unwrap_or_default();
        let unseen = lower::can_be_tried(&params, step.undo.is_some(), &step.facts);
        if unseen && params.commit == Some(Commit::Approved) {
            let text = "what earlier steps leave is not known, so that it could not be tried out and there is nothing to commit as it was \
                        approved: commit: rerun";
            return Err(DriverError::Refused(text.to_owned()));
        }
        let class = planned.class(if unseen { trial::class_of_unseen(step) } else { step.lowered.class });
        Ok(StepAssessment {
            fingerprints,
            reaches,
            confidence: if seen { Confidence::Simulated } else { Confidence::None },
            changes: planned.changes,
            hazards: planned.hazards.into_iter().collect(),
            notes,
            ..StepAssessment::unseen(&step.id, class, step.lowered.way_back.clone())
        })
    }

    fn try_out(&self, step: &StepSpec, ahead: &Ahead<'_>) -> Result<Option<TriedOut>, DriverError> {
        let params: Run = step.params()?;
        if !lower::can_be_tried(&params, step.undo.is_some(), &step.facts) {
            return Ok(None);
        }
        words::look_where_they_lead(step, &params)?;
        crate::reach::refuse_repository(step)?;
        self.try_on(step, &params, ahead)
    }

    fn prepare(&self, step: &StepSpec, scope: &Scope) -> Result<BeforeImage, DriverError> {
        let params: Run = step.params()?;
        let way = lower::way(&params, step.undo.as_ref(), &step.facts);
        let mut before = Before { watched: Vec::new(), captured: None, present: false };
        for (root, paths) in declared(step)? {
            let opened = Root::open(&root).map_err(snapshot_failed)?;
            let (snapshot, _) = self.store.capture(&opened, &paths, None).map_err(snapshot_failed)?;
            let folders = times_around(&opened, paths.iter().map(PathBuf::as_path))?;
            before.watched.push(Watched { root, paths, snapshot, folders });
        }
        if !way.captures.is_empty() {
            let captured = self.capture(step, &params, &way, scope)?;
            let bytes = serde_json::to_vec(&captured).map_err(|error| DriverError::Image(error.to_string()))?;
            before.captured = Some(self.store.put(&bytes).map_err(snapshot_failed)?);
        }
        if !way.present.is_empty() {
            before.present = self.present(step, &params, &way, scope)?;
        }
        let fingerprints = self.compare(&before)?.iter().flat_map(prints).collect();
        BeforeImage::new(fingerprints, &before)
    }

    fn apply(&self, step: &StepSpec, before: &BeforeImage, token: Token, scope: &Scope) -> Result<Output, DriverError> {
        scope.may_apply(step, token)?;
        let params: Run = step.params()?;
        words::look_where_they_lead(step, &params)?;
        if lower::is_contained(&params, step.undo.is_some(), &step.facts) {
            return self.apply_contained(step, &params, before, scope);
        }
        let cwd = lower::cwd_of(&params, &step.facts).map_err(DriverError::Refused)?;
        let reach = Reach::of_step(&params, step);
        let inventory = inventory::Inventory::take(&reach.writes, &step.lowered.writes)?;
        let output = process::run(&Program {
            argv: &params.argv,
            cwd: &cwd,
            env: &params.env,
            stdin: None,
            timeout_ms: step.timeout_ms.unwrap_or(TIMEOUT_MS),
            run: &scope.run,
            cancel: &scope.cancel,
            ground: self.ground(&reach),
        })?;
        match inventory.undeclared()? {
            None => Ok(output),
            Some(message) => Err(DriverError::Exit { message, output }),
        }
    }

    fn observe(&self, step: &StepSpec, before: &BeforeImage, claim: Option<Claim>, scope: &Scope) -> Sighting {
        match self.see(step, before, claim, scope) {
            Ok(seen) => seen.sighting(claim),
            Err(error) => Sighting::Unclear { detail: kernel_detail(&error) },
        }
    }

    fn conflicts(
        &self,
        step: &StepSpec,
        before: &BeforeImage,
        after: Option<&AfterImage>,
        strict: bool,
        scope: &Scope,
    ) -> Result<Vec<Conflict>, DriverError> {
        let Some(after) = after else { return Ok(Vec::new()) };
        let params: Run = step.params()?;
        let way = lower::way(&params, step.undo.as_ref(), &step.facts);
        let data: Before = before.data()?;
        let (captured, left) = (self.captured(&data)?, after.data::<After>()?);
        let compared = self.compare(&data)?;
        let mut out: Vec<Conflict> = compared.iter().flat_map(|part| part.conflicts(&left, strict)).collect();
        out.extend(self.captured_conflict(step, &params, &way, scope, (&left, &captured), strict)?);
        Ok(out)
    }

    fn check_image(&self, before: &BeforeImage) -> Result<(), DriverError> {
        let before: Before = before.data()?;
        before.watched.iter().try_for_each(|watched| self.store.verify(&watched.snapshot)).map_err(snapshot_failed)?;
        before.captured.iter().try_for_each(|reference| self.store.blob(reference).map(drop)).map_err(snapshot_failed)
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
        let params: Run = step.params()?;
        let way = lower::way(&params, step.undo.as_ref(), &step.facts);
        let data: Before = before.data()?;
        let captured = self.captured(&data)?;
        let conflicts = self.conflicts(step, before, after, false, scope)?;
        if !conflicts.is_empty() {
            return Err(UndoError::Clobber(conflicts));
        }
        if !way.undo.is_empty() && !self.is_nothing_to_take_back(step, &params, &way, scope, (&data, &captured))? {
            self.compensate(step, &params, &way, &captured, scope)?;
        }
        for watched in &data.watched {
            let root = Root::open(&watched.root).map_err(snapshot_failed)?;
            let was = self.store.tree(&watched.snapshot).map_err(snapshot_failed)?;
            let now = scan(&root, &watched.paths, Some(&was)).map_err(snapshot_failed)?;
            let restored = restore(&self.store, &root, &watched.paths, &watched.snapshot, &now, &scope.run);
            put_back(&root, &watched.folders)?;
            restored.map_err(snapshot_failed)?;
        }
        Ok(())
    }

    fn is_exact(&self, before: &BeforeImage) -> bool {
        let Ok(before) = before.data::<Before>() else { return true };
        let back = |watched: &Watched| Root::open(&watched.root).is_ok_and(|root| are_back(&root, &watched.folders));
        before.watched.iter().all(back)
    }

    fn check(&self, check: &Check, facts: &Facts, scope: &Scope) -> Result<CheckOutcome, DriverError> {
        let wanted: Succeeds = crate::file::check_params(check)?;
        let cwd = match (&wanted.cwd, facts.roots.first()) {
            (Some(cwd), _) => placed(cwd, facts)?.absolute(),
            (None, root) => root.cloned().unwrap_or_else(|| PathBuf::from("/")),
        };
        let timeout_ms = wanted.timeout_ms.unwrap_or(SIDE_TIMEOUT_MS);
        let outcome = self.side(&Beside { cwd: &cwd, facts, writes: &[], timeout_ms }, &wanted.argv, None, scope);
        let (passed, output) = match outcome {
            Ok(output) => (true, output),
            Err(DriverError::Exit { output, .. } | DriverError::TimedOut { output, .. }) => (false, output),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&output.captured).into_owned();
        let holds = wanted.output_contains.as_ref().is_none_or(|wanted| text.contains(wanted));
        let code = output.exit_code.unwrap_or(-1);
        let said: String = text.trim().chars().take(200).collect();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let saw = format!("{} exited with {code}{said}", wanted.argv.join(" "));
        Ok(CheckOutcome { passed: passed && holds, saw })
    }

    fn end_leftovers(&self, _step: &StepSpec, before: Option<&BeforeImage>, scope: &Scope) -> Result<u32, DriverError> {
        let mut count = process::end_marked(&scope.run, |_| true);
        if let Some(confinement) = &self.confinement {
            confinement.clear(&scope.run);
        }
        let Some(before) = before.map(BeforeImage::data::<Before>).transpose()? else { return Ok(count) };
        for watched in &before.watched {
            let root = Root::open(&watched.root).map_err(snapshot_failed)?;
            let was = self.store.tree(&watched.snapshot).map_err(snapshot_failed)?;
            count += clear_leftovers(&root, &was, &watched.folders, &scope.run)?;
        }
        Ok(count)
    }
}

/// Declared reads and writes, by root.
fn declared(step: &StepSpec) -> Result<Vec<(PathBuf, Vec<PathBuf>)>, DriverError> {
    let mut by_root: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for resource in step.lowered.writes.iter().chain(&step.lowered.reads) {
        let found = place(resource.path(), &step.facts).map_err(DriverError::Refused)?;
        by_root.entry(found.root).or_default().push(found.relative);
    }
    Ok(by_root.into_iter().collect())
}

/// Fingerprints of the declared paths, and the files beneath those that it may write, without storing anything.
fn look(step: &StepSpec) -> Result<(BTreeMap<String, String>, Vec<String>), DriverError> {
    let (mut prints, mut reaches) = (BTreeMap::new(), Vec::new());
    for (root, paths) in declared(step)? {
        let opened = Root::open(&root).map_err(snapshot_failed)?;
        for path in paths {
            let tree = scan(&opened, std::slice::from_ref(&path), None).map_err(snapshot_failed)?;
            let resource = Resource::file(root.join(&path).display().to_string());
            // A path that is read and written is declared twice, and is looked at twice with the same outcome.
            if step.lowered.writes.contains(&resource) && !prints.contains_key(&resource.to_string()) {
                crate::reach::note(&mut reaches, &root, &path, &tree)?;
            }
            prints.insert(resource.to_string(), tree.content_digest().to_string());
        }
    }
    Ok((prints, reaches))
}

fn prints(part: &Compared<'_>) -> Vec<(String, String)> {
    let below = |path: &PathBuf| {
        let inner = part.was.entries.iter().filter(|entry| entry.path.starts_with(path));
        Tree { entries: inner.cloned().collect() }.content_digest().to_string()
    };
    part.watched.paths.iter().map(|path| (part.uri(path), below(path))).collect()
}
