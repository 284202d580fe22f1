//! The three verdicts from two questions: with the evidence that there is, and with all evidence granted.
//!
//! INVARIANT: an error while a rule is evaluated is a denial (`an_error_is_a_denial`): the engine below skips a forbid that errors.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use cedar_policy::{
    ActionConstraint, Authorizer, Decision as Answer, EntityTypeName, EntityUid, PolicySet, ResourceConstraint,
};
use jiff::Timestamp;
use schemas::{Digest, Ruling, Thing, Verb};
use serde::{Deserialize, Serialize};

use crate::ask::{Ask, Evidence, PlanPhase};
use crate::convert::{Converter, Scene};
use crate::index::Demands;
use crate::needs::{Need, together};
use crate::rule::{PARSED, Rule, RuleError, RuleSet};

/// The rule that decides where no rule does.
pub const DEFAULT_DENY: &str = "default-deny";

/// An answer with its grounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// What was decided.
    pub ruling: Ruling,
    /// The rules that decided, sorted: permits of an allow, forbids of a hold or a deny, or `default-deny`.
    pub rules: Vec<String>,
    /// What is still needed; empty unless it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Need>,
    /// Errors while rules were evaluated: each makes a denial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Step(Verb, Thing),
    Plan(PlanPhase),
}

/// A set of rules that answers asks. Rules are indexed by what they can speak of, equal asks are answered once.
pub struct Engine {
    set: RuleSet,
    digest: Digest,
    places: HashMap<Kind, Place>,
    /// Sets of rules that were evaluated before, by the places of the rules in [`Engine::indexed`].
    cuts: Mutex<HashMap<Vec<u32>, Arc<PolicySet>>>,
    indexed: Vec<Indexed>,
    teams: BTreeSet<String>,
    until: Option<Timestamp>,
    converter: Converter,
    known: Mutex<HashMap<Ask, Answered>>,
}

/// A rule with what must be so for it to apply.
struct Indexed {
    id: String,
    demands: Demands,
}

/// The rules that can speak of one action on one kind of thing, by their places.
#[derive(Default)]
struct Place {
    rules: Vec<u32>,
    reads_names: bool,
}

/// Most sets of rules that are remembered.
const MAX_CUTS: usize = 4_096;

/// Most answers that are remembered.
const MAX_KNOWN: usize = 100_000;

impl Engine {
    /// An engine over rules that passed. `digest` names the bundle.
    pub fn new(set: RuleSet, digest: Digest) -> Result<Self, RuleError> {
        let broken = |text: &str| RuleError(vec![text.to_owned()]);
        let schema = PARSED.as_ref().ok_or_else(|| broken("the vocabulary of this build does not parse"))?;
        let actions = schema.action_entities().map_err(|error| RuleError(vec![error.to_string()]))?;
        let converter = Converter::new(&actions)
            .ok_or_else(|| broken("the words of this build are not those of its vocabulary"))?;
        let rules: Vec<&Rule> = set.rules.values().collect();
        let scopes: Vec<(ActionConstraint, ResourceConstraint)> =
            rules.iter().map(|rule| (rule.policy.action_constraint(), rule.policy.resource_constraint())).collect();
        let mut places: HashMap<Kind, Place> = HashMap::new();
        for env in schema.request_envs() {
            let action = env.action();
            let groups: Vec<EntityUid> = actions.ancestors(action).into_iter().flatten().cloned().collect();
            let Some(kind) = kind_of(action.id().unescaped(), env.resource().basename()) else { continue };
            let mut place = Place::default();
            for ((at, rule), scope) in (0u32..).zip(&rules).zip(&scopes) {
                if can_speak(scope, action, &groups, env.resource()) {
                    place.rules.push(at);
                    place.reads_names |= rule.reads_names;
                }
            }
            places.insert(kind, place);
        }
        let indexed = rules.iter().map(|rule| Indexed { id: rule.id.clone(), demands: rule.demands.clone() });
        let (indexed, teams) = (indexed.collect(), set.teams());
        let (known, cuts) = (Mutex::default(), Mutex::default());
        Ok(Self { set, digest, places, cuts, indexed, teams, until: None, converter, known })
    }

