//! The proofs: no rule errors, more evidence never hurts, what a rule says it needs lifts it, and every invariant holds.

use std::path::Path;

use cedar_policy::{Effect, Policy, PolicySet, RequestEnv, Schema, ValidationMode, Validator};
use cedar_policy_symcc::CompiledPolicy;
use policy::{Bundle, RuleSet};
use serde::Serialize;
use serde_json::Value;

use crate::solve::{
    ProverError, Solver, as_permit, decided, in_runtime, name, no_answer, places, schema, share_out, told,
};
use crate::substitute::{FLAGS, Given, reads_teams_otherwise, with};

/// What was proved and what was not.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// Questions that the solver answered.
    pub questions: usize,
    /// Ids of the invariants that hold.
    pub invariants: Vec<String>,
    /// What does not hold, each with a request that shows it.
    pub violations: Vec<Violation>,
}

/// Something that does not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// Which proof failed: `never-errors`, `monotone`, `needs-sufficient`, or the id of an invariant.
    pub what: String,
    /// What it says.
    pub says: String,
    /// Action and type of resource.
    pub place: String,
    /// The rules that decide the example.
    pub rules: Vec<String>,
    /// A request that shows it.
    pub example: Value,
}

struct Invariant {
    id: String,
    says: String,
    policy: Policy,
}

/// Proves everything of a bundle, several places at a time. The solver is the program at `solver`.
pub fn prove(bundle: &Bundle, solver: &Path) -> Result<Proof, ProverError> {
    let rules = bundle.rules().map_err(|error| ProverError::Bundle(error.to_string()))?;
    let schema = schema()?;
    let invariants = invariants(bundle, &schema)?;
    let places = places(&schema);
    let answers = share_out(&places, |places| {
        in_runtime(async {
            let mut prover = Prover { solver: Solver::start(solver)?, questions: 0, violations: Vec::new() };
            for place in places {
                prover.at(&rules, &invariants, place).await?;
            }
            Ok((prover.questions, prover.violations))
        })
    })?;
    let (mut questions, mut violations) = (0, Vec::new());
    for answer in answers {
        let (asked, found) = answer;
        questions += asked;
        violations.extend(found);
    }
    violations.sort_by(|one, other| (&one.what, &one.place).cmp(&(&other.what, &other.place)));
    let broken: Vec<&String> = violations.iter().map(|violation| &violation.what).collect();
    let held: Vec<String> =
        invariants.iter().map(|invariant| invariant.id.clone()).filter(|id| !broken.contains(&id)).collect();
    Ok(Proof { questions, invariants: held, violations })
}

/// The invariants of a bundle: one forbid in each file, with an id and what it says.
fn invariants(bundle: &Bundle, schema: &Schema) -> Result<Vec<Invariant>, ProverError> {
    let mut out: Vec<Invariant> = Vec::new();
    for (file, text) in bundle.of("invariants/") {
        let wrong = |text: String| ProverError::Bundle(format!("{file}: {text}"));
        let parsed: PolicySet = text.parse().map_err(|error| wrong(format!("{error}")))?;
        let outcome = Validator::new(schema.clone()).validate(&parsed, ValidationMode::Strict);
        if let Some(error) = outcome.validation_errors().next() {
            return Err(wrong(error.to_string()));
        }
        for policy in parsed.policies() {
            let said = |key: &str| policy.annotation(key).map(str::to_owned);
            let (Some(id), Some(says)) = (said("id"), said("says")) else {
                return Err(wrong("an invariant has @id and @says".to_owned()));
            };
            if policy.effect() != Effect::Forbid {
                return Err(wrong(format!("{id} is a forbid: what must never be allowed")));
            }
            if out.iter().any(|known| known.id == id) {
                return Err(wrong(format!("the id {id} is taken")));
            }
            out.push(Invariant { id, says, policy: as_permit(policy)? });
        }
    }
    Ok(out)
}

struct Prover {
    solver: Solver,
    questions: usize,
    violations: Vec<Violation>,
}

impl Prover {
    /// Everything that is to be proved at one place.
    async fn at(&mut self, rules: &RuleSet, invariants: &[Invariant], place: &RequestEnv) -> Result<(), ProverError> {
        let here = self.solver.slice(rules.rules.values().map(|rule| &rule.policy), place);
        if here.is_empty() {
            return Ok(());
        }
        self.never_errors(&here, place).await?;
        self.needs_suffice(rules, &here, place).await?;
        self.is_monotone(rules, &here, place).await?;
        let whole = self.solver.compile(&here, place)?;
        for invariant in invariants {
            let forbidden = self.solver.slice(std::iter::once(&invariant.policy), place);
            if forbidden.is_empty() {
                continue;
            }
            let forbidden = self.solver.compile(&forbidden, place)?;
            self.questions += 1;
            if let Some(example) = self.solver.both_allow(&whole, &forbidden, place).await? {
                let (_, ids) = decided(&here, &example);
                self.violate(&invariant.id, &invariant.says, place, ids, told(&example));
            }
        }
        Ok(())
    }

