//! Stops and what lifts them: nothing that a stop covers starts or goes on until operators have signed that it may.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::record::RunSubject;
use crate::statement::Predicate;

/// A stop, as it lies in the folder of stops. It needs no signature: whoever can write there may stop, and stopping is always allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Its name, sorted by time.
    pub id: String,
    /// What it covers.
    pub covers: Covers,
    /// Why.
    pub reason: String,
    /// Who stopped, as the operating system knows them.
    pub by: String,
    /// When.
    pub time: Timestamp,
    /// What becomes of a run that it stops.
    pub then: Then,
}

/// What a stop covers: everything that is named must fit. With nothing named, everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Covers {
    /// A session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// An agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// An environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// A kind of step: plans that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

impl Covers {
    /// Whether it covers everything.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it covers a run whose steps have these kinds.
    pub fn covers<'a>(&self, subject: &RunSubject, mut kinds: impl Iterator<Item = &'a str>) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.session, &subject.session)
            && is(&self.agent, &subject.agent)
            && is(&self.environment, &subject.environment)
            && self.kind.as_deref().is_none_or(|kind| kinds.any(|found| found == kind))
    }

    /// In words.
    pub fn text(&self) -> String {
        let part = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} {value}"));
        let parts = [
            part("session", &self.session),
            part("agent", &self.agent),
            part("environment", &self.environment),
            part("kind", &self.kind),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "everything".to_owned() } else { parts.join(", ") }
    }
}

/// What becomes of a run that is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It is held, and waits for a person.
    Hold,
    /// It is put back.
    Undo,
}

/// The predicate of what lifts a stop; the one subject is the stop, by the digest of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lift {
    /// Id of the stop.
    pub stop: String,
    /// Why it may go on.
    pub reason: String,
    /// When it was signed.
    pub issued: Timestamp,
    /// 128 random bits in hex.
    pub nonce: String,
}

impl Predicate for Lift {
    const TYPE: &'static str = "https://backout.dev/lift/v1";
    const MAX_BYTES: usize = Limits::STATEMENT_BYTES;
}