    /// An engine over the rules that hold at `now`.
    pub fn at(set: RuleSet, digest: Digest, now: Timestamp) -> Result<Self, RuleError> {
        let (set, until) = set.at(now)?;
        Ok(Self { until, ..Self::new(set, digest)? })
    }

    /// Whether an exception of it ended meanwhile, so that it answers for another time.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// Names the bundle: the same digest means the same answers.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The rules.
    pub fn rules(&self) -> &RuleSet {
        &self.set
    }

    /// The rule of this id.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.set.rules.get(id)
    }

    /// Whether a rule that can speak of this reads names or words: if none does, asks leave them out and are equal more often.
    pub fn reads_names(&self, verb: Verb, thing: Thing) -> bool {
        self.places.get(&Kind::Step(verb, thing)).is_some_and(|place| place.reads_names)
    }

    /// Answers an ask.
    pub fn answer(&self, ask: &Ask) -> Answered {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(ask).cloned();
        if let Some(known) = known {
            return known;
        }
        let answered = self.work_out(ask);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_KNOWN {
            known.insert(ask.clone(), answered.clone());
        }
        answered
    }

    fn work_out(&self, ask: &Ask) -> Answered {
        let denied = |rules: Vec<String>, errors| {
            let rules = if rules.is_empty() { vec![DEFAULT_DENY.to_owned()] } else { rules };
            Answered { ruling: Ruling::Deny, rules, needs: Vec::new(), errors }
        };
        let kind = match ask {
            Ask::Step(ask) => Kind::Step(ask.verb, ask.resource.thing),
            Ask::Plan(ask) => Kind::Plan(ask.phase),
        };
        let Some(place) = self.places.get(&kind) else { return denied(Vec::new(), Vec::new()) };
        let may_apply = |at: &&u32| self.indexed_at(**at).is_some_and(|indexed| indexed.demands.hold(ask));
        let applying: Vec<u32> = place.rules.iter().filter(may_apply).copied().collect();
        let scene = match self.converter.scene(ask) {
            Ok(scene) => scene,
            Err(error) => return denied(Vec::new(), vec![error]),
        };
        let real = match self.cut(&applying).and_then(|policies| self.evaluate(&policies, &scene, ask)) {
            Ok(real) => real,
            Err(error) => return denied(Vec::new(), vec![error]),
        };
        if !real.errors.is_empty() {
            return denied(real.rules, real.errors);
        }
        if real.allowed {
            return Answered { ruling: Ruling::Allow, rules: real.rules, needs: Vec::new(), errors: Vec::new() };
        }
        let (held, final_ones): (Vec<&Rule>, Vec<&Rule>) =
            real.rules.iter().filter_map(|id| self.rule(id)).partition(|rule| !rule.needs.is_empty());
        if !final_ones.is_empty() {
            return denied(final_ones.iter().map(|rule| rule.id.clone()).collect(), Vec::new());
        }
        // LAW of the lint: a rule reads evidence only so that more of it lifts it. What did not match with less does not match with all.
        let stays = |at: &u32| {
            let rule = self.indexed_at(*at).and_then(|indexed| self.rule(&indexed.id));
            rule.is_some_and(|rule| rule.permits || held.iter().any(|held| held.id == rule.id))
        };
        let again: Vec<u32> = applying.iter().copied().filter(stays).collect();
        let granted = ask.with_evidence(Evidence::granted(&self.teams));
        let granted = match self.cut(&again).and_then(|policies| self.evaluate(&policies, &scene, &granted)) {
            Ok(granted) => granted,
            Err(error) => return denied(real.rules, vec![error]),
        };
        if !granted.allowed || !granted.errors.is_empty() {
            return denied(granted.rules, granted.errors);
        }
        let needs = together(held.iter().flat_map(|rule| rule.needs.clone()));
        Answered { ruling: Ruling::Hold, rules: real.rules, needs, errors: Vec::new() }
    }

    fn indexed_at(&self, at: u32) -> Option<&Indexed> {
        self.indexed.get(at as usize)
    }

    /// The set of the rules at these places.
    fn cut(&self, places: &[u32]) -> Result<Arc<PolicySet>, String> {
        if let Some(cut) = self.cuts.lock().unwrap_or_else(PoisonError::into_inner).get(places) {
            return Ok(cut.clone());
        }
        let rules = places.iter().filter_map(|at| self.rule(&self.indexed_at(*at)?.id));
        let cut = PolicySet::from_policies(rules.map(|rule| rule.policy.clone())).map_err(|error| error.to_string())?;
        let cut = Arc::new(cut);
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        if cuts.len() >= MAX_CUTS {
            cuts.clear();
        }
        cuts.insert(places.to_vec(), cut.clone());
        Ok(cut)
    }

    fn evaluate(&self, policies: &PolicySet, scene: &Scene, ask: &Ask) -> Result<Evaluated, String> {
        let request = self.converter.request(scene, ask)?;
        let response = Authorizer::new().is_authorized(&request, policies, &scene.entities);
        let mut rules: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        rules.sort();
        let mut errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        errors.sort();
        Ok(Evaluated { allowed: response.decision() == Answer::Allow, rules, errors })
    }
}

