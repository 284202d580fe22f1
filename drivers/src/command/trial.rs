//! Commands tried out at the gate: each over a layer of its own, on top of what the steps before it would leave.
//!
//! Must never change the world, and never say of a step more than was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::{Ahead, Cancel, DriverError, Leaves, StepSpec, TriedOut};
use schemas::{ChangeKind, Class, Confidence, Expectation, Resource, ResourceChange, Share, StepAssessment};
use snapshots::{Effect, Entry, Hash, Node, Root};

use super::confine::{Bench, upper};
use super::contained::{
    EFFECTS, Occasion, TOLD, Touched, Tried, below, counted, digest_of, kind, name_of, refuse_undeclared, touched,
};
use super::params::{Commit, Run};
use super::{Command, declared};
use crate::paths::snapshot_failed;

/// Bytes of one file that a preview reads.
const PREVIEW_BYTES: u64 = 64 * 1024;
/// Bytes of a preview.
const PREVIEW: usize = 16 * 1024;
/// A file of which a changed byte is worth a remark: all of it is copied first.
const LARGE: u64 = 64 << 20;
/// Most layers that one is laid over.
const HIGHEST: usize = 64;

/// What a step that was tried out left.
pub(super) struct Draft {
    id: String,
    bench: Bench,
    roots: Vec<PathBuf>,
    /// What it changes, by root.
    parts: BTreeMap<PathBuf, Vec<Effect>>,
    /// What it declares to write, where it may do something else when it runs.
    loose: Vec<Resource>,
    /// Where its layers are kept until the run takes them. They go there when nothing lies on them any more: two gates of one plan know the
    /// same place.
    kept: Option<PathBuf>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        super::confine::remove(&kept);
        // Where that fails the run finds nothing to take, and says so.
        let _ = self.bench.keep_as(kept);
    }
}

impl Draft {
    /// What it changes of a root, where it changes anything.
    pub(super) fn effects(&self, root: &Path) -> Option<&[Effect]> {
        self.parts.get(root).map(Vec::as_slice).filter(|effects| !effects.is_empty())
    }

    /// The folder that took what it wrote to a root, where it changes anything.
    pub(super) fn upper(&self, root: &Path) -> Option<PathBuf> {
        self.effects(root)?;
        let number = self.roots.iter().position(|known| known == root)?;
        Some(upper(self.bench.path(), number))
    }

    /// Whether it leaves something at a path of a root that lies under this one.
    fn makes(&self, root: &Path, path: &Path) -> bool {
        self.effects(root).is_some_and(|all| all.iter().any(|effect| effect.path == path))
    }
}

