//! Cases: a base request with changes, and the verdict that is expected, with the rules that decide. `policy test` runs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use schemas::{Act, Class, Ruling, Thing};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ask::{Ask, Boundary, Evidence};
use crate::engine::Engine;
use crate::inventory::Inventory;
use crate::touch::fitting;

/// A file of cases whose requests others may begin with.
static SHIPPED: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../examples/policies/deletes.json")).unwrap_or_default());

/// A file of cases.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    /// What every case about a step begins with: a whole request; that of the shipped cases where left out.
    #[serde(default)]
    base: Option<Value>,
    /// What every case about a plan begins with, likewise.
    #[serde(default)]
    plan_base: Option<Value>,
    /// The cases.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it claims.
    pub name: String,
    /// Where the example comes from.
    #[serde(default)]
    pub source: Option<String>,
    /// Whether it is about a plan as a whole.
    #[serde(default)]
    plan: bool,
    /// A resource as it is named in the world: the shipped inventory says what it is.
    #[serde(default)]
    uri: Option<String>,
    /// A command as it would be run: the library says what it does.
    #[serde(default)]
    argv: Option<Vec<String>>,
    /// Fields to change, by their path with dots; `"ALL"` as evidence grants everything.
    #[serde(default)]
    set: BTreeMap<String, Value>,
    /// The verdict.
    expect: Ruling,
    /// Every rule that decides.
    #[serde(default)]
    rules: Option<Vec<String>>,
    /// What is needed.
    #[serde(default)]
    needs: Option<Vec<String>>,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaseOutcome {
    /// The case.
    pub name: String,
    /// Whether the verdict is the expected one.
    pub passed: bool,
    /// What was decided.
    pub ruling: Option<Ruling>,
    /// The rules that decided.
    pub rules: Vec<String>,
    /// What is needed.
    pub needs: Vec<String>,
    /// Why it did not pass; empty where it did.
    pub why: String,
}

/// What is known of a command: what it does, and its class.
pub type Lookup<'a> = &'a dyn Fn(&[String]) -> (Act, Class, bool);

impl Cases {
    /// Parses a file of cases.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Runs every case. `lookup` is what the library knows of commands.
    pub fn run(&self, engine: &Engine, lookup: Lookup<'_>) -> Vec<CaseOutcome> {
        self.cases.iter().map(|case| self.run_one(case, engine, lookup)).collect()
    }

    fn run_one(&self, case: &Case, engine: &Engine, lookup: Lookup<'_>) -> CaseOutcome {
        let mut outcome = CaseOutcome {
            name: case.name.clone(),
            passed: false,
            ruling: None,
            rules: Vec::new(),
            needs: Vec::new(),
            why: String::new(),
        };
        let ask = match self.ask(case, engine, lookup) {
            Ok(ask) => ask,
            Err(why) => return CaseOutcome { why, ..outcome },
        };
        let answered = engine.answer(&ask);
        outcome.ruling = Some(answered.ruling);
        outcome.rules = answered.rules;
        outcome.needs = answered.needs.iter().map(ToString::to_string).collect();
        outcome.why = [
            (answered.ruling != case.expect)
                .then(|| format!("expected {}, decided {}", case.expect.as_str(), answered.ruling.as_str())),
            differs("rules", case.rules.as_deref(), &outcome.rules),
            differs("needs", case.needs.as_deref(), &outcome.needs),
            (!answered.errors.is_empty()).then(|| answered.errors.join("; ")),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ");
        outcome.passed = outcome.why.is_empty();
        outcome
    }

    /// The request of a case.
    fn ask(&self, case: &Case, engine: &Engine, lookup: Lookup<'_>) -> Result<Ask, String> {
        let kind = if case.plan { "plan" } else { "step" };
        let (base, name) = if case.plan { (&self.plan_base, "plan_base") } else { (&self.base, "base") };
        let base = base.as_ref().or_else(|| SHIPPED.get(name));
        let mut value = base.cloned().ok_or("the file has no plan_base")?;
        if let Some(argv) = &case.argv {
            let (act, class, known) = lookup(argv);
            put(&mut value, "verb", serde_json::json!(act.verb))?;
            put(&mut value, "resource.thing", serde_json::json!(act.on))?;
            put(&mut value, "resource.name", Value::from(act.named))?;
            put(&mut value, "resource.known", Value::from(known))?;
            put(&mut value, "context.class", serde_json::json!(class))?;
            put(&mut value, "context.hazards", serde_json::json!(act.hazards))?;
            put(&mut value, "context.command", Value::from(argv.join(" ")))?;
        }
        if let Some(uri) = &case.uri {
            put(&mut value, "resource.name", Value::from(uri.as_str()))?;
        }
        for (path, new) in &case.set {
            let new = if path == "context.evidence" && new == "ALL" {
                let teams: BTreeSet<String> = engine.rules().teams();
                serde_json::json!(Evidence::granted(&teams))
            } else {
                new.clone()
            };
            put(&mut value, path, new)?;
        }
        let mut wrapped = serde_json::Map::new();
        wrapped.insert(kind.to_owned(), value);
        let mut ask: Ask = serde_json::from_value(Value::Object(wrapped)).map_err(|error| error.to_string())?;
        if let (Some(uri), Ask::Step(step)) = (&case.uri, &mut ask) {
            let inventory = Inventory::parse("").map_err(|error| error.to_string())?;
            let described = inventory.describe(uri, &step.resource.environment);
            let thing: Thing = described.thing.unwrap_or(step.resource.thing);
            step.verb = fitting(step.verb, thing);
            step.resource.thing = thing;
            step.resource.known |= described.known;
            step.resource.sensitive |= described.sensitive;
            step.resource.boundary =
                step.resource.boundary.max(described.boundary(step.verb)).max(Boundary::Undeclared);
        }
        Ok(ask)
    }
}

fn differs(what: &str, expected: Option<&[String]>, found: &[String]) -> Option<String> {
    let mut expected = expected?.to_vec();
    expected.sort();
    let mut sorted = found.to_vec();
    sorted.sort();
    (expected != sorted).then(|| format!("{what}: expected [{}], found [{}]", expected.join(", "), sorted.join(", ")))
}

/// Puts a value at a path of an object; the path must exist, so that a misspelt one is told.
fn put(value: &mut Value, path: &str, new: Value) -> Result<(), String> {
    let mut at = value;
    for name in path.split('.') {
        at = at.get_mut(name).ok_or_else(|| format!("the base has no {path}"))?;
    }
    *at = new;
    Ok(())
}

/// Rules that decide no case.
pub fn uncovered(engine: &Engine, outcomes: &[CaseOutcome]) -> Vec<String> {
    let decided: BTreeSet<&String> = outcomes.iter().flat_map(|outcome| &outcome.rules).collect();
    // An exception is for days, and needs no case.
    let lasting = engine.rules().rules.values().filter(|rule| rule.expires.is_none());
    lasting.map(|rule| &rule.id).filter(|id| !decided.contains(id)).cloned().collect()
}
