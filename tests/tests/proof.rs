//! Everything that is proved of the default bundle, and weakenings of it that must be found. Needs cvc5, which the test command installs.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic)]

use std::collections::BTreeMap;

use policy::Bundle;
use prover::{Direction, diff, find_solver, prove};

/// The default bundle with one text replaced in one of its files.
fn weakened(file: &str, from: &str, to: &str) -> Bundle {
    changed(&Bundle::shipped(), file, from, to)
}

fn changed(bundle: &Bundle, file: &str, from: &str, to: &str) -> Bundle {
    let mut files: BTreeMap<String, String> = bundle.files().clone();
    let text = files.get_mut(file).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    *text = text.replacen(from, to, 1);
    Bundle::new(files).unwrap()
}

/// The default bundle with a need changed as well, so that the lint has nothing to say.
fn weakened_with_need(from: &str, to: &str, need: (&str, &str)) -> Bundle {
    changed(&weakened(NEEDS, from, to), NEEDS, need.0, need.1)
}

const CRITICAL: (&str, &str) =
    ("@id(\"NEED-critical/1\")\n@need(\"approvals>=2\")", "@id(\"NEED-critical/1\")\n@need(\"approvals>=1\")");
const HOLD_TEST: &str = "unless { context.evidence.legal_hold_clear };";
const HOLD_OR_PEOPLE: &str = "unless { context.evidence.legal_hold_clear || context.evidence.approvals >= 3 };";
const HOLD: (&str, &str) = ("@need(\"legal_hold_clear\")", "@need(\"legal_hold_clear;approvals>=3\")");

const PERMITS: &str = "policies/10-permits.cedar";
const GUARDS: &str = "policies/20-guards.cedar";
const NEEDS: &str = "policies/30-needs.cedar";
const REPAIR: &str = "policies/40-repair.cedar";

#[test]
fn the_default_bundle_is_proved() {
    let solver = find_solver().unwrap_or_else(|| panic!("cvc5 is not installed: cargo xtask test installs it"));
    let proof = prove(&Bundle::shipped(), &solver).unwrap();
    println!("{} questions, {} invariants", proof.questions, proof.invariants.len());
    assert!(proof.violations.is_empty(), "{:#?}", proof.violations);
    assert!(proof.invariants.len() >= 10 && proof.questions > 1_000);
}

