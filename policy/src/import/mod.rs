//! Policies of SafeClaw as rules of ours: the flat YAML form (`action`, `resource`, `effect`) and the JSON form (`defaultEffect`, `condition`).
//!
//! First match wins there and every forbid wins here, so each rule leaves out what an earlier one with another effect matched. What cannot be
//! said is refused with its reason: nothing is ever dropped in silence.

mod actions;
mod written;

use serde::Serialize;

use actions::{Clause, Pattern};
use written::{Effect, Predicate, Written};

/// Most rules of a file.
const MAX_RULES: usize = 60;

/// What came of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The rules, as a policy file.
    pub text: String,
    /// Limits for `inventory.toml`.
    pub limits: String,
    /// Ids of the rules that came through.
    pub rules: Vec<String>,
    /// Rules that cannot be said, with the reason of each.
    pub refused: Vec<String>,
    /// Patterns that match nothing that is known, and other things to look at.
    pub remarks: Vec<String>,
}

/// One rule with what it matches.
struct Rule {
    id: String,
    effect: Effect,
    reason: String,
    people: u64,
    clauses: Vec<Clause>,
}

/// Reads a policy in either form. `samples` are commands as they were run: a pattern that matches none of them is told.
pub fn safeclaw(text: &str, samples: &[String]) -> Result<Imported, String> {
    let written = Written::parse(text)?;
    let mut out = Imported {
        text: String::new(),
        limits: String::new(),
        rules: Vec::new(),
        refused: Vec::new(),
        remarks: Vec::new(),
    };
    match written.default_effect {
        Effect::Deny => out.remarks.push(
            "defaultEffect deny: what these rules do not permit, other permits of the bundle still do; take out ALLOW-change/1 to deny it".to_owned(),
        ),
        _ => out.refused.push("defaultEffect: here everything is denied that nothing allows".to_owned()),
    }
    if written.rules.len() > MAX_RULES {
        return Err(format!(
            "{} rules, and {MAX_RULES} are the most: each leaves out what earlier ones matched",
            written.rules.len()
        ));
    }
    let scope = scope(&written.types, &mut out.remarks);
    let mut rules: Vec<Rule> = Vec::new();
    for (at, rule) in written.rules.iter().enumerate() {
        let id = rule.id.clone().unwrap_or_else(|| format!("rule-{}", at + 1));
        match clauses(&rule.condition, scope.as_deref(), &written.environments) {
            Ok(clauses) => {
                for pattern in clauses.iter().filter_map(|clause| clause.command.as_ref()) {
                    if !samples.iter().any(|sample| pattern.matches(sample)) {
                        out.remarks
                            .push(format!("{id}: {:?} matches no command that is known or was run", pattern.text));
                    }
                }
                match limit(&id, rule, &clauses) {
                    Ok(text) => out.limits.push_str(&text),
                    Err(reason) => {
                        out.refused.push(format!("{id}: {reason}"));
                        continue;
                    }
                }
                out.rules.push(id.clone());
                let reason = rule.reason.clone().unwrap_or_else(|| format!("imported rule {id}"));
                rules.push(Rule { id, effect: rule.effect, reason, people: rule.people, clauses });
            }
            Err(reason) => out.refused.push(format!("{id}: {reason}")),
        }
    }
    if rules.iter().any(|rule| rule.effect != Effect::Deny) {
        let text = "the permits leave out secrets and backups: these stay with the rules that are about them";
        out.remarks.push(text.to_owned());
    }
    out.text = "// Imported from a SafeClaw policy. First match wins there: each rule leaves out what an earlier one matched.\n".to_owned();
    for (at, rule) in rules.iter().enumerate() {
        let earlier: Vec<&Rule> = rules.iter().take(at).filter(|other| other.effect != rule.effect).collect();
        out.text.push_str(&said(rule, &earlier));
    }
    Ok(out)
}

/// The actions that a policy speaks of at all. What backout has no kind of step for is denied here whatever it says, which is told.
fn scope(types: &[String], remarks: &mut Vec<String>) -> Option<Vec<Clause>> {
    let mut out = Vec::new();
    for name in types {
        match actions::of_prefix(name.trim_end_matches('*')) {
            Ok(clauses) => out.extend(clauses),
            Err(reason) => remarks.push(format!("scope {name:?}: {reason}")),
        }
    }
    (!types.is_empty()).then_some(out)
}

