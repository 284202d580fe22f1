//! `backout policy`: the rules as code. Check and test a bundle, sign it into force, ask what was decided and why.

mod explain;
mod import;
mod proof;
mod test;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use policy::{Bundle, RuleSet};
use schemas::ExitCode;

use crate::flow;
use crate::home::Home;
use crate::output::{Output, table};
use crate::problem::{Problem, chain};
use crate::rules;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Parse, validate and lint a bundle
    Check {
        /// The folder of the bundle; .backout/policy where left out, which must be as it was signed
        folder: Option<PathBuf>,
    },
    /// Run cases: what is decided, by which rules, and whether every rule decides a case
    Test {
        /// The folder of the bundle; .backout/policy as it is on disk where left out
        folder: Option<PathBuf>,
        /// More cases: a file, or a folder of them
        #[arg(long)]
        cases: Vec<PathBuf>,
    },
    /// Prove a bundle with cvc5: no rule errors, more evidence never hurts, needs suffice, every invariant holds
    Prove {
        /// The folder of the bundle; .backout/policy as it is on disk where left out
        folder: Option<PathBuf>,
    },
    /// Compare bundles with cvc5: where the other one is looser or tighter, each with a request that shows it
    Diff {
        /// The folder of the other bundle
        folder: PathBuf,
        /// The folder of the first one; the one in force, as it was signed, where left out
        #[arg(long)]
        from: Option<PathBuf>,
    },
    /// Print a rule
    Show {
        /// Its id
        rule: String,
        /// The folder of its bundle; the one in force where left out
        #[arg(long)]
        from: Option<PathBuf>,
    },
    /// Print the vocabulary of rules: every action, thing and fact, as a Cedar schema
    Vocabulary,
    /// Say why a decision was made, and whether it is made again
    Explain {
        /// The beginning of its id
        decision: String,
    },
    /// Decide what was decided before with another bundle, and tell what would be different
    Simulate {
        /// The folder of the other bundle
        folder: PathBuf,
    },
    /// Turn somebody else's policy into rules of ours, or say why a rule cannot be said
    Import {
        /// The form that it is written in
        form: import::Form,
        /// The file
        file: PathBuf,
        /// Where to write the rules; printed where left out
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Write what can be said although some rules cannot
        #[arg(long)]
        partial: bool,
    },
    /// Sign a bundle and put it in force: two owners of the policy sign
    Sign {
        /// The folder of the bundle; the one in the state folder, as it was edited, where left out
        folder: Option<PathBuf>,
        /// Keys to sign with
        #[arg(long = "as", value_name = "KEY", required = true)]
        names: Vec<String>,
    },
}

pub(crate) fn run(
    command: &PolicyCommand,
    home: &dyn Fn() -> Result<Home, Problem>,
    output: &Output,
) -> Result<ExitCode, Problem> {
    match command {
        PolicyCommand::Check { folder } => check(folder.as_deref(), home, output),
        PolicyCommand::Test { folder, cases } => test::run(folder.as_deref(), cases, home, output),
        PolicyCommand::Prove { folder } => proof::prove(folder.as_deref(), home, output),
        PolicyCommand::Diff { folder, from } => proof::diff(from.as_deref(), folder, home, output),
        PolicyCommand::Show { rule, from } => show(rule, from.as_deref(), home, output),
        PolicyCommand::Vocabulary => {
            output.result(&serde_json::json!({"schema": policy::SCHEMA}), || policy::SCHEMA.to_owned());
            Ok(ExitCode::Done)
        }
        PolicyCommand::Explain { decision } => explain::explain(decision, &home()?, output),
        PolicyCommand::Simulate { folder } => explain::simulate(folder, &home()?, output),
        PolicyCommand::Import { form: import::Form::Safeclaw, file, output: to, partial } => {
            import::safeclaw(file, to.as_deref(), *partial, home, output)
        }
        PolicyCommand::Sign { folder, names } => sign(folder.as_deref(), names, &home()?, output),
    }
}

/// A bundle in a folder, or the one of the state folder as it is on disk.
pub(super) fn bundle(folder: Option<&Path>, home: &dyn Fn() -> Result<Home, Problem>) -> Result<Bundle, Problem> {
    match folder {
        Some(folder) => rules::read(folder),
        None => rules::read(&home()?.path("policy")),
    }
}

/// A bundle in a folder, or the one in force as it was signed, whatever became of its folder since.
fn or_signed(folder: Option<&Path>, home: &dyn Fn() -> Result<Home, Problem>) -> Result<Bundle, Problem> {
    if let Some(folder) = folder {
        return rules::read(folder);
    }
    let home = home()?;
    rules::signed(&home, home.trust()?.document())
}

fn check(
    folder: Option<&Path>,
    home: &dyn Fn() -> Result<Home, Problem>,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let found = bundle(folder, home)?;
    let set = found.rules().map_err(|error| rules::refuse(chain(&error)))?;
    if folder.is_none() {
        let home = home()?;
        let trust = home.trust()?;
        rules::in_force(&home, &flow::records(&home.journal()?)?, trust.document())?;
    }
    let invariants = found.of("invariants/").count();
    let value = serde_json::json!({
        "bundle": found.digest(), "rules": set.rules.len(), "invariants": invariants,
        "signed": folder.is_none(), "teams": set.teams(),
    });
    output.result(&value, || {
        format!(
            "{}\n{} rules, {invariants} invariants: they parse, validate strictly and pass the lint\n",
            found.digest(),
            set.rules.len()
        ) + &listed(&set)
    });
    Ok(ExitCode::Done)
}

