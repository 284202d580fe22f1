//! The contract of a kind of step. Everything that acts is a driver; a driver decides nothing.
//!
//! `probe`, `prepare`, `observe` and `check` must never change what they look at. `apply` and `undo` must never act without a
//! token that covers exactly what they do.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use schemas::{
    Act, Change, Check, Class, Digest, Expectation, Finding, PlanStep, Resource, StepAssessment, UndoCommand, WayBack,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::graph::StepIx;
use crate::token::{Scope, Token, TokenError};
use crate::transition::{Claim, Seen};

/// What the site says about the environment of a plan; the only facts that lowering may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Name of the environment.
    pub environment: String,
    /// Folders beneath which the plan may act; relative paths start at the first. Absolute, canonical.
    pub roots: Vec<PathBuf>,
    /// What backout itself lives on: no command is given a name in here. Absolute, canonical.
    pub protected: Vec<PathBuf>,
    /// Folders with backups: no command sees into one that its step does not declare.
    pub backups: Vec<PathBuf>,
    /// Whether this machine can run a command so that nothing of the world changes but what is committed afterwards.
    pub contains: bool,
}

/// A command that runs beside the step itself, to look: a check, a capture, `present`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideCommand {
    /// Its words.
    pub argv: Vec<String>,
    /// Whether it is known to only read.
    pub only_reads: bool,
}

/// A step in terms of resources: all that planner and policy ever see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowered {
    /// What it reads.
    pub reads: Vec<Resource>,
    /// What it may change, completely.
    pub writes: Vec<Resource>,
    /// The best class it can have; the assessment may find a worse one.
    pub class: Class,
    /// The way back.
    pub way_back: WayBack,
    /// Resolved arguments, for kinds that run a program.
    pub argv: Vec<String>,
    /// Resolved working directory, likewise.
    pub cwd: Option<String>,
    /// What it does beyond the changes that can be seen before; a step that the assessment tells whole has none.
    pub act: Option<Act>,
    /// Commands of the plan that look before or after the step.
    pub side: Vec<SideCommand>,
}

/// A step as drivers get it.
#[derive(Clone, Debug)]
pub struct StepSpec {
    /// Index in the plan.
    pub ix: StepIx,
    /// Id in the plan.
    pub id: String,
    /// Kind and operation.
    pub uses: String,
    /// Parameters as the plan has them.
    pub with: Box<RawValue>,
    /// Declared delta.
    pub expect: Option<Expectation>,
    /// Way back of a command.
    pub undo: Option<UndoCommand>,
    /// Checks after the step.
    pub verify: Vec<Check>,
    /// Milliseconds until it is ended.
    pub timeout_ms: Option<u64>,
    /// In terms of resources.
    pub lowered: Lowered,
    /// Patterns as the assessment expanded them: the step acts on these names and no others.
    pub pinned: Vec<String>,
    /// Where it may act.
    pub facts: Arc<Facts>,
}

impl StepSpec {
    /// The operation: what stands after the dot of `uses`.
    pub fn operation(&self) -> &str {
        self.uses.split_once('.').map_or("", |(_, operation)| operation)
    }

    /// SHA-256 over all that decides what the step does: kind, operation, resources, parameters, ways back, limits and roots, with its
    /// patterns expanded to `pinned`. A token covers what has its reach and nothing else.
    pub fn reach_with(&self, pinned: &[String]) -> Digest {
        let lowered = &self.lowered;
        let roots: Vec<_> = self.facts.roots.iter().map(|root| root.as_os_str().as_encoded_bytes()).collect();
        let all = (
            (&self.id, &self.uses, self.with.get(), &self.undo, &self.verify, self.timeout_ms),
            (&lowered.reads, &lowered.writes, &lowered.argv, &lowered.cwd, lowered.class),
            (&self.facts.environment, roots, pinned),
        );
        // INVARIANT: these are strings, numbers and lists of them, which always serialize.
        Digest::of(&serde_json::to_vec(&all).unwrap_or_default())
    }

    /// [`Self::reach_with`] the names that the step is pinned to.
    pub fn reach(&self) -> Digest {
        self.reach_with(&self.pinned)
    }

    /// The typed parameters. They were checked when the plan was lowered.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, DriverError> {
        serde_json::from_str(self.with.get())
            .map_err(|error| DriverError::Refused(format!("the parameters of {} do not parse: {error}", self.id)))
    }
}