impl Command {
    /// Tries the step out on top of `before` and says what it would change; nothing where too much lies under it.
    pub(super) fn try_on(
        &self,
        step: &StepSpec,
        params: &Run,
        ahead: &Ahead<'_>,
    ) -> Result<Option<TriedOut>, DriverError> {
        let under: Vec<&Draft> = ahead.left.iter().filter_map(|left| left.downcast_ref()).collect();
        if under.len() > HIGHEST {
            return Ok(None);
        }
        if params.commit == Some(Commit::Approved) {
            refuse_unsure(ahead.unseen, &under)?;
        }
        let (mut fingerprints, whole) = look(step, &under)?;
        // What a step before may leave otherwise cannot be told; everything else can.
        let loose: Vec<String> =
            under.iter().flat_map(|draft| &draft.loose).map(|write| write.path().to_owned()).collect();
        let touches = |uri: &str| {
            let path = Path::new(uri.trim_start_matches("file:"));
            loose.iter().any(|write| path.starts_with(write) || Path::new(write).starts_with(path))
        };
        for (_, print) in fingerprints.iter_mut().filter(|(uri, _)| touches(uri)) {
            *print = schemas::UNSEEN.to_owned();
        }
        let unseen = StepAssessment::unseen(&step.id, step.lowered.class, step.lowered.way_back.clone());
        let runs = format!("runs {} in {}", step.lowered.argv.join(" "), step.lowered.cwd.as_deref().unwrap_or("/"));
        let mut unseen = StepAssessment { fingerprints, notes: vec![runs], ..unseen };
        if !ahead.unseen.is_empty() {
            let ids = ahead.unseen.join(", ");
            unseen
                .notes
                .push(format!("needs {ids}, of which nobody saw what it leaves: when it runs it does this or nothing"));
        }
        let run = format!("run-{}", ulid::Ulid::generate().to_string().to_lowercase());
        let cancel = Cancel::default();
        let occasion = Occasion { run: &run, cancel: &cancel, is_trial: true };
        let tried = match self.in_layers(step, params, occasion, &under) {
            Ok(tried) => tried,
            Err(DriverError::Exit { message, output }) if !output.tried.is_empty() => {
                let reaches = output.tried.iter().any(|call| call.starts_with("socket("));
                let what = if reaches {
                    "network: true declares it"
                } else {
                    "what lies outside the roots no step may change"
                };
                return Err(DriverError::Refused(format!("{message}; {what}")));
            }
            Err(DriverError::Exit { message, output }) => {
                let assessment = failed(step, unseen, &message, &output)?;
                return Ok(Some(TriedOut { assessment, leaves: Leaves::Unknown }));
            }
            Err(error) => return Err(error),
        };
        self.tell(step, params, (unseen, whole), tried, &under).map(Some)
    }

    /// What a trial came to, and what it leaves for those after it.
    fn tell(
        &self,
        step: &StepSpec,
        params: &Run,
        (unseen, whole): (StepAssessment, u64),
        tried: Tried,
        under: &[&Draft],
    ) -> Result<TriedOut, DriverError> {
        let touched = touched(&tried, under)?;
        refuse_undeclared(step, &touched)?;
        let mut assessed = StepAssessment { confidence: Confidence::Verified, ..unseen };
        assessed.notes.push(format!("tried out over a layer{}: this is all that it changes", on_top(under)));
        for (number, part) in touched.iter().enumerate() {
            describe(&mut assessed, part, &upper(tried.bench.path(), number), under);
            part.layer.drop_copies(&part.effects).map_err(snapshot_failed)?;
        }
        let deleted = assessed.changes.iter().filter(|change| change.change == ChangeKind::Deleted).count() as u64;
        assessed.share = (deleted > 0).then_some(Share { part: deleted, whole: whole.max(deleted) });
        let digest = digest_of(&touched);
        assessed.pinned = vec![format!("{EFFECTS}{}", digest.hex()), counted(&touched)];
        let takes_layer = params.commit == Some(Commit::Approved);
        let kept = match takes_layer {
            true => Some(self.confined()?.kept(&tried.roots, &name_of(step, &digest.hex()))?),
            false => None,
        };
        let is_loose = !takes_layer && step.expect.as_ref().is_some_and(Expectation::says_something);
        let loose = if is_loose { step.lowered.writes.clone() } else { Vec::new() };
        let parts = touched.into_iter().map(|part| (part.root, part.effects)).collect();
        let draft = Draft { id: step.id.clone(), bench: tried.bench, roots: tried.roots, parts, loose, kept };
        // One that may do something else than nothing has to be known to those after it.
        let leaves = match assessed.changes.is_empty() && !is_loose {
            true => Leaves::AsItWas,
            false => Leaves::Draft(Arc::new(draft)),
        };
        Ok(TriedOut { assessment: assessed, leaves })
    }
}

/// What is committed as it was seen must have been seen on what will be there.
fn refuse_unsure(unseen: &[String], under: &[&Draft]) -> Result<(), DriverError> {
    let loose = under.iter().filter(|draft| !draft.loose.is_empty()).map(|draft| draft.id.clone());
    let unsure: Vec<String> = unseen.iter().cloned().chain(loose).collect();
    if unsure.is_empty() {
        return Ok(());
    }
    let text = format!(
        "commit: approved takes what was seen, and what {} will leave may be something else: commit: rerun, or approved there as well",
        unsure.join(", ")
    );
    Err(DriverError::Refused(text))
}

