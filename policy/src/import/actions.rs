//! What SafeClaw's words for actions mean in ours.

use schemas::{Thing, Verb};
use serde_json::Value;

use super::written::Predicate;

/// A pattern with asterisks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) text: String,
}

impl Pattern {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }

    /// Whether it matches the whole of a text.
    pub(super) fn matches(&self, text: &str) -> bool {
        let mut parts = self.text.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let parts: Vec<&str> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            let Some(at) = rest.find(part) else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        rest.ends_with(last)
    }
}

/// One way to match: one of these verbs, on one of these things, with these patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    pub(super) verbs: Vec<Verb>,
    pub(super) things: Vec<Thing>,
    /// Over the words of a command.
    pub(super) command: Option<Pattern>,
    /// Over the URI of the resource.
    pub(super) name: Option<Pattern>,
    pub(super) environments: Vec<String>,
    /// Which word of the resource a bare pattern of the flat form stands for.
    takes: Takes,
}

/// What the resource of an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Command,
    Branch,
    Path,
    Address,
    Nothing,
}

impl Clause {
    fn new(verbs: &[Verb], things: &[Thing], takes: Takes) -> Self {
        Self {
            verbs: verbs.to_vec(),
            things: things.to_vec(),
            command: None,
            name: None,
            environments: Vec::new(),
            takes,
        }
    }

    /// In the words of policies.
    pub(super) fn said(&self) -> String {
        let actions: Vec<String> =
            self.verbs.iter().map(|verb| format!("Backout::Action::{:?}", verb.as_str())).collect();
        let mut parts = vec![format!("action in [{}]", actions.join(", "))];
        if self.things.len() < Thing::ALL.len() {
            let things: Vec<String> =
                self.things.iter().map(|thing| format!("resource is Backout::{}", thing.type_name())).collect();
            parts.push(format!("({})", things.join(" || ")));
        }
        if self.takes == Takes::Command {
            parts.push("context.command != \"\"".to_owned());
        }
        parts.extend(self.command.as_ref().map(|pattern| format!("context.command like {}", super::like(pattern))));
        parts.extend(self.name.as_ref().map(|pattern| format!("resource.name like {}", super::like(pattern))));
        if !self.environments.is_empty() {
            let tests: Vec<String> =
                self.environments.iter().map(|name| format!("resource.environment == {name:?}")).collect();
            parts.push(format!("({})", tests.join(" || ")));
        }
        format!("({})", parts.join(" && "))
    }
}

const WRITES: [Verb; 2] = [Verb::Create, Verb::Update];
const FILES: [Thing; 2] = [Thing::File, Thing::Secret];

/// The clauses of one predicate, any of which matches.
pub(super) fn clauses(predicate: &Predicate) -> Result<Vec<Clause>, String> {
    let values = || -> Result<Vec<String>, String> {
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("{value} is no text"));
        match &predicate.value {
            Value::Array(items) => items.iter().map(text).collect(),
            other => Ok(vec![text(other)?]),
        }
    };
    match (predicate.field.as_str(), predicate.operator.as_str()) {
        ("action.type", "eq" | "in") => {
            let each: Vec<Vec<Clause>> = values()?.iter().map(|name| of_type(name)).collect::<Result<_, _>>()?;
            Ok(each.into_iter().flatten().collect())
        }
        ("action.type", "startsWith") => {
            let each: Vec<Vec<Clause>> = values()?.iter().map(|value| of_prefix(value)).collect::<Result<_, _>>()?;
            Ok(each.into_iter().flatten().collect())
        }
        ("action.type", "matches") => {
            let values = values()?;
            let [text] = values.as_slice() else { return Err("matches takes one expression".to_owned()) };
            let text = text.clone();
            let plain = text.strip_suffix(".*").unwrap_or(&text).replace("\\.", ".");
            if let Some(words) = alternatives(&plain) {
                let each: Vec<Vec<Clause>> = words.iter().map(|word| of_prefix(word)).collect::<Result<_, _>>()?;
                return Ok(each.into_iter().flatten().collect());
            }
            if plain.contains(['(', '|', '[', '+', '?', '^', '$', '*', '\\']) {
                return Err(format!("the regular expression {text:?} cannot be said: write the actions one by one"));
            }
            of_prefix(&plain)
        }
        ("action.type", "exists") => Ok(vec![Clause::new(&Verb::ALL, &Thing::ALL, Takes::Nothing)]),
        ("action.operation", "eq" | "in") => {
            let mut verbs = Vec::new();
            for name in values()? {
                verbs.extend(of_operation(&name)?);
            }
            Ok(vec![Clause::new(&verbs, &Thing::ALL, Takes::Nothing)])
        }
        ("action.resource", "glob" | "eq") => {
            let values = values()?;
            if let Some(odd) = values.iter().find(|value| value.contains(['?', '{', '}', '[', ']', '!'])) {
                return Err(format!("the pattern {odd:?} cannot be said: only * stands for anything"));
            }
            let any = |pattern: &Pattern, takes| {
                let clause = Clause::new(&Verb::ALL, &Thing::ALL, takes);
                match takes {
                    Takes::Command => Clause { command: Some(pattern.clone()), ..clause },
                    Takes::Branch => {
                        Clause { name: Some(Pattern::new(format!("*#*refs/heads/{}", pattern.text))), ..clause }
                    }
                    Takes::Path => {
                        Clause { name: Some(Pattern::new(format!("file:{}", rooted(&pattern.text)))), ..clause }
                    }
                    Takes::Address | Takes::Nothing => {
                        Clause { name: Some(Pattern::new(format!("*{}", pattern.text))), ..clause }
                    }
                }
            };
            let each = |value: &String| {
                let pattern = Pattern::new(value.as_str());
                [Takes::Command, Takes::Branch, Takes::Path, Takes::Address].map(|takes| any(&pattern, takes))
            };
            Ok(values.iter().flat_map(each).collect())
        }
        ("action.type" | "action.operation" | "action.resource", other) => {
            Err(format!("no operator is called {other:?} for {}", predicate.field))
        }
        (other, _) => Err(format!("{other} is no fact that backout computes")),
    }
}

