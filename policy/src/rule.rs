//! Rules as they are loaded from policy files: parsed, strictly validated, linted. A set with one bad rule is no set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use jiff::Timestamp;
use schemas::Code;

use crate::approvals::MOST_MINUTES;
use crate::index::Demands;
use crate::needs::Need;

/// The vocabulary, as Cedar schema text.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// Folder of a bundle with permits that end.
pub(crate) const EXCEPTIONS: &str = "exceptions/";

/// Largest set of rules that is loaded.
const MAX_RULES: usize = 10_000;

/// The parsed vocabulary; `None` would be a defect of the build, and then nothing loads.
pub(crate) static PARSED: LazyLock<Option<Schema>> =
    LazyLock::new(|| Schema::from_cedarschema_str(SCHEMA).ok().map(|(schema, _)| schema));

/// Why a set of rules does not load: each problem with its file and rule.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct RuleError(pub Vec<String>);

/// One rule with what its annotations say.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its id, which is never given another meaning.
    pub id: String,
    /// The file that it stands in.
    pub file: String,
    /// Whether it permits.
    pub permits: bool,
    /// Why it is there, for people.
    pub why: String,
    /// What to do instead.
    pub hint: String,
    /// The code of its refusals.
    pub code: Code,
    /// What lifts it; empty for a permit and for what nothing lifts.
    pub needs: Vec<Need>,
    /// How long the approvals are good that it asks for, in minutes, where it says so.
    pub approval_minutes: Option<u64>,
    /// From when on an exception is none any more.
    pub expires: Option<Timestamp>,
    /// Whether it reads the name of the resource, or the words of the command.
    pub reads_names: bool,
    /// The rule itself.
    pub policy: Policy,
    /// What must be so for it to apply.
    pub(crate) demands: Demands,
}

/// A set of rules that passed.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// By id.
    pub rules: BTreeMap<String, Rule>,
    /// All of them, for the engine.
    pub policies: PolicySet,
}

impl RuleSet {
    /// Parses, validates and lints files: name and text of each.
    pub fn load(files: &[(String, String)]) -> Result<Self, RuleError> {
        let Some(schema) = PARSED.as_ref() else {
            return Err(RuleError(vec!["the vocabulary of this build does not parse".to_owned()]));
        };
        let mut problems = Vec::new();
        let mut parsed: Vec<(&str, PolicySet)> = Vec::new();
        for (file, text) in files {
            match text.parse::<PolicySet>() {
                Ok(set) => parsed.push((file, set)),
                Err(error) => problems.push(format!("{file}{}: {}", place(&error, text), whole(&error))),
            }
        }
        if let Some((file, _)) = parsed.iter().find(|(_, set)| set.templates().next().is_some()) {
            problems.push(format!("{file}: templates cannot be proved and are not taken"));
        }
        let each: Vec<(&str, &Policy)> =
            parsed.iter().flat_map(|(file, set)| set.policies().map(|policy| (*file, policy))).collect();
        if each.len() > MAX_RULES {
            problems.push(format!("{} rules, and {MAX_RULES} are the most", each.len()));
            return Err(RuleError(problems));
        }
        let mut rules = BTreeMap::new();
        let mut policies = PolicySet::new();
        for found in passed(&each, schema) {
            problems.extend(found.problems);
            for rule in found.rules {
                if rules.contains_key(&rule.id) {
                    problems.push(format!("{}: the id {} is taken", rule.file, rule.id));
                } else if let Err(error) = policies.add(rule.policy.clone()) {
                    problems.push(format!("{}: {error}", rule.file));
                }
                rules.insert(rule.id.clone(), rule);
            }
        }
        if problems.is_empty() { Ok(Self { rules, policies }) } else { Err(RuleError(problems)) }
    }

    /// The rules that hold at `now`, and until when they are these: exceptions end.
    pub fn at(mut self, now: Timestamp) -> Result<(Self, Option<Timestamp>), RuleError> {
        let is_over = |rule: &Rule| rule.expires.is_some_and(|expires| now >= expires);
        let over: Vec<String> = self.rules.values().filter(|rule| is_over(rule)).map(|rule| rule.id.clone()).collect();
        for id in over {
            self.rules.remove(&id);
            let removed = self.policies.remove_static(PolicyId::new(&id));
            removed.map_err(|error| RuleError(vec![error.to_string()]))?;
        }
        let until = self.rules.values().filter_map(|rule| rule.expires).min();
        Ok((self, until))
    }

    /// Every team that a need names.
    pub fn teams(&self) -> BTreeSet<String> {
        let needs = self.rules.values().flat_map(|rule| &rule.needs);
        needs
            .filter_map(|need| match need {
                Need::Role(team) => Some(team.clone()),
                _ => None,
            })
            .collect()
    }
}

/// Rules that passed, and what is wrong with the others.
#[derive(Default)]
struct Passed {
    rules: Vec<Rule>,
    problems: Vec<String>,
}

