//! A SafeClaw policy as it is written, in both forms. Fields that are not known are refused.

use serde::Deserialize;
use serde_json::Value;

/// Most bytes of a policy.
const MAX_BYTES: usize = 1 << 20;

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Effect {
    Allow,
    Deny,
    RequireApproval,
}

/// A policy, whichever form it came in.
pub(super) struct Written {
    pub(super) default_effect: Effect,
    pub(super) environments: Vec<String>,
    /// Beginnings of the actions that it speaks of; all where there are none.
    pub(super) types: Vec<String>,
    pub(super) rules: Vec<Rule>,
}

pub(super) struct Rule {
    pub(super) id: Option<String>,
    pub(super) effect: Effect,
    pub(super) reason: Option<String>,
    pub(super) people: u64,
    pub(super) rate_limit: Option<RateLimit>,
    /// Any of these lists, of which all must hold.
    pub(super) condition: Vec<Vec<Predicate>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Predicate {
    pub(super) field: String,
    pub(super) operator: String,
    pub(super) value: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimit {
    pub(super) requests: u64,
    pub(super) window: String,
    pub(super) scope: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "version")]
    _version: Option<Value>,
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    #[serde(rename = "defaultEffect")]
    default_effect: Option<Effect>,
    scope: Option<Scope>,
    rules: Vec<AnyRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    #[serde(default)]
    environments: Vec<String>,
    #[serde(default, rename = "actionTypes")]
    types: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyRule {
    id: Option<String>,
    effect: Effect,
    description: Option<String>,
    reason: Option<String>,
    /// The flat form.
    action: Option<String>,
    resource: Option<String>,
    /// The other form.
    condition: Option<Value>,
    #[serde(rename = "approvalConfig")]
    approval: Option<Approval>,
    #[serde(rename = "rateLimit")]
    rate_limit: Option<RateLimit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    #[serde(rename = "requiredApprovals")]
    required: Option<u64>,
    /// Ours are good for half an hour at most, which is stricter.
    #[serde(rename = "expiresIn")]
    _expires_in: Option<String>,
    #[serde(rename = "approverRoles")]
    roles: Option<Vec<String>>,
}

impl Written {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("larger than {MAX_BYTES} bytes"));
        }
        let document: Document = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?
        };
        let rules = document
            .rules
            .into_iter()
            .enumerate()
            .map(|(at, rule)| one(rule).map_err(|text| format!("rules[{at}]: {text}")));
        Ok(Self {
            // The flat form has no default of its own: deny.
            default_effect: document.default_effect.unwrap_or(Effect::Deny),
            types: document.scope.as_ref().map(|scope| scope.types.clone()).unwrap_or_default(),
            environments: document.scope.map(|scope| scope.environments).unwrap_or_default(),
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

fn one(rule: AnyRule) -> Result<Rule, String> {
    let condition = match (&rule.action, &rule.condition) {
        (Some(action), None) => {
            let is = |field: &str, operator: &str, value: &str| Predicate {
                field: field.to_owned(),
                operator: operator.to_owned(),
                value: Value::from(value),
            };
            let mut all = vec![is("action.type", "eq", action)];
            all.extend(rule.resource.as_deref().map(|resource| is("action.resource", "glob", resource)));
            vec![all]
        }
        (None, Some(condition)) => flat(condition)?,
        _ => return Err("a rule has either an action or a condition".to_owned()),
    };
    if rule.approval.as_ref().is_some_and(|approval| approval.roles.is_some()) {
        return Err("approverRoles: write a rule with @need(\"role:TEAM\") by hand".to_owned());
    }
    if let Some(id) = rule.id.as_ref().filter(|id| !schemas::is_valid_id(id)) {
        return Err(format!("{id:?} is no name"));
    }
    Ok(Rule {
        id: rule.id,
        effect: rule.effect,
        reason: rule.reason.or(rule.description),
        people: rule.approval.and_then(|approval| approval.required).unwrap_or(1),
        rate_limit: rule.rate_limit,
        condition,
    })
}

/// `any` of predicates, `all` of predicates, or one.
fn flat(condition: &Value) -> Result<Vec<Vec<Predicate>>, String> {
    let predicates = |list: &Value| {
        let items = list.as_array().ok_or("any and all hold lists")?;
        let parse = |item: &Value| serde_json::from_value(item.clone()).map_err(|error| error.to_string());
        items.iter().map(parse).collect::<Result<Vec<Predicate>, String>>()
    };
    let fields = condition.as_object().ok_or("a condition is an object")?;
    match (fields.get("any"), fields.get("all"), fields.len()) {
        (Some(any), None, 1) => Ok(predicates(any)?.into_iter().map(|predicate| vec![predicate]).collect()),
        (None, Some(all), 1) => Ok(vec![predicates(all)?]),
        (None, None, _) => {
            Ok(vec![vec![serde_json::from_value(condition.clone()).map_err(|error| error.to_string())?]])
        }
        _ => Err("any and all together cannot be said: write two rules".to_owned()),
    }
}
