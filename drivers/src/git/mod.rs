//! Kind `git`: commit, branches, tags, merge, revert, push.
//!
//! Refs move by compare-and-swap only, here and at remotes. Commits are made with a time that is fixed in the before-image,
//! so that their ids are known before they exist and a crash leaves nothing to guess.

mod change;
mod params;
mod place;
mod remote;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use git2::{Oid, Repository};
use kernel::{
    AfterImage, BeforeImage, CheckOutcome, Claim, Conflict, Driver, DriverError, Facts, Kind, Lowered, Output,
    Resource, Scope, Sighting, StepSpec, Token, UndoError, parameters,
};
use schemas::{
    Act, Change, ChangeKind, Check, Class, Code, Confidence, Effectiveness, Finding, Hazard, PlanStep, ResourceChange,
    StepAssessment, Thing, Verb, WayBack, schema_of_type,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapshots::{Root, SnapshotRef, Store, restore, scan};

use self::change::{GitChange, RefMove, failed, resolve, work_out};
use self::params::{Commit, DeleteRef, Merge, Push, RefCheck, Revert, SetRef};
use self::place::{in_workdir, open};
use crate::file::kernel_detail;
use crate::folders::{FolderTimes, are_back, clear_leftovers, put_back, times_around};
use crate::paths::{place_or_finding, placed, snapshot_failed};

/// The kind.
pub(crate) struct Git {
    store: Store,
}

/// What is kept of what was there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    /// Absolute path of the repository as the plan names it.
    repo: PathBuf,
    time_s: i64,
    change: GitChange,
    /// Index file and files of the work tree, where they follow.
    files: Option<Files>,
    /// The reflog of a ref that goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reflog: Option<SnapshotRef>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    /// The folder that the paths are relative to.
    root: PathBuf,
    paths: Vec<PathBuf>,
    snapshot: SnapshotRef,
    folders: FolderTimes,
    /// What the index said, by content.
    index_before: String,
    /// What it is to say.
    index_meant: String,
}

/// How one part of a change stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Before,
    Left,
    /// Before and left are the same here.
    Both,
    Foreign,
}

impl Git {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }
}

/// A finding-sized summary of where a step acts: the repository and the part of it.
fn target(step: &PlanStep, ix: usize) -> Result<(String, Option<String>), Vec<Finding>> {
    let operation = step.uses.split_once('.').map_or("", |(_, operation)| operation);
    Ok(match operation {
        "commit" => (parameters::<Commit>(step, ix)?.repo, None),
        "merge" => (parameters::<Merge>(step, ix)?.repo, None),
        "revert" => (parameters::<Revert>(step, ix)?.repo, None),
        "push" => {
            let params: Push = parameters(step, ix)?;
            (params.repo, Some(format!("remotes/{}/refs/heads/{}", params.remote, params.branch)))
        }
        "branch_delete" | "tag_delete" => {
            let params: DeleteRef = parameters(step, ix)?;
            let folder = if operation == "tag_delete" { "tags" } else { "heads" };
            (params.repo, Some(format!("refs/{folder}/{}", params.name)))
        }
        _ => {
            let params: SetRef = parameters(step, ix)?;
            let folder = if operation.starts_with("tag") { "tags" } else { "heads" };
            (params.repo, Some(format!("refs/{folder}/{}", params.name)))
        }
    })
}

/// A repository whose new objects stay in memory.
fn open_to_try(path: &Path) -> Result<Repository, DriverError> {
    let repo = open(path)?;
    let odb = repo.odb().map_err(failed("read objects"))?;
    odb.add_new_mempack_backend(1_000).map_err(failed("keep objects in memory"))?;
    drop(odb);
    Ok(repo)
}

fn repo_path(step: &StepSpec) -> Result<PathBuf, DriverError> {
    let path = step.lowered.writes.first().map_or("", Resource::path);
    Ok(placed(path, &step.facts)?.absolute())
}

/// What the index says: paths, modes, stages and blobs, without the times that git refreshes as it likes.
fn index_digest(repo: &Repository) -> Result<String, DriverError> {
    let mut index = repo.index().map_err(failed("read the index"))?;
    index.read(true).map_err(failed("read the index"))?;
    Ok(digest_entries(index.iter()))
}

