//! Asks in the engine's own terms. Names of types and vocabularies are parsed once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression as Value,
};
use schemas::{Thing, Verb};

use crate::ask::{
    Ask, CalendarFacts, Clock, Evidence, Object, PlanAsk, PlanContext, Principal, SiteRules, StepContext, sure,
};

/// Parsed names of entity types, and the actions.
struct Words {
    types: HashMap<&'static str, EntityTypeName>,
    actions: HashMap<&'static str, EntityUid>,
}

const TYPES: [&str; 10] = ["Tier", "Class", "Risk", "Sure", "Mode", "Boundary", "Hazard", "Duty", "Agent", "Plan"];

impl Words {
    fn new() -> Option<Self> {
        let things = Thing::ALL.into_iter().map(Thing::type_name);
        let mut types = HashMap::new();
        for name in TYPES.into_iter().chain(things) {
            types.insert(name, format!("Backout::{name}").parse().ok()?);
        }
        let mut actions = HashMap::new();
        for name in Verb::ALL.into_iter().map(Verb::as_str).chain(["admit", "commit"]) {
            actions.insert(name, format!("Backout::Action::{name:?}").parse().ok()?);
        }
        Some(Self { types, actions })
    }

    fn uid(&self, kind: &'static str, id: &str) -> Result<EntityUid, String> {
        let name = self.types.get(kind).ok_or_else(|| format!("no type is called {kind}"))?;
        Ok(EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id)))
    }

    fn word(&self, kind: &'static str, id: &str) -> Result<Value, String> {
        Ok(Value::new_entity_uid(self.uid(kind, id)?))
    }

    fn action(&self, name: &str) -> Result<EntityUid, String> {
        self.actions.get(name).cloned().ok_or_else(|| format!("no action is called {name}"))
    }
}

/// Asks as requests, with what they have in common made once: the agent, the actions with their groups, contexts that are equal.
pub(crate) struct Converter {
    words: Words,
    /// Each action with the groups that it is in.
    actions: HashMap<&'static str, Vec<Entity>>,
    agents: Mutex<HashMap<Principal, Entity>>,
    steps: Mutex<HashMap<StepContext, Context>>,
    plans: Mutex<HashMap<PlanContext, Context>>,
}

/// Most agents and contexts that are remembered.
const MAX_KNOWN: usize = 4_096;

impl Converter {
    pub(crate) fn new(all: &Entities) -> Option<Self> {
        let words = Words::new()?;
        let mut actions = HashMap::new();
        for (name, uid) in &words.actions {
            let groups = all.ancestors(uid)?.cloned().collect::<Vec<_>>();
            let mut entities = vec![all.get(uid)?.clone()];
            entities.extend(groups.iter().filter_map(|group| all.get(group).cloned()));
            actions.insert(*name, entities);
        }
        Some(Self { words, actions, agents: Mutex::default(), steps: Mutex::default(), plans: Mutex::default() })
    }

    /// Who and what an ask is about. It is the same whatever evidence there is.
    pub(crate) fn scene(&self, ask: &Ask) -> Result<Scene, String> {
        let (principal, action, resource) = match ask {
            Ask::Step(ask) => (&ask.principal, ask.verb.as_str(), object(&ask.resource, &self.words)?),
            Ask::Plan(ask) => (&ask.principal, ask.phase.as_str(), plan(ask, &self.words)?),
        };
        let agent = remembered(&self.agents, principal, |principal| agent(principal, &self.words))?;
        let uids = (agent.uid(), self.words.action(action)?, resource.uid());
        let actions = self.actions.get(action).ok_or_else(|| format!("no action is called {action}"))?;
        let entities = Entities::from_entities(actions.iter().cloned().chain([agent, resource]), None)
            .map_err(|error| error.to_string())?;
        Ok(Scene { uids, entities })
    }

    /// The request of an ask in its scene.
    pub(crate) fn request(&self, scene: &Scene, ask: &Ask) -> Result<Request, String> {
        let made = |pairs: Pairs| Context::from_pairs(pairs).map_err(|error| error.to_string());
        let context = match ask {
            Ask::Step(ask) => {
                remembered(&self.steps, &ask.context, |context| made(step_context(context, &self.words)?))?
            }
            Ask::Plan(ask) => {
                remembered(&self.plans, &ask.context, |context| made(plan_context(context, &self.words)?))?
            }
        };
        let (agent, action, resource) = scene.uids.clone();
        Request::new(agent, action, resource, context, None).map_err(|error| error.to_string())
    }
}

/// Who does what to what, with what is known of them.
pub(crate) struct Scene {
    uids: (EntityUid, EntityUid, EntityUid),
    pub(crate) entities: Entities,
}

/// What was made before of a key, or what is made now.
fn remembered<K: Clone + Eq + Hash, V: Clone>(
    known: &Mutex<HashMap<K, V>>,
    key: &K,
    make: impl FnOnce(&K) -> Result<V, String>,
) -> Result<V, String> {
    if let Some(value) = known.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
        return Ok(value.clone());
    }
    let value = make(key)?;
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
    known.insert(key.clone(), value.clone());
    Ok(value)
}

fn agent(principal: &Principal, words: &Words) -> Result<Entity, String> {
    let duties: HashSet<EntityUid> =
        principal.duties.iter().map(|duty| words.uid("Duty", duty)).collect::<Result<_, _>>()?;
    let attributes = HashMap::from([("environments".to_owned(), strings(&principal.environments))]);
    Entity::new(words.uid("Agent", &principal.id)?, attributes, duties).map_err(|error| error.to_string())
}

