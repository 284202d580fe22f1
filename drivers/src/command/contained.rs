//! Commands over a layer: run where nobody sees it, held against what was assessed, and committed as a whole.
//!
//! Must never commit what differs from what was assessed, nor what was not declared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernel::{BeforeImage, Cancel, DriverError, Output, Scope, StepSpec};
use launcher::View;
use schemas::{ChangeKind, Digest, Resource};
use snapshots::{Below, Effect, Layer, Node, Root, Tree};

use super::confine::{Bench, Confinement, Reach, layer, upper};
use super::lower::{self, cwd_of};
use super::params::{Commit, Run};
use super::process::{Ground, Program};
use super::trial::Draft;
use super::walled::speaks_of_walls;
use super::{Before, Command, TIMEOUT_MS, declared, words};
use crate::paths::{place, snapshot_failed};

/// How many names a message tells.
pub(super) const TOLD: usize = 5;

/// What a command did over a layer.
pub(super) struct Tried {
    pub(super) bench: Bench,
    pub(super) roots: Vec<PathBuf>,
    output: Output,
}

/// For whom a step is run over layers.
#[derive(Clone, Copy)]
pub(super) struct Occasion<'a> {
    pub(super) run: &'a str,
    pub(super) cancel: &'a Cancel,
    /// Whether nothing of it is committed by this process: then nobody has a use for it when the process is gone.
    pub(super) is_trial: bool,
}

/// What a layer changes of one root.
pub(super) struct Touched {
    pub(super) root: PathBuf,
    pub(super) layer: Layer,
    pub(super) effects: Vec<Effect>,
}

impl Command {
    pub(super) fn confined(&self) -> Result<&Confinement, DriverError> {
        let none = || DriverError::Refused("commands cannot be contained here: backout doctor says why".to_owned());
        self.confinement.as_deref().ok_or_else(none)
    }

    /// Runs the step over layers, on top of what was tried out before; nothing of the world changes. One that fails and speaks of walls is run
    /// once more, watched, so that it is known what it tried to change.
    pub(super) fn in_layers(
        &self,
        step: &StepSpec,
        params: &Run,
        occasion: Occasion<'_>,
        under: &[&Draft],
    ) -> Result<Tried, DriverError> {
        let failed = match self.over_layers(step, params, occasion, under, false) {
            Err(DriverError::Exit { message, output }) if output.tried.is_empty() && speaks_of_walls(&output) => {
                DriverError::Exit { message, output }
            }
            other => return other,
        };
        match self.over_layers(step, params, occasion, under, true) {
            Err(DriverError::Exit { message, output }) if !output.tried.is_empty() => {
                Err(DriverError::Exit { message, output })
            }
            _ => Err(failed),
        }
    }

    fn over_layers(
        &self,
        step: &StepSpec,
        params: &Run,
        occasion: Occasion<'_>,
        under: &[&Draft],
        told: bool,
    ) -> Result<Tried, DriverError> {
        let confinement = self.confined()?;
        let cwd = cwd_of(params, &step.facts).map_err(DriverError::Refused)?;
        let roots = roots_of(step, &cwd)?;
        refuse_mounts(&roots)?;
        let Occasion { run, cancel, is_trial } = occasion;
        let bench = if is_trial { confinement.trial_bench(&roots)? } else { confinement.bench(&roots, run)? };
        let layers = roots.iter().enumerate().map(|(number, root)| {
            let uppers = under.iter().rev().filter_map(|draft| draft.upper(root)).collect();
            layer(bench.path(), number, root, &below(&Root::open(root).map_err(snapshot_failed)?, under), uppers)
        });
        let reach = Reach {
            view: View::Layers(layers.collect::<Result<_, _>>()?),
            writes: roots.clone(),
            hidden: super::confine::hidden(&step.facts, &step.lowered),
            network: params.network == Some(true),
            told,
        };
        let output = super::process::run(&Program {
            argv: &params.argv,
            cwd: &cwd,
            env: &params.env,
            stdin: None,
            timeout_ms: step.timeout_ms.unwrap_or(TIMEOUT_MS),
            run,
            cancel,
            ground: Ground::Walled(confinement, &reach),
        })?;
        Ok(Tried { bench, roots, output })
    }

