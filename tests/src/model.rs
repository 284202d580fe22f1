//! An exhaustive checker of the kernel: every interleaving of small graphs with crashes, failures, a stop and a foreign change.
//!
//! The model's shell and driver can carry seeded bugs, each of which the checker must find: that is the test of the checker.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kernel::{Claim, Effect, End, Event, Graph, Mode, Run, RunFact, Seen, StepFact, StepIx, StepState, UndoClaim};
use schemas::OnFailure;

/// What is really there, for one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum World {
    /// As before the step.
    Before,
    /// Something of the step.
    Partial,
    /// As the step leaves it.
    After,
    /// As somebody else left it.
    Foreign,
}

/// A bug that is put into the shell or the driver around the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// None.
    None,
    /// Acts before the record is durable.
    ActsBeforeDurable,
    /// Takes a failed apply for one that did nothing.
    BelievesFailure,
    /// Takes an undo that returned for one that worked.
    BelievesUndo,
    /// Undo overwrites what somebody else changed.
    Clobbers,
    /// Starts steps without waiting for what they need.
    IgnoresNeeds,
    /// Treats irreversible steps like others.
    IgnoresPivots,
    /// Verification always passes.
    VerifiesAnything,
    /// After a crash, takes a step that was acting for one that did nothing.
    ForgetsAfterCrash,
    /// Takes what cannot be told for what is there.
    UnclearIsPresent,
}

/// How much may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Crashes of the process.
    pub crashes: u8,
    /// Failures of prepare, apply, verify, undo and checks.
    pub failures: u8,
    /// Stops by a person.
    pub stops: u8,
    /// Changes by somebody else.
    pub foreign: u8,
    /// Events that may wait for a commit. Zero: each event is durable as it happens, which loses nothing against one (see [`Checker::check`]).
    pub pending: u8,
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// The first violation, with the way to it.
    pub violation: Option<String>,
}

#[derive(Clone)]
struct State {
    /// What a crash leaves, where that is not what is known.
    lagging: Option<Arc<Run>>,
    live: Run,
    pending: u8,
    world: Vec<World>,
    budget: Budget,
    undo_failed: bool,
    foreign_used: bool,
    acted: bool,
    /// Somebody's change was taken for the before-image.
    foreign_hidden: bool,
}

impl State {
    fn durable(&self) -> &Run {
        self.lagging.as_deref().unwrap_or(&self.live)
    }
}

/// Checks one graph. `needs[i]` lists steps with smaller indices.
pub struct Checker {
    graph: Arc<Graph>,
    kernel_graph: Arc<Graph>,
    on_failure: OnFailure,
    bug: Bug,
}

impl Checker {
    /// A checker for a graph with these pivots.
    pub fn new(needs: &[Vec<StepIx>], pivots: &[bool], on_failure: OnFailure, bug: Bug) -> Self {
        let graph = Arc::new(Graph::new(needs, pivots).unwrap());
        let no_needs = vec![Vec::new(); needs.len()];
        let kernel_graph = match bug {
            Bug::IgnoresNeeds => Arc::new(Graph::new(&no_needs, pivots).unwrap()),
            Bug::IgnoresPivots => Arc::new(Graph::new(needs, &vec![false; needs.len()]).unwrap()),
            _ => graph.clone(),
        };
        Self { graph, kernel_graph, on_failure, bug }
    }

    /// Visits every state that can be reached within `budget`.
    ///
    /// With no pending events it is a partial-order reduction of one pending event: a record lost in a crash leaves what a crash in the
    /// middle of the same act leaves, and a change by somebody else before a commit is the same change after it
    /// (`one_lost_record_leads_nowhere_that_a_crash_in_the_act_does_not`).
    pub fn check(&self, budget: Budget) -> Report {
        self.visit(budget, |_| {})
    }

    /// The distinct worlds in which the run is settled, that is, with nothing pending: what the run knows, and what is there.
    pub fn settled(&self, budget: Budget) -> HashSet<u64> {
        let mut settled = HashSet::new();
        self.visit(budget, |state| {
            if state.pending == 0 {
                let mut hasher = DefaultHasher::new();
                (&state.live, &state.world).hash(&mut hasher);
                settled.insert(hasher.finish());
            }
        });
        settled
    }

