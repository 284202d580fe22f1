//! The blast radius: how far what a plan does could reach, counted, and as one number that never falls when more is done.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::act::{Hazard, Thing};
use crate::assessment::{RowCount, Share};

/// The vector, for a step or for a plan as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blast {
    /// 0 to 100, from the points of `docs/blast-radius.md`.
    pub score: u64,
    /// The points behind the score.
    pub points: u64,
    /// Resources by what they are and how they change.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<Thing, Counts>,
    /// Rows.
    #[serde(default)]
    pub rows: RowCount,
    /// Bytes that are written or deleted, where they are known.
    pub bytes: u64,
    /// Environments that are touched.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub environments: BTreeSet<String>,
    /// Resources that others share.
    pub shared: u64,
    /// Sensitive resources.
    pub sensitive: u64,
    /// Resources that nobody described.
    pub unknown: u64,
    /// What the inventory says depends on what is touched.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dependents: BTreeSet<String>,
    /// Harm that needs no delete.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hazards: BTreeSet<Hazard>,
    /// The worst share of a whole that is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// Resources of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Made.
    #[serde(default)]
    pub created: u64,
    /// Changed.
    #[serde(default)]
    pub updated: u64,
    /// Taken away, as a whole or in rows.
    #[serde(default)]
    pub deleted: u64,
    /// Run, restarted, sent, published.
    #[serde(default)]
    pub acted: u64,
}

/// Points at which the score is 50.
const HALF: u64 = 200;

impl Blast {
    /// The score of so many points: grows with them and stays below 100 for any number that can be counted.
    pub fn score_of(points: u64) -> u64 {
        let points = u128::from(points);
        u64::try_from(100 * points / (points + u128::from(HALF))).unwrap_or(100)
    }

    /// Takes another one in: the whole of two.
    pub fn add(&mut self, other: &Self) {
        self.points = self.points.saturating_add(other.points);
        self.score = Self::score_of(self.points);
        for (thing, counts) in &other.resources {
            let own = self.resources.entry(*thing).or_default();
            own.created = own.created.saturating_add(counts.created);
            own.updated = own.updated.saturating_add(counts.updated);
            own.deleted = own.deleted.saturating_add(counts.deleted);
            own.acted = own.acted.saturating_add(counts.acted);
        }
        self.rows.inserted = self.rows.inserted.saturating_add(other.rows.inserted);
        self.rows.updated = self.rows.updated.saturating_add(other.rows.updated);
        self.rows.deleted = self.rows.deleted.saturating_add(other.rows.deleted);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.environments.extend(other.environments.iter().cloned());
        self.shared = self.shared.saturating_add(other.shared);
        self.sensitive = self.sensitive.saturating_add(other.sensitive);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.dependents.extend(other.dependents.iter().cloned());
        self.hazards.extend(other.hazards.iter().copied());
        self.share = Share::worse(self.share, other.share);
    }

    /// Resources that are taken away.
    pub fn deleted(&self) -> u64 {
        self.resources.values().map(|counts| counts.deleted).sum()
    }

    /// Resources that are changed in any way.
    pub fn touched(&self) -> u64 {
        self.resources.values().map(|counts| counts.created + counts.updated + counts.deleted + counts.acted).sum()
    }

    /// In a line, for people.
    pub fn line(&self) -> String {
        let mut parts = vec![format!("blast radius {}", self.score)];
        for (thing, counts) in &self.resources {
            let words = [
                (counts.created, "created"),
                (counts.updated, "updated"),
                (counts.deleted, "deleted"),
                (counts.acted, "acted on"),
            ];
            let said: Vec<String> =
                words.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
            parts.push(format!("{}: {}", thing.as_str(), said.join(", ")));
        }
        let RowCount { inserted, updated, deleted } = self.rows;
        if inserted + updated + deleted > 0 {
            parts.push(format!("rows: {inserted} inserted, {updated} updated, {deleted} deleted"));
        }
        if let Some(share) = self.share.filter(|share| share.part > 0) {
            parts.push(format!("{} of {} deleted", share.part, share.whole));
        }
        for (count, word) in [(self.shared, "shared"), (self.sensitive, "sensitive")] {
            if count > 0 {
                parts.push(format!("{count} {word}"));
            }
        }
        if !self.dependents.is_empty() {
            parts.push(format!("{} depend on it", self.dependents.len()));
        }
        parts.extend(self.hazards.iter().map(|hazard| hazard.as_str().replace('_', " ")));
        parts.join("; ")
    }
}