fn on_top(under: &[&Draft]) -> String {
    let ids: Vec<&str> = under.iter().take(TOLD).map(|draft| draft.id.as_str()).collect();
    match under.len().saturating_sub(TOLD) {
        _ if ids.is_empty() => String::new(),
        0 => format!(", on top of what {} would leave", ids.join(", ")),
        more => format!(", on top of what {} and {more} more would leave", ids.join(", ")),
    }
}

/// The class of a step that could have been tried out, and of which nobody saw what it does: that it can be put back is all that is known
/// of a program that no entry describes.
pub(super) fn class_of_unseen(step: &StepSpec) -> Class {
    let class = step.lowered.class;
    if step.lowered.way_back.entry.is_some() { class } else { class.max(Class::PartiallyReversible) }
}

/// What is said of a step that failed when it was tried out.
fn failed(
    step: &StepSpec,
    unseen: StepAssessment,
    message: &str,
    output: &kernel::Output,
) -> Result<StepAssessment, DriverError> {
    let said = String::from_utf8_lossy(&output.captured).trim().chars().take(200).collect::<String>();
    let mut notes = unseen.notes;
    notes.push(format!("tried out over a layer: {message}, so that its effect is not known: {said}"));
    let reaches = crate::reach::beneath(step)?;
    Ok(StepAssessment { notes, reaches, class: class_of_unseen(step), ..unseen })
}

fn describe(assessed: &mut StepAssessment, part: &Touched, upper: &Path, under: &[&Draft]) {
    let size = |entry: &Entry| if let Node::File(content) = &entry.node { Some(content.size) } else { None };
    for effect in &part.effects {
        let bytes = if effect.after.exists() { size(&effect.after) } else { size(&effect.before) };
        let resource = part.resource(effect).to_string();
        let digest = content(&effect.after).map(|hash| hash.to_string());
        assessed.changes.push(ResourceChange { resource, change: kind(effect), bytes, rows: None, digest });
        if let (Some(was), Some(will)) = (size(&effect.before), size(&effect.after))
            && was.min(will) >= LARGE
        {
            assessed.notes.push(format!("{} is large and is copied whole before it is changed", effect.path.display()));
        }
        if assessed.preview.len() < PREVIEW {
            let made = under.iter().rev().find(|draft| draft.makes(&part.root, &effect.path));
            let was = made.and_then(|draft| draft.upper(&part.root)).unwrap_or_else(|| part.root.clone());
            assessed.preview.push_str(&preview(effect, &was, upper));
        }
    }
    assessed.notes.extend(moves(part));
}

/// What becomes of a file that lies in the folder `was`, and then in `will`.
fn preview(effect: &Effect, was: &Path, will: &Path) -> String {
    let is_file =
        |entry: &Entry| matches!(&entry.node, Node::File(content) if content.size <= PREVIEW_BYTES && !content.sparse);
    let read = |root: &Path| -> Vec<u8> {
        Root::open(root)
            .ok()
            .and_then(|root| crate::file::io::read_beneath(&root, &effect.path).ok())
            .unwrap_or_default()
    };
    match (is_file(&effect.before), is_file(&effect.after)) {
        (true, true) if effect.before.node == effect.after.node => {
            format!("--- {}: only owner, mode, time or attributes differ\n", effect.path.display())
        }
        (_, true) if effect.before.exists() => crate::preview::diff(&effect.path, &read(was), &read(will)),
        (_, true) => crate::preview::diff(&effect.path, b"", &read(will)),
        _ => String::new(),
    }
}