struct Evaluated {
    allowed: bool,
    rules: Vec<String>,
    errors: Vec<String>,
}

/// Whether the scope of a policy lets it speak of an action on a type.
fn can_speak(
    (of_action, of_thing): &(ActionConstraint, ResourceConstraint),
    action: &EntityUid,
    groups: &[EntityUid],
    thing: &EntityTypeName,
) -> bool {
    let of_action = match of_action {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == action,
        ActionConstraint::In(uids) => uids.iter().any(|uid| uid == action || groups.contains(uid)),
    };
    let of_thing = match of_thing {
        ResourceConstraint::Is(name) | ResourceConstraint::IsIn(name, _) => name == thing,
        ResourceConstraint::Any | ResourceConstraint::Eq(_) | ResourceConstraint::In(_) => true,
    };
    of_action && of_thing
}

fn kind_of(action: &str, thing: &str) -> Option<Kind> {
    match action {
        "admit" => return Some(Kind::Plan(PlanPhase::Admit)),
        "commit" => return Some(Kind::Plan(PlanPhase::Commit)),
        _ => {}
    }
    let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == action)?;
    let thing = Thing::ALL.into_iter().find(|known| known.type_name() == thing)?;
    Some(Kind::Step(verb, thing))
}

#[cfg(test)]
mod tests {
    use cedar_policy::{Entities, Policy, PolicyId};
    use schemas::Code;

    use super::*;
    use crate::bundle::Bundle;

    fn ask() -> Ask {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../../examples/policies/deletes.json")).unwrap();
        serde_json::from_value(serde_json::json!({"step": cases["base"]})).unwrap()
    }

    fn rule(id: &str, text: &str) -> Rule {
        Rule {
            id: id.to_owned(),
            file: String::new(),
            permits: text.starts_with("permit"),
            why: String::new(),
            hint: String::new(),
            code: Code::POLICY_DENIED,
            needs: Vec::new(),
            approval_minutes: None,
            expires: None,
            demands: Demands::default(),
            reads_names: false,
            policy: Policy::parse(Some(PolicyId::new(id)), text).unwrap(),
        }
    }

    fn engine(rules: &[(&str, &str)]) -> Engine {
        let mut set = RuleSet { rules: Default::default(), policies: PolicySet::new() };
        for (id, text) in rules {
            set.policies.add(rule(id, text).policy).unwrap();
            set.rules.insert((*id).to_owned(), rule(id, text));
        }
        Engine::new(set, Digest::of(b"test")).unwrap()
    }

    #[test]
    fn an_error_is_a_denial() {
        let all = ("ALL/1", "permit (principal, action, resource);");
        assert_eq!(engine(&[all]).answer(&ask()).ruling, Ruling::Allow);
        // The lint refuses arithmetic; this one came past it, and the engine below would skip it.
        let fails =
            ("FAILS/1", "forbid (principal, action, resource) when { context.score + 9223372036854775807 > 0 };");
        let answered = engine(&[all, fails]).answer(&ask());
        assert_eq!(answered.ruling, Ruling::Deny);
        assert!(answered.errors.iter().any(|error| error.contains("overflow")), "{:?}", answered.errors);
    }

