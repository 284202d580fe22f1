//! What the shell gives to drivers, and the one message type that comes back.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kernel::{
    AfterImage, BeforeImage, Claim, DriverError, DriverSet, Facts, Output, Scope, Sighting, StepIx, StepSpec, Token,
    UndoError,
};
use schemas::{Check, Deed};
use tokens::Mint;
use verifier::Verification;

/// One piece of work for one driver.
#[derive(Debug)]
pub enum Work {
    /// Take the before-image.
    Prepare(StepSpec),
    /// Act, as the act of this number.
    Apply(StepSpec, BeforeImage, u64),
    /// Look whether the step is there; `claim` is what the driver said, if it returned.
    Observe(StepSpec, Option<BeforeImage>, Option<Claim>),
    /// Verify effects and run the step's checks.
    Verify(StepSpec, BeforeImage),
    /// Put back, as the act of this number.
    Undo(StepSpec, BeforeImage, Option<AfterImage>, u64),
    /// Look whether it is put back.
    ObserveUndo(StepSpec, BeforeImage),
    /// Run the plan's own checks.
    Checks(Vec<Check>, Arc<Facts>),
}

/// What comes back to the loop that owns the run.
#[derive(Debug)]
pub enum Message {
    /// A before-image, durable, or why there is none.
    Prepared(StepIx, Result<BeforeImage, DriverError>),
    /// The driver came back from acting; with milliseconds taken.
    Applied(StepIx, Result<Output, DriverError>, u64),
    /// What was seen of a step in doubt.
    Observed(StepIx, Sighting),
    /// What verification found.
    Verified(StepIx, Verification),
    /// The driver came back from undoing.
    Undone(StepIx, Result<(), UndoError>),
    /// What was seen after an undo.
    UndoObserved(StepIx, Sighting),
    /// The plan's checks: what passed, what did not.
    Checked(Vec<String>, Vec<String>),
    /// The commit that was under way is durable.
    Durable,
    /// A stop covers the run: what acts is ended, nothing new starts.
    Braked(Braked),
    /// A person or a signal wants nothing new to start.
    Halt {
        /// Who or what.
        cause: String,
        /// Whether it was the clock.
        timed_out: bool,
    },
}

/// Asked directly before a step acts, and before a run is committed: the policy, which may have changed its mind since the gate.
pub trait Warden: Send + Sync {
    /// Whether the step may act now, or why not.
    fn may_act(&self, ix: StepIx) -> Result<(), String>;
    /// Whether the run may be committed with so many checks failed, or why not.
    fn may_commit(&self, checks_failed: usize) -> Result<(), String>;
}

/// What work is done with.
pub struct Hands {
    /// The kinds.
    pub drivers: DriverSet,
    /// For what acts forward: a stop ends it.
    pub stoppable: Scope,
    /// For looking and undoing, which no stop cuts short.
    pub steady: Scope,
    /// Folder for what steps wrote.
    pub outputs: PathBuf,
    /// Asked directly before a step acts; nobody while a run only goes back.
    pub warden: Option<Arc<dyn Warden>>,
    /// What stops it; nothing while a run only goes back.
    pub brake: Option<Arc<dyn Brake>>,
    /// Where tokens come from.
    pub mint: Arc<Mint>,
}

impl Hands {
    fn token(&self, step: &StepSpec, deed: Deed, act: u64) -> Result<Token, DriverError> {
        Ok(self.mint.mint(step, deed, act)?)
    }
}

/// Why a run must halt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Braked {
    /// Who or what, and why.
    pub cause: String,
    /// Whether everything is to be put back.
    pub undo: bool,
}

/// What stops a run from outside: asked before each act, and whenever its folder changes.
pub trait Brake: Send + Sync {
    /// The folder whose changes may mean a stop.
    fn folder(&self) -> &Path;
    /// Whether the run must halt. What cannot be told is a yes.
    fn braked(&self) -> Option<Braked>;
}