/// A condition as clauses, any of which matches.
fn clauses(
    condition: &[Vec<Predicate>],
    scope: Option<&[Clause]>,
    environments: &[String],
) -> Result<Vec<Clause>, String> {
    let mut out = Vec::new();
    for all in condition {
        let mut together: Option<Vec<Clause>> = None;
        for predicate in all {
            let found = actions::clauses(predicate)?;
            together = Some(match together {
                None => found,
                Some(known) => actions::both(&known, &found),
            });
        }
        out.extend(together.ok_or("its condition is empty")?);
    }
    if let Some(scope) = scope {
        out = actions::both(&out, scope);
    }
    for clause in &mut out {
        clause.environments = environments.to_vec();
    }
    if out.is_empty() {
        return Err("nothing that backout does is meant by it".to_owned());
    }
    Ok(out)
}

/// A rate limit as a limit of the inventory; looking is not counted here.
fn limit(id: &str, rule: &written::Rule, clauses: &[Clause]) -> Result<String, String> {
    let Some(rate) = &rule.rate_limit else { return Ok(String::new()) };
    if rate.scope.as_deref().is_some_and(|scope| scope != "principal") {
        return Err(format!("a rate limit for each {:?} cannot be counted", rate.scope));
    }
    let hours = match rate.window.as_str() {
        "1h" => 1,
        "24h" | "1d" => 24,
        other => return Err(format!("a window of {other:?} is none of 1h, 24h, 1d")),
    };
    if clauses.iter().any(|clause| clause.verbs.contains(&schemas::Verb::Inspect)) {
        return Err(
            "how often somebody looks is not counted; leave the rateLimit out, or what it says of reading".to_owned()
        );
    }
    if clauses.iter().any(|clause| clause.command.is_some() || clause.name.is_some()) {
        return Err("a limit counts verbs and types, not patterns; write a [[limit]] by hand".to_owned());
    }
    let mut verbs: Vec<&str> = clauses.iter().flat_map(|clause| &clause.verbs).map(|verb| verb.as_str()).collect();
    let mut types: Vec<&str> = clauses.iter().flat_map(|clause| &clause.things).map(|thing| thing.as_str()).collect();
    for list in [&mut verbs, &mut types] {
        list.sort_unstable();
        list.dedup();
    }
    Ok(format!(
        "[[limit]]\nname = {id:?}\nper = \"agent\"\nat_most = {}\nwithin_hours = {hours}\nverbs = {verbs:?}\ntypes = {types:?}\n\n",
        rate.requests
    ))
}

/// A rule in the words of policies.
fn said(rule: &Rule, earlier: &[&Rule]) -> String {
    let mut verbs: Vec<schemas::Verb> = rule.clauses.iter().flat_map(|clause| clause.verbs.clone()).collect();
    verbs.sort();
    verbs.dedup();
    let actions: Vec<String> = verbs.iter().map(|verb| format!("Backout::Action::{:?}", verb.as_str())).collect();
    let any = |rule: &Rule| {
        let clauses: Vec<String> = rule.clauses.iter().map(Clause::said).collect();
        format!("({})", clauses.join(" ||\n   "))
    };
    let mut when = any(rule);
    for other in earlier {
        when.push_str(&format!("\n  && !{}", any(other)));
    }
    let scope = format!("action in [{}]", actions.join(", "));
    let (id, why) = (&rule.id, format!("{:?}", rule.reason));
    let permit = format!(
        "\n@id(\"IMPORT-{id}/1\")\npermit (principal in Backout::Duty::\"change\", {scope}, resource)\nwhen {{\n  !(resource is Backout::Secret) && !(resource is Backout::Backup) &&\n  {when}\n}};\n"
    );
    match rule.effect {
        Effect::Allow => permit,
        Effect::Deny => {
            format!(
                "\n@id(\"IMPORT-{id}/1\")\n@why({why})\nforbid (principal, {scope}, resource)\nwhen {{\n  {when}\n}};\n"
            )
        }
        Effect::RequireApproval => {
            let people = rule.people.max(1);
            format!(
                "{permit}\n@id(\"IMPORT-{id}-people/1\")\n@need(\"approvals>={people}\")\n@why({why})\nforbid (principal, {scope}, resource)\n\
                 when {{\n  {when}\n}}\nunless {{ context.evidence.approvals >= {people} }};\n"
            )
        }
    }
}

