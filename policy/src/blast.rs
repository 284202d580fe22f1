//! The points of a blast radius. `docs/blast-radius.md` is the page that explains them; a change here changes it.
//!
//! INVARIANT: adding a touch, or widening one, never lowers a score (`more_is_never_less`).

use schemas::{Blast, Class, Hazard, Share, Verb};

use crate::ask::{Risk, Tier};
use crate::inventory::Described;
use crate::touch::Known;

/// Points of each hazard.
const HAZARD: u64 = 60;

/// Points of each resource that the inventory says depends on what is touched.
const DEPENDENT: u64 = 4;

/// Adds what one touch reaches.
pub(crate) fn reach(blast: &mut Blast, known: &Known, class: Class, environment: &str, tier: Tier) {
    let Known { touch, described } = known;
    let sensitive = is_sensitive(described, tier);
    let counts = blast.resources.entry(known.thing()).or_default();
    match touch.verb {
        Verb::Inspect => {}
        Verb::Create => counts.created += 1,
        Verb::Update | Verb::Migrate | Verb::Push => counts.updated += 1,
        Verb::Delete | Verb::DeleteRows | Verb::ForcePush => counts.deleted += 1,
        _ => counts.acted += 1,
    }
    let mut points = base(touch.verb) * of_class(class) * if tier == Tier::Production { 3 } else { 1 };
    points *= if sensitive { 2 } else { 1 } * if described.shared { 2 } else { 1 };
    let rows = touch.rows.updated.saturating_add(touch.rows.deleted).saturating_add(touch.rows.inserted);
    points += 4 * log2(rows) + log2(touch.bytes >> 20);
    let new = described.dependents.iter().filter(|name| !blast.dependents.contains(*name)).count();
    points += DEPENDENT * new as u64;
    blast.dependents.extend(described.dependents.iter().cloned());
    blast.environments.insert(environment.to_owned());
    blast.shared += u64::from(described.shared);
    blast.sensitive += u64::from(sensitive);
    blast.unknown += u64::from(!described.known);
    blast.rows.inserted = blast.rows.inserted.saturating_add(touch.rows.inserted);
    blast.rows.updated = blast.rows.updated.saturating_add(touch.rows.updated);
    blast.rows.deleted = blast.rows.deleted.saturating_add(touch.rows.deleted);
    blast.bytes = blast.bytes.saturating_add(touch.bytes);
    score(blast, points);
}

/// Adds what a step is beyond its touches: its share of the whole and its hazards.
pub(crate) fn widen(blast: &mut Blast, share: Option<Share>, hazards: impl Iterator<Item = Hazard>) {
    let old = blast.share.map_or(0, Share::percent);
    blast.share = Share::worse(blast.share, share);
    let mut points = blast.share.map_or(0, Share::percent).saturating_sub(old);
    points += hazards.map(|hazard| if blast.hazards.insert(hazard) { HAZARD } else { 0 }).sum::<u64>();
    score(blast, points);
}

fn score(blast: &mut Blast, points: u64) {
    blast.points = blast.points.saturating_add(points);
    blast.score = Blast::score_of(blast.points);
}

/// What nobody described is sensitive in production.
pub(crate) fn is_sensitive(described: &Described, tier: Tier) -> bool {
    described.sensitive || (!described.known && tier == Tier::Production)
}

fn base(verb: Verb) -> u64 {
    match verb {
        Verb::Inspect => 0,
        Verb::Create => 1,
        Verb::Update => 2,
        Verb::Restart | Verb::Scale | Verb::Deploy | Verb::RollBack | Verb::Push | Verb::Rotate => 4,
        Verb::Migrate | Verb::Restore | Verb::Grant | Verb::Execute => 6,
        Verb::Delete | Verb::DeleteRows => 8,
        Verb::Publish | Verb::Send | Verb::ForcePush => 10,
    }
}

fn of_class(class: Class) -> u64 {
    match class {
        Class::TriviallyReversible => 1,
        Class::ReversibleWithState => 2,
        Class::ReversibleWithBackup => 3,
        Class::PartiallyReversible => 5,
        Class::Irreversible => 10,
    }
}

fn log2(number: u64) -> u64 {
    u64::from(number.saturating_add(1).ilog2())
}

