//! Parameters of command steps, as the plan writes them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// `command.run`: a program with its arguments, never a shell line.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// Program and arguments. The program is an absolute path or is found in `/usr/local/bin:/usr/bin:/bin`.
    pub(super) argv: Vec<String>,
    /// Working directory; the environment's first root where left out.
    pub(super) cwd: Option<String>,
    /// Variables beyond the scrubbed environment. Values of names with SECRET, TOKEN, PASSWORD or KEY are redacted.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Files and folders that it reads; changes in them are undeclared.
    #[serde(default)]
    pub(super) reads: Vec<String>,
    /// Files and folders that it may change, completely. They are captured before and inventoried after.
    #[serde(default)]
    pub(super) writes: Vec<String>,
    /// Whether it runs over a layer that takes what it writes, so that its effects are seen before they happen and are committed as a
    /// whole. Where left out: `overlay`, unless the step has an undo of its own, needs the network, or is known to act on services.
    pub(super) contain: Option<Contain>,
    /// Whether it reaches the network. Where left out: only where it is not contained.
    pub(super) network: Option<bool>,
    /// What of a contained step is committed: `rerun` runs it again and wants the same effects, `approved` takes the layer that was
    /// assessed.
    pub(super) commit: Option<Commit>,
    /// A command that exits 0 while the step's effect is there and 1 when it is not.
    #[serde(default)]
    pub(super) present: Vec<String>,
}

/// How a command is contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Contain {
    /// Over a layer.
    Overlay,
    /// Not: it writes what it declares directly.
    None,
}

/// What of a contained step is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Commit {
    /// What it does when it runs, if that is what was assessed.
    Rerun,
    /// What it did when it was assessed.
    Approved,
}

/// `command.succeeds`, a check: the program exits 0.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Succeeds {
    /// Program and arguments; must only read.
    pub(super) argv: Vec<String>,
    /// Working directory.
    pub(super) cwd: Option<String>,
    /// Text that its output must hold.
    pub(super) output_contains: Option<String>,
    /// Milliseconds after which it counts as failed; 60,000 where left out.
    pub(super) timeout_ms: Option<u64>,
}