/// The words of `prefix(one|two|three)`, where nothing else of regular expressions is in it.
fn alternatives(text: &str) -> Option<Vec<String>> {
    let (prefix, rest) = text.split_once('(')?;
    let inner = rest.strip_suffix(')')?;
    let words: Vec<String> = inner.split('|').map(|word| format!("{prefix}{word}")).collect();
    let plain =
        |word: &String| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    words.iter().all(plain).then_some(words)
}

/// A path pattern that begins anywhere.
fn rooted(pattern: &str) -> String {
    if pattern.starts_with(['/', '*']) { pattern.to_owned() } else { format!("*/{pattern}") }
}

/// What two predicates match together.
pub(super) fn both(one: &[Clause], other: &[Clause]) -> Vec<Clause> {
    let mut out = Vec::new();
    for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
        // The resource of an action is a command, a branch, a path or an address, whichever the action has.
        if a.takes != b.takes && a.takes != Takes::Nothing && b.takes != Takes::Nothing {
            continue;
        }
        let verbs: Vec<Verb> = a.verbs.iter().copied().filter(|verb| b.verbs.contains(verb)).collect();
        let things: Vec<Thing> = a.things.iter().copied().filter(|thing| b.things.contains(thing)).collect();
        let apart = |x: &Option<Pattern>, y: &Option<Pattern>| x.is_some() && y.is_some() && x != y;
        if verbs.is_empty() || things.is_empty() || apart(&a.command, &b.command) || apart(&a.name, &b.name) {
            continue;
        }
        out.push(Clause {
            verbs,
            things,
            command: a.command.clone().or_else(|| b.command.clone()),
            name: a.name.clone().or_else(|| b.name.clone()),
            environments: Vec::new(),
            takes: if a.takes == Takes::Nothing { b.takes } else { a.takes },
        });
    }
    out
}

fn of_operation(name: &str) -> Result<Vec<Verb>, String> {
    use Verb as V;
    Ok(match name {
        "read" => vec![V::Inspect],
        "create" => vec![V::Create, V::Send, V::Publish],
        "update" => {
            vec![V::Update, V::Migrate, V::Scale, V::Deploy, V::RollBack, V::Restore, V::Rotate, V::Grant, V::Push]
        }
        "delete" => vec![V::Delete, V::DeleteRows, V::ForcePush],
        "execute" => vec![V::Execute, V::Restart],
        other => return Err(format!("no operation is called {other:?}")),
    })
}

