//! A run from its records: the same fold for the live run, after a crash, for `status` and for `undo`.
//!
//! Must never take anything from anywhere but the records and the documents that they name by digest.

use std::sync::Arc;

use kernel::{AfterImage, BeforeImage, Event, Facts, Graph, IllegalEvent, Run, RunFact, StepIx, StepSpec};
use schemas::{Ceiling, Check, Class, Digest, OnFailure, RecordBody, RunSubject, StepAssessment, UndoReason};
use verifier::Account;

/// The documents of a plan that is being run, ready for use.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Digest of the plan.
    pub plan: Digest,
    /// Its steps, with patterns pinned.
    pub steps: Arc<Vec<StepSpec>>,
    /// Its graph.
    pub graph: Arc<Graph>,
    /// What was assessed, step by step.
    pub assessed: Arc<Vec<StepAssessment>>,
    /// The plan's own checks.
    pub checks: Vec<Check>,
    /// The environment.
    pub facts: Arc<Facts>,
    /// Decision ids, step by step.
    pub decisions: Arc<Vec<Digest>>,
    /// Digest of the decisions document.
    pub decisions_digest: Digest,
    /// The most that each step may be granted, by the same document.
    pub ceilings: Arc<Vec<Ceiling>>,
}

/// The documents that an opening names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The plan.
    pub plan: Digest,
    /// The assessment.
    pub assessment: Digest,
    /// The decisions.
    pub decisions: Digest,
}

/// Finds the documents that an opening names.
pub type Loader<'a> = dyn FnMut(&Names) -> Result<Loaded, String> + 'a;

/// Why a run did not simply commit: the first thing that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A step failed, or its effects were not as declared, or a check did not pass.
    Failed,
    /// The world was not as assessed.
    Stale,
    /// Somebody stopped it.
    Stopped,
    /// A step ran out of time.
    TimedOut,
    /// The process that ran it was gone.
    Crashed,
    /// Somebody asked for it to be undone.
    Asked,
}

/// A run as its records tell it.
#[derive(Clone, Debug)]
pub struct Folded {
    /// Whose run.
    pub subject: RunSubject,
    /// Documents of the plan in force.
    pub loaded: Loaded,
    /// The state machine.
    pub run: Run,
    /// Before-images, by step.
    pub befores: Vec<Option<BeforeImage>>,
    /// What steps left, by step.
    pub afters: Vec<Option<AfterImage>>,
    /// The first thing that went wrong, with a sentence.
    pub cause: Option<(Cause, String)>,
    /// What a person or a recovery asked for last, which decides what an end is called.
    pub way_back: Option<UndoReason>,
    /// Approvals that counted.
    pub approvals: Vec<Digest>,
    /// Manifest in force.
    pub manifest: Digest,
    /// What to do after a failure.
    pub on_failure: OnFailure,
    /// What the facts say about each step, for the receipt.
    pub account: Account,
    /// Steps in the order in which they began to act: they are undone in the reverse of it.
    pub acted: Vec<StepIx>,
    /// How many acts were announced, of the steps and of their undoing: the number of the next one.
    pub acts: u64,
}

/// Why records do not tell a run.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The first record does not open a run.
    #[error("the records of run {0} do not begin with its opening")]
    NoOpening(String),
    /// A document that a record names cannot be had.
    #[error("a document of the run cannot be had: {0}")]
    Document(String),
    /// A record breaks a law: the log is not what a run of backout writes.
    #[error("the log is not that of a run")]
    Illegal(#[from] IllegalEvent),
    /// A corrected plan took over steps that it could not.
    #[error("the log lets a plan take over where none could")]
    Amended,
}