    async fn never_errors(&mut self, here: &[Policy], place: &RequestEnv) -> Result<(), ProverError> {
        for policy in here {
            let compiled = CompiledPolicy::compile(policy, place, &self.solver.schema)
                .map_err(|error| no_answer(place, &error))?;
            self.questions += 1;
            let never = self.solver.compiler.check_never_errors_opt(&compiled).await;
            if !never.map_err(|error| no_answer(place, &error))? {
                let example = self.solver.compiler.check_never_errors_with_counterexample_opt(&compiled).await;
                let example = example.map_err(|error| no_answer(place, &error))?;
                let says = format!("{} can fail while it is evaluated", policy.id());
                let shown = example.map_or(Value::Null, |example| told(&example));
                self.violate("never-errors", &says, place, vec![policy.id().to_string()], shown);
            }
        }
        Ok(())
    }

    /// With what a rule says that it needs, it matches nothing any more.
    async fn needs_suffice(&mut self, rules: &RuleSet, here: &[Policy], place: &RequestEnv) -> Result<(), ProverError> {
        for policy in here {
            let Some(rule) = rules.rules.get(&policy.id().to_string()).filter(|rule| !rule.needs.is_empty()) else {
                continue;
            };
            let given: Vec<Given> = rule.needs.iter().map(Given::of).collect();
            let lifted = with(policy, &given)?.unwrap_or_else(|| policy.clone());
            let lifted = CompiledPolicy::compile(&as_permit(&lifted)?, place, &self.solver.schema)
                .map_err(|error| no_answer(place, &error))?;
            self.questions += 1;
            let never = self.solver.compiler.check_never_matches_opt(&lifted).await;
            if !never.map_err(|error| no_answer(place, &error))? {
                let example = self.solver.compiler.check_never_matches_with_counterexample_opt(&lifted).await;
                let example = example.map_err(|error| no_answer(place, &error))?;
                let says = format!("{} still forbids with all that its @need names", rule.id);
                let shown = example.map_or(Value::Null, |example| told(&example));
                self.violate("needs-sufficient", &says, place, vec![rule.id.clone()], shown);
            }
        }
        Ok(())
    }

    /// Whatever is allowed with less evidence is allowed with more of it.
    async fn is_monotone(&mut self, rules: &RuleSet, here: &[Policy], place: &RequestEnv) -> Result<(), ProverError> {
        let teams: Vec<String> = rules.teams().into_iter().collect();
        for policy in here {
            if reads_teams_otherwise(policy, &teams)? {
                let text = format!("{}: a team is asked for with contains(\"NAME\") and named in @need", policy.id());
                return Err(ProverError::Bundle(text));
            }
        }
        let most = rules.rules.values().flat_map(|rule| &rule.needs).map(|need| match need {
            policy::Need::Approvals(count) => *count,
            _ => 0,
        });
        let most = most.max().unwrap_or(0);
        let mut pairs: Vec<(Given, Given)> =
            (0..=most).map(|count| (Given::Approvals(count), Given::Approvals(count + 1))).collect();
        pairs.extend(FLAGS.iter().map(|flag| (Given::Flag(flag, false), Given::Flag(flag, true))));
        pairs.extend(teams.iter().map(|team| (Given::Team(team.clone(), false), Given::Team(team.clone(), true))));
        for (less, more) in pairs {
            let (Some(with_less), Some(with_more)) = (all_with(here, &less)?, all_with(here, &more)?) else { continue };
            let (one, other) = (self.solver.compile(&with_less, place)?, self.solver.compile(&with_more, place)?);
            self.questions += 1;
            if let Some(example) = self.solver.only_first_allows(&one, &other, place).await? {
                let (_, ids) = decided(&with_more, &example);
                let says = format!("allowed with {less:?} and not with {more:?}");
                self.violate("monotone", &says, place, ids, told(&example));
            }
        }
        Ok(())
    }

    fn violate(&mut self, what: &str, says: &str, place: &RequestEnv, rules: Vec<String>, example: Value) {
        let (what, says) = (what.to_owned(), says.to_owned());
        self.violations.push(Violation { what, says, place: name(place), rules, example });
    }
}

/// All rules with evidence put in; `None` where no rule reads it.
fn all_with(rules: &[Policy], given: &Given) -> Result<Option<Vec<Policy>>, ProverError> {
    let mut read = false;
    let mut out = Vec::with_capacity(rules.len());
    for rule in rules {
        let put = with(rule, std::slice::from_ref(given))?;
        read |= put.is_some();
        out.push(put.unwrap_or_else(|| rule.clone()));
    }
    Ok(read.then_some(out))
}
