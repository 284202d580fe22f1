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
    /// A command that exits 0 while the step's effect is there and 1 when it is not.
    #[serde(default)]
    pub(super) present: Vec<String>,
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
