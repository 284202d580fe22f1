//! The laws that every kind of step keeps, run by each kind's tests on a real world.

mod issuer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernel::{
    AfterImage, Cancel, Claim, Driver, DriverError, DriverSet, Facts, Scope, Sighting, StepIx, StepSpec, Token,
    UndoError,
};
use schemas::{Change, Class, Deed, PlanStep, Resource};
use serde_json::{Value, json};
use snapshots::{Root, Store, scan};

use self::issuer::{Issuer, RUN};

/// A world to act on, and the drivers.
pub(crate) struct World {
    dir: tempfile::TempDir,
    drivers: DriverSet,
    scope: Scope,
    issuer: Arc<Issuer>,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let issuer = Arc::new(Issuer::default());
        let authority = issuer.clone();
        let scope = Scope { run: RUN.to_owned(), cancel: Cancel::default(), alive_until_ms: None, authority };
        Self { drivers: crate::all(&store, None), dir, scope, issuer }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn facts(&self) -> Arc<Facts> {
        let root = self.dir.path().join("root").canonicalize().unwrap();
        Arc::new(Facts {
            environment: "test".to_owned(),
            roots: vec![root],
            protected: Vec::new(),
            backups: Vec::new(),
            contains: false,
        })
    }

    pub(crate) fn step(&self, uses: &str, with: Value) -> StepSpec {
        self.step_of(json!({"id": "s", "uses": uses, "with": with}))
    }

    /// A step as the plan and then the assessment make it.
    pub(crate) fn step_of(&self, step: Value) -> StepSpec {
        let step: PlanStep = serde_json::from_value(step).unwrap();
        let facts = self.facts();
        let driver = self.drivers.for_step(&step.uses).unwrap();
        let lowered = driver.lower(&step, 0, &facts).unwrap_or_else(|findings| panic!("{findings:?}"));
        let mut spec = StepSpec {
            ix: StepIx(0),
            id: step.id,
            uses: step.uses,
            with: step.with,
            expect: step.expect,
            undo: step.undo,
            verify: step.verify,
            timeout_ms: step.timeout_ms,
            lowered,
            pinned: Vec::new(),
            facts,
        };
        spec.pinned = driver.probe(&spec, &[]).unwrap_or_else(|error| panic!("{error}")).pinned;
        spec
    }

