//! One run: `handle(event)` changes it, `effects()` says what must be done next. Live execution and recovery are the same fold.
//!
//! Must never accept an event that a law forbids, whoever sends it.

use std::sync::Arc;

use schemas::{End, OnFailure};

use crate::event::{Event, RunFact, StepFact};
use crate::frontier::Frontier;
use crate::graph::{Graph, StepIx};
use crate::transition::{Claim, Seen, StepState, next};

/// How often an undo that left something is tried again before the step is stuck.
pub const MAX_UNDO_ATTEMPTS: u8 = 3;

/// Which way the run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Steps start as their needs are verified.
    Forward,
    /// Nothing starts, nothing is undone; doubts are still settled.
    Held,
    /// Everything is put back.
    Back,
}

/// What the shell must do next. Each is repeated until an event about it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Look, compare with the assessment, take the before-image.
    Prepare(StepIx),
    /// Record `ApplyStarted`, make it durable, then call the driver.
    Apply(StepIx),
    /// Find out whether a step in doubt is there.
    Observe(StepIx),
    /// Compare what changed with what was declared, and run the step's checks.
    Verify(StepIx),
    /// Record `UndoStarted`, make it durable, then put the before-image back.
    Undo(StepIx),
    /// Find out whether the before-image is back.
    ObserveUndo(StepIx),
    /// Run the plan's own checks.
    RunChecks,
    /// Record the end.
    End(End),
}

/// An event that the run cannot accept: a bug, or a log that was tampered with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("illegal event {event:?}: {reason}")]
pub struct IllegalEvent {
    /// The event.
    pub event: Event,
    /// Which law it breaks.
    pub reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Step {
    state: StepState,
    undo_attempts: u8,
    keep: bool,
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    graph: Arc<Graph>,
    steps: Vec<Step>,
    frontier: Frontier,
    mode: Mode,
    on_failure: OnFailure,
    /// The first step that failed.
    culprit: Option<StepIx>,
    failed: bool,
    checks_passed: bool,
    acted: bool,
    ended: Option<End>,
}

impl Run {
    /// A run of `graph` in which nothing has happened.
    pub fn new(graph: Arc<Graph>, on_failure: OnFailure) -> Self {
        Self::with_kept(graph, on_failure, &[])
    }

    /// A run in which the steps `kept` are verified already: what a corrected plan goes on from.
    pub fn with_kept(graph: Arc<Graph>, on_failure: OnFailure, kept: &[StepIx]) -> Self {
        let fresh = Step { state: StepState::Pending, undo_attempts: 0, keep: false };
        let mut steps = vec![fresh; graph.len()];
        for ix in kept {
            if let Some(step) = steps.get_mut(ix.at()) {
                step.state = StepState::Verified;
            }
        }
        let frontier = Frontier::of(&graph, |ix| steps.get(ix.at()).map_or(StepState::Pending, |step| step.state));
        Self {
            graph,
            steps,
            frontier,
            mode: Mode::Forward,
            on_failure,
            culprit: None,
            failed: false,
            checks_passed: false,
            acted: !kept.is_empty(),
            ended: None,
        }
    }

    /// The graph.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// State of a step.
    pub fn state(&self, ix: StepIx) -> StepState {
        self.steps.get(ix.at()).map_or(StepState::Pending, |step| step.state)
    }

    /// Number of steps in `state`.
    pub fn count(&self, state: StepState) -> usize {
        self.frontier.count(state) as usize
    }

    /// Which way it goes.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> Option<End> {
        self.ended
    }

    /// The first step that failed.
    pub fn culprit(&self) -> Option<StepIx> {
        self.culprit
    }

    /// Whether anything failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether a step is to stay as it is while others are undone.
    pub fn is_kept(&self, ix: StepIx) -> bool {
        self.steps.get(ix.at()).is_some_and(|step| step.keep)
    }

    /// Whether nothing of the run is moving or in doubt, so that a process may leave it.
    pub fn is_at_rest(&self) -> bool {
        use StepState as S;
        [S::Applying, S::InDoubt, S::Undoing, S::UndoInDoubt].iter().all(|state| self.frontier.count(*state) == 0)
    }

    /// Takes `event` over, or says which law it breaks and changes nothing.
    pub fn handle(&mut self, event: &Event) -> Result<(), IllegalEvent> {
        let outcome = match event {
            Event::Step(ix, fact) => self.handle_step(*ix, *fact),
            Event::Run(fact) => self.handle_run(fact),
        };
        outcome.map_err(|reason| IllegalEvent { event: event.clone(), reason })
    }