fn digest_entries(entries: impl Iterator<Item = git2::IndexEntry>) -> String {
    let mut hasher = blake3::Hasher::new();
    for entry in entries {
        hasher.update(&entry.path).update(&[0]).update(&entry.mode.to_le_bytes()).update(entry.id.as_bytes());
        hasher.update(&(entry.flags & 0x3000).to_le_bytes());
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}

/// The index that a change leaves: that of before, with the files of the new tree.
fn meant_index(repo: &Repository, change: &GitChange) -> Result<git2::Index, DriverError> {
    let mut index = repo.index().map_err(failed("read the index"))?;
    index.read(true).map_err(failed("read the index"))?;
    let Some((_, new)) = &change.trees else { return Ok(index) };
    let tree = Oid::from_str(new).and_then(|oid| repo.find_tree(oid)).map_err(failed("read a tree"))?;
    for path in &change.files {
        match tree.get_path(path) {
            Ok(found) => {
                let entry = git2::IndexEntry {
                    ctime: git2::IndexTime::new(0, 0),
                    mtime: git2::IndexTime::new(0, 0),
                    dev: 0,
                    ino: 0,
                    mode: found.filemode() as u32,
                    uid: 0,
                    gid: 0,
                    file_size: 0,
                    id: found.id(),
                    flags: 0,
                    flags_extended: 0,
                    path: std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec(),
                };
                index.add(&entry).map_err(failed("add a file to the index"))?;
            }
            Err(_) => index.remove_path(path).map_err(failed("remove a file from the index"))?,
        }
    }
    Ok(index)
}

impl Before {
    fn repo(&self) -> Result<Repository, DriverError> {
        open(&self.repo)
    }

    fn part(&self, part: &str) -> String {
        Resource::part("git", self.repo.display().to_string(), part).to_string()
    }

    fn uri(&self, moved: &RefMove) -> String {
        match &moved.remote {
            Some(remote) => self.part(&format!("remotes/{remote}/{}", moved.name)),
            None => self.part(&moved.name),
        }
    }

    /// Where every part of the change stands, with a conflict for each that somebody else moved.
    fn standings(&self, repo: &Repository) -> Result<(Vec<Standing>, Vec<Conflict>), DriverError> {
        let (mut standings, mut conflicts) = (Vec::new(), Vec::new());
        let text = |id: &Option<String>| id.clone().unwrap_or_else(|| "absent".to_owned());
        let mut note = |resource: String, before: String, left: String, found: String| {
            let standing = standing(&before, &left, &found);
            if standing == Standing::Foreign {
                conflicts.push(Conflict { resource, before, left, found });
            }
            standings.push(standing);
        };
        for moved in &self.change.refs {
            let found = read_ref(repo, moved)?;
            note(self.uri(moved), text(&moved.before), text(&moved.after), text(&found));
        }
        if let (Some(files), Some(branch)) = (&self.files, self.change.refs.first()) {
            // Index and files are those of the branch that was checked out.
            let resource = self.part("HEAD");
            let found = change::head(repo).map_or_else(|_| "detached".to_owned(), |(name, _)| name);
            note(resource, branch.name.clone(), branch.name.clone(), found);
            let resource = self.part("index");
            note(resource, files.index_before.clone(), files.index_meant.clone(), index_digest(repo)?);
        }
        if let (true, Some((old, new))) = (self.change.checkout, &self.change.trees) {
            for path in &self.change.files {
                let resource = format!("file:{}", self.repo.join(path).display());
                note(resource, in_tree(repo, old, path)?, in_tree(repo, new, path)?, in_workdir(repo, path)?);
            }
        }
        Ok((standings, conflicts))
    }
}

fn standing(before: &str, left: &str, found: &str) -> Standing {
    match (found == before, found == left) {
        (true, true) => Standing::Both,
        (true, false) => Standing::Before,
        (false, true) => Standing::Left,
        (false, false) => Standing::Foreign,
    }
}

fn read_ref(repo: &Repository, moved: &RefMove) -> Result<Option<String>, DriverError> {
    let found = match &moved.remote {
        Some(remote) => remote::read(repo, remote, &moved.name)?,
        None => match repo.find_reference(&moved.name) {
            Ok(found) => match found.target() {
                Some(oid) => Some(oid),
                None => {
                    let text = format!("{} stands for another ref: name that one", moved.name);
                    return Err(DriverError::Refused(text));
                }
            },
            Err(error) if error.code() == git2::ErrorCode::NotFound => None,
            Err(error) => return Err(failed(&format!("read {}", moved.name))(error)),
        },
    };
    Ok(found.map(|oid| oid.to_string()))
}

fn in_tree(repo: &Repository, tree: &str, path: &Path) -> Result<String, DriverError> {
    let tree = Oid::from_str(tree).and_then(|oid| repo.find_tree(oid)).map_err(failed("read a tree"))?;
    Ok(tree.get_path(path).map_or("absent".to_owned(), |found| format!("{} {:o}", found.id(), found.filemode())))
}

impl Kind for Git {
    fn name(&self) -> &'static str {
        "git"
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "commit",
            "merge",
            "revert",
            "push",
            "branch_create",
            "branch_delete",
            "branch_move",
            "tag_create",
            "tag_delete",
            "tag_move",
        ]
    }

    fn checks(&self) -> &'static [&'static str] {
        &["ref"]
    }

    fn schema(&self, operation: &str) -> Option<Value> {
        let file = format!("git.{operation}.v1.json");
        Some(match operation {
            "commit" => schema_of_type::<Commit>(&file),
            "merge" => schema_of_type::<Merge>(&file),
            "revert" => schema_of_type::<Revert>(&file),
            "push" => schema_of_type::<Push>(&file),
            "branch_delete" | "tag_delete" => schema_of_type::<DeleteRef>(&file),
            "branch_create" | "branch_move" | "tag_create" | "tag_move" => schema_of_type::<SetRef>(&file),
            "ref" => schema_of_type::<RefCheck>(&file),
            _ => return None,
        })
    }

    fn lower(&self, step: &PlanStep, ix: usize, facts: &Facts) -> Result<Lowered, Vec<Finding>> {
        let (repo, part) = target(step, ix)?;
        let found = place_or_finding(&repo, facts, &step.id, format!("/steps/{ix}/with/repo")).map_err(|f| vec![*f])?;
        let path = found.absolute().display().to_string();
        let mut reads = Vec::new();
        let mut writes = vec![match &part {
            Some(part) => Resource::part("git", &*path, part),
            None => Resource::whole("git", &*path),
        }];
        match step.uses.as_str() {
            "git.commit" => {
                let params: Commit = parameters(step, ix)?;
                if params.paths.is_empty() || params.message.trim().is_empty() {
                    let hint = "backout schema git.commit shows the parameters";
                    let place = format!("/steps/{ix}/with");
                    let detail = "a commit needs paths and a message";
                    return Err(vec![Finding::error(Code::STEP_PARAMETERS, place, detail, hint).of_step(&step.id)]);
                }
                reads.extend(params.paths.iter().map(|file| Resource::file(format!("{path}/{file}"))));
            }
            "git.merge" | "git.revert" => writes.push(Resource::file(path.clone())),
            "git.push" => {
                let params: Push = parameters(step, ix)?;
                reads.push(Resource::part("git", &*path, format!("refs/heads/{}", params.branch)));
            }
            _ => {}
        }
        let forced = step.uses == "git.push" && parameters::<Push>(step, ix)?.force;
        let verb = if forced { Verb::ForcePush } else { Verb::Push };
        let named = writes.first().map(Resource::to_string).filter(|_| step.uses == "git.push");
        let pushed = named.map(|named| Act { verb, on: Thing::Ref, named, hazards: Vec::new() });
        let drops = forced || step.uses.ends_with("_delete");
        Ok(Lowered {
            reads,
            writes,
            class: if drops { Class::ReversibleWithBackup } else { Class::ReversibleWithState },
            way_back: WayBack {
                effectiveness: Effectiveness::Full,
                how: "refs go back with a lease; index and files are put back from their snapshot".to_owned(),
                entry: None,
            },
            argv: Vec::new(),
            cwd: None,
            act: pushed,
            side: Vec::new(),
        })
    }
}