/// Each is a slip of the pen that strict validation lets through.
#[test]
fn every_seeded_weakening_is_found_as_looser() {
    let solver = find_solver().unwrap();
    let weakenings = [
        (
            GUARDS,
            "resource.tier == Backout::Tier::\"production\" && context.target.wildcard",
            "resource.tier == Backout::Tier::\"staging\" && context.target.wildcard",
        ),
        (
            GUARDS,
            "context.class == Backout::Class::\"irreversible\" && !context.site.allows_irreversible",
            "context.class == Backout::Class::\"irreversible\" && context.site.allows_irreversible",
        ),
        (GUARDS, "when { resource.protected };", "when { resource.protected && resource.sensitive };"),
        (GUARDS, "context.target.share > context.site.max_delete_share", "context.target.share > 100"),
        (
            GUARDS,
            "when { context.calendar.frozen && context.session.mode == Backout::Mode::\"normal\" };",
            "when { context.calendar.frozen && context.session.mode == Backout::Mode::\"repair\" };",
        ),
        (
            GUARDS,
            "principal in Backout::Duty::\"change\" || principal in Backout::Duty::\"operate\"",
            "principal in Backout::Duty::\"operate\"",
        ),
        (
            GUARDS,
            "context.hazards.contains(Backout::Hazard::\"backup_disabled\") || context.hazards.contains(Backout::Hazard::\"audit_disabled\")",
            "context.hazards.contains(Backout::Hazard::\"backup_disabled\") && context.hazards.contains(Backout::Hazard::\"audit_disabled\")",
        ),
        (
            GUARDS,
            "when { resource.boundary == Backout::Boundary::\"outside\" };",
            "when { resource.boundary == Backout::Boundary::\"outside\" && resource.shared };",
        ),
        (
            NEEDS,
            "forbid (principal, action in Backout::Action::\"mutate\", resource is Backout::Secret)",
            "forbid (principal, action == Backout::Action::\"rotate\", resource is Backout::Secret)",
        ),
        (
            NEEDS,
            "when { context.class == Backout::Class::\"irreversible\" }",
            "when { context.class == Backout::Class::\"irreversible\" && resource.tier == Backout::Tier::\"production\" }",
        ),
        (
            REPAIR,
            "context.session.mode == Backout::Mode::\"repair\" && context.repair.backup_verified",
            "context.session.mode == Backout::Mode::\"repair\"",
        ),
        (
            PERMITS,
            "!(resource is Backout::Backup) && !(resource is Backout::Secret) && context.session.mode",
            "!(resource is Backout::Backup) && context.session.mode",
        ),
    ];
    let one = |(file, from, to): (&str, &str, &str)| (format!("{from} -> {to}"), weakened(file, from, to));
    let critical = "when { context.risk == Backout::Risk::\"critical\" }\nunless { context.evidence.approvals >= ";
    let fewer = weakened_with_need(&format!("{critical}2 }};"), &format!("{critical}1 }};"), CRITICAL);
    let either = weakened_with_need(HOLD_TEST, HOLD_OR_PEOPLE, HOLD);
    let both = [("fewer people".to_owned(), fewer), ("a hold or people".to_owned(), either)];
    for (what, bundle) in weakenings.into_iter().map(one).chain(both) {
        let found = diff(&Bundle::shipped(), &bundle, &solver).unwrap();
        assert!(found.iter().any(|it| it.direction == Direction::Looser), "{what}");
        let shown = found.iter().filter(|it| it.direction == Direction::Looser).all(|it| !it.example.is_null());
        assert!(shown, "{what}");
    }
}

#[test]
fn a_broken_invariant_is_named_with_a_request_that_breaks_it() {
    let solver = find_solver().unwrap();
    let bundle = weakened_with_need(HOLD_TEST, HOLD_OR_PEOPLE, HOLD);
    let proof = prove(&bundle, &solver).unwrap();
    let what: Vec<&str> = proof.violations.iter().map(|violation| violation.what.as_str()).collect();
    assert_eq!(what, ["INV-backup-legal-hold"]);
    let violation = proof.violations.first().unwrap();
    assert_eq!(
        (violation.place.as_str(), violation.example["action"].as_str().unwrap()),
        ("delete Backup", "Backout::Action::\"delete\"")
    );
}

#[test]
fn a_need_that_does_not_lift_its_rule_is_found() {
    let solver = find_solver().unwrap();
    let critical = "when { context.risk == Backout::Risk::\"critical\" }\nunless { context.evidence.approvals >= 2";
    let bundle = weakened(NEEDS, critical, &format!("{critical} && resource.shared"));
    let proof = prove(&bundle, &solver).unwrap();
    assert!(proof.violations.iter().any(|it| it.what == "needs-sufficient" && it.rules == ["NEED-critical/1"]));
}

#[test]
fn bundles_that_decide_alike_have_no_difference_however_they_are_written() {
    let solver = find_solver().unwrap();
    let rewritten = weakened(
        GUARDS,
        "when { context.class == Backout::Class::\"irreversible\" && !context.site.allows_irreversible };",
        "when { !(context.site.allows_irreversible || context.class != Backout::Class::\"irreversible\") };",
    );
    assert_eq!(diff(&Bundle::shipped(), &rewritten, &solver).unwrap().len(), 0);
    let tighter = weakened(
        GUARDS,
        "context.target.share > context.site.max_delete_share",
        "context.target.share >= context.site.max_delete_share",
    );
    let found = diff(&Bundle::shipped(), &tighter, &solver).unwrap();
    assert!(!found.is_empty() && found.iter().all(|it| it.direction == Direction::Tighter));
}