fn object(object: &Object, words: &Words) -> Result<Entity, String> {
    let attributes = HashMap::from([
        ("name".to_owned(), Value::new_string(object.name.clone())),
        ("environment".to_owned(), Value::new_string(object.environment.clone())),
        ("tier".to_owned(), words.word("Tier", object.tier.as_str())?),
        ("known".to_owned(), Value::new_bool(object.known)),
        ("sensitive".to_owned(), Value::new_bool(object.sensitive)),
        ("protected".to_owned(), Value::new_bool(object.protected)),
        ("shared".to_owned(), Value::new_bool(object.shared)),
        ("boundary".to_owned(), words.word("Boundary", object.boundary.as_str())?),
    ]);
    let uid = words.uid(object.thing.type_name(), &object.name)?;
    Entity::new(uid, attributes, HashSet::new()).map_err(|error| error.to_string())
}

fn plan(ask: &PlanAsk, words: &Words) -> Result<Entity, String> {
    let attributes = HashMap::from([
        ("environment".to_owned(), Value::new_string(ask.environment.clone())),
        ("tier".to_owned(), words.word("Tier", ask.tier.as_str())?),
    ]);
    Entity::new(words.uid("Plan", "")?, attributes, HashSet::new()).map_err(|error| error.to_string())
}

type Pairs = Vec<(String, Value)>;

fn step_context(context: &StepContext, words: &Words) -> Result<Pairs, String> {
    let session = record([
        ("mode", words.word("Mode", context.session.mode.as_str())?),
        ("writes", Value::new_long(context.session.writes)),
        ("deletes", Value::new_long(context.session.deletes)),
        ("restarts", Value::new_long(context.session.restarts)),
        ("rows", Value::new_long(context.session.rows)),
    ])?;
    let target = record([
        ("wildcard", Value::new_bool(context.target.wildcard)),
        ("count", Value::new_long(context.target.count)),
        ("share", Value::new_long(context.target.share)),
        ("rows", Value::new_long(context.target.rows)),
    ])?;
    let repair = record([
        ("backup_verified", Value::new_bool(context.repair.backup_verified)),
        ("version_tested", Value::new_bool(context.repair.version_tested)),
    ])?;
    let hazards = context.hazards.iter().map(|hazard| words.word("Hazard", hazard.as_str()));
    Ok(pairs([
        ("class", words.word("Class", context.class.as_str())?),
        ("risk", words.word("Risk", context.risk.as_str())?),
        ("sure", words.word("Sure", sure(context.sure))?),
        ("score", Value::new_long(context.score)),
        ("command", Value::new_string(context.command.clone())),
        ("target", target),
        ("hazards", Value::new_set(hazards.collect::<Result<Vec<_>, _>>()?)),
        ("session", session),
        ("clock", clock(&context.clock)?),
        ("calendar", calendar(&context.calendar)?),
        ("site", site(&context.site)?),
        ("repair", repair),
        ("evidence", evidence(&context.evidence)?),
    ]))
}

fn plan_context(context: &PlanContext, words: &Words) -> Result<Pairs, String> {
    let hazards = context.hazards.iter().map(|hazard| words.word("Hazard", hazard.as_str()));
    Ok(pairs([
        ("steps", Value::new_long(context.steps)),
        ("writes", Value::new_long(context.writes)),
        ("deletes", Value::new_long(context.deletes)),
        ("irreversible", Value::new_long(context.irreversible)),
        ("score", Value::new_long(context.score)),
        ("risk", words.word("Risk", context.risk.as_str())?),
        ("hazards", Value::new_set(hazards.collect::<Result<Vec<_>, _>>()?)),
        ("clock", clock(&context.clock)?),
        ("calendar", calendar(&context.calendar)?),
        ("site", site(&context.site)?),
        ("undeclared", Value::new_long(context.undeclared)),
        ("checks_failed", Value::new_long(context.checks_failed)),
        ("evidence", evidence(&context.evidence)?),
    ]))
}

fn clock(clock: &Clock) -> Result<Value, String> {
    // The engine reads milliseconds at most.
    let now = clock.now.round(jiff::Unit::Millisecond).unwrap_or(clock.now);
    record([
        ("now", Value::new_datetime(format!("{now:.3}"))),
        ("weekday", Value::new_long(clock.weekday)),
        ("minute", Value::new_long(clock.minute)),
    ])
}

fn calendar(facts: &CalendarFacts) -> Result<Value, String> {
    record([("frozen", Value::new_bool(facts.frozen)), ("window", Value::new_bool(facts.window))])
}

fn site(rules: &SiteRules) -> Result<Value, String> {
    record([
        ("allows_irreversible", Value::new_bool(rules.allows_irreversible)),
        ("max_delete_share", Value::new_long(rules.max_delete_share)),
    ])
}

fn evidence(evidence: &Evidence) -> Result<Value, String> {
    record([
        ("approvals", Value::new_long(evidence.approvals)),
        ("teams", strings(&evidence.teams)),
        ("legal_hold_clear", Value::new_bool(evidence.legal_hold_clear)),
        ("snapshot", Value::new_bool(evidence.snapshot)),
        ("dry_run", Value::new_bool(evidence.dry_run)),
        ("verification", Value::new_bool(evidence.verification)),
        ("compensation", Value::new_bool(evidence.compensation)),
        ("drill", Value::new_bool(evidence.drill)),
    ])
}

fn strings(texts: &BTreeSet<String>) -> Value {
    Value::new_set(texts.iter().map(|text| Value::new_string(text.clone())))
}

fn record<const N: usize>(fields: [(&str, Value); N]) -> Result<Value, String> {
    Value::new_record(pairs(fields)).map_err(|error| error.to_string())
}

fn pairs<const N: usize>(fields: [(&str, Value); N]) -> Pairs {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