/// Whether a ref that moves leaves commits behind that it had: what a forced push does to a branch elsewhere. What cannot be told counts.
fn drops_commits(repo: &Repository, before: Option<&str>, after: Option<&str>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    let (Ok(old), Ok(new)) = (Oid::from_str(before), Oid::from_str(after)) else { return false };
    old != new && !repo.graph_descendant_of(new, old).unwrap_or(false)
}

impl Driver for Git {
    fn probe(&self, step: &StepSpec, priors: &[&StepSpec]) -> Result<StepAssessment, DriverError> {
        let path = repo_path(step)?;
        let mut assessment = crate::file::assessment(step);
        let repo = open_to_try(&path)?;
        if !priors.is_empty() {
            assessment.confidence = Confidence::Simulated;
            assessment.notes.extend(priors.iter().map(|prior| format!("acts on what step {} leaves", prior.id)));
            let of = |resource: &Resource| ResourceChange {
                resource: resource.to_string(),
                change: ChangeKind::Updated,
                bytes: None,
                rows: None,
                digest: None,
            };
            assessment.changes = step.lowered.writes.iter().map(of).collect();
            assessment.reaches = crate::reach::beneath(step)?;
            return Ok(assessment);
        }
        // The time of a commit is fixed when the step is prepared; here only what it would hold counts.
        let change = work_out(step, &repo, 0)?;
        let before = Before { repo: path, time_s: 0, change, files: None, reflog: None };
        for moved in &before.change.refs {
            let kind = match (&moved.before, &moved.after) {
                (None, _) => ChangeKind::Created,
                (Some(_), None) => ChangeKind::Deleted,
                (Some(_), Some(_)) => ChangeKind::Updated,
            };
            assessment.changes.push(ResourceChange {
                resource: before.uri(moved),
                change: kind,
                bytes: None,
                rows: None,
                digest: None,
            });
            if drops_commits(&repo, moved.before.as_deref(), moved.after.as_deref()) {
                assessment.hazards.push(Hazard::Replacement);
                assessment.notes.push(format!("{} loses commits", before.uri(moved)));
            }
            let seen = moved.before.clone().unwrap_or_else(|| "absent".to_owned());
            assessment.fingerprints.insert(before.uri(moved), seen);
        }
        for file in before.change.files.iter().filter(|_| before.change.checkout) {
            let resource = format!("file:{}", before.repo.join(file).display());
            assessment.changes.push(ResourceChange {
                resource,
                change: ChangeKind::Updated,
                bytes: None,
                rows: None,
                digest: None,
            });
        }
        assessment.preview = preview(&repo, &before.change);
        Ok(assessment)
    }