    fn visit(&self, budget: Budget, mut look: impl FnMut(&State)) -> Report {
        let start = State {
            lagging: None,
            live: Run::new(self.kernel_graph.clone(), self.on_failure),
            pending: 0,
            world: vec![World::Before; self.graph.len()],
            budget,
            undo_failed: false,
            foreign_used: false,
            acted: false,
            foreign_hidden: false,
        };
        let mut seen = HashSet::from([key(&start)]);
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            look(&state);
            let next = match self.successors(&state) {
                Ok(next) => next,
                Err(violation) => return Report { states: seen.len(), violation: Some(violation) },
            };
            for state in next {
                if seen.insert(key(&state)) {
                    open.push(state);
                }
            }
        }
        Report { states: seen.len(), violation: None }
    }

    fn successors(&self, state: &State) -> Result<Vec<State>, String> {
        self.invariants(state)?;
        let mut out = Vec::new();
        if state.pending > 0 {
            let mut next = state.clone();
            next.lagging = None;
            next.pending = 0;
            out.push(next);
        }
        if state.pending < state.budget.pending.max(1) {
            self.effects(state, &mut out)?;
            self.acts(state, &mut out)?;
            self.stop(state, &mut out)?;
        }
        let progress = !out.is_empty();
        self.crash(state, &mut out)?;
        self.foreign(state, &mut out);
        let open = state.live.ended().is_none() && state.live.mode() != Mode::Held;
        if open && !progress {
            return Err(format!("deadlock in {}", show(state)));
        }
        Ok(out)
    }

    fn event(&self, state: &State, event: Event, out: &mut Vec<State>) -> Result<(), String> {
        let mut next = state.clone();
        if let Event::Step(ix, StepFact::Sighted(Seen::Absent) | StepFact::UndoSighted(Seen::Absent)) = event {
            next.foreign_hidden |= state.world[ix.at()] == World::Foreign;
        }
        if state.budget.pending > 0 {
            next.pending += 1;
            next.lagging.get_or_insert_with(|| Arc::new(state.live.clone()));
        }
        self.feed(&mut next, &event)?;
        out.push(next);
        Ok(())
    }

    fn feed(&self, state: &mut State, event: &Event) -> Result<(), String> {
        state.live.handle(event).map_err(|error| format!("{error} in {}", show(state)))?;
        let after = match (self.bug, event) {
            (Bug::BelievesFailure, Event::Step(ix, StepFact::ApplyReturned(Claim::Failed))) => {
                Some(Event::Step(*ix, StepFact::Sighted(Seen::Absent)))
            }
            (Bug::BelievesUndo, Event::Step(ix, StepFact::UndoReturned(UndoClaim::Done | UndoClaim::Failed))) => {
                Some(Event::Step(*ix, StepFact::UndoSighted(Seen::Absent)))
            }
            _ => None,
        };
        match after {
            Some(event) => state.live.handle(&event).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// What the kernel asks for: reads and records.
    fn effects(&self, state: &State, out: &mut Vec<State>) -> Result<(), String> {
        let effects: Vec<Effect> = state.live.effects().collect();
        let can_fail = state.budget.failures > 0;
        for effect in effects {
            let step = |ix, fact| Event::Step(ix, fact);
            match effect {
                Effect::Prepare(ix) => {
                    self.event(state, step(ix, StepFact::Prepared), out)?;
                    if can_fail {
                        self.event(&failing(state), step(ix, StepFact::PrepareFailed), out)?;
                    }
                }
                Effect::Apply(ix) => {
                    self.may_start(state, ix)?;
                    self.event(state, step(ix, StepFact::ApplyStarted), out)?;
                }
                Effect::Observe(ix) => self.event(state, step(ix, StepFact::Sighted(self.see(state, ix))), out)?,
                Effect::Verify(ix) => {
                    let good = state.world[ix.at()] == World::After || self.bug == Bug::VerifiesAnything;
                    let fact = if good { StepFact::VerifyPassed } else { StepFact::VerifyFailed };
                    self.event(state, step(ix, fact), out)?;
                    if good && can_fail && self.bug != Bug::VerifiesAnything {
                        self.event(&failing(state), step(ix, StepFact::VerifyFailed), out)?;
                    }
                }
                Effect::Undo(ix) => self.event(state, step(ix, StepFact::UndoStarted), out)?,
                Effect::ObserveUndo(ix) => {
                    self.event(state, step(ix, StepFact::UndoSighted(self.see(state, ix))), out)?;
                }
                Effect::RunChecks => {
                    self.event(state, Event::Run(RunFact::ChecksPassed), out)?;
                    if can_fail {
                        self.event(&failing(state), Event::Run(RunFact::ChecksFailed), out)?;
                    }
                }
                Effect::End(end) => self.event(state, Event::Run(RunFact::Ended(end)), out)?,
            }
        }
        Ok(())
    }

    fn see(&self, state: &State, ix: StepIx) -> Seen {
        match state.world[ix.at()] {
            World::Before => Seen::Absent,
            World::Partial => Seen::Partial,
            World::After => Seen::Present,
            World::Foreign if self.bug == Bug::UnclearIsPresent => Seen::Absent,
            World::Foreign => Seen::Unclear,
        }
    }

    /// LAW order and LAW pivot, judged by the true graph.
    fn may_start(&self, state: &State, ix: StepIx) -> Result<(), String> {
        if self.graph.needs(ix).iter().any(|need| state.live.state(*need) != StepState::Verified) {
            return Err(format!("LAW order: {ix:?} starts before what it needs in {}", show(state)));
        }
        if let Some(after) = self.graph.pivot(ix) {
            let verified = self.graph.steps().filter(|ix| state.live.state(*ix) == StepState::Verified).count();
            if verified + 1 + (after as usize) != self.graph.len() {
                return Err(format!("LAW pivot: {ix:?} starts too early in {}", show(state)));
            }
        }
        if state.live.mode() != Mode::Forward {
            return Err(format!("LAW fail fast: {ix:?} starts after a failure in {}", show(state)));
        }
        Ok(())
    }

    /// Drivers that act, on records that are durable.
    fn acts(&self, state: &State, out: &mut Vec<State>) -> Result<(), String> {
        for ix in self.graph.steps() {
            let durable = state.durable().state(ix) == state.live.state(ix);
            match state.live.state(ix) {
                StepState::Applying if durable || self.bug == Bug::ActsBeforeDurable => {
                    if !durable {
                        return Err(format!(
                            "LAW write-ahead: {ix:?} acts before its record is durable in {}",
                            show(state)
                        ));
                    }
                    self.apply(state, ix, out)?;
                }
                StepState::Undoing if durable => self.undo(state, ix, out)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn apply(&self, state: &State, ix: StepIx, out: &mut Vec<State>) -> Result<(), String> {
        if state.live.mode() != Mode::Forward {
            self.event(state, Event::Step(ix, StepFact::ApplyWithdrawn), out)?;
        }
        let returned = |claim| Event::Step(ix, StepFact::ApplyReturned(claim));
        if state.world[ix.at()] == World::Foreign {
            return self.event(state, returned(Claim::Failed), out);
        }
        let mut done = state.clone();
        done.world[ix.at()] = World::After;
        done.acted = true;
        self.event(&done, returned(Claim::Done), out)?;
        if state.budget.failures > 0 {
            for left in [World::Before, World::Partial, World::After] {
                let mut failed = failing(state);
                failed.world[ix.at()] = left;
                failed.acted = true;
                self.event(&failed, returned(Claim::Failed), out)?;
                // And a driver that says done when it is not.
                self.event(&failed, returned(Claim::Done), out)?;
            }
        }
        Ok(())
    }

    fn undo(&self, state: &State, ix: StepIx, out: &mut Vec<State>) -> Result<(), String> {
        let live = |dependent: &StepIx| matches!(state.world[dependent.at()], World::After | World::Partial);
        if self.graph.dependents(ix).iter().any(live) {
            return Err(format!("LAW order: {ix:?} is undone under something that depends on it in {}", show(state)));
        }
        if self.graph.pivot(ix).is_some() {
            return Err(format!("LAW pivot: {ix:?} cannot be undone and is, in {}", show(state)));
        }
        let returned = |claim| Event::Step(ix, StepFact::UndoReturned(claim));
        if state.world[ix.at()] == World::Foreign && self.bug != Bug::Clobbers {
            return self.event(state, returned(UndoClaim::Clobber), out);
        }
        let mut done = state.clone();
        done.world[ix.at()] = World::Before;
        if state.world[ix.at()] == World::Foreign {
            return Err(format!("LAW no clobber: {ix:?} overwrote somebody's change in {}", show(state)));
        }
        self.event(&done, returned(UndoClaim::Done), out)?;
        if state.budget.failures > 0 {
            for left in [World::Partial, state.world[ix.at()]] {
                let mut failed = failing(state);
                failed.world[ix.at()] = left;
                failed.undo_failed = true;
                self.event(&failed, returned(UndoClaim::Failed), out)?;
            }
        }
        Ok(())
    }

    fn stop(&self, state: &State, out: &mut Vec<State>) -> Result<(), String> {
        if state.live.ended().is_some() {
            return Ok(());
        }
        if state.budget.stops > 0 && state.live.mode() == Mode::Forward {
            let mut next = state.clone();
            next.budget.stops -= 1;
            self.event(&next, Event::Run(RunFact::Halted), out)?;
        }
        if state.live.mode() == Mode::Held && state.live.is_at_rest() {
            self.event(state, Event::Run(RunFact::UndoRequested), out)?;
            if !state.live.has_failed() {
                self.event(state, Event::Run(RunFact::ResumeRequested), out)?;
            }
        }
        Ok(())
    }

    /// The process dies: what was not durable is lost, and the steps that were acting may have got anywhere.
    fn crash(&self, state: &State, out: &mut Vec<State>) -> Result<(), String> {
        if state.budget.crashes == 0 || state.live.ended().is_some() {
            return Ok(());
        }
        let mut worlds = vec![state.world.clone()];
        for ix in self.graph.steps().filter(|ix| state.durable().state(*ix) == state.live.state(*ix)) {
            let lefts: &[World] = match (state.live.state(ix), state.world[ix.at()]) {
                (StepState::Applying, World::Before) => &[World::Partial, World::After],
                (StepState::Undoing, World::After | World::Partial) => &[World::Partial, World::Before],
                _ => &[],
            };
            for at in 0..worlds.len() {
                for left in lefts {
                    let mut world = worlds[at].clone();
                    world[ix.at()] = *left;
                    worlds.push(world);
                }
            }
        }
        for world in worlds {
            for back in [true, false] {
                let mut next = state.clone();
                next.acted |= world != state.world;
                next.world.clone_from(&world);
                next.budget.crashes -= 1;
                next.live = state.durable().clone();
                next.lagging = None;
                next.live.handle(&Event::Run(RunFact::Reopened)).map_err(|error| error.to_string())?;
                if back && next.live.handle(&Event::Run(RunFact::UndoRequested)).is_err() {
                    continue;
                }
                if self.bug == Bug::ForgetsAfterCrash {
                    for ix in
                        self.graph.steps().filter(|ix| next.live.state(*ix) == StepState::InDoubt).collect::<Vec<_>>()
                    {
                        let _ = next.live.handle(&Event::Step(ix, StepFact::Sighted(Seen::Absent)));
                    }
                }
                next.pending = 0;
                out.push(next);
            }
        }
        Ok(())
    }

    fn foreign(&self, state: &State, out: &mut Vec<State>) {
        if state.budget.foreign == 0 || state.live.ended().is_some() {
            return;
        }
        for ix in self.graph.steps().filter(|ix| state.world[ix.at()] != World::Foreign) {
            let mut next = state.clone();
            next.budget.foreign -= 1;
            next.world[ix.at()] = World::Foreign;
            next.foreign_used = true;
            out.push(next);
        }
    }

    /// What must hold in every state.
    fn invariants(&self, state: &State) -> Result<(), String> {
        if !state.live.frontier_is_consistent() {
            return Err(format!("the frontier is not what the states say in {}", show(state)));
        }
        let count = |wanted: World| state.world.iter().filter(|world| **world == wanted).count();
        let broken = match state.live.ended() {
            Some(End::Committed) if count(World::Before) + count(World::Partial) > 0 => {
                Some("committed, and something is not there")
            }
            Some(End::RolledBack) if count(World::After) + count(World::Partial) > 0 => {
                Some("rolled back, and something is there")
            }
            Some(End::RolledBack) if state.foreign_hidden => {
                Some("rolled back, and a change by somebody else was taken for the before-image")
            }
            Some(End::Refused) if state.acted => Some("refused, and something acted"),
            Some(End::Stuck) if !(state.foreign_used || state.undo_failed || self.has_pivot()) => {
                Some("stuck for no reason")
            }
            _ => None,
        };
        match broken {
            Some(text) => Err(format!("LAW proof: {text} in {}", show(state))),
            None => Ok(()),
        }
    }

    fn has_pivot(&self) -> bool {
        self.graph.steps().any(|ix| self.graph.pivot(ix).is_some())
    }
}

fn failing(state: &State) -> State {
    let mut next = state.clone();
    next.budget.failures -= 1;
    next
}

fn show(state: &State) -> String {
    let steps: Vec<String> = state
        .live
        .graph()
        .steps()
        .map(|ix| format!("{}/{:?}", state.live.state(ix).as_str(), state.world[ix.at()]))
        .collect();
    format!("[{}] {:?} ended {:?}", steps.join(", "), state.live.mode(), state.live.ended())
}

/// A state as 64 bits: of tens of millions of states the chance that two share them is below one in ten thousand.
fn key(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    let flags = (state.undo_failed, state.foreign_used, state.foreign_hidden, state.acted, state.pending);
    (&state.live, &state.lagging, &state.world, state.budget, flags).hash(&mut hasher);
    hasher.finish()
}

/// A graph to check: the needs of each step, which have smaller indices, and the step that is irreversible, if one is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// What each step needs.
    pub needs: Vec<Vec<StepIx>>,
    /// The irreversible step.
    pub pivot: Option<usize>,
}

impl Shape {
    /// Which steps are irreversible.
    pub fn pivots(&self) -> Vec<bool> {
        (0..self.needs.len()).map(|at| self.pivot == Some(at)).collect()
    }

    /// The same shape with its steps renamed: step `at` becomes `names[at]`.
    fn renamed(&self, names: &[usize]) -> Self {
        let mut needs = vec![Vec::new(); names.len()];
        for (row, name) in self.needs.iter().zip(names) {
            needs[*name] = row.iter().map(|need| StepIx(names[need.at()] as u32)).collect();
            needs[*name].sort();
        }
        Self { needs, pivot: self.pivot.map(|at| names[at]) }
    }
}

/// Every graph of `count` steps, with each choice of at most one irreversible step, up to the names of the steps.
pub fn shapes(count: usize) -> Vec<Shape> {
    let names = orders(count);
    let mut seen = HashSet::new();
    let mut shapes = Vec::new();
    for needs in graphs(count) {
        for pivot in std::iter::once(None).chain((0..count).map(Some)) {
            let shape = Shape { needs: needs.clone(), pivot };
            let first = names.iter().map(|names| shape.renamed(names)).min();
            if first.is_some_and(|first| seen.insert(first)) {
                shapes.push(shape);
            }
        }
    }
    shapes
}

/// Every order of `0..count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
    let mut out = Vec::new();
    for order in orders(last) {
        for at in 0..=order.len() {
            let mut longer = order.clone();
            longer.insert(at, last);
            out.push(longer);
        }
    }
    out
}

/// Every graph of `count` steps whose needs have smaller indices.
fn graphs(count: usize) -> Vec<Vec<Vec<StepIx>>> {
    let pairs: Vec<(usize, usize)> = (0..count).flat_map(|to| (0..to).map(move |from| (from, to))).collect();
    (0..1u32 << pairs.len())
        .map(|mask| {
            let mut needs = vec![Vec::new(); count];
            for (bit, (from, to)) in pairs.iter().enumerate() {
                if mask & (1 << bit) != 0 {
                    needs[*to].push(StepIx(*from as u32));
                }
            }
            needs
        })
        .collect()
}