fn listed(set: &RuleSet) -> String {
    let row = |rule: &policy::Rule| {
        let needs: Vec<String> = rule.needs.iter().map(ToString::to_string).collect();
        let effect = if rule.permits { "permit" } else { "forbid" };
        vec![rule.id.clone(), effect.to_owned(), needs.join(" "), rule.why.clone()]
    };
    table(&["rule", "effect", "lifted by", "why"], set.rules.values().map(row).collect())
}

fn show(
    id: &str,
    from: Option<&Path>,
    home: &dyn Fn() -> Result<Home, Problem>,
    output: &Output,
) -> Result<ExitCode, Problem> {
    let set = or_signed(from, home)?.rules().map_err(|error| rules::refuse(chain(&error)))?;
    let Some(rule) = set.rules.get(id) else {
        return Err(Problem::usage(format!("no rule is called {id:?}"), "backout policy check lists them"));
    };
    let needs: Vec<String> = rule.needs.iter().map(ToString::to_string).collect();
    let text = rule.policy.to_string();
    let value = serde_json::json!({"rule": rule.id, "file": rule.file, "why": rule.why, "needs": needs, "text": text});
    output.result(&value, || format!("{} in {}\n{text}\n", rule.id, rule.file));
    Ok(ExitCode::Done)
}

/// Longest time for which an exception can be signed.
const EXCEPTION_DAYS: i64 = 90;

/// Forbids, invariants and cases of a bundle that another one has no more.
fn missing(old: &Bundle, new: &Bundle) -> Vec<String> {
    let forbids = |bundle: &Bundle| -> Vec<String> {
        let rules = bundle.rules().map(|set| set.rules).unwrap_or_default();
        rules.into_values().filter(|rule| !rule.permits).map(|rule| format!("the rule {}", rule.id)).collect()
    };
    let files = |bundle: &Bundle| -> Vec<String> {
        let found = bundle.of("invariants/").chain(bundle.of("cases/"));
        found.map(|(name, _)| name.clone()).collect()
    };
    let (rules, names) = (forbids(new), files(new));
    let gone = forbids(old).into_iter().filter(|rule| !rules.contains(rule));
    gone.chain(files(old).into_iter().filter(|name| !names.contains(name))).collect()
}

fn sign(folder: Option<&Path>, names: &[String], home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let found = bundle(folder, &|| Ok(home.clone()))?;
    let set = found.rules().map_err(|error| rules::refuse(chain(&error)))?;
    let latest = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * EXCEPTION_DAYS);
    if let Some(rule) = set.rules.values().find(|rule| rule.expires.is_some_and(|expires| expires > latest)) {
        let title = format!("the exception {} would last for more than {EXCEPTION_DAYS} days", rule.id);
        return Err(Problem::usage(title, "what lasts is a rule: put it into policies/, with a case"));
    }
    let engine = found.engine(jiff::Timestamp::now()).map_err(|error| rules::refuse(chain(&error)))?;
    let outcomes = test::outcomes(&found, &engine, &[])?;
    if let Some(failed) = outcomes.iter().find(|outcome| !outcome.passed) {
        let title = format!("the case {:?} of the bundle does not pass: {}", failed.name, failed.why);
        return Err(Problem::usage(title, "backout policy test, and mend the rule or the case"));
    }
    if let Some(idle) = policy::uncovered(&engine, &outcomes).first() {
        let title = format!("the rule {idle} decides no case: nobody has seen what it does");
        return Err(Problem::usage(title, "add a case to cases/*.json, then backout policy test FOLDER"));
    }
    for gone in rules::signed(home, home.trust()?.document()).iter().flat_map(|old| missing(old, &found)) {
        output.note(&format!("GONE since the bundle in force: {gone}"));
    }
    let proof = proof::proof(&found)?;
    match &proof {
        None => output.note("not proved: cvc5 is not installed; the signed list says so"),
        Some(proof) => {
            if let Some(violation) = proof.violations.first() {
                let title = format!("{} does not hold at {}: {}", violation.what, violation.place, violation.says);
                return Err(Problem::usage(title, "backout policy prove, and mend the rule"));
            }
        }
    }
    let keys = names.iter().map(|name| home.key(name)).collect::<Result<Vec<_>, _>>()?;
    let serial = rules::next_serial(&flow::records(&home.journal()?)?);
    let serial = rules::put_in_force(home, &found, serial, proof.is_some(), &keys)?;
    let value = serde_json::json!({"bundle": found.digest(), "serial": serial, "rules": set.rules.len(), "proved": proof.is_some()});
    output.result(&value, || {
        format!(
            "{} is in force with serial {serial}: {} rules; open manifests are stale\n",
            found.digest(),
            set.rules.len()
        )
    });
    Ok(ExitCode::Done)
}
