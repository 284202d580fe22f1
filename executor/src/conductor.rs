//! What to dispatch and when to commit, without doing either: the part of the executor that a simulation can drive.
//!
//! LAW write-ahead: work that acts is handed out only after the commit that holds its record came back durable
//! (`nothing_acts_before_its_record_is_durable`).

use std::collections::{HashSet, VecDeque};

use kernel::{Claim, DriverError, Effect, End, IllegalEvent, Mode, Sighting, StepIx, StepSpec, StepState, UndoError};
use schemas::{Digest, ExitCode, Grant, RecordBody, UndoReason};
use serde_json::value::RawValue;
use verifier::Verification;

use crate::fold::Folded;
use crate::work::{Message, Work};

/// How much runs at once.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Steps that act at the same time.
    pub jobs: usize,
    /// Light steps whose intent is recorded before a slot is free, so that no slot waits for a commit.
    pub ahead: usize,
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Order {
    /// Make these facts durable in one commit, then say so.
    Commit(Vec<RecordBody>),
    /// Start this.
    Start(Box<Work>),
    /// Nothing is left to do: the run has ended, or it is held and at rest.
    Finish,
}

/// What the conductor needs to know of the moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick {
    /// Whether facts have waited long enough to be committed for their own sake.
    pub flush: bool,
}

/// The run, what is in flight, and what is not yet durable.
pub struct Conductor {
    folded: Folded,
    slots: Slots,
    in_flight: HashSet<StepIx>,
    checking: bool,
    acting: usize,
    /// Facts that no commit holds yet.
    pending: Vec<RecordBody>,
    /// Whether one of them should not wait.
    urgent: bool,
    committing: bool,
    /// Work whose record is in `pending`, then in the commit under way, then durable.
    recorded: Vec<Work>,
    in_commit: Vec<Work>,
    cleared: VecDeque<Work>,
    preparing: usize,
    /// Steps whose driver came back in this process and said that it failed.
    failed_here: HashSet<StepIx>,
}

impl Conductor {
    /// A conductor of a run.
    pub fn new(folded: Folded, slots: Slots) -> Self {
        Self {
            folded,
            slots,
            in_flight: HashSet::new(),
            checking: false,
            acting: 0,
            pending: Vec::new(),
            urgent: false,
            committing: false,
            recorded: Vec::new(),
            in_commit: Vec::new(),
            cleared: VecDeque::new(),
            preparing: 0,
            failed_here: HashSet::new(),
        }
    }

    /// The run as it stands.
    pub fn folded(&self) -> &Folded {
        &self.folded
    }

    /// Gives the run away.
    pub fn into_folded(self) -> Folded {
        self.folded
    }

    /// Records a fact that comes from outside the run, for example that a person wants it undone.
    pub fn tell(&mut self, fact: RecordBody) -> Result<(), IllegalEvent> {
        self.record(fact, true)
    }

    /// Whether facts wait for a commit.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes a message over.
    pub fn on(&mut self, message: Message) -> Result<(), IllegalEvent> {
        match message {
            Message::Durable => {
                self.committing = false;
                self.cleared.extend(self.in_commit.drain(..));
                Ok(())
            }
            Message::Braked(braked) => {
                if self.folded.run.ended().is_none() {
                    let by = braked.cause.clone();
                    self.record(RecordBody::Halted { cause: braked.cause, timed_out: false }, true)?;
                    if braked.undo {
                        self.record(RecordBody::UndoRequested { by, why: UndoReason::Stopped }, true)?;
                    }
                }
                Ok(())
            }
            Message::Halt { cause, timed_out } => match self.folded.run.ended() {
                Some(_) => Ok(()),
                None => self.record(RecordBody::Halted { cause, timed_out }, true),
            },
            Message::Checked(passed, failed) => {
                self.checking = false;
                if self.folded.run.mode() != Mode::Forward {
                    return Ok(());
                }
                let fact = match failed.is_empty() {
                    true => RecordBody::ChecksPassed { checks: passed },
                    false => RecordBody::ChecksFailed { reasons: failed },
                };
                self.record(fact, true)
            }
            Message::Prepared(ix, outcome) => self.prepared(ix, outcome),
            Message::Applied(ix, outcome, elapsed_ms) => self.applied(ix, outcome, elapsed_ms),
            Message::Observed(ix, sighting) => self.observed(ix, sighting),
            Message::Verified(ix, verification) => self.verified(ix, verification),
            Message::Undone(ix, outcome) => self.undone(ix, outcome),
            Message::UndoObserved(ix, sighting) => self.undo_observed(ix, sighting),
        }
    }

