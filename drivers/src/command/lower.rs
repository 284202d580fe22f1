//! Command steps in terms of resources: what is declared, and what the library knows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kernel::{Facts, Lowered, parameters};
use library::{Capture, Restore};
use schemas::{Act, Class, Code, Effectiveness, Finding, PlanStep, UndoCommand, WayBack};

use super::params::{Commit, Contain, Run};
use super::words::{self, known};
use crate::paths::{Place, place, place_or_finding};

/// How a command is undone and observed, before anything is captured.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    /// Values to capture.
    pub(super) captures: Vec<Capture>,
    /// The compensating command, with placeholders.
    pub(super) undo: Vec<String>,
    /// The captured value for its standard input.
    pub(super) undo_stdin: Option<String>,
    /// Values of the command's own words.
    pub(super) bindings: library::Bindings,
    /// Tells whether the effect is there.
    pub(super) present: Vec<String>,
    /// Whether the declared writes are all that it can change.
    pub(super) files_only: bool,
}

/// The way back of a command: from the plan if it declares one, else from the library.
pub(super) fn way(params: &Run, undo: Option<&UndoCommand>, facts: &Facts) -> Way {
    let found = known(params);
    if let Some(undo) = undo {
        let of_plan = |capture: &schemas::Capture| Capture {
            name: capture.name.clone(),
            argv: capture.argv.clone(),
            pointer: capture.pointer.clone(),
            regex: capture.regex.clone(),
        };
        return Way {
            captures: undo.capture.iter().map(of_plan).collect(),
            undo: undo.argv.clone(),
            present: params.present.clone(),
            ..Way::default()
        };
    }
    let Some(found) = found else {
        let files_only = can_be_tried(params, false, facts);
        return Way { present: params.present.clone(), files_only, ..Way::default() };
    };
    // The plan's own `present` says what to look at; what the library takes back does not depend on it.
    let own = if params.present.is_empty() { &found.entry.present } else { &params.present };
    Way {
        captures: found.entry.capture.clone(),
        undo: found.entry.undo.clone(),
        undo_stdin: found.entry.undo_stdin.clone(),
        present: library::bind(own, &found.bindings).unwrap_or_default(),
        files_only: found.entry.restore != Restore::None,
        bindings: found.bindings,
    }
}

/// Whether the command runs over a layer. Only what declares nothing else, and is not known to act on services.
pub(super) fn is_contained(params: &Run, has_undo: bool, facts: &Facts) -> bool {
    facts.contains
        && match params.contain {
            Some(Contain::Overlay) => true,
            Some(Contain::None) => false,
            None => {
                let acts_on_files = known(params).is_none_or(|found| found.entry.restore == Restore::Snapshot);
                acts_on_files && !has_undo && params.network != Some(true)
            }
        }
}

/// Whether nothing but files can change, so that it can be tried out before anybody approves it.
pub(super) fn can_be_tried(params: &Run, has_undo: bool, facts: &Facts) -> bool {
    is_contained(params, has_undo, facts) && params.network != Some(true)
}

pub(super) fn lower(step: &PlanStep, ix: usize, facts: &Facts) -> Result<Lowered, Vec<Finding>> {
    let params: Run = parameters(step, ix)?;
    let mut findings = Vec::new();
    if params.argv.is_empty()
        || params.argv.iter().any(|word| word.contains('\0'))
        || params.argv.first().is_some_and(String::is_empty)
    {
        findings.push(bad(
            step,
            ix,
            "/argv",
            Code::STEP_PARAMETERS,
            "a program is needed, and no word may hold a NUL".to_owned(),
        ));
    }
    if let Some(name) = params.env.keys().find(|name| !is_variable(name)) {
        findings.push(bad(
            step,
            ix,
            "/env",
            Code::STEP_PARAMETERS,
            format!("{name:?} cannot be set: it is malformed or changes how programs are loaded"),
        ));
    }
    if params.commit == Some(Commit::Approved)
        && (params.contain == Some(Contain::None) || params.network == Some(true))
    {
        let text = "only a step that is contained and has no network can be committed as it was assessed".to_owned();
        findings.push(bad(step, ix, "/commit", Code::STEP_PARAMETERS, text));
    }
    let mut places = |paths: &[String], field: &str| -> Vec<Place> {
        let each = paths.iter().enumerate();
        each.filter_map(|(at, path)| {
            place_or_finding(path, facts, &step.id, format!("/steps/{ix}/with/{field}/{at}"))
                .map_err(|f| findings.push(*f))
                .ok()
        })
        .collect()
    };
    let reads = places(&params.reads, "reads");
    let writes = places(&params.writes, "writes");
    let cwd = match cwd_of(&params, facts) {
        Ok(cwd) => cwd,
        Err(detail) => {
            findings.push(bad(step, ix, "/cwd", Code::PATH_OUTSIDE_ROOTS, detail));
            PathBuf::new()
        }
    };
    let (class, way_back) = match class_of(step, &params, &writes, &cwd, facts) {
        Ok(found) => found,
        Err(detail) => {
            findings.push(bad(step, ix, "", Code::UNDO_UNBOUND, detail));
            (Class::Irreversible, nothing())
        }
    };
    if !findings.is_empty() {
        return Err(findings);
    }
    let captures = step.undo.iter().flat_map(|undo| &undo.capture).map(|capture| &capture.argv);
    let looking = captures.chain((!params.present.is_empty()).then_some(&params.present));
    let side = looking.map(|argv| words::side_command(argv, &cwd, facts)).collect();
    let act = known(&params).map_or_else(|| unknown_act(&params.argv), |found| found.act());
    Ok(Lowered {
        act: Some(act),
        reads: reads.iter().map(Place::resource).collect(),
        writes: writes.iter().map(Place::resource).collect(),
        class,
        way_back,
        argv: params.argv,
        cwd: Some(cwd.display().to_string()),
        side,
    })
}

