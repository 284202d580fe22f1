//! `backout plan`: everything about a plan that needs no permission.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use layout::backends::svg::SVGWriter;
use layout::core::base::Orientation;
use layout::core::geometry::Point;
use layout::core::style::StyleAttr;
use layout::std_shapes::shapes::{Arrow, Element, ShapeKind};
use layout::topo::layout::VisualGraph;
use planner::Planned;
use schemas::{Assessment, Digest, Document as _, Envelope, ExitCode, Finding, Limits, Plan};
use serde::Serialize;

use crate::commands::read_input;
use crate::flow;
use crate::home::{Home, write_durably};
use crate::look;
use crate::output::{Output, table};
use crate::problem::Problem;

/// Most steps that are drawn as SVG: the layout is not made for more.
const SVG_STEPS: usize = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Check a plan without looking at what it would change; needs no key and changes nothing
    Check {
        /// The plan, bare or signed; `-` for standard input
        plan: PathBuf,
    },
    /// Sign a plan
    Sign {
        /// The bare plan
        plan: PathBuf,
        /// The key
        #[arg(long = "as", value_name = "KEY")]
        name: String,
        /// Where to write; beside the plan as NAME.plan.json where left out
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Look at what a plan would change, writing nothing
    Show {
        /// The plan, bare or signed
        plan: PathBuf,
    },
    /// Draw the graph of a plan
    Graph {
        /// The plan, bare or signed
        plan: PathBuf,
        /// The language of the picture
        #[arg(long, default_value = "mermaid")]
        language: Language,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Language {
    /// For Markdown
    Mermaid,
    /// For Graphviz
    Dot,
    /// A picture
    Svg,
}

#[derive(Serialize)]
struct Checked<'a> {
    valid: bool,
    plan: Digest,
    signed_by: Option<&'a str>,
    steps: usize,
    worst_class: &'static str,
    warnings: &'a [Finding],
}

pub(crate) fn run(
    command: &PlanCommand,
    home: &dyn Fn() -> Result<Home, Problem>,
    output: &Output,
) -> Result<ExitCode, Problem> {
    match command {
        PlanCommand::Check { plan } => check(plan, &home()?, output),
        PlanCommand::Sign { plan, name, output: to } => sign(plan, name, to.as_deref(), &home()?, output),
        PlanCommand::Show { plan } => show(plan, &home()?, output),
        PlanCommand::Graph { plan, language } => graph(plan, *language, &home()?, output),
    }
}

struct Ready {
    planned: Planned,
    digest: Digest,
    signer: Option<schemas::Signer>,
}

fn ready(path: &Path, home: &Home) -> Result<Ready, Problem> {
    let bytes = read_input(path, Limits::ENVELOPE_BYTES)?;
    let trust = if planner::is_envelope(&bytes) { Some(home.trust()?) } else { None };
    let read = flow::read_plan(&bytes, trust.as_ref().map(|trust| trust.document()))?;
    let facts = Arc::new(home.site()?.facts(&read.plan.environment, home.dir(), home.contains(&read.plan)?)?);
    let planned = flow::check(read.plan, &home.drivers()?, &facts)?;
    Ok(Ready { planned, digest: read.digest, signer: read.signer })
}

fn check(path: &Path, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let ready = ready(path, home)?;
    let steps = &ready.planned.steps;
    let worst = steps.iter().map(|step| step.lowered.class).max().map_or("none", schemas::Class::as_str);
    let signed_by = ready.signer.as_ref().map(|signer| signer.owner.as_str());
    let checked = Checked {
        valid: true,
        plan: ready.digest,
        signed_by,
        steps: steps.len(),
        worst_class: worst,
        warnings: &ready.planned.warnings,
    };
    output.result(&checked, || {
        let signed = signed_by.map_or("not signed".to_owned(), |owner| format!("signed by {owner}"));
        let mut out = format!("valid: {} steps, {signed}, worst class {worst}\n", steps.len());
        if steps.len() <= 50 {
            let row = |step: &kernel::StepSpec| {
                vec![
                    step.id.clone(),
                    step.uses.clone(),
                    step.lowered.class.as_str().to_owned(),
                    step.lowered.way_back.how.clone(),
                ]
            };
            out.push_str(&table(&["step", "uses", "class", "way back"], steps.iter().map(row).collect()));
        }
        ready.planned.warnings.iter().for_each(|finding| out.push_str(&output.finding(finding)));
        out
    });
    Ok(ExitCode::Done)
}

fn sign(path: &Path, name: &str, to: Option<&Path>, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let bytes = read_input(path, Limits::PLAN_BYTES)?;
    if planner::is_envelope(&bytes) {
        return Err(Problem::usage("the plan is signed already", "sign the bare plan"));
    }
    let plan = planner::parse(&bytes)
        .map_err(|findings| Problem::findings(ExitCode::Usage, "the plan is not valid", findings, "mend the plan"))?;
    let trust = home.trust()?;
    let owner = trust.document().key(home.key(name)?.id()).map_or(String::new(), |key| key.owner.clone());
    if owner != plan.agent {
        let title = format!("the plan names agent {} and {name} is the key of {owner:?}", plan.agent);
        return Err(Problem::identity(title, "name the agent whose key signs"));
    }
    let envelope = Envelope::sign(Plan::PAYLOAD_TYPE, &bytes, &[&home.key(name)?]);
    let beside = || {
        let stem = path.file_name().map_or("plan".to_owned(), |name| name.to_string_lossy().into_owned());
        let stem = stem.trim_end_matches(".json").trim_end_matches(".draft").to_owned();
        path.with_file_name(format!("{stem}.plan.json"))
    };
    let target = to.map_or_else(beside, Path::to_owned);
    write_durably(&target, &envelope.to_json(), 0o644)
        .map_err(|error| Problem::failure(&format!("cannot write {}", target.display()), &error))?;
    let digest = Digest::of(&bytes);
    // A signature vouches for the bytes; whether they are any good here is told, for the agent may be elsewhere.
    let doubt = home
        .site()
        .and_then(|site| site.facts(&plan.environment, home.dir(), home.contains(&plan)?))
        .and_then(|facts| flow::check(plan, &home.drivers()?, &Arc::new(facts)).map(|_| ()));
    if let Err(problem) = doubt {
        let found: Vec<&str> = problem.findings.iter().map(|finding| finding.detail.as_str()).collect();
        output.note(&format!("note: signed, and not valid here: {}: {}", problem.title, found.join("; ")));
    }
    output.result(&serde_json::json!({"plan": digest, "file": target}), || {
        format!("signed {digest}\nnext: backout gate {}\n", target.display())
    });
    Ok(ExitCode::Done)
}

fn show(path: &Path, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let ready = ready(path, home)?;
    let assessment = look::assess(&ready.planned, &home.drivers()?, ready.digest, None).map_err(|findings| {
        Problem::findings(ExitCode::Refused, "the plan could not be looked at", findings, "mend the plan or the world")
    })?;
    output.result(&assessment, || assessed(&ready.planned.plan, &assessment));
    Ok(ExitCode::Done)
}

/// An assessment for people.
fn assessed(plan: &Plan, assessment: &Assessment) -> String {
    let mut out = format!("{} in {}: {}\n", plan.session, plan.environment, plan.intent);
    assessment.steps.iter().for_each(|step| out.push_str(&step_text(step)));
    out.push_str(&checks_text(plan));
    out
}

/// The plan's own checks, for people.
pub(crate) fn checks_text(plan: &Plan) -> String {
    let line = |check: &schemas::Check| format!("\nat the end, check {} {}\n", check.uses, check.with.get());
    plan.checks.iter().map(line).collect()
}

/// A step of an assessment for people: what would change, in counts and samples, with the difference.
pub(crate) fn step_text(step: &schemas::StepAssessment) -> String {
    let mut out = format!("\n{} [{}] {}\n", step.id, step.class.as_str(), step.way_back.how);
    for change in step.changes.iter().take(20) {
        out.push_str(&super::show::change_line(change.change, &change.resource, change.rows));
    }
    if step.changes.len() > 20 {
        out.push_str(&format!("  … and {} more\n", step.changes.len() - 20));
    }
    step.notes.iter().for_each(|note| out.push_str(&format!("  note: {note}\n")));
    step.preview.lines().take(40).for_each(|line| out.push_str(&format!("    {line}\n")));
    if let Some(hidden) = step.preview.lines().count().checked_sub(40).filter(|hidden| *hidden > 0) {
        out.push_str(&format!("    … {hidden} more lines of the preview: --format json has them all\n"));
    }
    out
}

fn graph(path: &Path, language: Language, home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let ready = ready(path, home)?;
    let plan = &ready.planned.plan;
    let text = match language {
        Language::Mermaid => mermaid(plan),
        Language::Dot => dot(plan),
        Language::Svg if plan.steps.len() > SVG_STEPS => {
            return Err(Problem::usage(
                format!("a picture of {} steps cannot be read", plan.steps.len()),
                "--language dot",
            ));
        }
        Language::Svg => svg(&ready.planned),
    };
    output.result(&serde_json::json!({"graph": text}), || text.clone());
    Ok(ExitCode::Done)
}

fn mermaid(plan: &Plan) -> String {
    let mut out = "graph TD\n".to_owned();
    for (ix, step) in plan.steps.iter().enumerate() {
        out.push_str(&format!("  s{ix}[\"{}<br/>{}\"]\n", step.id, step.uses));
    }
    for (from, to) in edges(plan) {
        out.push_str(&format!("  s{from} --> s{to}\n"));
    }
    out
}

fn dot(plan: &Plan) -> String {
    let mut out = "digraph plan {\n  node [shape=box];\n".to_owned();
    for (ix, step) in plan.steps.iter().enumerate() {
        out.push_str(&format!("  s{ix} [label=\"{}\\n{}\"];\n", step.id, step.uses));
    }
    for (from, to) in edges(plan) {
        out.push_str(&format!("  s{from} -> s{to};\n"));
    }
    out + "}\n"
}

fn edges(plan: &Plan) -> Vec<(usize, usize)> {
    let by_id: std::collections::HashMap<&str, usize> =
        plan.steps.iter().enumerate().map(|(ix, step)| (step.id.as_str(), ix)).collect();
    let of = |(to, step): (usize, &schemas::PlanStep)| -> Vec<(usize, usize)> {
        step.needs.iter().filter_map(|need| by_id.get(need.as_str()).map(|from| (*from, to))).collect()
    };
    plan.steps.iter().enumerate().flat_map(of).collect()
}

fn svg(planned: &Planned) -> String {
    let mut graph = VisualGraph::new(Orientation::TopToBottom);
    let node = |step: &kernel::StepSpec| {
        let label = format!("{}\n{}", step.id, step.uses);
        let width = 24.0 + 9.0 * step.id.len().max(step.uses.len()) as f64;
        let look = StyleAttr::simple();
        Element::create(ShapeKind::new_box(&label), look, Orientation::TopToBottom, Point::new(width, 56.0))
    };
    let handles: Vec<_> = planned.steps.iter().map(|step| graph.add_node(node(step))).collect();
    for (from, to) in edges(&planned.plan) {
        if let (Some(from), Some(to)) = (handles.get(from), handles.get(to)) {
            graph.add_edge(Arrow::simple(""), *from, *to);
        }
    }
    let mut writer = SVGWriter::new();
    graph.do_it(false, false, false, &mut writer);
    writer.finalize()
}