impl Work {
    /// Does it, unless a stop or the warden says no.
    pub fn perform_allowed(self, hands: &Hands) -> Message {
        let warden = hands.warden.as_deref();
        let braked = || hands.brake.as_deref().and_then(Brake::braked).map(|braked| DriverError::Refused(braked.cause));
        let refused =
            |ix| braked().or_else(|| warden.and_then(|warden| warden.may_act(ix).err()).map(DriverError::Refused));
        match &self {
            Self::Prepare(step) => {
                if let Some(error) = refused(step.ix) {
                    return Message::Prepared(step.ix, Err(error));
                }
            }
            Self::Apply(step, ..) => {
                if let Some(error) = refused(step.ix) {
                    return Message::Applied(step.ix, Err(error), 0);
                }
            }
            _ => {}
        }
        let mut message = self.perform_safely(hands);
        if let Message::Checked(_, failed) = &mut message
            && let Some(braked) = braked()
        {
            failed.push(braked.to_string());
        }
        if let (Some(warden), Message::Checked(_, failed)) = (warden, &mut message)
            && failed.is_empty()
            && let Err(reason) = warden.may_commit(failed.len())
        {
            failed.push(reason);
        }
        message
    }

    /// The step that it is about; none for the plan's checks.
    pub fn step(&self) -> Option<StepIx> {
        match self {
            Self::Prepare(step)
            | Self::Apply(step, ..)
            | Self::Observe(step, ..)
            | Self::Verify(step, _)
            | Self::Undo(step, ..)
            | Self::ObserveUndo(step, _) => Some(step.ix),
            Self::Checks(..) => None,
        }
    }

    /// Whether it changes the world, so that it must wait until its record is durable.
    pub fn acts(&self) -> bool {
        matches!(self, Self::Apply(..) | Self::Undo(..))
    }

    /// Does it, and turns a panic of a driver into a failure: a message that never came would hang the run.
    fn perform_safely(self, hands: &Hands) -> Message {
        let about = self.about();
        let work = std::panic::AssertUnwindSafe(|| self.perform(hands));
        std::panic::catch_unwind(work).unwrap_or_else(|_| about.panicked())
    }

    fn about(&self) -> About {
        match self {
            Self::Prepare(step) => About::Prepare(step.ix),
            Self::Apply(step, ..) => About::Apply(step.ix),
            Self::Observe(step, ..) => About::Observe(step.ix),
            Self::Verify(step, _) => About::Verify(step.ix),
            Self::Undo(step, ..) => About::Undo(step.ix),
            Self::ObserveUndo(step, _) => About::ObserveUndo(step.ix),
            Self::Checks(..) => About::Checks,
        }
    }

    fn perform(self, hands: &Hands) -> Message {
        let Hands { drivers, stoppable, steady, outputs, .. } = hands;
        let missing = |step: &StepSpec| DriverError::Refused(format!("no driver for {}", step.uses));
        match self {
            Self::Prepare(step) => {
                let outcome =
                    drivers.for_step(&step.uses).ok_or_else(|| missing(&step)).and_then(|d| d.prepare(&step, steady));
                Message::Prepared(step.ix, outcome)
            }
            Self::Apply(step, before, act) => {
                let started = Instant::now();
                let driver = drivers.for_step(&step.uses).ok_or_else(|| missing(&step));
                let outcome = driver.and_then(|driver| {
                    let token = hands.token(&step, Deed::Apply, act)?;
                    driver.apply(&step, &before, token, stoppable)
                });
                keep_output(&outcome, outputs);
                Message::Applied(step.ix, outcome, started.elapsed().as_millis() as u64)
            }
            Self::Observe(step, before, claim) => {
                Message::Observed(step.ix, see(drivers, &step, before.as_ref(), claim, steady))
            }
            Self::Verify(step, before) => {
                let verified = match drivers.for_step(&step.uses) {
                    Some(driver) => verifier::verify(driver.as_ref(), drivers, &step, &before, steady),
                    None => Verification {
                        after: None,
                        changes: vec![],
                        checks: vec![],
                        reasons: vec![missing(&step).to_string()],
                    },
                };
                Message::Verified(step.ix, verified)
            }
            Self::Undo(step, before, after, act) => {
                let driver = drivers.for_step(&step.uses).ok_or_else(|| UndoError::from(missing(&step)));
                let outcome = driver.and_then(|driver| {
                    let token = hands.token(&step, Deed::Undo, act)?;
                    driver.undo(&step, &before, after.as_ref(), token, steady)
                });
                Message::Undone(step.ix, outcome)
            }
            Self::ObserveUndo(step, before) => {
                let seen = see(drivers, &step, Some(&before), None, &after_undo(steady));
                let driver = drivers.for_step(&step.uses);
                let exact = !matches!(seen, Sighting::Absent) || driver.is_none_or(|driver| driver.is_exact(&before));
                Message::UndoObserved(step.ix, if exact { seen } else { inexact() })
            }
            Self::Checks(checks, facts) => {
                let (passed, failed) = verifier::run_checks(drivers, &checks, &facts, steady);
                Message::Checked(passed, failed)
            }
        }
    }
}

