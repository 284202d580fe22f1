//! Parameters of SQLite steps, as the plan writes them.

use schemars::JsonSchema;
use serde::Deserialize;

/// `sqlite.execute`: statements in one transaction.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Execute {
    /// The database file, which must exist.
    pub(super) database: String,
    /// Statements, run in order in one transaction. Transactions, `ATTACH`, `PRAGMA`, `VACUUM` and extensions are refused.
    pub(super) statements: Vec<String>,
    /// Whether foreign keys are enforced; true where left out.
    pub(super) foreign_keys: Option<bool>,
}

/// `sqlite.query`, a check: the first column of the first row is this text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// The database file.
    pub(super) database: String,
    /// A query; it is run read-only.
    pub(super) query: String,
    /// The value as text.
    pub(super) equals: String,
}