    fn prepare(&self, step: &StepSpec, _scope: &Scope) -> Result<BeforeImage, DriverError> {
        let path = repo_path(step)?;
        let repo = open_to_try(&path)?;
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs() as i64);
        let change = work_out(step, &repo, now)?;
        let gone = change.refs.iter().find(|moved| moved.remote.is_none() && moved.after.is_none());
        let reflog = gone.and_then(|moved| place::reflog(&repo, &moved.name));
        let reflog = reflog.map(|bytes| self.store.put(&bytes)).transpose().map_err(snapshot_failed)?;
        let mut before = Before { repo: path, time_s: now, change, files: None, reflog };
        if before.change.trees.is_some() {
            before.files = Some(self.capture(&repo, &before.change)?);
        }
        let (_, conflicts) = before.standings(&repo)?;
        if let Some(conflict) = conflicts.first() {
            let message = format!("{} has changes that are not committed", conflict.resource);
            return Err(DriverError::Refused(message));
        }
        let seen = |moved: &RefMove| (before.uri(moved), moved.before.clone().unwrap_or_else(|| "absent".to_owned()));
        let fingerprints = before.change.refs.iter().map(seen).collect();
        BeforeImage::new(fingerprints, &before)
    }

    fn apply(&self, step: &StepSpec, before: &BeforeImage, token: Token, scope: &Scope) -> Result<Output, DriverError> {
        scope.may_apply(step, token)?;
        let before: Before = before.data()?;
        let repo = before.repo()?;
        self.make_objects(step, &before, &repo)?;
        let (_, conflicts) = before.standings(&repo)?;
        if let Some(conflict) = conflicts.first() {
            return Err(DriverError::Stale(format!("{} moved since it was captured", conflict.resource)));
        }
        keep_objects(step, &before, &repo, scope)?;
        for moved in &before.change.refs {
            move_ref(&repo, moved, &moved.before, &moved.after, &scope.run)?;
        }
        if before.change.checkout {
            checkout(&repo, &before.change)?;
        }
        if before.files.is_some() {
            meant_index(&repo, &before.change)?.write().map_err(failed("write the index"))?;
        }
        let message =
            before.change.refs.iter().map(|m| format!("{} -> {}", m.name, m.after.as_deref().unwrap_or("gone")));
        Ok(Output { message: message.collect::<Vec<_>>().join(", ").into(), ..Output::default() })
    }

    fn observe(&self, _step: &StepSpec, before: &BeforeImage, claim: Option<Claim>, _scope: &Scope) -> Sighting {
        let look = || {
            let before: Before = before.data()?;
            let repo = before.repo()?;
            // A commit that was never made has trees that cannot be read: then nothing of the step is there.
            let made = before
                .change
                .trees
                .as_ref()
                .is_none_or(|(_, new)| Oid::from_str(new).is_ok_and(|oid| repo.find_tree(oid).is_ok()));
            let parts = if made { before.standings(&repo)? } else { before_making(&before, &repo)? };
            Ok((parts, before))
        };
        let ((standings, conflicts), before) = match look() {
            Ok(looked) => looked,
            Err(error) => return Sighting::Unclear { detail: kernel_detail(&error) },
        };
        if let Some(conflict) = conflicts.first() {
            let detail = format!(
                "{} is {}, neither as before ({}) nor as the step leaves it ({})",
                conflict.resource, conflict.found, conflict.before, conflict.left
            );
            return Sighting::Unclear { detail };
        }
        let all =
            |wanted: Standing| standings.iter().all(|standing| *standing == wanted || *standing == Standing::Both);
        let after = match AfterImage::new(&Value::Null) {
            Ok(after) => after,
            Err(error) => return Sighting::Unclear { detail: kernel_detail(&error) },
        };
        let changes = before.inventory();
        match (all(Standing::Left), all(Standing::Before)) {
            (left, true) if !left || claim != Some(Claim::Done) => Sighting::Absent,
            (true, _) => Sighting::Present { after, changes },
            (false, true) => Sighting::Absent,
            (false, false) => Sighting::Partial { after, changes, detail: "some of it is there".to_owned() },
        }
    }

    fn conflicts(
        &self,
        _step: &StepSpec,
        before: &BeforeImage,
        _after: Option<&AfterImage>,
        strict: bool,
        _scope: &Scope,
    ) -> Result<Vec<Conflict>, DriverError> {
        let before: Before = before.data()?;
        let (standings, mut conflicts) = before.standings(&before.repo()?)?;
        if strict && standings.contains(&Standing::Before) {
            let of = |moved: &RefMove| Conflict {
                resource: before.uri(moved),
                before: moved.before.clone().unwrap_or_default(),
                left: moved.after.clone().unwrap_or_default(),
                found: "as before the step".to_owned(),
            };
            conflicts.extend(before.change.refs.iter().map(of));
        }
        Ok(conflicts)
    }

    fn check_image(&self, before: &BeforeImage) -> Result<(), DriverError> {
        let before: Before = before.data()?;
        let files = before.files.as_ref().map(|files| self.store.verify(&files.snapshot));
        let reflog = before.reflog.as_ref().map(|reference| self.store.blob(reference).map(drop));
        files.into_iter().chain(reflog).collect::<Result<(), _>>().map_err(snapshot_failed)
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
        let repo = before.repo()?;
        let (_, conflicts) = before.standings(&repo)?;
        if !conflicts.is_empty() {
            return Err(UndoError::Clobber(conflicts));
        }
        for moved in before.change.refs.iter().rev() {
            move_ref(&repo, moved, &moved.after, &moved.before, &scope.run)?;
        }
        if let (Some(reference), Some(moved)) = (&before.reflog, before.change.refs.first()) {
            place::put_reflog(&repo, &moved.name, &self.store.blob(reference).map_err(snapshot_failed)?)?;
        }
        if let Some(files) = &before.files {
            let root = Root::open(&files.root).map_err(snapshot_failed)?;
            let was = self.store.tree(&files.snapshot).map_err(snapshot_failed)?;
            let now = scan(&root, &files.paths, Some(&was)).map_err(snapshot_failed)?;
            let restored = restore(&self.store, &root, &files.paths, &files.snapshot, &now, &scope.run);
            put_back(&root, &files.folders)?;
            restored.map_err(snapshot_failed)?;
        }
        forget_objects(step, &before, &repo, scope)?;
        Ok(())
    }

    fn end_leftovers(&self, _step: &StepSpec, before: Option<&BeforeImage>, scope: &Scope) -> Result<u32, DriverError> {
        let Some(before) = before.map(BeforeImage::data::<Before>).transpose()? else { return Ok(0) };
        let Some(files) = &before.files else { return Ok(0) };
        let root = Root::open(&files.root).map_err(snapshot_failed)?;
        let was = self.store.tree(&files.snapshot).map_err(snapshot_failed)?;
        clear_leftovers(&root, &was, &files.folders, &scope.run)
    }

    fn is_exact(&self, before: &BeforeImage) -> bool {
        let files = before.data::<Before>().ok().and_then(|before| before.files);
        // The time of .git itself moves with every lock that git takes.
        let around =
            |files: &Files| files.folders.iter().filter(|folder| folder.0 != Path::new(".git")).cloned().collect();
        files.is_none_or(|files| Root::open(&files.root).is_ok_and(|root| are_back(&root, &around(&files))))
    }

    fn check(&self, check: &Check, facts: &Facts, _scope: &Scope) -> Result<CheckOutcome, DriverError> {
        let wanted: RefCheck = crate::file::check_params(check)?;
        let repo = open(&placed(&wanted.repo, facts)?.absolute())?;
        let found = repo.refname_to_id(&wanted.name).ok();
        let expected = wanted.commit.as_deref().map(|name| resolve(&repo, name)).transpose()?;
        let saw = format!("{} points to {}", wanted.name, found.map_or("nothing".to_owned(), |oid| oid.to_string()));
        Ok(CheckOutcome { passed: found == expected, saw })
    }
}