    /// The layer that was assessed.
    fn kept(&self, step: &StepSpec, params: &Run, run: &str) -> Result<Tried, DriverError> {
        let Some(wanted) = pinned(step) else {
            let text =
                "what the step does could not be assessed, so that there is nothing to commit as it was".to_owned();
            return Err(DriverError::Refused(text));
        };
        let cwd = cwd_of(params, &step.facts).map_err(DriverError::Refused)?;
        let roots = roots_of(step, &cwd)?;
        let kept = self.confined()?.kept(&roots, &name_of(step, wanted))?;
        if !kept.is_dir() {
            return Err(DriverError::Stale(
                "the layer that was assessed is not there any more: gate the plan again".to_owned(),
            ));
        }
        let output = Output { exit_code: Some(0), ..Output::default() };
        // From here on it is the run's own: what a dead run leaves of it is cleared.
        let bench = self.confined()?.bench(&roots, run)?;
        let into = bench.path().to_owned();
        std::fs::rename(&kept, &into)
            .map_err(|error| DriverError::io(format!("cannot take {}", kept.display()), error))?;
        Ok(Tried { bench, roots, output })
    }

    /// Runs the step over layers, or takes the one that was approved, and commits it.
    pub(super) fn apply_contained(
        &self,
        step: &StepSpec,
        params: &Run,
        before: &BeforeImage,
        scope: &Scope,
    ) -> Result<Output, DriverError> {
        let tried = match params.commit {
            Some(Commit::Approved) => self.kept(step, params, &scope.run)?,
            Some(Commit::Rerun) | None => {
                let occasion = Occasion { run: &scope.run, cancel: &scope.cancel, is_trial: false };
                self.in_layers(step, params, occasion, &[])?
            }
        };
        let failed = |error: DriverError, output: &Output| DriverError::Exit {
            message: crate::file::kernel_detail(&error),
            output: output.clone(),
        };
        let touched = touched(&tried, &[]).map_err(|error| failed(error, &tried.output))?;
        refuse_undeclared(step, &touched).map_err(|error| failed(error, &tried.output))?;
        refuse_other(step, params, &touched).map_err(|error| failed(error, &tried.output))?;
        words::look_where_they_lead(step, params)?;
        if scope.cancel.is_cancelled() {
            return Err(DriverError::Stopped { output: tried.output });
        }
        let data: Before = before.data()?;
        let mut ready = Vec::new();
        for part in touched.iter().filter(|part| !part.effects.is_empty()) {
            let mut was = Tree::default();
            for watched in &data.watched {
                let Ok(inside) = watched.root.strip_prefix(&part.root) else { continue };
                was.graft(inside, self.store.tree(&watched.snapshot).map_err(snapshot_failed)?);
            }
            let root = Root::open(&part.root).map_err(snapshot_failed)?;
            // Before anything is announced: what fails here has changed nothing.
            part.layer.check(&root, &was).map_err(snapshot_failed)?;
            ready.push((root, was));
        }
        self.confined()?.announce(&scope.run, step.ix.at(), &announced(&touched))?;
        let parts = touched.into_iter().filter(|part| !part.effects.is_empty());
        for (part, (root, was)) in parts.zip(ready) {
            part.layer.commit(&root, &was, &scope.run).map_err(snapshot_failed)?;
        }
        Ok(tried.output)
    }
}

/// How an assessment pins a step to what it was seen to do.
pub(super) const EFFECTS: &str = "effects:";
/// How many names it was seen to create, update and delete.
const COUNTED: &str = "counted:";

pub(super) fn counted(touched: &[Touched]) -> String {
    let count = |wanted| touched.iter().flat_map(|part| &part.effects).filter(|effect| kind(effect) == wanted).count();
    let [created, updated, deleted] = [ChangeKind::Created, ChangeKind::Updated, ChangeKind::Deleted].map(count);
    format!("{COUNTED}{created}/{updated}/{deleted}")
}

fn pinned(step: &StepSpec) -> Option<&str> {
    step.pinned.iter().find_map(|pin| pin.strip_prefix(EFFECTS))
}

/// The name of a kept layer: of the step as it was before it was pinned, and of what it does.
pub(super) fn name_of(step: &StepSpec, effects: &str) -> String {
    let reach = step.reach_with(&[]).hex();
    let short = |text: &str| text.chars().take(24).collect::<String>();
    format!("{}-{}", short(&reach), short(effects))
}