    pub(crate) fn driver(&self, step: &StepSpec) -> &Arc<dyn Driver> {
        self.drivers.for_step(&step.uses).unwrap()
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn token(&self, step: &StepSpec, undo: bool) -> Token {
        self.issuer.token(step, RUN, if undo { Deed::Undo } else { Deed::Apply })
    }

    /// Tokens that are not for acting on `step` as it is.
    fn bad_tokens(&self, step: &StepSpec) -> Vec<(&'static str, Token)> {
        let other = |change: &dyn Fn(&mut StepSpec)| {
            let mut other = step.clone();
            change(&mut other);
            self.issuer.token(&other, RUN, Deed::Apply)
        };
        vec![
            ("another run's token", self.issuer.token(step, "another run", Deed::Apply)),
            ("a token for undoing", self.issuer.token(step, RUN, Deed::Undo)),
            ("another step's token", other(&|step| step.id = "other".to_owned())),
            ("another operation's token", other(&|step| step.uses = "file.other".to_owned())),
            ("a token for other resources", other(&|step| step.lowered.writes.push(Resource::file("/other")))),
            ("a token for other patterns", other(&|step| step.pinned.push("/other".to_owned()))),
            ("a token for other inputs", other(&|step| step.timeout_ms = Some(1))),
            ("a token for another class", other(&|step| step.lowered.class = Class::Irreversible)),
        ]
    }

    /// All files of the world but what git and SQLite keep for themselves.
    pub(crate) fn digest(&self) -> String {
        let root = Root::open(&self.at("")).unwrap();
        let mut tree = scan(&root, &[PathBuf::new()], None).unwrap();
        let own = |path: &Path| {
            path.components().any(|part| part.as_os_str().to_string_lossy().ends_with(".git"))
                || path.to_string_lossy().contains(".db")
                || path.as_os_str().is_empty()
        };
        tree.entries.retain(|entry| !own(&entry.path));
        tree.digest().to_string()
    }
}

/// Runs every law for one step. `state` says what is there in the kind's own terms.
pub(crate) fn keeps_the_laws(world: &World, step: &StepSpec, state: &dyn Fn(&World) -> String) {
    let (driver, scope) = (world.driver(step), world.scope());
    let name = format!("{} {}", step.uses, step.with.get());
    let before_state = state(world);
    driver.probe(step, &[]).unwrap();
    let before = driver.prepare(step, scope).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(matches!(driver.observe(step, &before, None, scope), Sighting::Absent), "{name}: not absent before");
    assert_eq!(state(world), before_state, "{name}: probe, prepare or observe changed something");

    for (what, token) in world.bad_tokens(step) {
        let outcome = driver.apply(step, &before, token, scope);
        assert!(matches!(outcome, Err(DriverError::Token(_))), "{name}: acts with {what}: {outcome:?}");
    }
    let looking = Scope::to_look(RUN);
    assert!(driver.apply(step, &before, world.token(step, false), &looking).is_err(), "{name}: acts while looking");
    assert_eq!(state(world), before_state, "{name}: changed something without a token");

    let token = world.token(step, false);
    let again = Token::new(token.envelope().clone());
    driver.apply(step, &before, token, scope).unwrap_or_else(|error| panic!("{name}: {error}"));
    let outcome = driver.apply(step, &before, again, scope);
    assert!(matches!(outcome, Err(DriverError::Token(_))), "{name}: a token was spent twice: {outcome:?}");
    let once = state(world);
    assert_ne!(once, before_state, "{name}: changed nothing");
    driver
        .apply(step, &before, world.token(step, false), scope)
        .unwrap_or_else(|error| panic!("{name} twice: {error}"));
    assert_eq!(state(world), once, "{name}: twice is not once");

    let (after, changes) = present(driver.observe(step, &before, Some(Claim::Done), scope), &name);
    let outcome = driver.undo(step, &before, Some(&after), world.token(step, false), scope);
    assert!(outcome.is_err(), "{name}: undoes with a token for acting");
    assert_eq!(state(world), once, "{name}: observe changed something, or undo without a token");
    for change in &changes {
        let resource: Resource = change.resource.parse().unwrap();
        assert!(
            step.lowered.writes.iter().any(|write| write.contains(&resource)),
            "{name}: {resource} is not declared"
        );
    }
    driver
        .undo(step, &before, Some(&after), world.token(step, true), scope)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(matches!(driver.observe(step, &before, None, scope), Sighting::Absent), "{name}: not absent after undo");
    assert_eq!(state(world), before_state, "{name}: undo is not exact");
    driver.undo(step, &before, Some(&after), world.token(step, true), scope).unwrap();
    assert_eq!(state(world), before_state, "{name}: undoing twice is not once");
}

/// Runs the laws of a step that finds everything as it would leave it: it is there by its driver's word, and undoing it
/// changes nothing and is seen to be done.
pub(crate) fn keeps_the_laws_of_nothing(world: &World, step: &StepSpec, state: &dyn Fn(&World) -> String) {
    let (driver, scope) = (world.driver(step), world.scope());
    let name = format!("{} {}", step.uses, step.with.get());
    let before_state = state(world);
    let before = driver.prepare(step, scope).unwrap_or_else(|error| panic!("{name}: {error}"));
    driver.apply(step, &before, world.token(step, false), scope).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (after, changes) = present(driver.observe(step, &before, Some(Claim::Done), scope), &name);
    assert!(changes.is_empty(), "{name}: {changes:?}");
    driver
        .undo(step, &before, Some(&after), world.token(step, true), scope)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(matches!(driver.observe(step, &before, None, scope), Sighting::Absent), "{name}: not absent after undo");
    assert_eq!(state(world), before_state, "{name}: undoing nothing changed something");
}

/// Applies a step, lets `change` be somebody else, and checks that undo refuses and leaves that change alone.
pub(crate) fn does_not_clobber(
    world: &World,
    step: &StepSpec,
    change: &dyn Fn(&World),
    state: &dyn Fn(&World) -> String,
) {
    let (driver, scope) = (world.driver(step), world.scope());
    let before = driver.prepare(step, scope).unwrap();
    driver.apply(step, &before, world.token(step, false), scope).unwrap();
    let (after, _) = present(driver.observe(step, &before, Some(Claim::Done), scope), &step.uses);
    change(world);
    let changed = state(world);
    let outcome = driver.undo(step, &before, Some(&after), world.token(step, true), scope);
    assert!(matches!(outcome, Err(UndoError::Clobber(_))), "{}: {outcome:?}", step.uses);
    assert_eq!(state(world), changed, "{}: somebody's change was overwritten", step.uses);
}

fn present(sighting: Sighting, name: &str) -> (AfterImage, Vec<Change>) {
    match sighting {
        Sighting::Present { after, changes } => (after, changes),
        other => panic!("{name}: {other:?}"),
    }
}