/// What is left of a piece of work when its driver panicked.
enum About {
    Prepare(StepIx),
    Apply(StepIx),
    Observe(StepIx),
    Verify(StepIx),
    Undo(StepIx),
    ObserveUndo(StepIx),
    Checks,
}

impl About {
    fn panicked(self) -> Message {
        let text = "the driver panicked, which is a bug in backout".to_owned();
        let error = || DriverError::Tool(text.clone());
        let unclear = || Sighting::Unclear { detail: text.clone() };
        match self {
            Self::Prepare(ix) => Message::Prepared(ix, Err(error())),
            Self::Apply(ix) => Message::Applied(ix, Err(error()), 0),
            Self::Observe(ix) => Message::Observed(ix, unclear()),
            Self::Verify(ix) => Message::Verified(
                ix,
                Verification { after: None, changes: vec![], checks: vec![], reasons: vec![text] },
            ),
            Self::Undo(ix) => Message::Undone(ix, Err(error().into())),
            Self::ObserveUndo(ix) => Message::UndoObserved(ix, unclear()),
            Self::Checks => Message::Checked(Vec::new(), vec![text]),
        }
    }
}

/// Everything is back but what lies around it.
fn inexact() -> Sighting {
    let detail = "the time of a folder around it is not back".to_owned();
    match AfterImage::new(&serde_json::Value::Null) {
        Ok(after) => Sighting::Partial { after, changes: Vec::new(), detail },
        Err(error) => Sighting::Unclear { detail: error.to_string() },
    }
}

/// After an undo in this process, nothing that is seen is blamed on an earlier process.
fn after_undo(scope: &Scope) -> Scope {
    Scope { alive_until_ms: None, ..scope.clone() }
}

fn see(
    drivers: &DriverSet,
    step: &StepSpec,
    before: Option<&BeforeImage>,
    claim: Option<Claim>,
    scope: &Scope,
) -> Sighting {
    let Some(driver) = drivers.for_step(&step.uses) else {
        return Sighting::Unclear { detail: format!("no driver for {}", step.uses) };
    };
    let Some(before) = before else {
        return Sighting::Unclear { detail: "its before-image is missing".to_owned() };
    };
    if claim.is_none()
        && let Err(error) = driver.end_leftovers(step, Some(before), scope)
    {
        return Sighting::Unclear { detail: format!("what it left running could not be ended: {error}") };
    }
    driver.observe(step, before, claim, scope)
}

/// Keeps what a step wrote, under the digest that its record will name. What cannot be kept is missed by `show`, not by the run.
fn keep_output(outcome: &Result<Output, DriverError>, outputs: &Path) {
    let output = match outcome {
        Ok(output) => output,
        Err(
            DriverError::Exit { output, .. } | DriverError::TimedOut { output, .. } | DriverError::Stopped { output },
        ) => output,
        Err(_) => return,
    };
    if output.captured.is_empty() {
        return;
    }
    let path = outputs.join(schemas::Digest::of(&output.captured).hex());
    let file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&path);
    if let Err(error) = file.and_then(|mut file| std::io::Write::write_all(&mut file, &output.captured)) {
        tracing::warn!("cannot keep output in {}: {error}", path.display());
    }
}
