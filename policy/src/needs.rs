//! What a rule may ask for: a closed vocabulary, each word with one supplier.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Evidence that lifts a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// So many distinct people.
    Approvals(i64),
    /// One of them is in this team.
    Role(String),
    /// The legal-hold register says that the resources may go.
    LegalHoldClear,
    /// A complete before-image.
    Snapshot,
    /// A dry run that equals what is declared.
    DryRun,
    /// A check, or a comparison with what is declared.
    Verification,
    /// A way back.
    Compensation,
    /// A rehearsed way back.
    Drill,
}

impl Need {
    /// Whether people can add it by signing. What is left is supplied by the host, or by another plan.
    pub fn is_by_people(&self) -> bool {
        matches!(self, Self::Approvals(_) | Self::Role(_))
    }

    /// The needs of one `@need`, separated by `;`.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        text.split(';').map(str::parse).collect()
    }

    /// Who adds it, for a hint.
    pub fn supplier(&self) -> &'static str {
        match self {
            Self::Approvals(_) | Self::Role(_) => "backout approve MANIFEST --as NAME",
            Self::LegalHoldClear => "who keeps the legal-hold register lifts the hold, then backout gate PLAN",
            Self::Snapshot => "use a kind of step that takes a before-image",
            Self::DryRun => "use a kind of step that can be looked at, and declare in expect what it does",
            Self::Verification => "add verify to the step",
            Self::Compensation => "add undo to the step, or use a command that the library can take back",
            Self::Drill => "rehearse the way back first",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Approvals(count) => write!(f, "approvals>={count}"),
            Self::Role(team) => write!(f, "role:{team}"),
            Self::LegalHoldClear => f.write_str("legal_hold_clear"),
            Self::Snapshot => f.write_str("snapshot"),
            Self::DryRun => f.write_str("dry_run"),
            Self::Verification => f.write_str("verification"),
            Self::Compensation => f.write_str("compensation"),
            Self::Drill => f.write_str("drill"),
        }
    }
}

impl FromStr for Need {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(count) = text.strip_prefix("approvals>=") {
            let count: i64 = count.parse().map_err(|_| format!("{text:?} has no number"))?;
            return if (1..=16).contains(&count) {
                Ok(Self::Approvals(count))
            } else {
                Err(format!("{text:?}: between 1 and 16 people can be asked for"))
            };
        }
        if let Some(team) = text.strip_prefix("role:") {
            return if schemas::is_valid_id(team) {
                Ok(Self::Role(team.to_owned()))
            } else {
                Err(format!("{text:?} names no team"))
            };
        }
        Ok(match text {
            "legal_hold_clear" => Self::LegalHoldClear,
            "snapshot" => Self::Snapshot,
            "dry_run" => Self::DryRun,
            "verification" => Self::Verification,
            "compensation" => Self::Compensation,
            "drill" => Self::Drill,
            other => return Err(format!("no need is called {other:?}")),
        })
    }
}

impl Serialize for Need {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Need {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How many distinct people needs ask for.
pub(crate) fn people(needs: &[Need]) -> u64 {
    let count = |need: &Need| match need {
        Need::Approvals(count) => count.unsigned_abs(),
        _ => 0,
    };
    needs.iter().map(count).max().unwrap_or(0)
}

/// Each need once, of several counts of people the largest.
pub fn together(needs: impl IntoIterator<Item = Need>) -> Vec<Need> {
    let mut out: Vec<Need> = Vec::new();
    let mut people = 0;
    for need in needs {
        match need {
            Need::Approvals(count) => people = people.max(count),
            other if !out.contains(&other) => out.push(other),
            _ => {}
        }
    }
    if people > 0 {
        out.push(Need::Approvals(people));
    }
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_a_closed_vocabulary() {
        let needs = Need::parse_all("approvals>=2;role:data-owner").unwrap();
        assert_eq!(needs, [Need::Approvals(2), Need::Role("data-owner".to_owned())]);
        for bad in ["approvals>2", "approvals>=0", "approvals>=x", "role:", "role:a b", "snapshots", ""] {
            assert!(Need::parse_all(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn of_several_counts_the_largest_is_asked_for() {
        let all = together([Need::Approvals(1), Need::Snapshot, Need::Approvals(2), Need::Snapshot]);
        assert_eq!(all, [Need::Approvals(2), Need::Snapshot]);
    }
}