impl Before {
    fn inventory(&self) -> Vec<Change> {
        let kind = |before: bool, after: bool| match (before, after) {
            (false, _) => ChangeKind::Created,
            (true, false) => ChangeKind::Deleted,
            (true, true) => ChangeKind::Updated,
        };
        let refs = self.change.refs.iter().filter(|moved| moved.before != moved.after).map(|moved| Change {
            resource: self.uri(moved),
            change: kind(moved.before.is_some(), moved.after.is_some()),
            before: moved.before.clone(),
            after: moved.after.clone(),
            rows: None,
        });
        let files = self.change.files.iter().filter(|_| self.change.checkout).map(|path| Change {
            resource: format!("file:{}", self.repo.join(path).display()),
            change: ChangeKind::Updated,
            before: None,
            after: None,
            rows: None,
        });
        refs.chain(files).collect()
    }
}

/// Standings while the objects of the change were never made: refs and index alone can be told.
fn before_making(before: &Before, repo: &Repository) -> Result<(Vec<Standing>, Vec<Conflict>), DriverError> {
    let change = GitChange { trees: None, files: Vec::new(), checkout: false, refs: before.change.refs.clone() };
    let files = before.files.as_ref().map(|files| Files {
        root: files.root.clone(),
        paths: Vec::new(),
        snapshot: files.snapshot.clone(),
        folders: Vec::new(),
        index_before: files.index_before.clone(),
        index_meant: files.index_meant.clone(),
    });
    Before { repo: before.repo.clone(), time_s: before.time_s, change, files, reflog: None }.standings(repo)
}

