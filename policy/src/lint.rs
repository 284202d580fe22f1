//! What a rule must not look like, beyond what strict validation refuses: a permit never reads evidence; a forbid reads it if and only if it
//! says `@need`, in the one shape that more evidence can only lift.
//!
//! It walks the rule's JSON form, so that it sees what the engine sees and not the text.

use cedar_policy::{ActionConstraint, Policy, ResourceConstraint};
use serde_json::Value;

use crate::index::Demands;
use crate::needs::{Need, together};

/// Problems of one rule.
pub(crate) fn problems(id: &str, json: &Value, permits: bool, needs: &[Need], has_need: bool) -> Vec<String> {
    if json.is_null() {
        return vec![format!("{id}: has no JSON form")];
    }
    let mut out = Vec::new();
    let conditions: Vec<&Value> = json.get("conditions").and_then(Value::as_array).into_iter().flatten().collect();
    let body = |kind: &str| -> Vec<&Value> {
        let of_kind = conditions.iter().filter(|condition| condition.get("kind").and_then(Value::as_str) == Some(kind));
        of_kind.filter_map(|condition| condition.get("body")).collect()
    };
    let (when, unless) = (body("when"), body("unless"));
    let reads = when.iter().chain(&unless).any(|body| reads_evidence(body));
    match (permits, has_need, reads) {
        (true, _, true) => out.push(format!("{id}: a permit never reads evidence")),
        (true, true, _) => out.push(format!("{id}: a permit has no @need")),
        (false, true, false) => out.push(format!("{id}: it says @need and reads no evidence")),
        (false, false, true) => out.push(format!("{id}: it reads evidence and says no @need")),
        _ => {}
    }
    if when.iter().any(|body| reads_evidence(body)) {
        out.push(format!("{id}: evidence is read in unless alone"));
    }
    if unless.iter().any(|body| reads_evidence(body) && !only_grows(body)) {
        out.push(format!(
            "{id}: more evidence must never make it stricter: join tests with && or ||, and compare with >= or contains"
        ));
    }
    let mut read = Vec::new();
    unless.iter().for_each(|body| evidence_of(body, &mut read));
    if !permits && has_need && !needs.is_empty() {
        let tested = together(read);
        let named = together(needs.iter().cloned());
        if tested != named {
            let list = |needs: &[Need]| needs.iter().map(ToString::to_string).collect::<Vec<_>>().join(";");
            out.push(format!("{id}: it says @need(\"{}\") and tests for {}", list(&named), list(&tested)));
        }
    }
    if conditions.iter().any(|condition| is_bare(condition)) {
        out.push(format!("{id}: the context is read field by field, never as a whole"));
    }
    if has_arithmetic(json) {
        out.push(format!("{id}: arithmetic can overflow, and a forbid that errors is skipped"));
    }
    out
}

/// Why a rule is no exception: a permit for one agent or duty, named actions and a type of thing, in one environment that its `when` demands.
pub(crate) fn narrow(id: &str, policy: &Policy, demands: &Demands) -> Vec<String> {
    let mut out = Vec::new();
    if policy.effect() != cedar_policy::Effect::Permit {
        out.push(format!("{id}: an exception permits; it never forbids, and it lifts no forbid"));
    }
    if !demands.name_somebody() {
        out.push(format!("{id}: an exception names an agent (principal == …) or a duty (principal in …)"));
    }
    if matches!(policy.action_constraint(), ActionConstraint::Any) {
        out.push(format!("{id}: an exception names actions"));
    }
    if matches!(policy.resource_constraint(), ResourceConstraint::Any) {
        out.push(format!("{id}: an exception names a type of thing"));
    }
    if !demands.name_an_environment() {
        out.push(format!(
            "{id}: an exception begins its when with resource.environment == \"NAME\", joined by && alone"
        ));
    }
    out
}

/// Whether `context.evidence` is read anywhere.
fn reads_evidence(value: &Value) -> bool {
    if is_evidence(value) {
        return true;
    }
    match value {
        Value::Array(items) => items.iter().any(reads_evidence),
        Value::Object(fields) => fields.values().any(reads_evidence),
        _ => false,
    }
}

fn is_evidence(value: &Value) -> bool {
    let Some(access) = value.get(".").or_else(|| value.get("has")) else { return false };
    access.get("attr").and_then(Value::as_str) == Some("evidence")
        && access.get("left").and_then(|left| left.get("Var")).and_then(Value::as_str) == Some("context")
}

/// Every piece of evidence that a condition tests, as the need that supplies it.
fn evidence_of(value: &Value, out: &mut Vec<Need>) {
    let name = |side: &Value| -> Option<String> {
        Some(side.get(".").filter(|_| is_field(side))?.get("attr")?.as_str()?.to_owned())
    };
    for (test, above) in [(">=", 0), (">", 1)] {
        if let Some(sides) = value.get(test)
            && sides.get("left").and_then(name).as_deref() == Some("approvals")
        {
            let count = sides.get("right").and_then(|right| right.get("Value")).and_then(Value::as_i64);
            out.extend(count.map(|count| Need::Approvals(count.saturating_add(above))));
            return;
        }
    }
    for test in ["contains", "containsAll", "containsAny"] {
        if let Some(sides) = value.get(test)
            && sides.get("left").and_then(name).as_deref() == Some("teams")
        {
            texts(sides.get("right").unwrap_or(&Value::Null), out);
            return;
        }
    }
    if let Some(field) = name(value) {
        out.extend(field.parse());
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| evidence_of(item, out)),
        Value::Object(fields) => fields.values().for_each(|inner| evidence_of(inner, out)),
        _ => {}
    }
}