/// Parses parameters while lowering; what does not fit is a finding at `/steps/N/with`.
pub fn parameters<T: DeserializeOwned>(step: &PlanStep, ix: usize) -> Result<T, Vec<Finding>> {
    serde_json::from_str(step.with.get()).map_err(|error| {
        let hint = format!("backout schema {} shows the parameters", step.uses);
        let place = format!("/steps/{ix}/with");
        vec![Finding::error(schemas::Code::STEP_PARAMETERS, place, error.to_string(), hint).of_step(&step.id)]
    })
}

/// What was there before a step, complete enough to put it back. Large contents live in the snapshot store, named by digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeforeImage {
    /// Fingerprints of what was seen, in the terms of the assessment.
    pub fingerprints: BTreeMap<String, String>,
    /// The kind's own data.
    pub data: Box<RawValue>,
}

/// What a step left, complete enough to notice a later change by somebody else.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AfterImage(pub Box<RawValue>);

impl BeforeImage {
    /// An image of `data`.
    pub fn new<T: Serialize>(fingerprints: BTreeMap<String, String>, data: &T) -> Result<Self, DriverError> {
        Ok(Self { fingerprints, data: raw(data)? })
    }

    /// The kind's own data, typed.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, DriverError> {
        serde_json::from_str(self.data.get()).map_err(|error| DriverError::Image(error.to_string()))
    }
}

impl AfterImage {
    /// An image of `data`.
    pub fn new<T: Serialize>(data: &T) -> Result<Self, DriverError> {
        raw(data).map(Self)
    }

    /// The kind's own data, typed.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, DriverError> {
        serde_json::from_str(self.0.get()).map_err(|error| DriverError::Image(error.to_string()))
    }
}

fn raw<T: Serialize>(data: &T) -> Result<Box<RawValue>, DriverError> {
    serde_json::value::to_raw_value(data).map_err(|error| DriverError::Image(error.to_string()))
}

/// What a step that was tried out would leave, where steps after it can be tried out on top: its kind alone understands it. What it
/// takes up is given back when it is dropped.
pub type Left = Arc<dyn Any + Send + Sync>;

/// What is known of the steps before one that is tried out.
pub struct Ahead<'a> {
    /// What those that were tried out and are needed would leave, in the order in which they may run.
    pub left: &'a [Left],
    /// Ids of steps that are needed and of which nobody knows what they leave, though they declare nothing that the step touches.
    pub unseen: &'a [String],
}

/// A step that was tried out.
pub struct TriedOut {
    /// What it would change.
    pub assessment: StepAssessment,
    /// What it would leave.
    pub leaves: Leaves,
}

/// What a step that was tried out would leave for those after it.
pub enum Leaves {
    /// That is not known.
    Unknown,
    /// Everything as it was.
    AsItWas,
    /// This.
    Draft(Left),
}

/// What an observation saw.
#[derive(Clone, Debug)]
pub enum Sighting {
    /// Every resource is as before the step.
    Absent,
    /// Every resource is as the step leaves it; this is what changed.
    Present {
        /// For the no-clobber check of a later undo.
        after: AfterImage,
        /// The inventory.
        changes: Vec<Change>,
    },
    /// Something is changed, but not as the step leaves it.
    Partial {
        /// For the no-clobber check of the undo.
        after: AfterImage,
        /// The inventory.
        changes: Vec<Change>,
        /// What is not as it should be.
        detail: String,
    },
    /// It cannot be told.
    Unclear {
        /// Why, and what to look at.
        detail: String,
    },
}

impl Sighting {
    /// The word for the kernel.
    pub fn seen(&self) -> Seen {
        match self {
            Self::Absent => Seen::Absent,
            Self::Present { .. } => Seen::Present,
            Self::Partial { .. } => Seen::Partial,
            Self::Unclear { .. } => Seen::Unclear,
        }
    }
}

/// What a driver brings back from `apply`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit code of a program.
    pub exit_code: Option<i32>,
    /// Captured output and error output, redacted and capped.
    pub captured: Vec<u8>,
    /// Standard output alone, capped: for values that are taken out of it, never for a record.
    pub printed: Vec<u8>,
    /// Whether `printed` was capped.
    pub cut: bool,
    /// A sentence for people.
    pub message: Box<str>,
    /// What a program tried although it may not.
    pub tried: Box<[String]>,
}

