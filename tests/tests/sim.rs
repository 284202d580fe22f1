//! A seeded simulation: the real conductor and the real fold over a journal that fails as disks fail (no room, I/O error, short
//! write, a sync that fails after the bytes went down) and drivers that fail, lie and are cut off.
//!
//! `BACKOUT_SEEDS=100000` for a long run; a failing seed is printed and can be played again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, clippy::panic)]

use std::sync::Arc;

use executor::{Conductor, Folded, Loaded, Message, Order, Slots, Tick, Work, fold};
use kernel::{
    AfterImage, BeforeImage, Claim, Conflict, DriverError, Facts, Graph, Lowered, Output, Sighting, StepIx, StepSpec,
    UndoError,
};
use schemas::{
    Class, Confidence, Digest, Effectiveness, End, OnFailure, RecordBody, Resource, RunSubject, StepAssessment, WayBack,
};
use serde_json::value::RawValue;
use verifier::Verification;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    Before,
    Partial,
    After,
    Foreign,
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.pick(100) < percent
    }

    fn pick(&mut self, limit: u64) -> u64 {
        (self.next() >> 32) % limit.max(1)
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn way_back() -> WayBack {
    WayBack { effectiveness: Effectiveness::Full, how: String::new(), entry: None }
}

fn loaded(random: &mut Random) -> Loaded {
    let count = 1 + random.pick(10) as usize;
    let needs: Vec<Vec<StepIx>> =
        (0..count).map(|ix| (0..ix).filter(|_| random.chance(30)).map(|need| StepIx(need as u32)).collect()).collect();
    let facts = Arc::new(Facts {
        environment: "sim".to_owned(),
        roots: vec!["/sim".into()],
        protected: Vec::new(),
        backups: Vec::new(),
        contains: false,
    });
    let step = |ix: usize| StepSpec {
        ix: StepIx(ix as u32),
        id: format!("s{ix}"),
        uses: "sim.step".to_owned(),
        with: raw("{}"),
        expect: None,
        undo: None,
        verify: Vec::new(),
        timeout_ms: None,
        lowered: Lowered {
            reads: Vec::new(),
            writes: if ix.is_multiple_of(3) { Vec::new() } else { vec![Resource::file(format!("/sim/{ix}"))] },
            class: Class::ReversibleWithState,
            way_back: way_back(),
            argv: Vec::new(),
            cwd: None,
            act: None,
            side: Vec::new(),
        },
        pinned: Vec::new(),
        facts: facts.clone(),
    };
    let assessed = |ix: usize| StepAssessment {
        confidence: Confidence::Verified,
        ..StepAssessment::unseen(&format!("s{ix}"), Class::ReversibleWithState, way_back())
    };
    Loaded {
        plan: Digest::of(b"plan"),
        graph: Arc::new(Graph::new(&needs, &vec![false; count]).unwrap()),
        steps: Arc::new((0..count).map(step).collect()),
        assessed: Arc::new((0..count).map(assessed).collect()),
        checks: Vec::new(),
        facts: facts.clone(),
        decisions: Arc::new(Vec::new()),
        decisions_digest: Digest::of(b"decisions"),
        ceilings: Arc::default(),
    }
}

struct Sim {
    random: Random,
    loaded: Loaded,
    world: Vec<World>,
    durable: Vec<RecordBody>,
    foreign_used: bool,
    undo_failed: bool,
    crashes: u32,
    journal_failures: u32,
}

/// What became of a process.
enum Life {
    Rested(Box<Folded>),
    Died,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let loaded = loaded(&mut random);
        let world = vec![World::Before; loaded.steps.len()];
        let opened = RecordBody::RunOpened {
            plan: loaded.plan,
            manifest: loaded.plan,
            assessment: loaded.plan,
            decisions: loaded.decisions_digest,
            approvals: Vec::new(),
            on_failure: OnFailure::Undo,
            steps: world.len() as u32,
            admitted: None,
            reserved: Vec::new(),
        };
        let durable = vec![opened];
        Self {
            random,
            loaded,
            world,
            durable,
            foreign_used: false,
            undo_failed: false,
            crashes: 0,
            journal_failures: 0,
        }
    }

    fn folded(&self) -> Folded {
        let name = || "sim".to_owned();
        let subject = RunSubject { run: name(), session: name(), agent: name(), environment: name() };
        fold(subject, self.durable.clone(), &mut |_| Ok(self.loaded.clone())).unwrap()
    }

    fn play(&mut self) -> End {
        for life in 0..100 {
            let mut conductor = Conductor::new(self.folded(), Slots { jobs: 3, ahead: 6 });
            if life > 0 {
                let by = || "recover".to_owned();
                conductor.tell(RecordBody::Reopened { by: by() }).unwrap();
                if conductor.folded().run.ended().is_none()
                    && (self.random.chance(70) || conductor.folded().run.has_failed())
                {
                    conductor.tell(RecordBody::UndoRequested { by: by(), why: schemas::UndoReason::Recovery }).unwrap();
                }
            }
            if let Life::Rested(folded) = self.live(conductor)
                && let Some(end) = folded.run.ended()
            {
                return end;
            }
        }
        panic!("no end after a hundred lives");
    }

    fn live(&mut self, mut conductor: Conductor) -> Life {
        let mut flight: Vec<Work> = Vec::new();
        let mut commit: Option<Vec<RecordBody>> = None;
        for _ in 0..10_000 {
            let flush = self.random.chance(30);
            while let Some(order) = conductor.next(Tick { flush }).unwrap() {
                match order {
                    Order::Commit(facts) => {
                        assert!(commit.is_none(), "two commits at once");
                        commit = Some(facts);
                    }
                    Order::Start(work) => {
                        self.check_write_ahead(&work);
                        check_last_in_first_out(conductor.folded(), &work);
                        flight.push(*work);
                    }
                    Order::Finish => return Life::Rested(Box::new(conductor.into_folded())),
                }
            }
            if self.random.chance(2) && self.crashes < 3 {
                self.die(flight, commit);
                return Life::Died;
            }
            self.meddle();
            let choices = flight.len() as u64 + u64::from(commit.is_some());
            assert!(choices > 0, "nothing is in flight and nothing is done");
            let pick = self.random.pick(choices) as usize;
            if pick < flight.len() {
                let work = flight.swap_remove(pick);
                let message = self.perform(work);
                conductor.on(message).unwrap();
                continue;
            }
            let facts = commit.take().unwrap();
            if self.random.chance(3) && self.journal_failures < 2 {
                self.journal_failures += 1;
                // A failed sync may have written; a full disk or a short write has not: SQLite's commit is all or nothing.
                let written = self.random.chance(50);
                self.die(flight, written.then_some(facts));
                return Life::Died;
            }
            self.durable.extend(facts);
            conductor.on(Message::Durable).unwrap();
        }
        panic!("a life without end");
    }

    /// The process is gone: work that acts may have got anywhere, a commit under way is there or not.
    fn die(&mut self, flight: Vec<Work>, commit: Option<Vec<RecordBody>>) {
        self.crashes += 1;
        for work in flight {
            let left = [World::Before, World::Partial, World::After][self.random.pick(3) as usize];
            match work {
                Work::Apply(step, ..) if self.world[step.ix.at()] == World::Before => self.world[step.ix.at()] = left,
                Work::Undo(step, ..) if self.world[step.ix.at()] != World::Foreign && self.random.chance(50) => {
                    self.world[step.ix.at()] = World::Before;
                }
                _ => {}
            }
        }
        if let Some(facts) = commit
            && self.random.chance(50)
        {
            self.durable.extend(facts);
        }
    }

    /// LAW write-ahead.
    fn check_write_ahead(&self, work: &Work) {
        let Some(ix) = work.step().filter(|_| work.acts()) else { return };
        let last = self.durable.iter().rev().find_map(|fact| match fact {
            RecordBody::ApplyStarted { step, .. } if *step == ix.0 => Some(matches!(work, Work::Apply(..))),
            RecordBody::UndoStarted { step, .. } if *step == ix.0 => Some(matches!(work, Work::Undo(..))),
            _ => None,
        });
        assert_eq!(last, Some(true), "{ix:?} acts before its record is durable");
    }

    /// Somebody else changes something, once in a run.
    fn meddle(&mut self) {
        if !self.foreign_used && self.random.chance(1) {
            let ix = self.random.pick(self.world.len() as u64) as usize;
            self.world[ix] = World::Foreign;
            self.foreign_used = true;
        }
    }

    fn see(&self, ix: StepIx) -> Sighting {
        let after = || AfterImage(raw("null"));
        match self.world[ix.at()] {
            World::Before => Sighting::Absent,
            World::After => Sighting::Present { after: after(), changes: Vec::new() },
            World::Partial => Sighting::Partial { after: after(), changes: Vec::new(), detail: String::new() },
            World::Foreign => Sighting::Unclear { detail: "somebody".to_owned() },
        }
    }

    fn perform(&mut self, work: Work) -> Message {
        let fails = self.random.chance(5);
        let error = || DriverError::Tool("simulated".to_owned());
        match work {
            Work::Prepare(step) if fails => Message::Prepared(step.ix, Err(error())),
            Work::Prepare(step) if self.world[step.ix.at()] == World::Foreign => {
                Message::Prepared(step.ix, Err(error()))
            }
            Work::Prepare(step) => Message::Prepared(step.ix, BeforeImage::new(Default::default(), &0)),
            Work::Apply(step, ..) => {
                let at = step.ix.at();
                if self.world[at] == World::Foreign {
                    return Message::Applied(step.ix, Err(error()), 0);
                }
                self.world[at] = match fails {
                    true => [World::Before, World::Partial, World::After][self.random.pick(3) as usize],
                    false => World::After,
                };
                let lies = fails && self.random.chance(50);
                let claim = if fails && !lies { Err(error()) } else { Ok(Output::default()) };
                Message::Applied(step.ix, claim, 0)
            }
            Work::Observe(step, _, _claim @ (None | Some(Claim::Failed | Claim::Done))) => {
                Message::Observed(step.ix, self.see(step.ix))
            }
            Work::Verify(step, _) => {
                let good = self.world[step.ix.at()] == World::After && !fails;
                let reasons = if good { Vec::new() } else { vec!["not as declared".to_owned()] };
                let after = Some(AfterImage(raw("null")));
                Message::Verified(step.ix, Verification { after, changes: Vec::new(), checks: Vec::new(), reasons })
            }
            Work::Undo(step, ..) => match self.world[step.ix.at()] {
                World::Foreign => {
                    let none = String::new;
                    let conflict = Conflict { resource: none(), before: none(), left: none(), found: none() };
                    Message::Undone(step.ix, Err(UndoError::Clobber(vec![conflict])))
                }
                _ if fails => {
                    self.undo_failed = true;
                    Message::Undone(step.ix, Err(error().into()))
                }
                _ => {
                    self.world[step.ix.at()] = World::Before;
                    Message::Undone(step.ix, Ok(()))
                }
            },
            Work::ObserveUndo(step, _) => Message::UndoObserved(step.ix, self.see(step.ix)),
            Work::Checks(..) if fails => Message::Checked(Vec::new(), vec!["no".to_owned()]),
            Work::Checks(..) => Message::Checked(Vec::new(), Vec::new()),
        }
    }
}