/// Folds the records of one run.
pub fn fold(subject: RunSubject, facts: Vec<RecordBody>, load: &mut Loader<'_>) -> Result<Folded, FoldError> {
    let mut facts = facts.into_iter();
    let opening = facts.next();
    let Some(RecordBody::RunOpened { plan, manifest, assessment, decisions, approvals, on_failure, .. }) = &opening
    else {
        return Err(FoldError::NoOpening(subject.run));
    };
    let names = Names { plan: *plan, assessment: *assessment, decisions: *decisions };
    let loaded = load(&names).map_err(FoldError::Document)?;
    let mut folded = Folded::open(subject, loaded, *manifest, approvals.clone(), *on_failure);
    for fact in facts {
        folded.take(fact, load)?;
    }
    Ok(folded)
}

impl Folded {
    /// A run in which nothing has happened.
    pub fn open(
        subject: RunSubject,
        loaded: Loaded,
        manifest: Digest,
        approvals: Vec<Digest>,
        on_failure: OnFailure,
    ) -> Self {
        let count = loaded.steps.len();
        let run = Run::new(loaded.graph.clone(), on_failure);
        Self {
            subject,
            run,
            befores: vec![None; count],
            afters: vec![None; count],
            cause: None,
            way_back: None,
            approvals,
            manifest,
            on_failure,
            account: Account::default(),
            acted: Vec::new(),
            acts: 0,
            loaded,
        }
    }

    /// Takes one fact over, in the order of the log.
    pub fn take(&mut self, fact: RecordBody, load: &mut Loader<'_>) -> Result<(), FoldError> {
        if let RecordBody::Amended { plan, manifest, assessment, decisions, approvals, kept, .. } = &fact {
            let names = Names { plan: *plan, assessment: *assessment, decisions: *decisions };
            let loaded = load(&names).map_err(FoldError::Document)?;
            self.amend(loaded, *manifest, approvals.clone(), kept)?;
        } else {
            self.take_event(&fact)?;
        }
        Ok(())
    }

    /// Takes a fact that changes no plan.
    pub(crate) fn take_event(&mut self, fact: &RecordBody) -> Result<(), IllegalEvent> {
        if let Some(event) = Event::of_record(fact) {
            self.run.handle(&event)?;
        }
        match fact {
            RecordBody::ApplyStarted { step, .. } => {
                self.acted.push(StepIx(*step));
                self.acts += 1;
            }
            RecordBody::UndoStarted { .. } => self.acts += 1,
            _ => {}
        }
        self.keep_images(fact);
        self.account.take(fact);
        self.keep_cause(fact);
        Ok(())
    }

    fn keep_images(&mut self, fact: &RecordBody) {
        let after = |raw: &Option<Box<serde_json::value::RawValue>>| raw.clone().map(AfterImage);
        match fact {
            RecordBody::Prepared { step, before } => {
                if let Some(slot) = self.befores.get_mut(*step as usize) {
                    *slot = serde_json::from_str(before.get()).ok();
                }
            }
            RecordBody::Sighted { step, after: raw, .. }
            | RecordBody::Verified { step, after: raw, .. }
            | RecordBody::VerifyFailed { step, after: raw, .. } => {
                if let (Some(slot), Some(image)) = (self.afters.get_mut(*step as usize), after(raw)) {
                    *slot = Some(image);
                }
            }
            _ => {}
        }
    }

