//! Where commands run: what this machine can put around them, and the folders that take what they write.
//!
//! Must never run a command with less around it than was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use kernel::{Cancel, DriverError, Facts, StepSpec};
use launcher::{Launcher, Layer, Limits, View, Wanted};
use library::{Library, Restore};
use schemas::Resource;
use snapshots::Below;

use super::params::Run;
use super::process::{Ground, Program};
use super::words::known;
use crate::paths::snapshot_failed;

/// What this machine can put around commands.
#[derive(Debug)]
pub struct Confinement {
    launcher: Launcher,
    layers: PathBuf,
    able: OnceLock<Result<(), String>>,
}

/// When a layer that was assessed and never committed is of no use to anybody any more.
const OLD: Duration = Duration::from_secs(24 * 3600);

fn prefix(run: &str) -> String {
    format!("run-{run}-")
}

/// How folders begin that are of no use to anybody once the process is gone whose number follows.
const OWN: &str = "backout-own-";

/// The name of such a folder.
pub(super) fn own_name() -> String {
    format!("{OWN}{}-{}", std::process::id(), ulid::Ulid::generate())
}

/// Whether a folder is of a process that is gone.
fn is_orphan(name: &str) -> bool {
    let pid = name.strip_prefix(OWN).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// What a command may reach.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) view: View,
    pub(crate) writes: Vec<PathBuf>,
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) network: bool,
    /// Whether what it tries to change outside is told by path, also over a layer.
    pub(crate) told: bool,
}

impl Reach {
    /// Of a step that is not contained: what it declares, and the network unless it is known to act on files.
    pub(super) fn of_step(params: &Run, step: &StepSpec) -> Self {
        let found = known(params);
        let reads_only = found.as_ref().is_some_and(|found| found.entry.restore == Restore::ReadOnly);
        let acts_on_files = found.is_some_and(|found| found.entry.restore == Restore::Snapshot);
        Self {
            view: if reads_only { View::Bare } else { View::Machine },
            writes: allowed(&step.lowered.writes),
            hidden: hidden(&step.facts, &step.lowered),
            network: params.network.unwrap_or(!acts_on_files),
            told: true,
        }
    }

    /// Of a command beside a step.
    pub(super) fn to_look(argv: &[String], facts: &Facts, writes: &[Resource]) -> Self {
        let found = Library::shipped().find(argv);
        let reads_only = found.is_some_and(|found| found.entry.restore == Restore::ReadOnly);
        Self {
            view: if reads_only { View::Bare } else { View::Machine },
            writes: allowed(writes),
            hidden: facts.protected.iter().chain(&facts.backups).cloned().collect(),
            network: true,
            told: true,
        }
    }
}

/// What a step must not see into: backout's own state, and backups, unless they are what it declares.
pub(super) fn hidden(facts: &Facts, lowered: &kernel::Lowered) -> Vec<PathBuf> {
    let declared = || lowered.writes.iter().chain(&lowered.reads);
    let is_others = |backup: &&PathBuf| {
        let own = Resource::file(backup.display().to_string());
        !declared().any(|resource| own.contains(resource))
    };
    facts.protected.iter().chain(facts.backups.iter().filter(is_others)).cloned().collect()
}

/// Folders that must be writable for these resources to be. What is not a folder is made and replaced in the folder around it.
fn allowed(writes: &[Resource]) -> Vec<PathBuf> {
    let folder = |write: &Resource| {
        let path = Path::new(write.path());
        // Never through a link: what it leads to is nobody's to declare.
        let is_real = |folder: &&Path| folder.canonicalize().is_ok_and(|real| real == **folder) && folder.is_dir();
        path.ancestors().find(is_real).map(Path::to_owned)
    };
    let files = writes.iter().filter(|write| write.scheme() == "file");
    let found: BTreeSet<PathBuf> = files.filter_map(folder).collect();
    found.into_iter().collect()
}

/// A folder of our own for one launch; removed with this, unless it is kept.
#[derive(Debug)]
pub(crate) struct Bench {
    path: PathBuf,
    is_kept: bool,
}

impl Bench {
    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to where it stays.
    pub(crate) fn keep_as(&mut self, to: PathBuf) -> Result<(), DriverError> {
        std::fs::rename(&self.path, &to)
            .map_err(|error| DriverError::io(format!("cannot keep {}", to.display()), error))?;
        (self.path, self.is_kept) = (to, true);
        Ok(())
    }

