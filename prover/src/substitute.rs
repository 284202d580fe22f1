//! Evidence put into a rule as a constant, so that two amounts of it can be compared on one request.

use cedar_policy::Policy;
use policy::Need;
use serde_json::{Value, json};

use crate::solve::ProverError;

/// One piece of evidence with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// So many people.
    Approvals(i64),
    /// Whether somebody of this team spoke.
    Team(String, bool),
    /// A yes or no.
    Flag(&'static str, bool),
}

/// Evidence that is a yes or no.
pub(crate) const FLAGS: [&str; 6] =
    ["legal_hold_clear", "snapshot", "dry_run", "verification", "compensation", "drill"];

impl Given {
    /// The evidence that satisfies a need.
    pub(crate) fn of(need: &Need) -> Self {
        match need {
            Need::Approvals(count) => Self::Approvals(*count),
            Need::Role(team) => Self::Team(team.clone(), true),
            Need::LegalHoldClear => Self::Flag("legal_hold_clear", true),
            Need::Snapshot => Self::Flag("snapshot", true),
            Need::DryRun => Self::Flag("dry_run", true),
            Need::Verification => Self::Flag("verification", true),
            Need::Compensation => Self::Flag("compensation", true),
            Need::Drill => Self::Flag("drill", true),
        }
    }
}

/// The rule with evidence put in; `None` where it does not read it.
pub(crate) fn with(policy: &Policy, given: &[Given]) -> Result<Option<Policy>, ProverError> {
    let broken = |error: &dyn std::fmt::Display| ProverError::Bundle(format!("{}: {error}", policy.id()));
    let mut json = policy.to_json().map_err(|error| broken(&error))?;
    let before = json.clone();
    for given in given {
        put(&mut json, given);
    }
    if json == before {
        return Ok(None);
    }
    Policy::from_json(Some(policy.id().clone()), json).map(Some).map_err(|error| broken(&error))
}

/// Whether a rule reads the teams in a way that no constant can stand for.
pub(crate) fn reads_teams_otherwise(policy: &Policy, teams: &[String]) -> Result<bool, ProverError> {
    let given: Vec<Given> = teams.iter().map(|team| Given::Team(team.clone(), true)).collect();
    let rule = with(policy, &given)?.unwrap_or_else(|| policy.clone());
    let json = rule.to_json().map_err(|error| ProverError::Bundle(error.to_string()))?;
    Ok(reads(&json, "teams"))
}

fn reads(value: &Value, field: &str) -> bool {
    is_field(value, field)
        || match value {
            Value::Array(items) => items.iter().any(|item| reads(item, field)),
            Value::Object(fields) => fields.values().any(|item| reads(item, field)),
            _ => false,
        }
}

fn put(value: &mut Value, given: &Given) {
    match given {
        Given::Approvals(count) if is_field(value, "approvals") => *value = json!({"Value": count}),
        Given::Flag(name, yes) if is_field(value, name) => *value = json!({"Value": yes}),
        Given::Team(team, yes) if asks_for(value, team) => *value = json!({"Value": yes}),
        _ => match value {
            Value::Array(items) => items.iter_mut().for_each(|item| put(item, given)),
            Value::Object(fields) => fields.values_mut().for_each(|item| put(item, given)),
            _ => {}
        },
    }
}

/// `context.evidence.FIELD`.
fn is_field(value: &Value, field: &str) -> bool {
    let Some(access) = value.get(".") else { return false };
    let evidence = access.pointer("/left/./attr").and_then(Value::as_str) == Some("evidence")
        && access.pointer("/left/./left/Var").and_then(Value::as_str) == Some("context");
    evidence && access.get("attr").and_then(Value::as_str) == Some(field)
}

/// `context.evidence.teams.contains("TEAM")`.
fn asks_for(value: &Value, team: &str) -> bool {
    let Some(test) = value.get("contains") else { return false };
    test.get("left").is_some_and(|left| is_field(left, "teams"))
        && test.pointer("/right/Value").and_then(Value::as_str) == Some(team)
}
