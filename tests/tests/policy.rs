//! The default bundle against its cases, and what a bundle must never be able to do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::path::Path;

use serde_json::{Value, json};
use tests::program::Bench;

fn write(path: &str) -> Value {
    json!({"session": "s", "agent": "tester", "environment": "test", "intent": "write",
        "steps": [{"id": "w", "uses": "file.write", "with": {"path": path, "content": "x\n"}}]})
}

/// Puts an edited bundle in force, signed by both owners.
fn sign(bench: &Bench) -> i32 {
    bench.run(&["policy", "sign", "--as", "ada", "--as", "grace"]).code
}

fn edit(bench: &Bench, file: &str, from: &str, to: &str) {
    let path = bench.path("state/policy").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn every_case_is_decided_as_it_says_and_every_rule_decides_one() {
    let bench = Bench::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let ran = bench.run(&["policy", "test"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    println!("{} cases", ran.value["cases"]);
    assert!(ran.value["cases"].as_u64().unwrap() >= 200);
    let both = bench.run(&["policy", "test", "--cases", examples.to_str().unwrap()]);
    assert_eq!(both.value["cases"].as_u64().unwrap(), 2 * ran.value["cases"].as_u64().unwrap(), "the same files");
}

#[test]
fn a_case_that_does_not_hold_is_told_and_the_bundle_is_not_signed() {
    let bench = Bench::new();
    edit(&bench, "policies/30-needs.cedar", "context.evidence.approvals >= 2 };", "context.evidence.approvals >= 1 };");
    edit(&bench, "policies/30-needs.cedar", "@need(\"approvals>=2\")", "@need(\"approvals>=1\")");
    let ran = bench.run(&["policy", "test"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(!ran.value["failed"].as_array().unwrap().is_empty());
    assert_eq!(sign(&bench), 2);
}

#[test]
fn a_bundle_that_was_changed_after_it_was_signed_decides_nothing() {
    let bench = Bench::new();
    let plan = bench.sign("w", &write("a"));
    let gate = || bench.run(&["gate", plan.to_str().unwrap()]);
    assert_eq!(gate().code, 0);
    for (file, text) in [
        ("policies/10-permits.cedar", "@id(\"ALL/1\") permit (principal, action, resource);"),
        ("policies/99-more.cedar", "@id(\"MORE/1\") permit (principal, action, resource);"),
    ] {
        let path = bench.path("state/policy").join(file);
        let before = std::fs::read(&path).ok();
        std::fs::write(&path, text).unwrap();
        let ran = gate();
        assert_eq!((ran.code, ran.value["type"].as_str()), (5, Some("policy-error")), "{file}: {ran:?}");
        match before {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
    }
    std::fs::remove_file(bench.path("state/policy/policies/20-guards.cedar")).unwrap();
    assert_eq!(gate().code, 5, "a file that is signed and gone");
}

#[test]
fn one_owner_does_not_put_a_bundle_in_force_and_an_older_one_does_not_come_back() {
    let bench = Bench::new();
    for alone in [&["--as", "ada"][..], &["--as", "ada", "--as", "ada"], &["--as", "tester", "--as", "ada"]] {
        let ran = bench.run(&[&["policy", "sign"], alone].concat());
        assert_eq!(ran.code, 3, "{alone:?}: {ran:?}");
    }
    let old = std::fs::read(bench.path("state/policy/bundle.json")).unwrap();
    assert_eq!(sign(&bench), 0);
    std::fs::write(bench.path("state/policy/bundle.json"), old).unwrap();
    let plan = bench.sign("w", &write("a"));
    let ran = bench.run(&["gate", plan.to_str().unwrap()]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.value["title"].as_str().unwrap().contains("serial"), "{ran:?}");
}

#[test]
fn a_new_bundle_makes_an_open_manifest_stale() {
    let bench = Bench::new();
    let manifest = bench.gated("w", &write("a"));
    edit(&bench, "policies/10-permits.cedar", "// What may be done at all.", "// What may be done.");
    assert_eq!(sign(&bench), 0);
    let ran = bench.run(&["run", &manifest]);
    assert_eq!((ran.code, ran.value["type"].as_str()), (7, Some("stale")), "{ran:?}");
}

#[test]
fn a_decision_is_explained_and_made_again_from_what_was_kept() {
    let bench = Bench::new();
    let plan = bench.sign("w", &write("a"));
    let gated = bench.run(&["gate", plan.to_str().unwrap()]);
    let id = gated.value["decisions"][0]["id"].as_str().unwrap();
    let ran = bench.run(&["policy", "explain", id]);
    assert_eq!((ran.code, &ran.value["reproduced"]), (0, &json!(true)), "{ran:?}");
    assert_eq!(ran.value["decision"]["rules"], json!(["ALLOW-change/1"]));
    bench.inventory("[[resource]]\nmatch = [\"file:/**\"]\nprotected = true\n");
    assert_eq!(
        bench.run(&["policy", "explain", id]).value["reproduced"],
        json!(true),
        "today's inventory does not matter"
    );
}

#[test]
fn a_candidate_bundle_tells_which_decisions_would_be_different() {
    let bench = Bench::new();
    bench.gated("w", &write("a"));
    let candidate = bench.path("candidate");
    std::fs::create_dir_all(candidate.join("policies")).unwrap();
    for file in std::fs::read_dir(bench.path("state/policy/policies")).unwrap().flatten() {
        std::fs::copy(file.path(), candidate.join("policies").join(file.file_name())).unwrap();
    }
    let words = ["policy", "simulate", candidate.to_str().unwrap()];
    assert_eq!(bench.run(&words).value["different"], json!([]));
    let strict = "@id(\"NEED-all/1\") @need(\"approvals>=1\") @why(\"all\")\n\
        forbid (principal, action in Backout::Action::\"mutate\", resource) unless { context.evidence.approvals >= 1 };";
    std::fs::write(candidate.join("policies/50-strict.cedar"), strict).unwrap();
    let ran = bench.run(&words);
    assert_eq!(ran.value["different"][0]["after"], json!("hold"), "{ran:?}");
    assert_eq!(ran.value["different"][0]["rules"], json!("NEED-all/1"));
}

#[test]
fn a_shadow_bundle_reports_and_decides_nothing() {
    let bench = Bench::new();
    let folder = bench.path("state/shadow/policies");
    std::fs::create_dir_all(&folder).unwrap();
    let rules = "@id(\"ALL/1\") permit (principal, action, resource);\n\
        @id(\"NEED-all/1\") @need(\"approvals>=1\") @why(\"all\")\n\
        forbid (principal, action in Backout::Action::\"mutate\", resource) unless { context.evidence.approvals >= 1 };";
    std::fs::write(folder.join("x.cedar"), rules).unwrap();
    let plan = bench.sign("w", &write("a"));
    let ran = bench.run(&["gate", plan.to_str().unwrap()]);
    assert_eq!((ran.code, &ran.value["verdict"]), (0, &json!("allow")), "{ran:?}");
    assert_eq!(ran.value["shadow"], json!(["w: allow here, hold approvals>=1 there, by NEED-all/1"]));
    std::fs::write(folder.join("x.cedar"), "permit (principal").unwrap();
    let ran = bench.run(&["gate", plan.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.value["shadow"][0].as_str().unwrap().contains("x.cedar"), "{ran:?}");
}

#[test]
fn two_plans_with_one_idempotency_key_are_one_request() {
    let bench = Bench::new();
    let keyed = |name: &str, path: &str| {
        let mut plan = write(path);
        plan["idempotency_key"] = json!("request-7");
        let file = bench.sign(name, &plan);
        bench.run(&["gate", file.to_str().unwrap()])
    };
    let gated = |ran: &tests::program::Ran| ran.value["manifest"].as_str().unwrap().to_owned();
    let (first, second) = (gated(&keyed("one", "a")), gated(&keyed("one", "a")));
    let other = keyed("two", "b");
    assert_eq!((other.code, other.value["type"].as_str()), (5, Some("idempotency")), "{other:?}");
    assert_eq!(bench.run(&["run", &second]).code, 0);
    let twice = bench.run(&["run", &first]);
    assert_eq!((twice.code, twice.value["type"].as_str()), (5, Some("idempotency")), "{twice:?}");
    let again = keyed("one", "a");
    assert_eq!((again.code, again.value["type"].as_str()), (5, Some("idempotency")), "{again:?}");
}