    fn prepared(&mut self, ix: StepIx, outcome: Result<kernel::BeforeImage, DriverError>) -> Result<(), IllegalEvent> {
        self.land(ix);
        self.preparing = self.preparing.saturating_sub(1);
        // After a failure nothing new starts: what was read is forgotten.
        if self.folded.run.mode() != Mode::Forward {
            return Ok(());
        }
        let step = ix.0;
        let fact = match outcome {
            Ok(before) => match self.drift(ix, &before) {
                Some(reason) => RecordBody::PrepareFailed { step, stale: true, reason },
                None => match serde_json::value::to_raw_value(&before) {
                    Ok(before) => RecordBody::Prepared { step, before },
                    Err(error) => RecordBody::PrepareFailed { step, stale: false, reason: error.to_string() },
                },
            },
            Err(error) => {
                let stale = matches!(error, DriverError::Stale(_));
                RecordBody::PrepareFailed { step, stale, reason: with_cause(&error) }
            }
        };
        self.record(fact, false)
    }

    /// What is not as it was assessed. Of what could not be seen then, as an earlier step writes it, the assessment has no fingerprints.
    fn drift(&self, ix: StepIx, before: &kernel::BeforeImage) -> Option<String> {
        let assessed = self.folded.loaded.assessed.get(ix.at())?;
        let mut seen = assessed.fingerprints.iter().filter(|(_, print)| *print != schemas::UNSEEN);
        let differs = seen.find(|(uri, print)| before.fingerprints.get(*uri) != Some(print));
        if let Some((uri, _)) = differs {
            return Some(format!("{uri} changed since it was assessed"));
        }
        let new = before.fingerprints.keys().find(|uri| !assessed.fingerprints.contains_key(*uri));
        new.filter(|_| !assessed.fingerprints.is_empty()).map(|uri| format!("{uri} appeared since it was assessed"))
    }

    fn applied(
        &mut self,
        ix: StepIx,
        outcome: Result<kernel::Output, DriverError>,
        elapsed_ms: u64,
    ) -> Result<(), IllegalEvent> {
        self.land(ix);
        self.acting = self.acting.saturating_sub(1);
        let timed_out = matches!(outcome, Err(DriverError::TimedOut { .. }));
        let stopped = matches!(outcome, Err(DriverError::Stopped { .. }));
        let (done, message, output) = match outcome {
            Ok(output) => (true, output.message.to_string(), Some(output)),
            Err(error) => {
                let text = with_cause(&error);
                let output = match error {
                    DriverError::Exit { output, .. }
                    | DriverError::TimedOut { output, .. }
                    | DriverError::Stopped { output } => Some(output),
                    _ => None,
                };
                (false, text, output)
            }
        };
        if !done {
            self.failed_here.insert(ix);
        }
        let exit_code = output.as_ref().and_then(|output| output.exit_code);
        let captured = output.map(|output| output.captured).filter(|captured| !captured.is_empty());
        let output = captured.map(|captured| Digest::of(&captured));
        let fact =
            RecordBody::ApplyReturned { step: ix.0, done, exit_code, output, message, timed_out, stopped, elapsed_ms };
        self.record(fact, !self.is_light(ix))
    }

    fn observed(&mut self, ix: StepIx, sighting: Sighting) -> Result<(), IllegalEvent> {
        self.land(ix);
        let seen = sighting.seen();
        let (after, changes, detail) = parts(sighting);
        self.record(RecordBody::Sighted { step: ix.0, seen, after, changes, detail }, true)
    }