/// The teams that a test names.
fn texts(value: &Value, out: &mut Vec<Need>) {
    match value {
        Value::String(text) => out.push(Need::Role(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| texts(item, out)),
        Value::Object(fields) => fields.values().for_each(|inner| texts(inner, out)),
        _ => {}
    }
}

/// `context.evidence.NAME`.
fn is_field(value: &Value) -> bool {
    value.get(".").and_then(|access| access.get("left")).is_some_and(is_evidence)
}

/// Whether a test can only go from false to true as evidence grows.
fn only_grows(value: &Value) -> bool {
    if !reads_evidence(value) {
        return true;
    }
    if is_field(value) {
        return true;
    }
    for joined in ["&&", "||"] {
        if let Some(sides) = value.get(joined) {
            return ["left", "right"].iter().all(|side| sides.get(*side).is_some_and(only_grows));
        }
    }
    for test in [">=", ">", "contains", "containsAll", "containsAny"] {
        if let Some(sides) = value.get(test) {
            let right_is_fixed = sides.get("right").is_some_and(|right| !reads_evidence(right));
            return sides.get("left").is_some_and(is_field) && right_is_fixed;
        }
    }
    false
}

/// Whether `context` stands anywhere but before a dot.
fn is_bare(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(is_bare),
        Value::Object(fields) => fields.iter().any(|(name, inner)| match name.as_str() {
            "Var" => inner.as_str() == Some("context"),
            "." | "has" => inner.get("left").is_some_and(|left| left.get("Var").is_none() && is_bare(left)),
            _ => is_bare(inner),
        }),
        _ => false,
    }
}

fn has_arithmetic(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_arithmetic),
        Value::Object(fields) => {
            fields.iter().any(|(name, inner)| ["+", "-", "*", "neg"].contains(&name.as_str()) || has_arithmetic(inner))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::rule::RuleSet;

    fn load(text: &str) -> Result<RuleSet, String> {
        RuleSet::load(&[("x.cedar".to_owned(), text.to_owned())]).map_err(|error| error.to_string())
    }

    #[test]
    fn what_evidence_may_do_is_one_shape() {
        let rule = |annotations: &str, tail: &str| {
            format!(
                "@id(\"A/1\") @why(\"w\") {annotations} forbid (principal, action == Backout::Action::\"send\", resource) {tail};"
            )
        };
        let need = "@need(\"approvals>=1\")";
        load(&rule(need, "unless { context.evidence.approvals >= 1 }")).unwrap();
        let both = "@need(\"approvals>=1;role:x\")";
        load(&rule(both, "unless { context.evidence.approvals >= 1 && context.evidence.teams.contains(\"x\") }"))
            .unwrap();
        for (annotations, tail, says) in [
            ("", "unless { context.evidence.approvals >= 1 }", "no @need"),
            (need, "", "reads no evidence"),
            (need, "when { context.evidence.approvals < 1 }", "unless alone"),
            (need, "unless { context.evidence.approvals < 1 }", "stricter"),
            (need, "unless { !context.evidence.snapshot }", "stricter"),
            (need, "unless { context.evidence.approvals == 1 }", "stricter"),
            (need, "unless { 1 <= context.evidence.approvals }", "stricter"),
            ("@need(\"snapshots\")", "unless { context.evidence.snapshot }", "no need is called"),
            ("@code(\"nope\")", "", "no code"),
            ("@foo(\"x\")", "", "no annotation"),
            ("", "when { context.score + 1 > 3 }", "overflow"),
            ("", "when { context == context }", "field by field"),
        ] {
            let error = load(&rule(annotations, tail)).unwrap_err();
            assert!(error.contains(says), "{tail}: {error}");
        }
    }

    #[test]
    fn a_rule_has_an_id_of_its_own_with_a_version_and_a_permit_reads_no_evidence() {
        for (text, says) in [
            ("permit (principal, action, resource);", "has no @id"),
            ("@id(\"A\") permit (principal, action, resource);", "has no @id"),
            ("@id(\"A/1\") forbid (principal, action, resource);", "@why"),
            (
                "@id(\"A/1\") permit (principal, action == Backout::Action::\"send\", resource) when { context.evidence.snapshot };",
                "never reads evidence",
            ),
            (
                "@id(\"A/1\") permit (principal, action, resource); @id(\"A/1\") permit (principal, action, resource);",
                "is taken",
            ),
            ("@id(\"A/1\") permit (principal == ?principal, action, resource);", "templates"),
        ] {
            assert!(load(text).unwrap_err().contains(says), "{text}");
        }
    }

    #[test]
    fn a_misspelt_word_does_not_load() {
        for tail in [
            "when { context.clas == Backout::Class::\"irreversible\" }",
            "when { context.class == Backout::Class::\"irreversibel\" }",
            "when { resource.tier == \"production\" }",
            "when { context.hazards.contains(Backout::Hazard::\"dns\") }",
        ] {
            let text = format!(
                "@id(\"A/1\") @why(\"w\") forbid (principal, action == Backout::Action::\"send\", resource) {tail};"
            );
            assert!(load(&text).is_err(), "{tail}");
        }
        assert!(load("@id(\"A/1\") permit (principal, action == Backout::Action::\"sned\", resource);").is_err());
        assert!(load("permit (principal").unwrap_err().contains("x.cedar"));
    }
}
