//! The solver's process and what is said to it: places, slices of rules, counterexamples in words.

use std::path::{Path, PathBuf};

use cedar_policy::{Authorizer, Decision, Policy, PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::solver::LocalSolver;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet, Env};
use serde_json::Value;

/// Milliseconds for one question.
const QUESTION_MS: u32 = 20_000;

/// Why nothing is proved.
#[derive(Debug, thiserror::Error)]
pub enum ProverError {
    /// There is no solver.
    #[error("cvc5 is not installed: nothing can be proved on this machine (Debian: apt-get install cvc5)")]
    NoSolver,
    /// The solver failed, did not know, or was too slow.
    #[error("the solver gave no answer at {place}: {text}")]
    NoAnswer {
        /// What was asked about.
        place: String,
        /// What it said.
        text: String,
    },
    /// The bundle is not one that can be asked about.
    #[error("{0}")]
    Bundle(String),
}

/// The solver, from the `CVC5` variable or the folders of `PATH`.
pub fn find_solver() -> Option<PathBuf> {
    let named = std::env::var_os("CVC5").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = named.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join("cvc5")));
    all.find(|program| program.is_file())
}

/// One solver with the vocabulary.
pub(crate) struct Solver {
    pub(crate) compiler: CedarSymCompiler<LocalSolver>,
    pub(crate) schema: Schema,
}

impl Solver {
    /// Starts the solver; it is killed when this is dropped.
    pub(crate) fn start(program: &Path) -> Result<Self, ProverError> {
        let failed = |error: &dyn std::fmt::Display| ProverError::NoAnswer {
            place: "the start".to_owned(),
            text: error.to_string(),
        };
        let schema = schema()?;
        let mut command = tokio::process::Command::new(program);
        // `--tlimit` would limit the life of the process, not one question.
        command.args(["--lang", "smt", &format!("--tlimit-per={QUESTION_MS}")]).kill_on_drop(true);
        let local = LocalSolver::from_command(&mut command).map_err(|error| failed(&error))?;
        let compiler = CedarSymCompiler::new(local).map_err(|error| failed(&error))?;
        Ok(Self { compiler, schema })
    }

    /// The rules that can speak at a place.
    pub(crate) fn slice<'a>(&self, rules: impl Iterator<Item = &'a Policy>, place: &RequestEnv) -> Vec<Policy> {
        rules.filter(|rule| rule.get_valid_request_envs(&self.schema).any(|it| it == *place)).cloned().collect()
    }

    pub(crate) fn compile(&self, rules: &[Policy], place: &RequestEnv) -> Result<CompiledPolicySet, ProverError> {
        CompiledPolicySet::compile(&set(rules)?, place, &self.schema).map_err(|error| no_answer(place, &error))
    }

    /// A request that both sets allow, if there is one.
    pub(crate) async fn both_allow(
        &mut self,
        one: &CompiledPolicySet,
        other: &CompiledPolicySet,
        place: &RequestEnv,
    ) -> Result<Option<Env>, ProverError> {
        let apart = self.compiler.check_disjoint_opt(one, other).await.map_err(|error| no_answer(place, &error))?;
        if apart {
            return Ok(None);
        }
        let example = self.compiler.check_disjoint_with_counterexample_opt(one, other).await;
        example.map_err(|error| no_answer(place, &error))
    }

    /// A request that the first set allows and the second does not, if there is one.
    pub(crate) async fn only_first_allows(
        &mut self,
        one: &CompiledPolicySet,
        other: &CompiledPolicySet,
        place: &RequestEnv,
    ) -> Result<Option<Env>, ProverError> {
        let implied = self.compiler.check_implies_opt(one, other).await.map_err(|error| no_answer(place, &error))?;
        if implied {
            return Ok(None);
        }
        let example = self.compiler.check_implies_with_counterexample_opt(one, other).await;
        example.map_err(|error| no_answer(place, &error))
    }
}

/// The vocabulary of policies.
pub(crate) fn schema() -> Result<Schema, ProverError> {
    let parsed = Schema::from_cedarschema_str(policy::SCHEMA);
    parsed.map(|(schema, _)| schema).map_err(|error| ProverError::Bundle(error.to_string()))
}

/// Every place where a question can be asked: an action on a kind of thing.
pub(crate) fn places(schema: &Schema) -> Vec<RequestEnv> {
    let mut places: Vec<RequestEnv> = schema.request_envs().collect();
    places.sort_by_key(name);
    places
}

/// Gives every place to one of several workers, each with a solver of its own, and gathers what they found.
pub(crate) fn share_out<T: Send>(
    places: &[RequestEnv],
    work: impl Fn(Vec<&RequestEnv>) -> Result<T, ProverError> + Sync,
) -> Result<Vec<T>, ProverError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|worker| scope.spawn(move || work(places.iter().skip(worker).step_by(workers).collect())))
            .collect();
        let lost = || Err(ProverError::Bundle("a thread of the proof was lost".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect()
    })
}

/// Runs what talks to the solver.
pub(crate) fn in_runtime<T>(work: impl Future<Output = Result<T, ProverError>>) -> Result<T, ProverError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| ProverError::Bundle(error.to_string()))?.block_on(work)
}

pub(crate) fn set(rules: &[Policy]) -> Result<PolicySet, ProverError> {
    PolicySet::from_policies(rules.iter().cloned()).map_err(|error| ProverError::Bundle(error.to_string()))
}

/// The name of a place: action and type.
pub(crate) fn name(place: &RequestEnv) -> String {
    format!("{} {}", place.action().id().unescaped(), place.resource().basename())
}

pub(crate) fn no_answer(place: &RequestEnv, error: &dyn std::fmt::Display) -> ProverError {
    ProverError::NoAnswer { place: name(place), text: error.to_string() }
}

/// The same policy with the other effect.
pub(crate) fn as_permit(policy: &Policy) -> Result<Policy, ProverError> {
    let mut json = policy.to_json().map_err(|error| ProverError::Bundle(error.to_string()))?;
    if let Some(effect) = json.get_mut("effect") {
        *effect = Value::from("permit");
    }
    Policy::from_json(Some(policy.id().clone()), json).map_err(|error| ProverError::Bundle(error.to_string()))
}

/// A counterexample in words: who, what, and every fact.
pub(crate) fn told(example: &Env) -> Value {
    let request = &example.request;
    let uid = |uid: Option<&cedar_policy::EntityUid>| uid.map(ToString::to_string);
    let attributes = |uid: Option<&cedar_policy::EntityUid>| {
        let entity = uid.and_then(|uid| example.entities.get(uid))?;
        let json = entity.to_json_value().ok()?;
        Some(serde_json::json!({"attrs": json.get("attrs"), "parents": json.get("parents")}))
    };
    let context = request.context().and_then(|context| context.to_json_value().ok());
    serde_json::json!({
        "principal": uid(request.principal()), "of_principal": attributes(request.principal()),
        "action": uid(request.action()),
        "resource": uid(request.resource()), "of_resource": attributes(request.resource()),
        "context": context,
    })
}

/// The rules that decide an example, with the verdict.
pub(crate) fn decided(rules: &[Policy], example: &Env) -> (bool, Vec<String>) {
    let Ok(set) = set(rules) else { return (false, Vec::new()) };
    let response = Authorizer::new().is_authorized(&example.request, &set, &example.entities);
    let mut ids: Vec<String> = response.diagnostics().reason().map(ToString::to_string).collect();
    ids.sort();
    (response.decision() == Decision::Allow, ids)
}