/// What can be said of a program that no entry describes: that it runs.
fn unknown_act(argv: &[String]) -> Act {
    let program = argv.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
    Act { named: format!("program:{program}"), ..Act::default() }
}

pub(super) fn cwd_of(params: &Run, facts: &Facts) -> Result<PathBuf, String> {
    match (&params.cwd, facts.roots.first()) {
        (Some(cwd), _) => place(cwd, facts).map(|place| place.absolute()),
        (None, Some(root)) => Ok(root.clone()),
        (None, None) => Err("the environment has no root".to_owned()),
    }
}

fn bad(step: &PlanStep, ix: usize, field: &str, code: Code, detail: String) -> Finding {
    let hint = match code {
        Code::UNDO_UNBOUND => "declare every file that it changes in writes, or an undo with capture or present",
        _ => "backout schema command.run shows the parameters",
    };
    Finding::error(code, format!("/steps/{ix}/with{field}"), detail, hint).of_step(&step.id)
}

/// Whether a plan may set the variable. What decides which code is loaded is not a plan's to set.
fn is_variable(name: &str) -> bool {
    let well_formed = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit());
    let loads = ["LD_", "DYLD_", "BACKOUT_", "GCONV_"].iter().any(|prefix| name.starts_with(prefix))
        || ["PATH", "BASH_ENV", "ENV", "IFS", "PYTHONPATH", "PERL5LIB", "PERL5OPT", "NODE_OPTIONS"].contains(&name);
    well_formed && !loads
}

fn nothing() -> WayBack {
    WayBack { effectiveness: Effectiveness::None, how: "there is none".to_owned(), entry: None }
}

/// The class as computed: from the plan's own undo, from the library, or irreversible.
fn class_of(
    step: &PlanStep,
    params: &Run,
    writes: &[Place],
    cwd: &Path,
    facts: &Facts,
) -> Result<(Class, WayBack), String> {
    if let Some(undo) = &step.undo {
        check_own_undo(undo, params)?;
        let how = format!("runs {}", undo.argv.join(" "));
        return Ok((Class::PartiallyReversible, WayBack { effectiveness: Effectiveness::Partial, how, entry: None }));
    }
    let Some(found) = known(params) else {
        if !can_be_tried(params, false, facts) {
            return Ok((Class::Irreversible, nothing()));
        }
        let how = "what it changed is put back from its snapshot".to_owned();
        let way_back = WayBack { effectiveness: Effectiveness::Full, how, entry: None };
        return Ok((Class::ReversibleWithBackup, way_back));
    };
    let entry = found.entry;
    words::lexical(&found, &params.argv, cwd, facts)?;
    if entry.restore == Restore::Snapshot {
        if writes.is_empty() {
            return Err(format!("{} changes files and the step declares no writes", entry.id));
        }
        if entry.targets.is_none() {
            let whole = schemas::Resource::file(cwd.display().to_string());
            if !writes.iter().any(|write| write.resource().contains(&whole)) {
                return Err(format!(
                    "{} may change all of {}, and the declared writes do not hold it",
                    entry.id,
                    cwd.display()
                ));
            }
        }
        let named = entry.targets.as_ref().and_then(|name| found.bindings.get(name));
        for target in named.into_iter().flatten() {
            let path = if target.starts_with('/') { target.clone() } else { cwd.join(target).display().to_string() };
            let resource = place(&path, facts)?.resource();
            if !writes.iter().any(|write| write.resource().contains(&resource)) {
                return Err(format!("{target} is changed by {} and lies in none of the declared writes", entry.id));
            }
        }
    }
    let how = match (entry.restore, entry.undo.is_empty()) {
        (Restore::ReadOnly, _) => "only reads: there is nothing to put back".to_owned(),
        (Restore::Snapshot, _) => "the declared writes are put back from their snapshot".to_owned(),
        (Restore::None, false) => format!("runs {}", entry.undo.join(" ")),
        (Restore::None, true) => format!("there is none: {}", entry.safe_when),
    };
    let entry_id = Some(entry.id.clone());
    Ok((entry.class, WayBack { effectiveness: entry.effectiveness, how, entry: entry_id }))
}

/// Every placeholder of a plan's undo must be captured, and its effect must be observable.
fn check_own_undo(undo: &UndoCommand, params: &Run) -> Result<(), String> {
    if undo.argv.is_empty() {
        return Err("the undo has no program".to_owned());
    }
    let names: BTreeSet<&str> = undo.capture.iter().map(|capture| capture.name.as_str()).collect();
    let bindings = names.iter().map(|name| ((*name).to_owned(), vec![String::new()])).collect();
    library::bind(&undo.argv, &bindings).map_err(|name| format!("nothing captures {{{name}}} of the undo"))?;
    for capture in &undo.capture {
        if capture.argv.is_empty() || capture.pointer.is_some() == capture.regex.is_some() {
            return Err(format!("capture {} needs a program and one of pointer and regex", capture.name));
        }
        if let Some(pattern) = &capture.regex {
            regex::Regex::new(pattern).map_err(|error| format!("capture {}: {error}", capture.name))?;
        }
    }
    if undo.capture.is_empty() && params.present.is_empty() {
        return Err("nobody could see whether the undo worked: add present or a capture".to_owned());
    }
    Ok(())
}
