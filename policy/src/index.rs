//! Which rules can apply to an ask at all, told by what their conditions demand: the others are never evaluated.
//!
//! INVARIANT: a rule is left out only if a conjunct of its `when`, or its scope, is false for the ask. Strict validation and the lint
//! leave no conjunct that could error before it (`leaving_rules_out_changes_no_answer`).

use cedar_policy::{EntityUid, Policy, PrincipalConstraint};
use serde_json::Value;

use crate::ask::{Ask, Principal};

/// A fact of an ask that has few values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Class,
    Risk,
    Mode,
    Frozen,
    Window,
    Wildcard,
    AllowsIrreversible,
    Environment,
    Tier,
    Known,
    Sensitive,
    Protected,
    Shared,
    Boundary,
}

const FIELDS: [(&[&str], Field); 14] = [
    (&["context", "class"], Field::Class),
    (&["context", "risk"], Field::Risk),
    (&["context", "session", "mode"], Field::Mode),
    (&["context", "calendar", "frozen"], Field::Frozen),
    (&["context", "calendar", "window"], Field::Window),
    (&["context", "target", "wildcard"], Field::Wildcard),
    (&["context", "site", "allows_irreversible"], Field::AllowsIrreversible),
    (&["resource", "environment"], Field::Environment),
    (&["resource", "tier"], Field::Tier),
    (&["resource", "known"], Field::Known),
    (&["resource", "sensitive"], Field::Sensitive),
    (&["resource", "protected"], Field::Protected),
    (&["resource", "shared"], Field::Shared),
    (&["resource", "boundary"], Field::Boundary),
];

/// What must be so for a rule to apply: the principal of its scope, and conjuncts of its `when`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demands {
    agent: Option<String>,
    duty: Option<String>,
    facts: Vec<(Field, String)>,
}

impl Demands {
    /// Read off the JSON form of a rule, so that it is what the engine sees.
    pub(crate) fn of(policy: &Policy, json: &Value) -> Self {
        let mut out = Self::default();
        match policy.principal_constraint() {
            PrincipalConstraint::Eq(uid) if is(&uid, "Agent") => out.agent = Some(uid.id().unescaped().to_owned()),
            PrincipalConstraint::In(uid) if is(&uid, "Duty") => out.duty = Some(uid.id().unescaped().to_owned()),
            _ => {}
        }
        let conditions = json.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let whens = conditions.filter(|condition| condition.get("kind").and_then(Value::as_str) == Some("when"));
        whens.filter_map(|when| when.get("body")).for_each(|body| out.take(body));
        out
    }

    /// Whether the rule is for one agent, or for those with one duty.
    pub(crate) fn name_somebody(&self) -> bool {
        self.agent.is_some() || self.duty.is_some()
    }

    /// Whether the rule is for one environment.
    pub(crate) fn name_an_environment(&self) -> bool {
        self.facts.iter().any(|(field, _)| *field == Field::Environment)
    }

    fn take(&mut self, value: &Value) {
        if let Some(sides) = value.get("&&") {
            ["left", "right"].iter().filter_map(|side| sides.get(*side)).for_each(|side| self.take(side));
            return;
        }
        if let Some(field) = field(value) {
            self.facts.push((field, "true".to_owned()));
            return;
        }
        if let Some(field) = value.get("!").and_then(|inner| inner.get("arg")).and_then(field) {
            self.facts.push((field, "false".to_owned()));
            return;
        }
        let Some(sides) = value.get("==") else { return };
        let (Some(left), Some(right)) = (sides.get("left"), sides.get("right")) else { return };
        let found = field(left).zip(constant(right)).or_else(|| field(right).zip(constant(left)));
        self.facts.extend(found);
    }

    /// Whether the rule can apply to an ask.
    pub(crate) fn hold(&self, ask: &Ask) -> bool {
        let principal = principal(ask);
        self.agent.as_ref().is_none_or(|agent| *agent == principal.id)
            && self.duty.as_ref().is_none_or(|duty| principal.duties.contains(duty))
            && self.facts.iter().all(|(field, wanted)| fact(ask, *field).is_none_or(|found| found == wanted))
    }
}

fn principal(ask: &Ask) -> &Principal {
    match ask {
        Ask::Step(ask) => &ask.principal,
        Ask::Plan(ask) => &ask.principal,
    }
}

fn is(uid: &EntityUid, name: &str) -> bool {
    uid.type_name().basename() == name
}

/// The field that `a.b.c` reads, if it is one of those.
fn field(value: &Value) -> Option<Field> {
    let mut path = Vec::new();
    let mut at = value;
    while let Some(access) = at.get(".") {
        path.push(access.get("attr")?.as_str()?);
        at = access.get("left")?;
    }
    path.push(at.get("Var")?.as_str()?);
    path.reverse();
    FIELDS.iter().find(|(known, _)| *known == path.as_slice()).map(|(_, field)| *field)
}

/// A text, a truth value, or the id of a word of the vocabulary.
fn constant(value: &Value) -> Option<String> {
    match value.get("Value")? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Object(object) => Some(object.get("__entity")?.get("id")?.as_str()?.to_owned()),
        _ => None,
    }
}

fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// What an ask says of a field; nothing where it does not have it.
fn fact(ask: &Ask, field: Field) -> Option<&str> {
    match ask {
        Ask::Step(ask) => {
            let (context, resource) = (&ask.context, &ask.resource);
            Some(match field {
                Field::Class => context.class.as_str(),
                Field::Risk => context.risk.as_str(),
                Field::Mode => context.session.mode.as_str(),
                Field::Frozen => truth(context.calendar.frozen),
                Field::Window => truth(context.calendar.window),
                Field::Wildcard => truth(context.target.wildcard),
                Field::AllowsIrreversible => truth(context.site.allows_irreversible),
                Field::Environment => &resource.environment,
                Field::Tier => resource.tier.as_str(),
                Field::Known => truth(resource.known),
                Field::Sensitive => truth(resource.sensitive),
                Field::Protected => truth(resource.protected),
                Field::Shared => truth(resource.shared),
                Field::Boundary => resource.boundary.as_str(),
            })
        }
        Ask::Plan(ask) => match field {
            Field::Risk => Some(ask.context.risk.as_str()),
            Field::Frozen => Some(truth(ask.context.calendar.frozen)),
            Field::Window => Some(truth(ask.context.calendar.window)),
            Field::AllowsIrreversible => Some(truth(ask.context.site.allows_irreversible)),
            Field::Environment => Some(&ask.environment),
            Field::Tier => Some(ask.tier.as_str()),
            _ => None,
        },
    }
}