/// Lints and validates rules, which are judged each by itself, on as many threads as there are.
fn passed(each: &[(&str, &Policy)], schema: &Schema) -> Vec<Passed> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let size = each.len().div_ceil(threads).max(1);
    let work = |part: &[(&str, &Policy)]| {
        let mut out = Passed::default();
        let mut set = PolicySet::new();
        for (file, policy) in part {
            match rule(file, policy) {
                // A second rule of one id is told when all are put together.
                Ok(rule) => {
                    let _ = set.add(rule.policy.clone());
                    out.rules.push(rule);
                }
                Err(found) => out.problems.extend(found.into_iter().map(|text| format!("{file}: {text}"))),
            }
        }
        let outcome = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
        out.problems.extend(outcome.validation_errors().map(|error| {
            let id = error.policy_id().to_string();
            let file = out.rules.iter().find(|rule| rule.id == id).map_or("", |rule| rule.file.as_str());
            format!("{file}: {id}: {error}")
        }));
        out
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = each.chunks(size).map(|part| scope.spawn(move || work(part))).collect();
        let panicked = || Passed { problems: vec!["the validator panicked".to_owned()], ..Passed::default() };
        parts.into_iter().map(|part| part.join().unwrap_or_else(|_| panicked())).collect()
    })
}

/// Where in a text an error is, as `:LINE`.
fn place(error: &dyn miette::Diagnostic, text: &str) -> String {
    let label = error.labels().and_then(|mut labels| labels.next());
    label.map_or(String::new(), |label| {
        let before = text.as_bytes().get(..label.offset()).unwrap_or_default();
        format!(":{}", before.iter().filter(|byte| **byte == b'\n').count() + 1)
    })
}

/// An error with its causes and, where it has one, its place.
fn whole(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        out = format!("{out}: {error}");
        cause = error.source();
    }
    out
}

/// A policy under its own id, linted.
fn rule(file: &str, policy: &Policy) -> Result<Rule, Vec<String>> {
    let said = |key: &str| policy.annotation(key).map(str::to_owned);
    let Some(id) = said("id").filter(|id| is_rule_id(id)) else {
        let text = format!("a rule has no @id(\"NAME/1\"): {}", first_line(policy));
        return Err(vec![text]);
    };
    let permits = policy.effect() == Effect::Permit;
    let mut problems = Vec::new();
    for (key, _) in policy.annotations() {
        if !["id", "why", "hint", "code", "need", "owner", "expires", "approval_minutes"].contains(&key) {
            problems.push(format!("{id}: no annotation is called @{key}"));
        }
    }
    let why = said("why").unwrap_or_default();
    if !permits && why.is_empty() {
        problems.push(format!("{id}: a forbid says @why"));
    }
    let code = match said("code") {
        None => Code::POLICY_DENIED,
        Some(name) => Code::ALL.iter().copied().find(|code| code.as_str() == name).unwrap_or_else(|| {
            problems.push(format!("{id}: no code is called {name:?}"));
            Code::POLICY_DENIED
        }),
    };
    let needs = match said("need").map(|text| Need::parse_all(&text)) {
        None => Vec::new(),
        Some(Ok(needs)) => needs,
        Some(Err(text)) => {
            problems.push(format!("{id}: {text}"));
            Vec::new()
        }
    };
    let approval_minutes = minutes_of(said("approval_minutes"), &needs).unwrap_or_else(|text| {
        problems.push(format!("{id}: {text}"));
        None
    });
    let json = policy.to_json().unwrap_or_default();
    let demands = Demands::of(policy, &json);
    let is_exception = file.starts_with(EXCEPTIONS);
    let expires = end_of(said("expires"), is_exception).unwrap_or_else(|text| {
        problems.push(format!("{id}: {text}"));
        None
    });
    if is_exception && expires.is_some() {
        problems.extend(crate::lint::narrow(&id, policy, &demands));
        if said("owner").is_none() || why.is_empty() {
            problems.push(format!("{id}: an exception says @owner and @why"));
        }
    }
    problems.extend(crate::lint::problems(&id, &json, permits, &needs, said("need").is_some()));
    if !problems.is_empty() {
        return Err(problems);
    }
    let text = policy.to_string();
    Ok(Rule {
        policy: policy.new_id(PolicyId::new(&id)),
        id,
        file: file.to_owned(),
        permits,
        why,
        hint: said("hint").unwrap_or_default(),
        code,
        needs,
        approval_minutes,
        expires,
        demands,
        reads_names: text.contains(".name") || text.contains("[\"name\"]") || text.contains("command"),
    })
}

/// How long approvals are good that a rule with these needs asks for.
fn minutes_of(said: Option<String>, needs: &[Need]) -> Result<Option<u64>, String> {
    let Some(said) = said else { return Ok(None) };
    let good = |minutes: &u64| (1..=MOST_MINUTES).contains(minutes) && needs.iter().any(Need::is_by_people);
    match said.parse().ok().filter(good) {
        Some(minutes) => Ok(Some(minutes)),
        None => Err(format!("@approval_minutes is 1 to {MOST_MINUTES}, of a rule that asks for people")),
    }
}

/// When a rule ends: exceptions do, and nothing else.
fn end_of(said: Option<String>, is_exception: bool) -> Result<Option<Timestamp>, String> {
    match (is_exception, said.map(|text| text.parse())) {
        (false, None) => Ok(None),
        (true, Some(Ok(expires))) => Ok(Some(expires)),
        (true, _) => Err("an exception says @expires, as 2026-12-24T18:00:00Z".to_owned()),
        (false, Some(_)) => Err(format!("exceptions alone expire: they stand in {EXCEPTIONS}*.cedar")),
    }
}

fn first_line(policy: &Policy) -> String {
    policy.to_string().lines().next().unwrap_or_default().chars().take(80).collect()
}

/// An id is a name and a version, so that a changed meaning can get a new one.
fn is_rule_id(id: &str) -> bool {
    let Some((name, version)) = id.split_once('/') else { return false };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty()
        && id.len() <= 96
        && name.bytes().all(good)
        && version.parse::<u32>().is_ok_and(|version| version > 0)
        && name != "default-deny"
}
