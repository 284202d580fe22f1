//! Commands beside a step: what is captured before, what says whether the effect is there, what takes it back.

use std::path::Path;

use kernel::{Conflict, DriverError, Facts, Scope, StepSpec};
use schemas::Resource;
use serde_json::Value;

use super::lower::{self, Way};
use super::params::Run;
use super::{After, Before, Captured, Command};

/// Milliseconds that a capture, an undo or a check has.
pub(super) const SIDE_TIMEOUT_MS: u64 = 60 * 1000;

/// What a command beside a step has around it.
pub(super) struct Beside<'a> {
    pub(super) cwd: &'a Path,
    pub(super) facts: &'a Facts,
    /// What it may write: nothing, unless it takes the step back.
    pub(super) writes: &'a [Resource],
    pub(super) timeout_ms: u64,
}

impl Command {
    /// Runs the capture commands and takes their values out.
    pub(super) fn capture(
        &self,
        step: &StepSpec,
        params: &Run,
        way: &Way,
        scope: &Scope,
    ) -> Result<Captured, DriverError> {
        let cwd = lower::cwd_of(params, &step.facts).map_err(DriverError::Refused)?;
        let mut out = Captured::new();
        for wanted in &way.captures {
            let unbound = |name| DriverError::Refused(format!("nothing fills {{{name}}} of capture {}", wanted.name));
            let argv = library::bind(&wanted.argv, &way.bindings).map_err(unbound)?;
            let output = self.side(
                &Beside { cwd: &cwd, facts: &step.facts, writes: &[], timeout_ms: SIDE_TIMEOUT_MS },
                &argv,
                None,
                scope,
            )?;
            // A value that is put back must be whole, and what a program complains of is no part of it.
            let text = String::from_utf8(output.printed).ok().filter(|_| !output.cut).ok_or_else(|| {
                let what =
                    format!("capture {} got more than is kept, or no text, from {}", wanted.name, argv.join(" "));
                DriverError::Refused(what)
            })?;
            let value = match (&wanted.pointer, &wanted.regex) {
                (Some(pointer), _) => by_pointer(&text, pointer, way),
                (None, Some(pattern)) => by_regex(&text, pattern),
                (None, None) => None,
            };
            let missing = || {
                DriverError::Refused(format!(
                    "capture {} found no value in what {} printed",
                    wanted.name,
                    argv.join(" ")
                ))
            };
            out.insert(wanted.name.clone(), value.ok_or_else(missing)?);
        }
        Ok(out)
    }

    /// Asks the command that knows whether the effect is there.
    pub(super) fn present(&self, step: &StepSpec, params: &Run, way: &Way, scope: &Scope) -> Result<bool, DriverError> {
        let cwd = lower::cwd_of(params, &step.facts).map_err(DriverError::Refused)?;
        match self.side(
            &Beside { cwd: &cwd, facts: &step.facts, writes: &[], timeout_ms: SIDE_TIMEOUT_MS },
            &way.present,
            None,
            scope,
        ) {
            Ok(_) => Ok(true),
            Err(DriverError::Exit { output, .. }) if output.exit_code == Some(1) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn captured_conflict(
        &self,
        step: &StepSpec,
        params: &Run,
        way: &Way,
        scope: &Scope,
        (left, before): (&After, &Captured),
        strict: bool,
    ) -> Result<Option<Conflict>, DriverError> {
        let Some(left) = &left.captured else { return Ok(None) };
        let found = digest_of(&self.capture(step, params, way, scope)?);
        let before = digest_of(before);
        if found == *left || (!strict && found == before) {
            return Ok(None);
        }
        let resource = format!("command:{}", step.id);
        Ok(Some(Conflict { resource, before, left: left.clone(), found }))
    }

    /// Whether what the step can be seen by is as it was before: then its compensation would take back what is not the step's.
    pub(super) fn is_nothing_to_take_back(
        &self,
        step: &StepSpec,
        params: &Run,
        way: &Way,
        scope: &Scope,
        (data, captured): (&Before, &Captured),
    ) -> Result<bool, DriverError> {
        if !way.captures.is_empty() {
            return Ok(self.capture(step, params, way, scope)? == *captured);
        }
        Ok(!way.present.is_empty() && self.present(step, params, way, scope)? == data.present)
    }

    pub(super) fn compensate(
        &self,
        step: &StepSpec,
        params: &Run,
        way: &Way,
        captured: &Captured,
        scope: &Scope,
    ) -> Result<(), DriverError> {
        let mut bindings = way.bindings.clone();
        bindings.extend(captured.iter().map(|(name, value)| (name.clone(), vec![value.clone()])));
        let unbound = |name| DriverError::Refused(format!("nothing fills {{{name}}} of the undo"));
        let argv = library::bind(&way.undo, &bindings).map_err(unbound)?;
        let cwd = lower::cwd_of(params, &step.facts).map_err(DriverError::Refused)?;
        let stdin = way.undo_stdin.as_ref().and_then(|name| captured.get(name)).map(|value| value.as_bytes());
        // A stop of the run must not end the way back.
        let scope = Scope { cancel: kernel::Cancel::default(), ..scope.clone() };
        let beside =
            Beside { cwd: &cwd, facts: &step.facts, writes: &step.lowered.writes, timeout_ms: SIDE_TIMEOUT_MS };
        self.side(&beside, &argv, stdin, &scope).map(|_| ())
    }
}

fn by_pointer(text: &str, pointer: &str, way: &Way) -> Option<String> {
    let filled = library::bind(&[pointer.to_owned()], &way.bindings).ok()?;
    let value: Value = serde_json::from_str(text).ok()?;
    match value.pointer(filled.first()?)? {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

fn by_regex(text: &str, pattern: &str) -> Option<String> {
    let found = regex::Regex::new(pattern).ok()?.captures(text)?;
    found.iter().skip(1).flatten().next().map(|group| group.as_str().to_owned())
}

pub(super) fn digest_of(captured: &Captured) -> String {
    schemas::Digest::of(&serde_json::to_vec(captured).unwrap_or_default()).to_string()
}