/// Why a driver could not do what it was asked. INVARIANT: never a statement about the world, which only `observe` makes.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The operating system said no.
    #[error("{doing}")]
    Io {
        /// What was tried, with the path.
        doing: String,
        /// What it said.
        source: std::io::Error,
    },
    /// The world is not as assessed.
    #[error("stale: {0}")]
    Stale(String),
    /// The step cannot be done, or not safely.
    #[error("{0}")]
    Refused(String),
    /// A library or a tool failed.
    #[error("{0}")]
    Tool(String),
    /// A program ended badly.
    #[error("{message}")]
    Exit {
        /// A sentence for people.
        message: String,
        /// What it left.
        output: Output,
    },
    /// The time was over; what ran was ended.
    #[error("timed out after {after_ms} ms")]
    TimedOut {
        /// The timeout in milliseconds.
        after_ms: u64,
        /// What it left.
        output: Output,
    },
    /// Somebody stopped the run; what ran was ended.
    #[error("stopped")]
    Stopped {
        /// What it left.
        output: Output,
    },
    /// A stored image does not parse.
    #[error("a stored image does not parse: {0}")]
    Image(String),
    /// The token does not cover it.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl DriverError {
    /// An I/O error with what was tried.
    pub fn io(doing: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { doing: doing.into(), source: source.into() }
    }
}

/// One resource that somebody else changed after the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its URI.
    pub resource: String,
    /// What it was before the step.
    pub before: String,
    /// What the step left.
    pub left: String,
    /// What is there now.
    pub found: String,
}

/// Why an undo did not happen.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// Somebody else changed it since; nothing was overwritten.
    #[error("changed by somebody else since the step: {}", list(.0))]
    Clobber(Vec<Conflict>),
    /// It failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

fn list(conflicts: &[Conflict]) -> String {
    let line = |c: &Conflict| format!("{} (before {}, left {}, found {})", c.resource, c.before, c.left, c.found);
    conflicts.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// A shared flag by which the shell ends what is in flight.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Wish>);

#[derive(Default)]
struct Wish {
    end: AtomicBool,
    at_once: AtomicBool,
    bells: Mutex<Vec<Weak<Bell>>>,
}

/// What is called when somebody asks to end.
pub type Bell = dyn Fn() + Send + Sync;

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wish").field("end", &self.end).field("at_once", &self.at_once).finish_non_exhaustive()
    }
}

impl Cancel {
    /// Asks everything that holds this flag to end.
    pub fn cancel(&self) {
        self.0.end.store(true, Ordering::SeqCst);
        let bells: Vec<_> = self.bells().iter().filter_map(Weak::upgrade).collect();
        bells.iter().for_each(|bell| bell());
    }

    /// Has `bell` called when somebody asks to end, as long as the caller keeps it; at once where somebody has.
    pub fn ring(&self, bell: &Arc<Bell>) {
        let mut bells = self.bells();
        bells.retain(|known| known.strong_count() > 0);
        bells.push(Arc::downgrade(bell));
        drop(bells);
        if self.is_cancelled() {
            bell();
        }
    }

    fn bells(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Bell>>> {
        self.0.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything that holds this flag, without asking.
    pub fn kill(&self) {
        self.0.at_once.store(true, Ordering::SeqCst);
        self.cancel();
    }

    /// Whether it was asked to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.end.load(Ordering::SeqCst)
    }

    /// Whether it is to end without being asked.
    pub fn is_killed(&self) -> bool {
        self.0.at_once.load(Ordering::SeqCst)
    }
}

/// Whether a check passed, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOutcome {
    /// Yes or no.
    pub passed: bool,
    /// What was seen, for people.
    pub saw: String,
}

/// What can be said of a kind without touching the world.
pub trait Kind: Send + Sync {
    /// The word before the dot of `uses`.
    fn name(&self) -> &'static str;
    /// The words after it, for steps.
    fn operations(&self) -> &'static [&'static str];
    /// The words after it, for checks.
    fn checks(&self) -> &'static [&'static str];
    /// JSON Schema of the parameters of an operation or check.
    fn schema(&self, operation: &str) -> Option<Value>;
    /// The commands that a check of this kind runs.
    fn commands_of(&self, _check: &Check, _facts: &Facts) -> Vec<SideCommand> {
        Vec::new()
    }
    /// The step in terms of resources; problems as findings with pointers into the plan.
    fn lower(&self, step: &PlanStep, ix: usize, facts: &Facts) -> Result<Lowered, Vec<Finding>>;
}