/// A pattern in the words of the engine: `*` stands for anything.
fn like(pattern: &Pattern) -> String {
    let mut out = String::from("\"");
    let mut last = ' ';
    for letter in pattern.text.chars() {
        match letter {
            '*' if last == '*' => {}
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            other => out.push(other),
        }
        last = letter;
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::RuleSet;

    const ARTICLE: &str = include_str!("article.yaml");

    fn load(imported: &Imported) -> RuleSet {
        RuleSet::load(&[("60-imported.cedar".to_owned(), imported.text.clone())])
            .unwrap_or_else(|error| panic!("{error}\n{}", imported.text))
    }

    #[test]
    fn the_policy_of_the_article_comes_through_and_its_lost_asterisks_are_told() {
        let samples =
            ["vercel --prod", "aws ecs update-service --cluster prod", "vercel --env preview", "git push origin main"];
        let samples: Vec<String> = samples.iter().map(|sample| (*sample).to_owned()).collect();
        let imported = safeclaw(ARTICLE, &samples).unwrap();
        assert_eq!(imported.refused, Vec::<String>::new());
        assert_eq!(imported.rules.len(), 11);
        load(&imported);
        let told = imported.remarks.join("\n");
        assert!(told.contains("docker-composeprod") && told.contains("kubectl -n production"), "{told}");
        assert!(!told.contains("vercel --prod"), "{told}");
    }

    #[test]
    fn an_earlier_rule_is_left_out_of_a_later_one() {
        let text = r#"{"id": "p", "version": "1", "defaultEffect": "deny", "rules": [
            {"id": "read", "effect": "allow", "condition": {"field": "action.type", "operator": "eq", "value": "filesystem.read"}},
            {"id": "files", "effect": "deny", "condition": {"any": [{"field": "action.type", "operator": "startsWith", "value": "filesystem."}]}}]}"#;
        let imported = safeclaw(text, &[]).unwrap();
        load(&imported);
        assert!(imported.text.contains("&& !("), "{}", imported.text);
    }

    #[test]
    fn dual_approval_and_rate_limits_come_through() {
        let text = r#"{"id": "p", "version": "1", "defaultEffect": "deny", "scope": {"environments": ["production"]}, "rules": [
            {"id": "all", "effect": "require_approval", "condition": {"field": "action.operation", "operator": "in", "value": ["create", "update", "delete", "execute"]},
             "approvalConfig": {"requiredApprovals": 2, "expiresIn": "1h"}},
            {"id": "sends", "effect": "allow", "condition": {"field": "action.type", "operator": "eq", "value": "email.send"},
             "rateLimit": {"requests": 20, "window": "1h", "scope": "principal"}}]}"#;
        let imported = safeclaw(text, &[]).unwrap();
        let rules = load(&imported);
        assert_eq!(imported.refused, Vec::<String>::new());
        assert_eq!(rules.rules["IMPORT-all-people/1"].needs, [crate::Need::Approvals(2)]);
        assert!(
            imported.limits.contains("at_most = 20") && imported.limits.contains("verbs = [\"send\"]"),
            "{}",
            imported.limits
        );
        crate::Inventory::parse(&imported.limits).unwrap();
    }

    #[test]
    fn what_cannot_be_said_is_refused_with_its_reason() {
        let rule = |condition: &str, more: &str| {
            let text = format!(
                r#"{{"id": "p", "version": "1", "defaultEffect": "deny", "rules": [{{"id": "r", "effect": "deny", "condition": {condition}{more}}}]}}"#
            );
            safeclaw(&text, &[]).map(|imported| imported.refused.join("; "))
        };
        let one = |field: &str, operator: &str, value: &str| {
            format!(r#"{{"field": "{field}", "operator": "{operator}", "value": {value}}}"#)
        };
        for (condition, says) in [
            (one("constraints.maxAmount", "gt", "500"), "constraints.maxAmount"),
            (one("action.type", "eq", "\"stripe.charges.create\""), "stripe.charges.create"),
            (one("action.type", "matches", "\"(patient|ehr)\\\\..+\""), "regular expression"),
            (one("action.type", "frobs", "\"x\""), "frobs"),
            (one("run.id", "eq", "\"x\""), "run.id"),
        ] {
            let refused = rule(&condition, "").unwrap();
            assert!(refused.contains(says), "{condition}: {refused}");
        }
        let reads = one("action.operation", "eq", "\"read\"");
        let limited = rule(&reads, r#", "rateLimit": {"requests": 5, "window": "1h"}"#).unwrap();
        assert!(limited.contains("not counted"), "{limited}");
        for bad in ["{", "[]", "rules: 3", r#"{"id": "p", "rules": [{"effect": "maybe"}]}"#] {
            assert!(safeclaw(bad, &[]).is_err(), "{bad}");
        }
        let open = r#"{"id": "p", "version": "1", "defaultEffect": "allow", "rules": []}"#;
        assert!(safeclaw(open, &[]).unwrap().refused.join("").contains("defaultEffect"));
    }
}