/// The outermost roots of the environment that the step is in or touches.
fn roots_of(step: &StepSpec, cwd: &Path) -> Result<Vec<PathBuf>, DriverError> {
    let outermost = |root: &Path| {
        let around = step.facts.roots.iter().filter(|other| root.starts_with(other));
        around.min_by_key(|other| other.as_os_str().len()).cloned().unwrap_or_else(|| root.to_owned())
    };
    let mut out = vec![place(&cwd.display().to_string(), &step.facts).map_err(DriverError::Refused)?.root];
    out.extend(declared(step)?.into_iter().map(|(root, _)| root));
    let mut out: Vec<PathBuf> = out.iter().map(|root| outermost(root)).collect();
    out.sort();
    out.dedup();
    Ok(out)
}

/// A layer does not go over what is mounted in a root: the command would see an empty folder there.
fn refuse_mounts(roots: &[PathBuf]) -> Result<(), DriverError> {
    let known = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| DriverError::io("cannot read the mounts", error))?;
    for at in known.lines().filter_map(|line| line.split(' ').nth(4)) {
        let at = Path::new(at);
        if let Some(root) = roots.iter().find(|root| at.starts_with(root) && at != root.as_path()) {
            let text = format!(
                "{} is mounted in {}, and a layer does not reach over it: contain: none",
                at.display(),
                root.display()
            );
            return Err(DriverError::Refused(text));
        }
    }
    Ok(())
}

/// A root as what was tried out before would leave it.
pub(super) fn below<'a>(root: &'a Root, under: &[&Draft]) -> Below<'a> {
    let mut below = Below::new(root);
    under.iter().filter_map(|draft| draft.effects(root.path())).for_each(|effects| below.lay(effects));
    below
}

/// What the layers change, on top of what was tried out before.
pub(super) fn touched(tried: &Tried, under: &[&Draft]) -> Result<Vec<Touched>, DriverError> {
    let one = |(number, root): (usize, &PathBuf)| {
        let layer = Layer::read(&upper(tried.bench.path(), number), root).map_err(snapshot_failed)?;
        let opened = Root::open(root).map_err(snapshot_failed)?;
        let effects = layer.effects(&below(&opened, under)).map_err(snapshot_failed)?;
        if let Some(effect) = effects.iter().find(|effect| effect.path.to_str().is_none()) {
            let text =
                format!("{} has a name that is no text, which nobody can declare or approve", effect.path.display());
            return Err(DriverError::Refused(text));
        }
        Ok(Touched { root: root.clone(), layer, effects })
    };
    tried.roots.iter().enumerate().map(one).collect()
}

impl Touched {
    pub(super) fn resource(&self, effect: &Effect) -> Resource {
        Resource::file(self.root.join(&effect.path).display().to_string())
    }
}

pub(super) fn kind(effect: &Effect) -> ChangeKind {
    match (effect.before.exists(), effect.after.exists()) {
        (false, _) => ChangeKind::Created,
        (true, false) => ChangeKind::Deleted,
        (true, true) => ChangeKind::Updated,
    }
}

/// Whether a file runs with its owner's or group's rights afterwards and did not before.
fn gives_rights(effect: &Effect) -> bool {
    const RIGHTS: u32 = 0o6000;
    let is_file = |entry: &snapshots::Entry| matches!(entry.node, Node::File(_) | Node::HardLink(_));
    let same = effect.before.node == effect.after.node && effect.before.meta.mode == effect.after.meta.mode;
    is_file(&effect.after) && effect.after.meta.mode & RIGHTS != 0 && !same
}