impl Git {
    fn capture(&self, repo: &Repository, change: &GitChange) -> Result<Files, DriverError> {
        let workdir =
            repo.workdir().ok_or_else(|| DriverError::Refused("a bare repository has no work tree".to_owned()))?;
        let git_dir = repo.path().strip_prefix(workdir).map_err(|_| {
            DriverError::Refused("the .git folder lies outside the work tree: use the main work tree".to_owned())
        })?;
        let mut paths = vec![git_dir.join("index")];
        paths.extend(change.files.iter().filter(|_| change.checkout).cloned());
        let root = Root::open(workdir).map_err(snapshot_failed)?;
        let (snapshot, _) = self.store.capture(&root, &paths, None).map_err(snapshot_failed)?;
        let folders = times_around(&root, paths.iter().map(PathBuf::as_path))?;
        let index_before = index_digest(repo)?;
        let index_meant = digest_entries(meant_index(repo, change)?.iter());
        Ok(Files { root: workdir.to_owned(), paths, snapshot, folders, index_before, index_meant })
    }

    /// Makes the objects that were tried out in memory, now for good: the same inputs give the same ids.
    fn make_objects(&self, step: &StepSpec, before: &Before, repo: &Repository) -> Result<(), DriverError> {
        if before.change.trees.is_none() {
            return Ok(());
        }
        let made_before =
            before.change.refs.iter().all(|moved| read_ref(repo, moved).is_ok_and(|found| found == moved.after));
        if made_before {
            return Ok(());
        }
        let again = work_out(step, repo, before.time_s)?;
        if again == before.change {
            return Ok(());
        }
        Err(DriverError::Stale(format!("{} changed since it was captured", before.repo.display())))
    }
}