    fn verified(&mut self, ix: StepIx, verification: Verification) -> Result<(), IllegalEvent> {
        self.land(ix);
        let Verification { after, changes, checks, reasons } = verification;
        let (step, after) = (ix.0, after.map(|image| image.0));
        let fact = match reasons.is_empty() {
            true => RecordBody::Verified { step, after, changes, checks },
            false => RecordBody::VerifyFailed { step, after, changes, reasons },
        };
        // A step that was verified while the run turned back is undone all the same.
        if self.folded.run.state(ix) != StepState::Applied {
            return Ok(());
        }
        self.record(fact, !self.is_light(ix))
    }

    fn undone(&mut self, ix: StepIx, outcome: Result<(), UndoError>) -> Result<(), IllegalEvent> {
        self.land(ix);
        self.acting = self.acting.saturating_sub(1);
        let (done, clobber, message) = match outcome {
            Ok(()) => (true, false, String::new()),
            Err(UndoError::Clobber(conflicts)) => (false, true, UndoError::Clobber(conflicts).to_string()),
            Err(UndoError::Driver(error)) => (false, false, with_cause(&error)),
        };
        self.record(RecordBody::UndoReturned { step: ix.0, done, clobber, message }, true)
    }

    fn undo_observed(&mut self, ix: StepIx, sighting: Sighting) -> Result<(), IllegalEvent> {
        self.land(ix);
        let seen = sighting.seen();
        let (_, _, detail) = parts(sighting);
        self.record(RecordBody::UndoSighted { step: ix.0, seen, detail }, true)
    }

    fn land(&mut self, ix: StepIx) {
        self.in_flight.remove(&ix);
    }

    fn record(&mut self, fact: RecordBody, urgent: bool) -> Result<(), IllegalEvent> {
        self.folded.take_event(&fact)?;
        self.urgent |= urgent;
        self.pending.push(fact);
        Ok(())
    }

    /// Whether a step touches nothing that was declared, so that preparing and verifying it costs nothing.
    fn is_light(&self, ix: StepIx) -> bool {
        self.folded.loaded.steps.get(ix.at()).is_some_and(is_light)
    }

    /// What is to be done now. Call until it returns nothing.
    pub fn next(&mut self, tick: Tick) -> Result<Option<Order>, IllegalEvent> {
        if let Some(order) = self.start_cleared()? {
            return Ok(Some(order));
        }
        if let Some(order) = self.dispatch()? {
            return Ok(Some(order));
        }
        if self.should_commit(tick) {
            self.committing = true;
            self.urgent = false;
            self.in_commit.append(&mut self.recorded);
            return Ok(Some(Order::Commit(std::mem::take(&mut self.pending))));
        }
        let idle = self.in_flight.is_empty() && !self.checking && !self.committing && self.pending.is_empty();
        let settled = self.folded.run.ended().is_some() || self.folded.run.effects().next().is_none();
        Ok((idle && settled && self.cleared.is_empty() && self.in_commit.is_empty()).then_some(Order::Finish))
    }

    /// Hands out work whose record is durable, or withdraws it if the run turned meanwhile.
    fn start_cleared(&mut self) -> Result<Option<Order>, IllegalEvent> {
        while let Some(work) = self.cleared.front() {
            let forward = matches!(work, Work::Apply(..));
            if forward && self.folded.run.mode() != Mode::Forward {
                let Some(ix) = self.cleared.pop_front().and_then(|work| work.step()) else { continue };
                self.land(ix);
                self.record(RecordBody::ApplyWithdrawn { step: ix.0 }, true)?;
                continue;
            }
            if self.acting >= self.slots.jobs {
                return Ok(None);
            }
            self.acting += 1;
            return Ok(self.cleared.pop_front().map(|work| Order::Start(Box::new(work))));
        }
        Ok(None)
    }