pub(super) fn refuse_undeclared(step: &StepSpec, touched: &[Touched]) -> Result<(), DriverError> {
    let declared = |resource: &Resource| step.lowered.writes.iter().any(|write| write.contains(resource));
    let each = touched.iter().flat_map(|part| part.effects.iter().map(|effect| (kind(effect), part.resource(effect))));
    let outside: Vec<String> = each
        .filter(|(_, resource)| !declared(resource))
        .map(|(kind, resource)| format!("{resource} ({})", kind.as_str()))
        .collect();
    let special = touched
        .iter()
        .flat_map(|part| part.effects.iter().map(move |effect| (part, effect)))
        .find(|(_, it)| gives_rights(it));
    if let Some((part, effect)) = special {
        let text = format!(
            "it leaves {} with setuid or setgid, which runs with the rights of another; nothing of it was done",
            part.resource(effect)
        );
        return Err(DriverError::Refused(text));
    }
    if outside.is_empty() {
        return Ok(());
    }
    let more = outside.len().saturating_sub(TOLD);
    let told = outside.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(DriverError::Refused(format!("it changes what it does not declare: {told}{more}; nothing of it was done")))
}

/// What it does now must be what was assessed, or within what the plan expects of it.
fn refuse_other(step: &StepSpec, params: &Run, touched: &[Touched]) -> Result<(), DriverError> {
    let Some(wanted) = pinned(step) else { return Ok(()) };
    if digest_of(touched).hex() == wanted {
        return Ok(());
    }
    let count = |wanted: ChangeKind| {
        touched.iter().flat_map(|part| &part.effects).filter(|effect| kind(effect) == wanted).count() as u64
    };
    let (created, updated, deleted) =
        (count(ChangeKind::Created), count(ChangeKind::Updated), count(ChangeKind::Deleted));
    // What was approved as it is has no bounds.
    let may_differ = params.commit != Some(Commit::Approved);
    if let Some(expect) = step.expect.as_ref().filter(|expect| may_differ && expect.says_something()) {
        // Of what the plan says nothing there must be as many as when it was assessed.
        let known = |at: usize| -> Option<u64> {
            let counts = step.pinned.iter().find_map(|pin| pin.strip_prefix(COUNTED))?;
            counts.split('/').nth(at)?.parse().ok()
        };
        let holds = |bounds: Option<schemas::Bounds>, at: usize, found: u64| {
            bounds.map_or(known(at) == Some(found), |bounds| bounds.holds(found))
        };
        if holds(expect.created, 0, created) && holds(expect.updated, 1, updated) && holds(expect.deleted, 2, deleted) {
            return Ok(());
        }
    }
    let names = touched.iter().flat_map(|part| part.effects.iter().map(|effect| part.resource(effect).to_string()));
    let told = names.take(TOLD).collect::<Vec<_>>().join(", ");
    let text = format!(
        "it does something else than when it was assessed ({created} created, {updated} updated, {deleted} deleted now, in names or contents: \
         {told}): commit: approved takes what was assessed, expect says how many changes of each kind are all right"
    );
    Err(DriverError::Stale(text))
}

/// SHA-256 over names, the content that is there before, and what is there afterwards, without times.
pub(super) fn digest_of(touched: &[Touched]) -> Digest {
    let mut text = String::new();
    for part in touched {
        for effect in &part.effects {
            let was = match &effect.before.node {
                Node::File(content) => content.hash.to_string(),
                // A file by one of its names is a file.
                Node::HardLink(_) => String::new(),
                _ => effect.before.content_fingerprint(),
            };
            let will = effect.after.content_fingerprint();
            text.push_str(&format!("{}\0{was}\0{will}\0", part.resource(effect)));
        }
    }
    Digest::of(text.as_bytes())
}

/// What the commit will leave, by resource.
fn announced(touched: &[Touched]) -> BTreeMap<String, String> {
    let effects = touched.iter().flat_map(|part| part.effects.iter().map(move |effect| (part, effect)));
    effects
        .map(|(part, effect)| {
            let after = &effect.after;
            let print = if after.exists() { after.content_fingerprint() } else { "absent".to_owned() };
            (part.resource(effect).to_string(), print)
        })
        .collect()
}

/// Whether a step that has not been looked at runs over a layer all the same.
pub(super) fn note(step: &StepSpec, params: &Run) -> Option<&'static str> {
    let able = |contains| kernel::Facts { contains, ..(*step.facts).clone() };
    if lower::is_contained(params, step.undo.is_some(), &step.facts) {
        return Some("runs over a layer: what it does not declare is not done");
    }
    lower::is_contained(params, step.undo.is_some(), &able(true)).then_some(
        "NOT contained: this machine cannot run commands over layers (backout doctor says why); looked at after it ran",
    )
}