/// Keeps the objects that the change leaves behind, by refs of our own, so that no garbage collection takes the way back away.
fn keep_objects(step: &StepSpec, before: &Before, repo: &Repository, scope: &Scope) -> Result<(), DriverError> {
    for (number, moved) in before.change.refs.iter().enumerate() {
        let Some(id) = &moved.before else { continue };
        let keep = format!("refs/backout/{}/{}/{number}", scope.run, step.id);
        let oid = Oid::from_str(id).map_err(failed("read an id"))?;
        if let (Some(remote), Err(_)) = (&moved.remote, repo.find_commit(oid)) {
            remote::fetch(repo, remote, &moved.name, &keep)?;
        }
        repo.reference(&keep, oid, true, "backout").map_err(failed("keep what was there"))?;
    }
    Ok(())
}

/// Once everything is back, the refs that kept the way back open go too.
fn forget_objects(step: &StepSpec, before: &Before, repo: &Repository, scope: &Scope) -> Result<(), DriverError> {
    for number in 0..before.change.refs.len() {
        let keep = format!("refs/backout/{}/{}/{number}", scope.run, step.id);
        if let Ok(mut reference) = repo.find_reference(&keep) {
            reference.delete().map_err(failed("forget what was kept"))?;
        }
    }
    Ok(())
}

/// Moves a ref by compare-and-swap; one that is there already is left alone.
fn move_ref(
    repo: &Repository,
    moved: &RefMove,
    from: &Option<String>,
    to: &Option<String>,
    run: &str,
) -> Result<(), DriverError> {
    let found = read_ref(repo, moved)?;
    if found == *to {
        return Ok(());
    }
    if found != *from {
        return Err(DriverError::Stale(format!("{} moved meanwhile", moved.name)));
    }
    if let Some(remote) = &moved.remote {
        return remote::push(repo, remote, &moved.name, from.as_deref(), to.as_deref());
    }
    let id = |text: &String| Oid::from_str(text).map_err(failed("read an id"));
    let message = format!("backout {run}");
    match (from, to) {
        (None, Some(to)) => repo.reference(&moved.name, id(to)?, false, &message).map(|_| ()),
        (Some(from), Some(to)) => repo.reference_matching(&moved.name, id(to)?, true, id(from)?, &message).map(|_| ()),
        (_, None) => repo.find_reference(&moved.name).and_then(|mut reference| reference.delete()),
    }
    .map_err(failed(&format!("move {}", moved.name)))
}

fn checkout(repo: &Repository, change: &GitChange) -> Result<(), DriverError> {
    let Some((_, new)) = &change.trees else { return Ok(()) };
    let tree = Oid::from_str(new).and_then(|oid| repo.find_object(oid, None)).map_err(failed("read a tree"))?;
    let mut options = git2::build::CheckoutBuilder::new();
    options.force().update_index(false).disable_pathspec_match(true).remove_untracked(false);
    for path in &change.files {
        options.path(path);
    }
    repo.checkout_tree(&tree, Some(&mut options)).map_err(failed("write the work tree"))?;
    // A forced checkout of a tree leaves files that the tree does not have.
    let workdir = repo.workdir().unwrap_or(Path::new("/"));
    let tree = tree.peel_to_tree().map_err(failed("read a tree"))?;
    change.files.iter().filter(|path| tree.get_path(path).is_err()).try_for_each(|path| place::remove(workdir, path))
}

fn preview(repo: &Repository, change: &GitChange) -> String {
    let Some((old, new)) = &change.trees else {
        let line = |m: &RefMove| {
            format!(
                "{}: {} -> {}\n",
                m.name,
                m.before.as_deref().unwrap_or("absent"),
                m.after.as_deref().unwrap_or("gone")
            )
        };
        return change.refs.iter().map(line).collect();
    };
    let tree = |id: &str| Oid::from_str(id).ok().and_then(|oid| repo.find_tree(oid).ok());
    let Ok(diff) = repo.diff_tree_to_tree(tree(old).as_ref(), tree(new).as_ref(), None) else { return String::new() };
    let mut out = String::new();
    let _ = diff.print(git2::DiffFormat::Patch, |_, _, line| {
        if out.len() < 8_000 {
            if matches!(line.origin(), '+' | '-' | ' ') {
                out.push(line.origin());
            }
            out.push_str(&String::from_utf8_lossy(line.content()));
        }
        true
    });
    out
}