    /// Makes a new one in `folder`.
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self, DriverError> {
        let at = folder.join(name);
        let failed = |error| DriverError::io(format!("cannot make {}", at.display()), error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        // Its last name is new, or somebody else knew it.
        std::fs::DirBuilder::new().mode(0o700).create(&at).map_err(failed)?;
        Ok(Self { path: at, is_kept: false })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.path);
        }
    }
}

/// Removes a folder of layers. What the kernel made for itself in it nobody may enter until it is opened up.
pub(crate) fn remove(folder: &Path) {
    if std::fs::remove_dir_all(folder).is_ok() || std::fs::remove_file(folder).is_ok() {
        return;
    }
    open_up(folder);
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        // A folder that is left costs room and nothing else; what is beneath the state folder is reported by nobody but a look.
        let _ = error;
    }
}

fn open_up(folder: &Path) {
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        open_up(&entry.path());
    }
}

impl Confinement {
    /// A confinement that starts commands through `program` and keeps what they write in `layers`.
    pub fn new(program: impl Into<PathBuf>, layers: PathBuf) -> Self {
        Self { launcher: Launcher::new(program), layers, able: OnceLock::new() }
    }

    /// Whether this machine can contain a command, or what it said when it was tried. Tried once, by doing all of it.
    pub fn ability(&self) -> Result<(), &str> {
        let tried = self.able.get_or_init(|| {
            // Once for a process: layers that nobody asked for in a long time, and what dead ones left.
            self.clear("none");
            self.try_all().map_err(|error| crate::file::kernel_detail(&error))
        });
        tried.as_ref().copied().map_err(String::as_str)
    }

    /// A folder for the layers of one launch over these roots.
    pub(crate) fn bench(&self, roots: &[PathBuf], run: &str) -> Result<Bench, DriverError> {
        Bench::new(&self.base(roots)?, &format!("{}{}", prefix(run), ulid::Ulid::generate()))
    }

    /// Where the layer over these roots is kept that was assessed as `name`.
    pub(crate) fn kept(&self, roots: &[PathBuf], name: &str) -> Result<PathBuf, DriverError> {
        Ok(self.base(roots)?.join(format!("approved-{name}")))
    }