    fn handle_step(&mut self, ix: StepIx, fact: StepFact) -> Result<(), &'static str> {
        let step = *self.steps.get(ix.at()).ok_or("no such step")?;
        self.check_laws(ix, fact)?;
        let last_attempt = step.undo_attempts >= MAX_UNDO_ATTEMPTS;
        let starting = !self.failed && self.mode != Mode::Back;
        let new = next(step.state, fact, starting, last_attempt).ok_or("not in the transition table")?;
        self.set(ix, new);
        match fact {
            StepFact::PrepareFailed | StepFact::VerifyFailed | StepFact::ApplyReturned(Claim::Failed) => self.fail(ix),
            StepFact::Sighted(Seen::Unclear) => self.fail(ix),
            StepFact::Sighted(Seen::Partial) if starting => self.fail(ix),
            StepFact::ApplyStarted => self.acted = true,
            // A crash in the middle is no attempt that failed.
            StepFact::UndoReturned(_) => self.bump_attempts(ix),
            StepFact::Retried => self.reset_attempts(ix),
            StepFact::Prepared
            | StepFact::ApplyWithdrawn
            | StepFact::ApplyReturned(Claim::Done)
            | StepFact::Sighted(_)
            | StepFact::VerifyPassed
            | StepFact::UndoStarted
            | StepFact::UndoSighted(_)
            | StepFact::Crashed => {}
        }
        Ok(())
    }

    /// The laws that look beyond one step.
    fn check_laws(&self, ix: StepIx, fact: StepFact) -> Result<(), &'static str> {
        if self.ended.is_some() && !(fact == StepFact::Retried && self.ended == Some(End::Stuck)) {
            return Err("the run has ended");
        }
        match fact {
            StepFact::Prepared | StepFact::ApplyStarted if self.mode != Mode::Forward => {
                Err("LAW fail fast: nothing new starts after a failure or a stop")
            }
            StepFact::Prepared | StepFact::ApplyStarted if self.frontier.unmet(ix) > 0 => {
                Err("LAW order: a step starts only when all it needs are verified")
            }
            StepFact::Prepared | StepFact::ApplyStarted if !self.pivot_may_start(ix) => {
                Err("LAW pivot: an irreversible step starts only when all before it is verified")
            }
            StepFact::UndoStarted if !self.may_undo(ix) => {
                Err("LAW order: a step is undone only when nothing that depends on it is there")
            }
            _ => Ok(()),
        }
    }

    fn handle_run(&mut self, fact: &RunFact) -> Result<(), &'static str> {
        if self.ended.is_some() && !matches!(fact, RunFact::UndoRequested | RunFact::Reopened) {
            return Err("the run has ended");
        }
        match fact {
            RunFact::ChecksPassed if self.all_verified() => self.checks_passed = true,
            RunFact::ChecksFailed if self.all_verified() => self.turn(),
            RunFact::ChecksPassed | RunFact::ChecksFailed => return Err("checks run when all steps are verified"),
            RunFact::Halted => {
                if self.mode == Mode::Forward {
                    self.mode = Mode::Held;
                }
            }
            RunFact::Reopened => self.crash()?,
            RunFact::ResumeRequested if self.mode == Mode::Held && !self.failed => self.mode = Mode::Forward,
            RunFact::ResumeRequested => return Err("only a run that was halted before any failure can go on"),
            RunFact::UndoRequested => return self.request_undo(),
            RunFact::KeepRequested(keep) => return self.request_keep(keep),
            RunFact::Ended(end) if self.outcome() == Some(*end) => self.ended = Some(*end),
            RunFact::Ended(_) => return Err("LAW proof: this end is not what the steps say"),
        }
        Ok(())
    }

    fn crash(&mut self) -> Result<(), &'static str> {
        for ix in self.graph.steps() {
            let state = self.state(ix);
            let new = next(state, StepFact::Crashed, false, false).ok_or("not in the transition table")?;
            if new != state {
                self.set(ix, new);
            }
        }
        Ok(())
    }

    fn request_undo(&mut self) -> Result<(), &'static str> {
        match self.ended {
            None | Some(End::Committed | End::Stuck) => {}
            Some(End::RolledBack | End::Refused) => return Err("there is nothing to undo"),
        }
        self.ended = None;
        self.checks_passed = false;
        self.mode = Mode::Back;
        self.steps.iter_mut().for_each(|step| step.keep = false);
        Ok(())
    }

    fn request_keep(&mut self, keep: &[StepIx]) -> Result<(), &'static str> {
        if self.mode == Mode::Forward {
            return Err("steps are kept only once the run has halted");
        }
        for ix in keep {
            if self.state(*ix) != StepState::Verified {
                return Err("only verified steps can be kept");
            }
            if self.graph.needs(*ix).iter().any(|need| !keep.contains(need)) {
                return Err("a kept step's needs must be kept too");
            }
        }
        for (at, step) in self.steps.iter_mut().enumerate() {
            step.keep = keep.contains(&StepIx(at as u32));
        }
        self.mode = Mode::Back;
        Ok(())
    }

    fn fail(&mut self, ix: StepIx) {
        if self.culprit.is_none() {
            self.culprit = Some(ix);
        }
        self.turn();
    }

    fn turn(&mut self) {
        self.failed = true;
        if self.mode == Mode::Forward {
            self.mode = match self.on_failure {
                OnFailure::Undo => Mode::Back,
                OnFailure::Hold => Mode::Held,
            };
        }
    }

    fn set(&mut self, ix: StepIx, new: StepState) {
        let old = self.state(ix);
        if let Some(step) = self.steps.get_mut(ix.at()) {
            step.state = new;
        }
        let (graph, steps) = (&self.graph, &self.steps);
        let state_of = |ix: StepIx| steps.get(ix.at()).map_or(StepState::Pending, |step| step.state);
        self.frontier.moved(graph, ix, old, new, state_of);
    }

    fn bump_attempts(&mut self, ix: StepIx) {
        if let Some(step) = self.steps.get_mut(ix.at()) {
            step.undo_attempts = step.undo_attempts.saturating_add(1);
        }
    }

    /// A person asked for another look: the run is open again and goes back.
    fn reset_attempts(&mut self, ix: StepIx) {
        if let Some(step) = self.steps.get_mut(ix.at()) {
            step.undo_attempts = 0;
        }
        self.ended = None;
        self.mode = Mode::Back;
    }

    fn all_verified(&self) -> bool {
        self.mode == Mode::Forward && self.count(StepState::Verified) == self.graph.len()
    }

    fn pivot_may_start(&self, ix: StepIx) -> bool {
        self.graph
            .pivot(ix)
            .is_none_or(|after| self.count(StepState::Verified) + 1 + after as usize == self.graph.len())
    }

    /// Whether the laws allow that `ix` is undone now.
    pub fn may_undo(&self, ix: StepIx) -> bool {
        let settled = self.count(StepState::Applying) == 0 && self.count(StepState::InDoubt) == 0;
        self.mode == Mode::Back
            && settled
            && self.graph.pivot(ix).is_none()
            && !self.is_kept(ix)
            && self.frontier.live_dependents(ix) == 0
            && matches!(self.state(ix), StepState::Applied | StepState::Verified)
    }

    /// What must be done next. A pure function of the state; lazy, so that taking a few from a large run is cheap.
    pub fn effects(&self) -> impl Iterator<Item = Effect> + '_ {
        let open = self.ended.is_none();
        let forward = open && self.mode == Mode::Forward;
        let back = open && self.mode == Mode::Back;
        let frontier = &self.frontier;
        let observe = frontier.in_doubt.iter().filter(move |_| open).map(|ix| Effect::Observe(*ix));
        let sight = frontier.undo_in_doubt.iter().filter(move |_| open).map(|ix| Effect::ObserveUndo(*ix));
        let verify = frontier.applied.iter().filter(move |_| forward).map(|ix| Effect::Verify(*ix));
        let may_start = move |ix: &&StepIx| forward && self.pivot_may_start(**ix);
        let apply = frontier.prepared.iter().filter(may_start).map(|ix| Effect::Apply(*ix));
        let prepare = frontier.ready.iter().filter(may_start).map(|ix| Effect::Prepare(*ix));
        let undo = frontier.exposed.iter().filter(move |ix| back && self.may_undo(**ix)).map(|ix| Effect::Undo(*ix));
        let checks = (forward && self.all_verified() && !self.checks_passed).then_some(Effect::RunChecks);
        let end = self.outcome().filter(|_| open).map(Effect::End);
        observe.chain(sight).chain(verify).chain(apply).chain(prepare).chain(undo).chain(checks).chain(end)
    }

    /// Whether the steps that may be kept are all that is left, so that a corrected plan can take over.
    pub fn is_amendable(&self) -> bool {
        self.mode == Mode::Back && self.ended.is_none() && self.is_at_rest() && {
            self.graph.steps().all(|ix| match self.state(ix) {
                StepState::Verified => self.is_kept(ix),
                state => !state.is_live(),
            })
        }
    }

    /// The end that the states allow now, if they allow one.
    fn outcome(&self) -> Option<End> {
        if self.mode == Mode::Forward {
            return (self.all_verified() && self.checks_passed).then_some(End::Committed);
        }
        if self.mode == Mode::Held || !self.is_at_rest() {
            return None;
        }
        if self.frontier.exposed.iter().any(|ix| self.may_undo(*ix)) {
            return None;
        }
        if self.steps.iter().any(|step| step.keep) {
            return None;
        }
        let left = self.count(StepState::Applied) + self.count(StepState::Verified) + self.count(StepState::Stuck);
        Some(match (left, self.acted) {
            (0, true) => End::RolledBack,
            (0, false) => End::Refused,
            _ => End::Stuck,
        })
    }

    /// Rebuilds what is derived and compares: the check behind the invariant of the frontier.
    pub fn frontier_is_consistent(&self) -> bool {
        Frontier::of(&self.graph, |ix| self.state(ix)) == self.frontier
    }
}
