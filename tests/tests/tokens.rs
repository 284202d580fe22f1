//! Execution tokens on the real program: nothing acts without one, each is on record, none is given twice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};
use tests::program::Bench;

fn plan(session: &str, steps: Value) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "spend", "steps": steps})
}

fn write(id: &str, path: &str) -> Value {
    json!({"id": id, "uses": "file.write", "with": {"path": path, "content": "1\n"}})
}

/// The tokens that a receipt lists, in the order of its steps.
fn tokens(receipt: &Value) -> Vec<String> {
    let steps = receipt["steps"].as_array().unwrap().iter();
    let of = |step: &Value| step["tokens"].as_array().unwrap().clone();
    steps.flat_map(of).map(|token| token.as_str().unwrap().to_owned()).collect()
}

/// Runs until a step of this id begins, then ends the program as a crash would.
fn crash_in(bench: &Bench, words: &[&str], step: &str) {
    let mut child = bench.command(words).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let begun = |line: &str| line.contains("apply_started") && line.contains(&format!("\"id\":\"{step}\""));
    while !begun(&lines.next().unwrap().unwrap()) {}
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Two writes round a command that takes its time.
fn slow() -> Value {
    let mut wait = json!({"id": "wait", "uses": "command.run", "with": {"argv": ["sleep", "2"]}, "needs": ["a"]});
    wait["timeout_ms"] = json!(20_000);
    let mut last = write("b", "b");
    last["needs"] = json!(["wait"]);
    json!([write("a", "a"), wait, last])
}

#[test]
fn a_receipt_lists_the_token_of_every_act_and_no_number_is_given_twice() {
    let bench = Bench::new();
    let manifest = bench.gated("s", &plan("s", slow()));
    crash_in(&bench, &["run", &manifest], "wait");
    let resumed = bench.run(&["recover", "s", "--resume"]);
    assert_eq!((resumed.code, resumed.value["end"].as_str()), (0, Some("committed")), "{resumed:?}");
    let run = resumed.value["run"].as_str().unwrap().to_owned();
    let forward = tokens(&resumed.value);
    let undone = bench.run(&["undo", "s"]);
    assert_eq!(undone.value["end"], "rolled_back", "{undone:?}");
    let mut all = tokens(&undone.value);
    assert!(forward.iter().all(|token| all.contains(token)), "{forward:?} {all:?}");
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!((count, all.len()), (7, 7), "the step in doubt acted twice: {all:?}");
    assert!(all.iter().enumerate().all(|(ix, token)| *token == format!("{run}.{ix}")), "{all:?}");
    assert_eq!(bench.run(&["verify"]).code, 0);
}

#[test]
fn a_runner_whose_key_the_trust_root_does_not_have_opens_no_run() {
    let bench = Bench::new();
    let manifest = bench.gated("s", &plan("s", json!([write("a", "a")])));
    std::fs::copy(bench.path("state/keys/tester.key"), bench.path("state/keys/runner.key")).unwrap();
    let ran = bench.run(&["run", &manifest]);
    assert_eq!((ran.code, bench.path("world/a").exists()), (3, false), "{ran:?}");
    assert_eq!(bench.run(&["recover"]).value["recovered"], json!([]), "no run was opened");
}

#[test]
fn a_run_that_goes_on_is_asked_again_and_may_always_go_back() {
    let bench = Bench::new();
    let manifest = bench.gated("s", &plan("s", slow()));
    crash_in(&bench, &["run", &manifest], "wait");
    bench.inventory("[[freeze]]\nname = \"now\"\nfrom = \"2020-01-01T00:00\"\nuntil = \"9000-01-01T00:00\"\n");
    let refused = bench.run(&["recover", "s", "--resume"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(!bench.path("world/b").exists());
    let back = bench.run(&["recover", "s"]);
    assert_eq!((back.code, back.value["end"].as_str()), (4, Some("rolled_back")), "{back:?}");
    assert!(!bench.path("world/a").exists());
}

#[test]
fn a_run_does_not_go_on_under_a_manifest_or_decisions_that_were_exchanged() {
    let bench = Bench::new();
    let manifest = bench.gated("s", &plan("s", slow()));
    crash_in(&bench, &["run", &manifest], "wait");
    let kept = bench.path("state/documents").join(format!("{}.json", manifest.trim_start_matches("sha256:")));
    let mut document: Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    document["signatures"][0]["sig"] = json!("AAAA");
    std::fs::write(&kept, document.to_string()).unwrap();
    let refused = bench.run(&["recover", "s", "--resume"]);
    assert_eq!((refused.code, bench.path("world/b").exists()), (3, false), "{refused:?}");
    assert_eq!(bench.run(&["recover", "s"]).value["end"], "rolled_back", "the way back needs no signature of the gate");
}