    #[test]
    fn nothing_is_allowed_that_no_rule_allows() {
        let answered = engine(&[]).answer(&ask());
        assert_eq!((answered.ruling, answered.rules), (Ruling::Deny, vec![DEFAULT_DENY.to_owned()]));
    }

    #[test]
    fn the_default_bundle_and_its_requests_fit_the_vocabulary() {
        let engine = Bundle::shipped().engine(Timestamp::now()).unwrap();
        let schema = PARSED.as_ref().unwrap();
        let scene = engine.converter.scene(&ask()).unwrap();
        let (request, entities) = (engine.converter.request(&scene, &ask()).unwrap(), scene.entities);
        let (principal, action) = (request.principal().unwrap().clone(), request.action().unwrap().clone());
        let resource = request.resource().unwrap().clone();
        let context = request.context().unwrap().clone();
        cedar_policy::Request::new(principal, action, resource, context, Some(schema)).unwrap();
        let listed: Vec<_> =
            entities.iter().filter(|entity| entity.uid().type_name().basename() != "Action").cloned().collect();
        Entities::from_entities(listed, Some(schema)).unwrap();
    }

    #[test]
    fn leaving_rules_out_changes_no_answer() {
        let indexed = Bundle::shipped().engine(Timestamp::now()).unwrap();
        let mut plain = Bundle::shipped().engine(Timestamp::now()).unwrap();
        plain.indexed.iter_mut().for_each(|rule| rule.demands = Demands::default());
        let Ask::Step(base) = ask() else { panic!() };
        let (mut asked, mut fewer, mut spoken) = (0, 0, 0);
        let duties = ["change", "operate", "secrets", "backups"];
        let words = |list: &[&str]| list.iter().map(|word| serde_json::json!(word)).collect::<Vec<_>>();
        let classes: Vec<serde_json::Value> =
            schemas::Class::ALL.iter().map(|class| serde_json::json!(class)).collect();
        for verb in Verb::ALL {
            for thing in Thing::ALL {
                for (at, class) in classes.iter().enumerate() {
                    for (risk, tier) in words(&["low", "critical"]).iter().zip(words(&["staging", "production"])) {
                        let mut value = serde_json::to_value(&base).unwrap();
                        value["verb"] = serde_json::json!(verb);
                        value["resource"]["thing"] = serde_json::json!(thing);
                        value["context"]["class"] = class.clone();
                        value["context"]["risk"] = risk.clone();
                        value["resource"]["tier"] = tier;
                        for (bit, field) in ["known", "sensitive", "protected", "shared"].iter().enumerate() {
                            value["resource"][field] = serde_json::json!((at + asked) >> bit & 1 == 1);
                        }
                        value["context"]["calendar"]["frozen"] = serde_json::json!(asked % 3 == 0);
                        value["context"]["target"]["wildcard"] = serde_json::json!(asked % 5 == 0);
                        value["context"]["site"]["allows_irreversible"] = serde_json::json!(asked % 2 == 0);
                        value["context"]["session"]["mode"] = words(&["normal", "repair"])[asked % 2].clone();
                        value["principal"]["duties"] = serde_json::json!([duties[asked % 4]]);
                        let ask = Ask::Step(serde_json::from_value(value).unwrap());
                        assert_eq!(indexed.answer(&ask), plain.answer(&ask), "{ask:?}");
                        let place = indexed.places.get(&Kind::Step(verb, thing));
                        let all = place.map_or(0, |place| place.rules.len());
                        let rules = place.into_iter().flat_map(|place| &place.rules);
                        spoken += usize::from(all > 0);
                        let left = rules.filter(|at| indexed.indexed_at(**at).unwrap().demands.hold(&ask)).count();
                        fewer += usize::from(left < all);
                        asked += 1;
                    }
                }
            }
        }
        assert!(spoken > 300 && fewer * 4 > spoken * 3, "{fewer} of {spoken} of {asked}");
    }
}