/// LAW reverse order: what acted later is back, and seen to be back, before what acted earlier is touched.
fn check_last_in_first_out(folded: &Folded, work: &Work) {
    let Work::Undo(step, ..) = work else { return };
    let at = folded.acted.iter().rposition(|ix| *ix == step.ix).unwrap();
    for later in &folded.acted[at + 1..] {
        let state = folded.run.state(*later);
        let blocked = state.is_live() && state != kernel::StepState::Stuck && folded.run.may_undo(*later);
        let moving = matches!(state, kernel::StepState::Undoing | kernel::StepState::UndoInDoubt) && *later != step.ix;
        assert!(!blocked && !moving, "{:?} is undone before {later:?}, which is {state:?}", step.ix);
    }
}

#[test]
fn no_seed_ends_with_a_wrong_claim() {
    let seeds: u64 = std::env::var("BACKOUT_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3_000);
    let mut ends = std::collections::BTreeMap::<&str, u32>::new();
    let (mut crashes, mut failures) = (0, 0);
    // Seeds beyond the range that once found something: crashes used up the attempts of an undo.
    for seed in (1..=seeds).chain([64_380]) {
        let mut sim = Sim::new(seed);
        let end = sim.play();
        let left = |wanted: World| sim.world.iter().filter(|world| **world == wanted).count();
        match end {
            End::Committed => assert_eq!(left(World::Before) + left(World::Partial), 0, "seed {seed}"),
            End::RolledBack | End::Refused => {
                assert_eq!(left(World::After) + left(World::Partial), 0, "seed {seed}: {end:?}")
            }
            End::Stuck => assert!(sim.foreign_used || sim.undo_failed, "seed {seed} is stuck for no reason"),
        }
        *ends.entry(end.as_str()).or_default() += 1;
        crashes += sim.crashes;
        failures += sim.journal_failures;
    }
    println!("{seeds} seeds: {ends:?}, {crashes} crashes, {failures} failures of the journal");
    assert!(ends.len() >= 3 && failures > 0 && crashes > 0);
}