/// The name of a file's content.
fn content(entry: &Entry) -> Option<Hash> {
    match &entry.node {
        Node::File(content) => Some(content.hash),
        _ => None,
    }
}

/// Folders that are gone in one place and there in another with the same names and contents, and files likewise outside of those.
fn moves(part: &Touched) -> Vec<String> {
    let lost = || part.effects.iter().filter(|effect| !effect.after.exists()).map(|it| (it.path.as_path(), &it.before));
    let found =
        || part.effects.iter().filter(|effect| !effect.before.exists()).map(|it| (it.path.as_path(), &it.after));
    let (old, new) = (trees(lost()), trees(found()));
    let by_content: BTreeMap<&str, &Path> = old.iter().map(|(path, (sign, _))| (sign.as_str(), *path)).collect();
    let whole: Vec<(&Path, &Path, usize)> =
        new.iter().filter_map(|(to, (sign, names))| Some((*by_content.get(sign.as_str())?, *to, *names))).collect();
    let tops: BTreeSet<&Path> = whole.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
    let is_told = |path: &Path| path.ancestors().any(|around| tops.contains(around));
    let filled = |entry: &Entry| match &entry.node {
        Node::File(content) if content.size > 0 => Some(content.hash.to_string()),
        _ => None,
    };
    let single: BTreeMap<String, &Path> =
        lost().filter(|(path, _)| !is_told(path)).filter_map(|(path, entry)| Some((filled(entry)?, path))).collect();
    let files = found().filter(|(path, _)| !is_told(path));
    let files = files.filter_map(|(to, entry)| Some((*single.get(&filled(entry)?)?, to, 1)));
    let told = |(from, to, names): (&Path, &Path, usize)| match names {
        1 => format!("moves {} to {}", from.display(), to.display()),
        more => format!("moves {} to {}, with what is in it ({})", from.display(), to.display(), more - 1),
    };
    whole.iter().copied().chain(files).take(TOLD).map(told).collect()
}

/// The outermost of these names, each with a text that is equal for equal trees, and how many names it has. Files and folders without
/// content say nothing: any two are equal.
fn trees<'a>(names: impl Iterator<Item = (&'a Path, &'a Entry)>) -> BTreeMap<&'a Path, (String, usize)> {
    let mut out: BTreeMap<&Path, (String, usize, bool)> = BTreeMap::new();
    let mut top: Option<&Path> = None;
    for (path, entry) in names {
        let outer = top.filter(|top| path.starts_with(top));
        let top_path = outer.unwrap_or(path);
        top = Some(top_path);
        let inside = path.strip_prefix(top_path).unwrap_or(path);
        let what = match &entry.node {
            Node::File(content) => format!("{}:{}", content.size, content.hash),
            other => format!("{other:?}"),
        };
        let (sign, count, tells) = out.entry(top_path).or_default();
        sign.push_str(&format!("{}\0{what}\0", inside.display()));
        *count += 1;
        *tells |= matches!(&entry.node, Node::File(content) if content.size > 0);
    }
    out.into_iter().filter(|(_, (.., tells))| *tells).map(|(path, (sign, count, _))| (path, (sign, count))).collect()
}

/// Fingerprints of what is declared, as the steps before would leave it, and how many names lie in it.
fn look(step: &StepSpec, under: &[&Draft]) -> Result<(BTreeMap<String, String>, u64), DriverError> {
    let (mut prints, mut whole) = (BTreeMap::new(), 0);
    for (root, paths) in declared(step)? {
        let opened = Root::open(&root).map_err(snapshot_failed)?;
        let below = below(&opened, under);
        for path in paths {
            let tree = below.scan(std::slice::from_ref(&path)).map_err(snapshot_failed)?;
            whole += tree.entries.iter().filter(|entry| entry.exists()).count() as u64;
            let resource = Resource::file(root.join(&path).display().to_string());
            prints.insert(resource.to_string(), tree.content_digest().to_string());
        }
    }
    Ok((prints, whole))
}