    fn keep_cause(&mut self, fact: &RecordBody) {
        let id = |step: &u32| self.loaded.steps.get(*step as usize).map_or("", |step| step.id.as_str());
        let found = match fact {
            RecordBody::PrepareFailed { step, stale: true, reason } => {
                (Cause::Stale, format!("{}: {reason}", id(step)))
            }
            RecordBody::PrepareFailed { step, reason, .. } => (Cause::Failed, format!("{}: {reason}", id(step))),
            RecordBody::ApplyReturned { step, done: false, message, timed_out, stopped, .. } => {
                let cause = match (timed_out, stopped) {
                    (true, _) => Cause::TimedOut,
                    (false, true) => Cause::Stopped,
                    (false, false) => Cause::Failed,
                };
                (cause, format!("{}: {message}", id(step)))
            }
            RecordBody::VerifyFailed { step, reasons, .. } => {
                (Cause::Failed, format!("{}: {}", id(step), reasons.join("; ")))
            }
            RecordBody::ChecksFailed { reasons } => (Cause::Failed, reasons.join("; ")),
            RecordBody::Halted { cause, timed_out: true } => (Cause::TimedOut, cause.clone()),
            RecordBody::Halted { cause, .. } => (Cause::Stopped, cause.clone()),
            RecordBody::UndoRequested { by, why } => {
                self.way_back = Some(*why);
                match why {
                    UndoReason::Recovery => (Cause::Crashed, "the process that ran it was gone".to_owned()),
                    UndoReason::Asked => (Cause::Asked, format!("undo asked for by {by}")),
                    UndoReason::Stopped => (Cause::Stopped, format!("stopped by {by}")),
                }
            }
            RecordBody::ResumeRequested { .. } => {
                self.cause = None;
                return;
            }
            _ => return,
        };
        self.cause.get_or_insert(found);
    }

    /// Lets a corrected plan take over; the images of the steps that stay go with them.
    pub(crate) fn amend(
        &mut self,
        loaded: Loaded,
        manifest: Digest,
        approvals: Vec<Digest>,
        kept: &[(u32, u32)],
    ) -> Result<(), FoldError> {
        if !self.run.is_amendable() || kept.iter().any(|(old, _)| !self.run.is_kept(StepIx(*old))) {
            return Err(FoldError::Amended);
        }
        let new: Vec<StepIx> = kept.iter().map(|(_, new)| StepIx(*new)).collect();
        let mut next = Self::open(self.subject.clone(), loaded, manifest, approvals, self.on_failure);
        next.run = Run::with_kept(next.loaded.graph.clone(), self.on_failure, &new);
        for (old, new) in kept {
            let (old, new) = (*old as usize, *new as usize);
            if let (Some(to), Some(from)) = (next.befores.get_mut(new), self.befores.get(old)) {
                to.clone_from(from);
            }
            if let (Some(to), Some(from)) = (next.afters.get_mut(new), self.afters.get(old)) {
                to.clone_from(from);
            }
        }
        let new_of = |old: &StepIx| kept.iter().find(|(from, _)| *from == old.0).map(|(_, to)| StepIx(*to));
        next.acts = self.acts;
        next.acted = self.acted.iter().filter_map(new_of).collect();
        next.account = self.account.carried(kept);
        *self = next;
        Ok(())
    }

    /// The worst that can be said in an exit code about how the run ended.
    pub fn exit_code(&self, end: schemas::End) -> schemas::ExitCode {
        use schemas::{End, ExitCode};
        match (end, self.cause.as_ref().map(|(cause, _)| *cause)) {
            (End::Committed, _) => ExitCode::Done,
            (End::Stuck, _) => ExitCode::Stuck,
            // Who asks for the way back is told whether it came to that, whatever had happened before.
            _ if self.way_back == Some(UndoReason::Asked) => ExitCode::Done,
            _ if self.way_back == Some(UndoReason::Recovery) => ExitCode::RolledBack,
            (_, Some(Cause::Stale)) => ExitCode::Stale,
            (_, Some(Cause::Stopped)) => ExitCode::Stopped,
            (_, Some(Cause::TimedOut)) => ExitCode::TimedOut,
            (End::RolledBack, _) => ExitCode::RolledBack,
            (End::Refused, _) => ExitCode::Refused,
        }
    }

    /// The class of a step as assessed.
    pub fn class(&self, ix: StepIx) -> Class {
        self.loaded.assessed.get(ix.at()).map_or(Class::Irreversible, |step| step.class)
    }

    /// The event that opens the way back, for callers that ask.
    pub fn can_undo(&self) -> bool {
        let mut trial = self.run.clone();
        trial.handle(&Event::Run(RunFact::UndoRequested)).is_ok()
    }
}
