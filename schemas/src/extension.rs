//! An extension: an operator's signed word that a limit is higher for one session, agent or environment, for a while.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::statement::Predicate;

/// The predicate of an extension; the one subject is the site whose limit it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// Name of the limit.
    pub limit: String,
    /// The session, agent or environment.
    pub subject: String,
    /// How much more.
    pub by: u64,
    /// Why.
    pub reason: String,
    /// When it was given.
    pub issued: Timestamp,
    /// From this instant on it does not count.
    pub expires: Timestamp,
    /// 128 random bits in hex.
    pub nonce: String,
}

impl Predicate for Extension {
    const TYPE: &'static str = "https://backout.dev/extension/v1";
    const MAX_BYTES: usize = Limits::STATEMENT_BYTES;
}