    /// The next effect of the kernel that is not in flight and has room.
    fn dispatch(&mut self) -> Result<Option<Order>, IllegalEvent> {
        let backlog = self.recorded.len() + self.in_commit.len() + self.cleared.len();
        let busy = self.acting + backlog;
        let mut found = None;
        for effect in self.folded.run.effects() {
            let fits = match effect {
                Effect::Apply(ix) if self.is_light(ix) => busy < self.slots.jobs + self.slots.ahead,
                Effect::Apply(_) => busy < self.slots.jobs,
                // One after the other, the last one first: the next only when the one before was seen to be back.
                Effect::Undo(_) => busy == 0 && self.in_flight.is_empty() && !self.is_undoing(),
                Effect::Prepare(ix) if self.is_light(ix) => busy + self.preparing < self.slots.jobs + self.slots.ahead,
                Effect::Prepare(_) => busy + self.preparing < self.slots.jobs,
                Effect::Observe(_) | Effect::Verify(_) | Effect::ObserveUndo(_) => {
                    self.in_flight.len() < self.slots.jobs * 4 + self.slots.ahead
                }
                Effect::RunChecks => !self.checking,
                Effect::End(_) => self.in_flight.is_empty(),
            };
            let free = step_of(effect).is_none_or(|ix| !self.in_flight.contains(&ix));
            if fits && free {
                found = Some(effect);
                break;
            }
            if !fits && matches!(effect, Effect::Prepare(_)) {
                break;
            }
        }
        match found {
            None => Ok(None),
            Some(Effect::Undo(found)) => self.enact(Effect::Undo(self.last_to_undo().unwrap_or(found))),
            Some(effect) => self.enact(effect),
        }
    }

    /// Whether a step is on its way back, or may be.
    fn is_undoing(&self) -> bool {
        let count = |state| self.folded.run.count(state);
        count(StepState::Undoing) + count(StepState::UndoInDoubt) > 0
    }

    /// Of the steps that may be undone now the one that began to act last.
    fn last_to_undo(&self) -> Option<StepIx> {
        let run = &self.folded.run;
        self.folded.acted.iter().rev().copied().find(|ix| run.may_undo(*ix) && !self.in_flight.contains(ix))
    }

    fn enact(&mut self, effect: Effect) -> Result<Option<Order>, IllegalEvent> {
        if let Some(ix) = step_of(effect) {
            self.in_flight.insert(ix);
        }
        let start = |work| Ok(Some(Order::Start(Box::new(work))));
        match effect {
            Effect::Prepare(ix) => {
                self.preparing += 1;
                start(Work::Prepare(self.step(ix)?))
            }
            Effect::Observe(ix) => {
                let claim = self.claim_of(ix);
                start(Work::Observe(self.step(ix)?, self.before(ix), claim))
            }
            Effect::Verify(ix) => match self.before(ix) {
                Some(before) => start(Work::Verify(self.step(ix)?, before)),
                None => self.lost(ix),
            },
            Effect::ObserveUndo(ix) => match self.before(ix) {
                Some(before) => start(Work::ObserveUndo(self.step(ix)?, before)),
                None => self.lost(ix),
            },
            Effect::RunChecks => {
                self.checking = true;
                let (checks, facts) = (self.folded.loaded.checks.clone(), self.folded.loaded.facts.clone());
                start(Work::Checks(checks, facts))
            }
            Effect::Apply(ix) => self.announce_apply(ix),
            Effect::Undo(ix) => self.announce_undo(ix),
            Effect::End(end) => {
                self.end(end)?;
                self.next(Tick::default())
            }
        }
    }

    /// A before-image that cannot be had: nothing about the step can be said or done.
    fn lost(&mut self, ix: StepIx) -> Result<Option<Order>, IllegalEvent> {
        self.land(ix);
        let event = kernel::Event::Step(ix, kernel::StepFact::Prepared);
        Err(IllegalEvent { event, reason: "the before-image of the step is missing from the log" })
    }