    /// The folder for layers over these roots: a layer cannot lie in what it is laid over.
    fn base(&self, roots: &[PathBuf]) -> Result<PathBuf, DriverError> {
        let is_free = |folder: &PathBuf| !roots.iter().any(|root| folder.starts_with(root));
        if is_free(&self.layers) {
            return Ok(self.layers.clone());
        }
        let text = "the state folder and the temporary folder lie in a root: no layer can lie there".to_owned();
        let other = self.elsewhere();
        if !is_free(&other) {
            return Err(DriverError::Refused(text));
        }
        let made = std::fs::DirBuilder::new().mode(0o700).create(&other);
        if let Err(error) = made
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(DriverError::io(format!("cannot make {}", other.display()), error));
        }
        // Whoever knew the name first may have left something else there.
        let meta = std::fs::symlink_metadata(&other)
            .map_err(|error| DriverError::io(format!("cannot look at {}", other.display()), error))?;
        let own = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0;
        match own {
            true => Ok(other),
            false => Err(DriverError::Refused(format!("{} is not ours alone", other.display()))),
        }
    }

    /// The folder for layers where the state folder lies in a root.
    fn elsewhere(&self) -> PathBuf {
        let name = schemas::Digest::of(self.layers.as_os_str().as_encoded_bytes()).hex();
        std::env::temp_dir().join(format!("backout-layers-{}", name.chars().take(16).collect::<String>()))
    }

    /// Notes durably what a commit will leave, so that after a crash nobody else is taken for it, nor it for anybody else.
    pub(crate) fn announce(&self, run: &str, step: usize, left: &BTreeMap<String, String>) -> Result<(), DriverError> {
        let path = self.announced_at(run, step);
        let failed = |error| DriverError::io(format!("cannot write {}", path.display()), error);
        let bytes = serde_json::to_vec(left).map_err(|error| DriverError::Image(error.to_string()))?;
        let part = path.with_extension("part");
        let mut file =
            std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&part).map_err(failed)?;
        std::io::Write::write_all(&mut file, &bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&part, &path).map_err(failed)?;
        std::fs::File::open(&self.layers).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// What the commit of a step of a dead process was to leave, where it began one.
    pub(crate) fn announced(&self, run: &str, step: usize) -> Option<BTreeMap<String, String>> {
        let bytes = std::fs::read(self.announced_at(run, step)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn announced_at(&self, run: &str, step: usize) -> PathBuf {
        self.layers.join(format!("commit-{run}-{step}.json"))
    }

    /// Removes what a dead process of `run` left, what dead processes left of trials, and what nobody has asked for in a long time.
    pub(crate) fn clear(&self, run: &str) {
        clear_orphans(&std::env::temp_dir());
        let each = [self.layers.clone(), self.elsewhere()];
        for entry in each.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().filter_map(Result::ok) {
            let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
            // What a commit was to leave is needed as long as its run is open.
            let is_note = entry.file_name().to_string_lossy().starts_with("commit-");
            let old = !is_note && age.is_some_and(|age| age > OLD);
            let name = entry.file_name().to_string_lossy().into_owned();
            if old || name.starts_with(&prefix(run)) || is_orphan(&name) {
                remove(&entry.path());
            }
        }
    }

    /// A folder for the layers of one trial.
    pub(super) fn trial_bench(&self, roots: &[PathBuf]) -> Result<Bench, DriverError> {
        Bench::new(&self.base(roots)?, &own_name())
    }

    fn try_all(&self) -> Result<(), DriverError> {
        let bench = self.trial_bench(&[])?;
        let root = Bench::new(bench.path(), "root")?;
        let opened = snapshots::Root::open(root.path()).map_err(snapshot_failed)?;
        let view = View::Layers(vec![layer(bench.path(), 0, root.path(), &Below::new(&opened), Vec::new())?]);
        let reach =
            Reach { view, writes: vec![root.path().to_owned()], hidden: Vec::new(), network: false, told: false };
        let argv = ["sh", "-c", "echo tried > file"].map(str::to_owned);
        super::process::run(&Program {
            argv: &argv,
            cwd: root.path(),
            env: &BTreeMap::new(),
            stdin: None,
            timeout_ms: 10_000,
            run: "try",
            cancel: &Cancel::default(),
            ground: Ground::Walled(self, &reach),
        })
        .map_err(with_what_it_said)?;
        let written = upper(bench.path(), 0).join("file");
        match std::fs::read(&written).is_ok_and(|bytes| bytes == b"tried\n") && !root.path().join("file").exists() {
            true => Ok(()),
            false => Err(DriverError::Tool("a layer did not take what was written".to_owned())),
        }
    }

    /// Starts a program within its reach. `scratch` is an empty folder of its own.
    pub(crate) fn start(
        &self,
        program: &Program<'_>,
        reach: &Reach,
        env: Vec<(String, String)>,
        scratch: &Path,
    ) -> std::io::Result<launcher::Started> {
        let wanted = Wanted {
            argv: program.argv.to_vec(),
            cwd: program.cwd.to_owned(),
            env,
            view: reach.view.clone(),
            network: reach.network,
            tells_writes: reach.told,
            writes: reach.writes.clone(),
            hidden: reach.hidden.clone(),
            scratch: scratch.to_owned(),
            limits: Limits { cpu_s: (program.timeout_ms / 1000 + 1) * 8, ..Limits::default() },
        };
        self.launcher.start(&wanted, program.stdin)
    }
}

fn with_what_it_said(error: DriverError) -> DriverError {
    match error {
        DriverError::Exit { message, output } => {
            DriverError::Tool(format!("{message}: {}", String::from_utf8_lossy(&output.captured).trim()))
        }
        other => other,
    }
}

/// Removes folders of ours in a folder of everybody's, where the process that made them is gone.
fn clear_orphans(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let own = rustix::process::geteuid().as_raw();
    for entry in entries.filter_map(Result::ok).filter(|entry| is_orphan(&entry.file_name().to_string_lossy())) {
        if entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == own) {
            remove(&entry.path());
        }
    }
}

/// The folder of a bench that takes what is written to the root of that number.
pub(super) fn upper(bench: &Path, number: usize) -> PathBuf {
    bench.join(format!("upper-{number}"))
}

/// A layer over `root` and the uppers of others, the topmost first, that is kept in `bench`; `under` is what they show together.
pub(crate) fn layer(
    bench: &Path,
    number: usize,
    root: &Path,
    under: &Below<'_>,
    uppers: Vec<PathBuf>,
) -> Result<Layer, DriverError> {
    let make = |at: PathBuf| {
        let made = std::fs::DirBuilder::new().mode(0o700).create(&at);
        made.map_err(|error| DriverError::io(format!("cannot make {}", at.display()), error)).map(|()| at)
    };
    let (upper, work) = (make(upper(bench, number))?, make(bench.join(format!("work-{number}")))?);
    snapshots::Layer::begin(&upper, under, uppers.first().map(PathBuf::as_path)).map_err(snapshot_failed)?;
    let lower = uppers.into_iter().chain([root.to_owned()]).collect();
    Ok(Layer { at: root.to_owned(), lower, upper, work })
}