/// What acts.
pub trait Driver: Kind {
    /// Looks at what the step would change. `priors` are earlier steps of the plan that touch the same resources.
    fn probe(&self, step: &StepSpec, priors: &[&StepSpec]) -> Result<StepAssessment, DriverError>;
    /// Does the step where nobody sees it, on top of what the steps before it would leave. Nothing where the kind or this step cannot be tried
    /// out: then it is probed. Every earlier step that declares to write what this one touches was tried out.
    fn try_out(&self, _step: &StepSpec, _ahead: &Ahead<'_>) -> Result<Option<TriedOut>, DriverError> {
        Ok(None)
    }
    /// Takes the before-image: complete and durable, or an error.
    fn prepare(&self, step: &StepSpec, scope: &Scope) -> Result<BeforeImage, DriverError>;
    /// Acts. Twice with one before-image equals once.
    fn apply(&self, step: &StepSpec, before: &BeforeImage, token: Token, scope: &Scope) -> Result<Output, DriverError>;
    /// Looks whether the step is there. `claim` is what `apply` said in this process, if it returned; it may explain what is
    /// seen, never replace looking.
    fn observe(&self, step: &StepSpec, before: &BeforeImage, claim: Option<Claim>, scope: &Scope) -> Sighting;
    /// What somebody else changed of what the step left, by looking alone: what an undo would refuse to overwrite. With
    /// `strict`, what is as before counts as well: what a run that goes on from the step may not build on.
    fn conflicts(
        &self,
        step: &StepSpec,
        before: &BeforeImage,
        after: Option<&AfterImage>,
        strict: bool,
        scope: &Scope,
    ) -> Result<Vec<Conflict>, DriverError>;
    /// Reads the before-image back, whole, and holds it against its digests.
    fn check_image(&self, before: &BeforeImage) -> Result<(), DriverError>;
    /// Puts the before-image back, unless somebody else changed what `after` says the step left.
    fn undo(
        &self,
        step: &StepSpec,
        before: &BeforeImage,
        after: Option<&AfterImage>,
        token: Token,
        scope: &Scope,
    ) -> Result<(), UndoError>;
    /// After an undo: whether what `observe` does not look at, such as the times of the folders around, is back as well. Where it
    /// is not, the undo is done again.
    fn is_exact(&self, _before: &BeforeImage) -> bool {
        true
    }
    /// Runs a check of this kind.
    fn check(&self, check: &Check, facts: &Facts, scope: &Scope) -> Result<CheckOutcome, DriverError>;
    /// After a crash, before anything is observed: ends processes and clears temporary files that the step left behind.
    /// Returns how many.
    fn end_leftovers(
        &self,
        _step: &StepSpec,
        _before: Option<&BeforeImage>,
        _scope: &Scope,
    ) -> Result<u32, DriverError> {
        Ok(0)
    }
}

/// The kinds that a program was built with.
#[derive(Clone, Default)]
pub struct DriverSet(BTreeMap<&'static str, Arc<dyn Driver>>);

impl DriverSet {
    /// A set of these drivers.
    pub fn new(drivers: Vec<Arc<dyn Driver>>) -> Self {
        Self(drivers.into_iter().map(|driver| (driver.name(), driver)).collect())
    }

    /// The driver of `uses`, if the kind exists and has the operation.
    pub fn for_step(&self, uses: &str) -> Option<&Arc<dyn Driver>> {
        let (kind, operation) = uses.split_once('.')?;
        self.0.get(kind).filter(|driver| driver.operations().contains(&operation))
    }

    /// The driver of a check.
    pub fn for_check(&self, uses: &str) -> Option<&Arc<dyn Driver>> {
        let (kind, check) = uses.split_once('.')?;
        self.0.get(kind).filter(|driver| driver.checks().contains(&check))
    }

    /// All drivers, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Driver>> {
        self.0.values()
    }

    /// Every `kind.operation`, sorted.
    pub fn names(&self) -> Vec<String> {
        let of = |driver: &Arc<dyn Driver>| {
            driver.operations().iter().map(|op| format!("{}.{op}", driver.name())).collect::<Vec<_>>()
        };
        self.0.values().flat_map(of).collect()
    }
}
