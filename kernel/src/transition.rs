//! The transition table of one step. Must never gain a wildcard arm besides the last, which says «illegal».

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Its before-image is durable.
    Prepared,
    /// Its driver may be acting.
    Applying,
    /// It may or may not have acted: only an observation can tell.
    InDoubt,
    /// It acted; not yet verified, or verified as not as declared.
    Applied,
    /// Its effects are the declared ones.
    Verified,
    /// Its driver may be putting the before-image back.
    Undoing,
    /// It may or may not be as before: only an observation can tell.
    UndoInDoubt,
    /// Observed to be as before.
    Undone,
    /// It failed and nothing of it is there.
    Failed,
    /// It cannot be told or cannot be put back without overwriting somebody.
    Stuck,
}

impl StepState {
    /// All states, in the order of a step's life.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Prepared,
        Self::Applying,
        Self::InDoubt,
        Self::Applied,
        Self::Verified,
        Self::Undoing,
        Self::UndoInDoubt,
        Self::Undone,
        Self::Failed,
        Self::Stuck,
    ];

    /// The name in records and receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Prepared => "prepared",
            Self::Applying => "applying",
            Self::InDoubt => "in_doubt",
            Self::Applied => "applied",
            Self::Verified => "verified",
            Self::Undoing => "undoing",
            Self::UndoInDoubt => "undo_in_doubt",
            Self::Undone => "undone",
            Self::Failed => "failed",
            Self::Stuck => "stuck",
        }
    }

    /// Whether something of the step may be in the world.
    pub fn is_live(self) -> bool {
        match self {
            Self::Applying
            | Self::InDoubt
            | Self::Applied
            | Self::Verified
            | Self::Undoing
            | Self::UndoInDoubt
            | Self::Stuck => true,
            Self::Pending | Self::Prepared | Self::Undone | Self::Failed => false,
        }
    }
}

/// What a driver says after `apply`. A failure is a claim about the world that only an observation may settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// It says that it acted.
    Done,
    /// It says that it failed.
    Failed,
}

/// What a driver says after `undo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UndoClaim {
    /// It says that the before-image is back.
    Done,
    /// It says that it failed.
    Failed,
    /// Somebody else changed it since; nothing was overwritten.
    Clobber,
}

/// What an observation saw.
pub use schemas::SeenWord as Seen;

use crate::event::StepFact;

/// The state after `fact`, or `None` where the fact is illegal.
///
/// `starting` says whether the run still starts steps, `last_attempt` whether no further undo may be tried.
pub fn next(state: StepState, fact: StepFact, starting: bool, last_attempt: bool) -> Option<StepState> {
    use StepFact as F;
    use StepState as S;
    Some(match (state, fact) {
        (S::Pending, F::Prepared) => S::Prepared,
        (S::Pending, F::PrepareFailed) => S::Failed,
        (S::Prepared, F::ApplyStarted) => S::Applying,
        (S::Prepared, F::Crashed) => S::Pending,
        (S::Applying, F::ApplyWithdrawn) => S::Prepared,
        (S::Applying, F::ApplyReturned(Claim::Done)) => S::Applied,
        (S::Applying, F::ApplyReturned(Claim::Failed) | F::Crashed) => S::InDoubt,
        (S::InDoubt, F::Sighted(Seen::Absent)) if starting => S::Pending,
        (S::InDoubt, F::Sighted(Seen::Absent)) => S::Failed,
        (S::InDoubt, F::Sighted(Seen::Present | Seen::Partial)) => S::Applied,
        (S::InDoubt, F::Sighted(Seen::Unclear)) => S::Stuck,
        (S::Applied, F::VerifyPassed) => S::Verified,
        (S::Applied, F::VerifyFailed) => S::Applied,
        (S::Applied | S::Verified, F::UndoStarted) => S::Undoing,
        (S::Undoing, F::UndoReturned(UndoClaim::Done | UndoClaim::Failed) | F::Crashed) => S::UndoInDoubt,
        (S::Undoing, F::UndoReturned(UndoClaim::Clobber)) => S::Stuck,
        (S::UndoInDoubt, F::UndoSighted(Seen::Absent)) => S::Undone,
        (S::UndoInDoubt, F::UndoSighted(Seen::Present | Seen::Partial)) if !last_attempt => S::Applied,
        (S::UndoInDoubt, F::UndoSighted(Seen::Present | Seen::Partial | Seen::Unclear)) => S::Stuck,
        (S::Stuck, F::Retried) => S::UndoInDoubt,
        (
            S::Pending | S::InDoubt | S::Applied | S::Verified | S::UndoInDoubt | S::Undone | S::Failed | S::Stuck,
            F::Crashed,
        ) => state,
        _ => return None,
    })
}
