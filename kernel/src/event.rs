//! Events of a run: facts that are durable before anything outside is changed because of them.
//!
//! Must never say more than the records do: an event is read from a record, also during live execution.

use schemas::RecordBody;

use crate::graph::StepIx;
use crate::transition::{Claim, Seen, UndoClaim};

/// A fact about one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum StepFact {
    Prepared,
    PrepareFailed,
    ApplyStarted,
    ApplyWithdrawn,
    ApplyReturned(Claim),
    Sighted(Seen),
    VerifyPassed,
    VerifyFailed,
    UndoStarted,
    UndoReturned(UndoClaim),
    UndoSighted(Seen),
    /// The process that drove the step is gone.
    Crashed,
    /// A person wants a stuck step looked at again.
    Retried,
}

/// A fact about the run as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum RunFact {
    ChecksPassed,
    ChecksFailed,
    /// A person, a signal or a clock said that nothing new starts.
    Halted,
    /// A process took the run over.
    Reopened,
    /// A halted run goes on.
    ResumeRequested,
    UndoRequested,
    KeepRequested(Vec<StepIx>),
    Ended(schemas::End),
}

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// About one step.
    Step(StepIx, StepFact),
    /// About the run.
    Run(RunFact),
}

impl Event {
    /// The event that a record stands for; `None` for records that are not about the course of a run.
    pub fn of_record(fact: &RecordBody) -> Option<Self> {
        use RecordBody as R;
        use StepFact as F;
        let step = |step: &u32, fact| Some(Self::Step(StepIx(*step), fact));
        let claim = |done: bool| if done { Claim::Done } else { Claim::Failed };
        match fact {
            R::Prepared { step: ix, .. } => step(ix, F::Prepared),
            R::PrepareFailed { step: ix, .. } => step(ix, F::PrepareFailed),
            R::ApplyStarted { step: ix, .. } => step(ix, F::ApplyStarted),
            R::ApplyWithdrawn { step: ix } => step(ix, F::ApplyWithdrawn),
            // What a stop cut short is as if its process had died: in doubt, and nobody's failure.
            R::ApplyReturned { step: ix, done: false, stopped: true, .. } => step(ix, F::Crashed),
            R::ApplyReturned { step: ix, done, .. } => step(ix, F::ApplyReturned(claim(*done))),
            R::Sighted { step: ix, seen, .. } => step(ix, F::Sighted(*seen)),
            R::Verified { step: ix, .. } => step(ix, F::VerifyPassed),
            R::VerifyFailed { step: ix, .. } => step(ix, F::VerifyFailed),
            R::UndoStarted { step: ix, .. } => step(ix, F::UndoStarted),
            R::UndoReturned { step: ix, clobber: true, .. } => step(ix, F::UndoReturned(UndoClaim::Clobber)),
            R::UndoReturned { step: ix, done: true, .. } => step(ix, F::UndoReturned(UndoClaim::Done)),
            R::UndoReturned { step: ix, .. } => step(ix, F::UndoReturned(UndoClaim::Failed)),
            R::UndoSighted { step: ix, seen, .. } => step(ix, F::UndoSighted(*seen)),
            R::Retried { step: ix, .. } => step(ix, F::Retried),
            R::ChecksPassed { .. } => Some(Self::Run(RunFact::ChecksPassed)),
            R::ChecksFailed { .. } => Some(Self::Run(RunFact::ChecksFailed)),
            R::Halted { .. } => Some(Self::Run(RunFact::Halted)),
            R::Reopened { .. } => Some(Self::Run(RunFact::Reopened)),
            R::ResumeRequested { .. } => Some(Self::Run(RunFact::ResumeRequested)),
            R::UndoRequested { .. } => Some(Self::Run(RunFact::UndoRequested)),
            R::KeepRequested { keep, .. } => {
                Some(Self::Run(RunFact::KeepRequested(keep.iter().map(|ix| StepIx(*ix)).collect())))
            }
            R::Ended { end, .. } => Some(Self::Run(RunFact::Ended(*end))),
            R::TrustPinned { .. }
            | R::PolicyPinned { .. }
            | R::LimitRaised { .. }
            | R::Refused { .. }
            | R::Stopped { .. }
            | R::Lifted { .. }
            | R::Revoked { .. }
            | R::Incident { .. }
            | R::Gated { .. }
            | R::Approved { .. }
            | R::RunOpened { .. }
            | R::Amended { .. }
            | R::Receipted { .. } => None,
        }
    }
}
