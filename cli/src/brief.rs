//! What a person sees before they sign: what is asked for, what would change, what cannot be undone, which rules ask and why, what is missing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use policy::Engine;
use schemas::{
    Assessment, Class, Decision, Decisions, Digest, Document as _, Effectiveness, Manifest, Record, Ruling,
    StepAssessment,
};

use crate::commands::plan::{checks_text, step_text};
use crate::home::Home;
use crate::lineage::{Lineage, lineage};
use crate::votes;

/// Steps that are named in a line.
const NAMES: usize = 5;

/// The documents of a manifest, for people.
pub(crate) struct Brief<'a> {
    pub(crate) home: &'a Home,
    pub(crate) records: &'a [Record],
    pub(crate) digest: Digest,
    pub(crate) manifest: &'a Manifest,
    /// The policy in force, where it is good: it has the reasons of the rules.
    pub(crate) engine: Option<&'a Engine>,
}

impl Brief<'_> {
    /// Everything, the steps that people are asked about first and whole, the others in a line.
    pub(crate) fn text(&self) -> Option<String> {
        let Self { home, manifest, .. } = self;
        let plan = planner::parse(&home.payload(manifest.plan).ok()?).ok()?;
        let assessment = Assessment::from_payload(&home.plain(manifest.assessment).ok()?).ok()?;
        let decisions: Decisions = serde_json::from_slice(&home.plain(manifest.decisions).ok()?).ok()?;
        let mut out = format!("{} in {}: {}\n", plan.session, plan.environment, plan.intent);
        out.push_str(&format!("asked for by {}; manifest {}\n", manifest.requester, self.digest.short()));
        out.push_str(&format!("{}\n", decisions.blast.line()));
        out.push_str(&finality(&assessment));
        out.push_str(&self.asking(&decisions));
        out.push_str(&self.missing());
        let lineage = lineage(home, self.records, &plan, &assessment).ok().flatten();
        lineage.iter().for_each(|lineage| out.push_str(&lineage.text()));
        out.push_str(&steps(&assessment, &decisions, lineage.as_ref()));
        out.push_str(&checks_text(&plan));
        Some(out)
    }

    /// Which rules ask, because of which steps, and why.
    fn asking(&self, decisions: &Decisions) -> String {
        let mut asking: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let held = |decision: &&Decision| !decision.needs.is_empty();
        for decision in decisions.steps.iter().chain([&decisions.plan]).filter(held) {
            let step = if decision.step.is_empty() { "the whole plan" } else { &decision.step };
            decision.rules.iter().for_each(|rule| asking.entry(rule).or_default().push(step));
        }
        let line = |(rule, steps): (&str, Vec<&str>)| {
            let why = self.engine.and_then(|engine| engine.rule(rule)).map_or("", |rule| rule.why.as_str());
            format!("  {rule} asks because of {}: {why}\n", names(&steps))
        };
        asking.into_iter().map(line).collect()
    }

    /// Who has spoken, and who must.
    fn missing(&self) -> String {
        match votes::approvals(self.home, self.records, self.digest, self.manifest, Timestamp::now()) {
            Ok(counted) if counted.people.is_empty() => String::new(),
            Ok(counted) => format!("  nothing is missing: {} approved\n", counted.people.join(", ")),
            Err(problem) => problem.findings.iter().map(|finding| format!("  {}\n", finding.detail)).collect(),
        }
    }
}

/// What stays, whatever happens afterwards.
fn finality(assessment: &Assessment) -> String {
    let of = |wanted: &dyn Fn(&StepAssessment) -> bool| -> Vec<&str> {
        assessment.steps.iter().filter(|step| wanted(step)).map(|step| step.id.as_str()).collect()
    };
    let never = of(&|step| step.class == Class::Irreversible);
    let partly = of(&|step| {
        step.class != Class::Irreversible
            && (step.class == Class::PartiallyReversible || step.way_back.effectiveness != Effectiveness::Full)
    });
    let mut out = String::new();
    if !never.is_empty() {
        out.push_str(&format!("CANNOT BE UNDONE: {}\n", names(&never)));
    }
    if !partly.is_empty() {
        out.push_str(&format!("comes back in part only: {}\n", names(&partly)));
    }
    if out.is_empty() { "everything can be put back\n".to_owned() } else { out }
}

/// The steps to look at, the gravest first; what is trivial, or was looked at in the plan before, in a line.
fn steps(assessment: &Assessment, decisions: &Decisions, lineage: Option<&Lineage>) -> String {
    // What cannot be undone is looked at whole each time.
    let known = |step: &StepAssessment| {
        step.class != Class::Irreversible && lineage.is_some_and(|it| it.reviewed && it.same.contains(&step.id))
    };
    let judged = assessment.steps.iter().zip(&decisions.steps);
    let (seen, judged): (Vec<_>, Vec<_>) = judged.partition(|(step, _)| known(step));
    let is_quiet = |(step, decision): &(&StepAssessment, &Decision)| {
        decision.ruling == Ruling::Allow && step.class < Class::PartiallyReversible
    };
    let (quiet, mut asked): (Vec<_>, Vec<_>) = judged.into_iter().partition(is_quiet);
    asked.sort_by_key(|(step, decision)| (std::cmp::Reverse(step.class), std::cmp::Reverse(decision.score)));
    let mut out: String = asked.iter().map(|(step, _)| step_text(step)).collect();
    out.push_str(&together("that no rule asks anybody about", &quiet));
    for (step, _) in seen {
        let notes: String = step.notes.iter().map(|note| format!("; {note}")).collect();
        out.push_str(&format!(
            "\n{} [{}] as in the plan before: {}{notes}\n",
            step.id,
            step.class.as_str(),
            step.way_back.how
        ));
    }
    out
}

/// Steps in one line.
fn together(what: &str, steps: &[(&StepAssessment, &Decision)]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let mut classes: BTreeMap<Class, usize> = BTreeMap::new();
    steps.iter().for_each(|(step, _)| *classes.entry(step.class).or_default() += 1);
    let classes: Vec<String> = classes.iter().map(|(class, count)| format!("{count} {}", class.as_str())).collect();
    let changes: usize = steps.iter().map(|(step, _)| step.changes.len()).sum();
    let ids: Vec<&str> = steps.iter().map(|(step, _)| step.id.as_str()).collect();
    let (count, classes, ids) = (steps.len(), classes.join(", "), names(&ids));
    format!(
        "\nsteps {what}: {count} ({classes}; {changes} changes seen beforehand): {ids}; backout plan show PLAN has them whole\n"
    )
}

fn names(ids: &[&str]) -> String {
    let shown = ids.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    match ids.len().checked_sub(NAMES).filter(|more| *more > 0) {
        None => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