/// The risk of a step: the worst of what its class says, what its hazards say, and what its score says.
pub(crate) fn risk(class: Class, blast: &Blast, tier: Tier) -> Risk {
    let production = tier == Tier::Production;
    let by_class = match (class, production) {
        (Class::TriviallyReversible, _) | (Class::ReversibleWithState, false) => Risk::Low,
        (Class::ReversibleWithState, true) | (Class::ReversibleWithBackup, _) => Risk::Medium,
        (Class::PartiallyReversible, false) => Risk::Medium,
        (Class::PartiallyReversible, true) | (Class::Irreversible, false) => Risk::High,
        (Class::Irreversible, true) => Risk::Critical,
    };
    let by_hazard = match (blast.hazards.is_empty(), production) {
        (true, _) => Risk::Low,
        (false, false) => Risk::High,
        (false, true) => Risk::Critical,
    };
    let by_score = match (blast.score, production) {
        (95.., true) => Risk::Critical,
        (75.., true) | (95.., false) => Risk::High,
        (40.., _) => Risk::Medium,
        _ => Risk::Low,
    };
    by_class.max(by_hazard).max(by_score)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::RowCount;

    use super::*;
    use crate::touch::Touch;

    fn verbs() -> impl Strategy<Value = Verb> {
        proptest::sample::select(Verb::ALL.to_vec())
    }

    fn classes() -> impl Strategy<Value = Class> {
        proptest::sample::select(Class::ALL.to_vec())
    }

    fn tiers() -> impl Strategy<Value = Tier> {
        proptest::sample::select(vec![Tier::Development, Tier::Staging, Tier::Production])
    }

    fn described() -> impl Strategy<Value = Described> {
        (any::<[bool; 3]>(), proptest::collection::btree_set("[a-d]", 0..4)).prop_map(|(flags, dependents)| Described {
            known: flags[0],
            sensitive: flags[1],
            shared: flags[2],
            dependents,
            ..Described::default()
        })
    }

    type Part = (Verb, Described, Class, (u64, u64, u64));

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        proptest::collection::vec(
            (verbs(), described(), classes(), (0..1u64 << 40, 0..1u64 << 40, any::<u64>())),
            0..12,
        )
    }

    fn touched((verb, described, _, (updated, deleted, bytes)): &Part) -> Known {
        let rows = RowCount { inserted: 0, updated: *updated, deleted: *deleted };
        let touch = Touch { verb: *verb, thing: schemas::Thing::File, uri: "file:/x".to_owned(), rows, bytes: *bytes };
        Known { touch, described: described.clone() }
    }

    fn whole(parts: &[Part], tier: Tier) -> Blast {
        let mut blast = Blast::default();
        for part in parts {
            reach(&mut blast, &touched(part), part.2, "e", tier);
        }
        blast
    }

    proptest! {
        #[test]
        fn more_is_never_less(mut parts in parts(), more in parts(), tier in tiers(), at in any::<prop::sample::Index>()) {
            let before = whole(&parts, tier);
            prop_assert!(before.score < 100 || before.points > 10_000);
            let all: Vec<Part> = parts.iter().chain(&more).cloned().collect();
            let after = whole(&all, tier);
            prop_assert!(after.score >= before.score && risk(Class::TriviallyReversible, &after, tier) >= risk(Class::TriviallyReversible, &before, tier));
            let mut sum = before.clone();
            sum.add(&whole(&more, tier));
            prop_assert!(sum.score >= before.score);
            if !parts.is_empty() {
                // Widening one: more rows, more bytes, a worse class, sensitive, shared, more that depends on it.
                let index = at.index(parts.len());
                let part = &mut parts[index];
                part.3 = (part.3.0 * 2 + 1, part.3.1 * 2 + 1, part.3.2.saturating_mul(2));
                part.2 = Class::Irreversible;
                part.1.sensitive = true;
                part.1.shared = true;
                part.1.dependents.insert("z".to_owned());
                prop_assert!(whole(&parts, tier).score >= before.score);
            }
        }

        #[test]
        fn a_larger_share_and_another_hazard_never_lower_a_score(
            parts in parts(), tier in tiers(), part in 0..1_000u64, whole_of in 1..1_000u64, hazards in proptest::sample::subsequence(Hazard::ALL.to_vec(), 0..10),
        ) {
            let mut blast = whole(&parts, tier);
            let mut last = blast.score;
            for share in [part, part + 1, part + 100] {
                widen(&mut blast, Some(Share { part: share, whole: whole_of }), std::iter::empty());
                prop_assert!(blast.score >= last);
                last = blast.score;
            }
            for hazard in hazards {
                widen(&mut blast, None, std::iter::once(hazard));
                prop_assert!(blast.score >= last);
                last = blast.score;
            }
        }
    }

    #[test]
    fn the_page_says_the_points_that_are_given() {
        let page = include_str!("../../docs/blast-radius.md");
        for verb in Verb::ALL {
            let line = format!("| `{}` | {} |", verb.as_str(), base(verb));
            assert!(page.contains(&line), "{line}");
        }
        for class in Class::ALL {
            let line = format!("| `{}` | {} |", class.as_str(), of_class(class));
            assert!(page.contains(&line), "{line}");
        }
        assert!(page.contains(&format!("{HAZARD} points for each hazard")));
        assert!(page.contains(&format!("{DEPENDENT} points for each resource that depends on it")));
    }
}