/// All actions whose name begins so.
pub(super) fn of_prefix(prefix: &str) -> Result<Vec<Clause>, String> {
    let prefix = prefix.trim_end_matches('.');
    let all_of = |things: &[Thing]| Ok(vec![Clause::new(&Verb::ALL, things, Takes::Nothing)]);
    match prefix {
        "code.exec" | "shell.exec" => Ok(vec![Clause::new(&Verb::ALL, &Thing::ALL, Takes::Command)]),
        "filesystem" => all_of(&FILES),
        "filesystem.write" => Ok(vec![Clause::new(&WRITES, &FILES, Takes::Path)]),
        "database" | "sql" | "nosql" | "data" | "etl" => all_of(&[Thing::Table]),
        "http" | "email" | "sms" | "slack" | "comms" | "support" | "web" => all_of(&[Thing::Message]),
        "github" => all_of(&[Thing::Ref]),
        "aws" | "gcp" | "azure" => {
            let clause =
                Clause::new(&Verb::ALL, &[Thing::Infra, Thing::Service, Thing::Table, Thing::Secret], Takes::Nothing);
            Ok(vec![Clause { name: Some(Pattern::new(format!("{prefix}:*"))), ..clause }])
        }
        other => match of_type(other) {
            Ok(clauses) => Ok(clauses),
            Err(_) => Err(format!("nothing that backout does begins with {other:?}")),
        },
    }
}

/// One action by its name.
fn of_type(name: &str) -> Result<Vec<Clause>, String> {
    use Verb as V;
    let one = |verbs: &[V], things: &[Thing], takes| Ok(vec![Clause::new(verbs, things, takes)]);
    if let Some(words) = name.strip_prefix("code.exec.").or_else(|| name.strip_prefix("shell.exec.")) {
        let clause = Clause::new(&Verb::ALL, &Thing::ALL, Takes::Command);
        return Ok(vec![Clause { command: Some(Pattern::new(format!("{}*", words.replace('.', " ")))), ..clause }]);
    }
    let table = [Thing::Table];
    match name {
        "shell.exec" | "code.exec" => one(&Verb::ALL, &Thing::ALL, Takes::Command),
        "git.push" => one(&[V::Push, V::ForcePush], &[Thing::Ref], Takes::Branch),
        "github.git.push.force" => one(&[V::ForcePush], &[Thing::Ref], Takes::Branch),
        "file.read" | "filesystem.read" | "filesystem.list" | "filesystem.search" => {
            one(&[V::Inspect], &FILES, Takes::Path)
        }
        "file.write" | "filesystem.write" => one(&WRITES, &FILES, Takes::Path),
        "file.delete" | "filesystem.delete" => one(&[V::Delete], &FILES, Takes::Path),
        "network.request" => one(&[V::Send, V::Inspect], &[Thing::Message], Takes::Address),
        "http.get" | "web.fetch" => one(&[V::Inspect], &[Thing::Message], Takes::Address),
        "http.post"
        | "http.put"
        | "http.patch"
        | "http.delete"
        | "email.send"
        | "email.bulk.send"
        | "email.campaign.send"
        | "sms.bulk.send"
        | "slack.message.post"
        | "slack.channel.message"
        | "support.email.send"
        | "support.chat.send" => one(&[V::Send], &[Thing::Message], Takes::Address),
        "database.query.select" | "sql.select" | "nosql.find" | "nosql.aggregate" => {
            one(&[V::Inspect], &table, Takes::Nothing)
        }
        "database.query.insert"
        | "database.query.update"
        | "sql.insert"
        | "sql.update"
        | "nosql.insert"
        | "nosql.update"
        | "data.insert"
        | "data.write"
        | "data.upsert"
        | "data.transform" => one(&[V::Update], &table, Takes::Nothing),
        "database.query.delete"
        | "sql.delete"
        | "nosql.delete"
        | "data.delete"
        | "database.ddl.truncate"
        | "sql.truncate"
        | "data.truncate" => one(&[V::DeleteRows], &table, Takes::Nothing),
        "database.ddl.create" | "sql.create.table" => one(&[V::Create, V::Migrate], &table, Takes::Nothing),
        "database.ddl.alter" | "sql.alter" => one(&[V::Migrate], &table, Takes::Nothing),
        "database.ddl.drop" | "sql.drop" | "data.drop" => one(&[V::Delete, V::Migrate], &table, Takes::Nothing),
        "aws.iam.attachpolicy"
        | "aws.iam.createrole"
        | "aws.iam.createuser"
        | "gcp.iam.setpolicy"
        | "azure.ad.createrole" => one(&[V::Grant], &[Thing::Infra, Thing::Secret], Takes::Nothing),
        "aws.iam.deleteuser" => one(&[V::Delete], &[Thing::Secret], Takes::Nothing),
        other => {
            Err(format!("nothing that backout does is called {other:?}: without a kind of step for it, it is denied"))
        }
    }
}
