//! What changed since the gate decided, so that a stale manifest says more than that it is stale.

use std::collections::BTreeMap;

use schemas::{Digest, Document as _, Manifest, Record, RecordBody, TrustRoot};

use crate::home::Home;
use crate::problem::Problem;
use crate::site::Texts;

/// Differences that are told one by one.
const TOLD: usize = 5;

/// The policy is another one: which files of it.
pub(crate) fn policy(home: &Home, manifest: &Manifest, now: Digest) -> Problem {
    let files = |digest: Digest| policy::Bundle::names_of(&home.plain(digest).ok()?);
    let told = match (files(manifest.policy), files(now)) {
        (Some(before), Some(after)) => differences(&before, &after),
        _ => Vec::new(),
    };
    stale("the policy changed since the gate decided", &told)
}

/// The site is another one: which lines of which file.
pub(crate) fn site(home: &Home, manifest: &Manifest, now: &Texts) -> Problem {
    let before: Option<Texts> = home.plain(manifest.site).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mut told = Vec::new();
    if let Some(before) = before {
        for (name, before, after) in before.beside(now) {
            told.extend(lines(before, after).into_iter().map(|line| format!("{name}, {line}")));
        }
    }
    stale("backout.toml or inventory.toml changed since the gate decided", &told)
}

/// The trust root is another one: whose keys.
pub(crate) fn trust(home: &Home, records: &[Record], manifest: &Manifest, now: &TrustRoot) -> Problem {
    let old = records.iter().find_map(|record| match &record.fact {
        RecordBody::TrustPinned { version, digest } if *version == manifest.trust_version => home.payload(*digest).ok(),
        _ => None,
    });
    let keys = |root: &TrustRoot| -> BTreeMap<String, String> {
        let line = |(keyid, key, roles): (schemas::KeyId, &schemas::TrustedKey, Vec<String>)| {
            let until = key.revoked_at.unwrap_or(key.not_after);
            (format!("key {} of {}", &keyid.to_string()[..8], key.owner), format!("{} {until}", roles.join(" ")))
        };
        root.listing().into_iter().map(line).collect()
    };
    let told = old.and_then(|payload| TrustRoot::from_payload(&payload).ok());
    let told = told.map_or_else(Vec::new, |old| differences(&keys(&old), &keys(now)));
    let title = format!(
        "the trust root changed since the gate decided, from version {} to {}",
        manifest.trust_version, now.version
    );
    stale(&title, &told)
}

fn stale(title: &str, told: &[String]) -> Problem {
    let more = told.len().saturating_sub(TOLD);
    let mut title = title.to_owned();
    if !told.is_empty() {
        title = format!("{title}: {}", told.iter().take(TOLD).cloned().collect::<Vec<_>>().join("; "));
    }
    if more > 0 {
        title = format!("{title}; and {more} more");
    }
    Problem::stale(title)
}

/// What was added, removed and changed, by name.
fn differences<T: PartialEq>(before: &BTreeMap<String, T>, after: &BTreeMap<String, T>) -> Vec<String> {
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("{name} is gone"));
    let other = after.iter().filter_map(|(name, value)| match before.get(name) {
        None => Some(format!("{name} is new")),
        Some(old) if old != value => Some(format!("{name} changed")),
        Some(_) => None,
    });
    gone.chain(other).collect()
}

/// The first line that differs, as it was and as it is.
fn lines(before: &str, after: &str) -> Option<String> {
    if before == after {
        return None;
    }
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let first = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
    let line =
        |lines: &[&str]| lines.get(first).map_or("the end of the file".to_owned(), |line| format!("{:?}", line.trim()));
    Some(format!("line {}: it was {} and is {}", first + 1, line(&before), line(&after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_told_also_at_the_end() {
        assert_eq!(lines("a\nb\n", "a\nc\n").unwrap(), "line 2: it was \"b\" and is \"c\"");
        assert_eq!(lines("a\n", "a\nb\n").unwrap(), "line 2: it was the end of the file and is \"b\"");
        assert_eq!(lines("a\n", "a\n"), None);
    }

    #[test]
    fn what_is_gone_new_or_changed_is_told_by_name() {
        let map = |pairs: &[(&str, u8)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let told = differences(&map(&[("a", 1), ("b", 1), ("c", 1)]), &map(&[("b", 2), ("c", 1), ("d", 1)]));
        assert_eq!(told, ["a is gone", "b changed", "d is new"]);
    }
}
