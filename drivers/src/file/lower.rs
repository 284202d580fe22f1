//! File steps in terms of resources. Pure: patterns are expanded by the assessment, not here.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use kernel::{DriverError, Facts, Lowered, StepSpec, parameters};
use schemas::{Class, Code, Effectiveness, Finding, PlanStep, WayBack};

use super::params::{Append, Chmod, Delete, FromTo, Replace, Symlink, Write};
use crate::paths::{Place, place, place_or_finding};

/// What a step touches: the paths that it names, all beneath one root each.
pub(super) fn lower(step: &PlanStep, ix: usize, facts: &Facts) -> Result<Lowered, Vec<Finding>> {
    let mut named = names(step, ix)?;
    if let Some(root) = facts.roots.first() {
        named.iter_mut().filter(|(_, path)| path == ".").for_each(|(_, path)| *path = root.display().to_string());
    }
    let place_of =
        |(field, path): &(String, String)| place_or_finding(path, facts, &step.id, format!("/steps/{ix}/with/{field}"));
    let (places, findings): (Vec<_>, Vec<_>) = named.iter().map(place_of).partition(Result::is_ok);
    let findings: Vec<Finding> = findings.into_iter().filter_map(Result::err).map(|finding| *finding).collect();
    if !findings.is_empty() {
        return Err(findings);
    }
    let places: Vec<Place> = places.into_iter().flatten().collect();
    let operation = step.uses.split_once('.').map_or("", |(_, operation)| operation);
    let reads = places.iter().map(Place::resource).collect();
    let written = if operation == "copy" { places.get(1..).unwrap_or(&[]) } else { &places };
    let deletes = operation == "delete";
    Ok(Lowered {
        reads,
        writes: written.iter().map(Place::resource).collect(),
        class: if deletes { Class::ReversibleWithBackup } else { Class::TriviallyReversible },
        way_back: WayBack {
            effectiveness: Effectiveness::Full,
            how: "the captured files are put back and compared by digest".to_owned(),
            entry: None,
        },
        argv: Vec::new(),
        cwd: None,
        act: None,
        side: Vec::new(),
    })
}

/// The paths that a step names, each with the field that names it; a pattern stands for the folder that it starts in.
fn names(step: &PlanStep, ix: usize) -> Result<Vec<(String, String)>, Vec<Finding>> {
    let one = |path: String| vec![("path".to_owned(), path)];
    let both = |p: FromTo| vec![("from".to_owned(), p.from), ("to".to_owned(), p.to)];
    let operation = step.uses.split_once('.').map_or("", |(_, operation)| operation);
    Ok(match operation {
        "write" => {
            let params: Write = parameters(step, ix)?;
            check_write(&params).map_err(|detail| vec![bad(step, ix, "", detail)])?;
            one(params.path)
        }
        "append" => one(parameters::<Append>(step, ix)?.path),
        "replace" => {
            let params: Replace = parameters(step, ix)?;
            if params.find.is_empty() {
                return Err(vec![bad(step, ix, "/find", "the text to find is empty".to_owned())]);
            }
            one(params.path)
        }
        "move" | "copy" => both(parameters(step, ix)?),
        "delete" => delete_names(&parameters(step, ix)?).map_err(|detail| vec![bad(step, ix, "", detail)])?,
        "chmod" => {
            let params: Chmod = parameters(step, ix)?;
            parse_mode(&params.mode).map_err(|detail| vec![bad(step, ix, "/mode", detail)])?;
            one(params.path)
        }
        _ => {
            let params: Symlink = parameters(step, ix)?;
            if params.target.is_empty() || params.target.contains('\0') {
                return Err(vec![bad(
                    step,
                    ix,
                    "/target",
                    "a symlink's target is not empty and has no NUL".to_owned(),
                )]);
            }
            one(params.path)
        }
    })
}

fn bad(step: &PlanStep, ix: usize, field: &str, detail: String) -> Finding {
    let hint = format!("backout schema {} shows the parameters", step.uses);
    Finding::error(Code::STEP_PARAMETERS, format!("/steps/{ix}/with{field}"), detail, hint).of_step(&step.id)
}

fn check_write(params: &Write) -> Result<(), String> {
    content_of(params)?;
    params.mode.as_deref().map_or(Ok(0), parse_mode).map(|_| ())
}

/// The bytes that a write writes.
pub(super) fn content_of(params: &Write) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    match (&params.content, &params.content_base64) {
        (Some(text), None) => Ok(text.clone().into_bytes()),
        (None, Some(encoded)) => base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map_err(|error| format!("content_base64 is not base64: {error}")),
        _ => Err("exactly one of content and content_base64 is needed".to_owned()),
    }
}

/// Permission bits from octal text; setuid, setgid and sticky included.
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777 && (3..=5).contains(&text.len()))
        .ok_or_else(|| format!("a mode is octal, as 0644, not {text:?}"))
}

fn delete_names(params: &Delete) -> Result<Vec<(String, String)>, String> {
    let mut out: Vec<(String, String)> = Vec::new();
    out.extend(params.paths.iter().enumerate().map(|(at, path)| (format!("paths/{at}"), path.clone())));
    if let Some(glob) = &params.glob {
        matcher(glob)?;
        out.push(("glob".to_owned(), fixed_part(glob)));
    }
    if out.is_empty() { Err("paths or glob is needed".to_owned()) } else { Ok(out) }
}

/// The folder in which a pattern starts: the part before the first wildcard.
pub(super) fn fixed_part(glob: &str) -> String {
    let wild = glob.find(['*', '?', '[', '{']).unwrap_or(glob.len());
    let fixed = glob.get(..wild).unwrap_or("");
    let folder = fixed.rfind('/').map_or("", |slash| fixed.get(..slash).unwrap_or(""));
    match (folder, glob.starts_with('/')) {
        ("", true) => "/".to_owned(),
        ("", false) => ".".to_owned(),
        (folder, _) => folder.to_owned(),
    }
}

pub(super) fn matcher(glob: &str) -> Result<GlobMatcher, String> {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| format!("not a pattern: {error}"))
}

/// The root of a step and the paths beneath it that it may change or read. All its paths must share a root.
pub(super) fn scope_of(step: &StepSpec) -> Result<(PathBuf, Vec<PathBuf>), DriverError> {
    let mut root: Option<PathBuf> = None;
    let mut paths = Vec::new();
    for resource in &step.lowered.reads {
        let found = place(resource.path(), &step.facts).map_err(DriverError::Refused)?;
        if root.as_ref().is_some_and(|root| *root != found.root) {
            return Err(DriverError::Refused("the paths of a step must lie beneath one root".to_owned()));
        }
        root = Some(found.root);
        paths.push(found.relative);
    }
    match root {
        Some(root) => Ok((root, paths)),
        None => Err(DriverError::Refused("the step names no path".to_owned())),
    }
}

/// `path` of a plan, relative to `root`.
pub(super) fn relative_to(root: &Path, path: &str, step: &StepSpec) -> Result<PathBuf, DriverError> {
    let found = crate::paths::placed(path, &step.facts)?;
    if found.root == root {
        Ok(found.relative)
    } else {
        Err(DriverError::Refused(format!("{path} is beneath another root")))
    }
}