    fn announce_apply(&mut self, ix: StepIx) -> Result<Option<Order>, IllegalEvent> {
        let step = self.step(ix)?;
        let Some(before) = self.before(ix) else { return self.lost(ix) };
        let (act, token) = self.next_act();
        let fact = RecordBody::ApplyStarted {
            step: ix.0,
            id: step.id.clone(),
            uses: step.uses.clone(),
            argv: step.lowered.argv.clone(),
            cwd: step.lowered.cwd.clone(),
            class: self.folded.class(ix),
            decision: self.folded.loaded.decisions.get(ix.at()).copied(),
            token,
        };
        self.record(fact, false)?;
        self.recorded.push(Work::Apply(step, before, act));
        self.next(Tick::default())
    }

    fn announce_undo(&mut self, ix: StepIx) -> Result<Option<Order>, IllegalEvent> {
        let step = self.step(ix)?;
        let Some(before) = self.before(ix) else { return self.lost(ix) };
        let (act, token) = self.next_act();
        self.record(RecordBody::UndoStarted { step: ix.0, token }, true)?;
        let after = self.folded.afters.get(ix.at()).cloned().flatten();
        self.recorded.push(Work::Undo(step, before, after, act));
        self.next(Tick::default())
    }

    fn end(&mut self, end: End) -> Result<(), IllegalEvent> {
        let code: ExitCode = self.folded.exit_code(end);
        let reason = match end {
            End::Committed => String::new(),
            _ => self.folded.cause.as_ref().map_or(String::new(), |(_, reason)| reason.clone()),
        };
        self.record(RecordBody::Ended { end, exit_code: code.number(), reason }, true)
    }

    /// Number of the act that is about to be recorded, and the id of the token that it alone will be done with.
    fn next_act(&self) -> (u64, String) {
        (self.folded.acts, Grant::id_of(&self.folded.subject.run, self.folded.acts))
    }

    fn step(&self, ix: StepIx) -> Result<StepSpec, IllegalEvent> {
        let missing = || IllegalEvent {
            event: kernel::Event::Step(ix, kernel::StepFact::Prepared),
            reason: "the plan has no such step",
        };
        self.folded.loaded.steps.get(ix.at()).cloned().ok_or_else(missing)
    }

    fn before(&self, ix: StepIx) -> Option<kernel::BeforeImage> {
        self.folded.befores.get(ix.at()).cloned().flatten()
    }

    /// What the driver said in this process: after a failed apply it said so, after a crash it said nothing.
    fn claim_of(&self, ix: StepIx) -> Option<Claim> {
        self.failed_here.contains(&ix).then_some(Claim::Failed)
    }

    fn should_commit(&self, tick: Tick) -> bool {
        if self.committing || self.pending.is_empty() {
            return false;
        }
        let running_dry = self.cleared.len() * 2 <= self.slots.ahead.min(self.slots.jobs) && !self.recorded.is_empty();
        self.urgent || tick.flush || running_dry || self.acting == 0
    }
}

/// Whether a step declares no resources at all.
pub(crate) fn is_light(step: &StepSpec) -> bool {
    step.lowered.writes.is_empty() && step.lowered.reads.is_empty() && step.verify.is_empty()
}

fn step_of(effect: Effect) -> Option<StepIx> {
    match effect {
        Effect::Prepare(ix)
        | Effect::Apply(ix)
        | Effect::Observe(ix)
        | Effect::Verify(ix)
        | Effect::Undo(ix)
        | Effect::ObserveUndo(ix) => Some(ix),
        Effect::RunChecks | Effect::End(_) => None,
    }
}

type Parts = (Option<Box<RawValue>>, Vec<schemas::Change>, String);

fn parts(sighting: Sighting) -> Parts {
    match sighting {
        Sighting::Absent => (None, Vec::new(), String::new()),
        Sighting::Present { after, changes } => (Some(after.0), changes, String::new()),
        Sighting::Partial { after, changes, detail } => (Some(after.0), changes, detail),
        Sighting::Unclear { detail } => (None, Vec::new(), detail),
    }
}

fn with_cause(error: &DriverError) -> String {
    let mut out = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        out.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    out
}
