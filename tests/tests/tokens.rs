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

/// Two writes, the second of which fails its check: a run that waits.
fn held(bench: &Bench, session: &str) -> Value {
    let mut failing = write("b", "b");
    failing["verify"] = json!([{"uses": "file.absent", "with": {"path": "b"}}]);
    failing["needs"] = json!(["a"]);
    let plan = plan(session, json!([write("a", "a"), failing]));
    let manifest = bench.gated(session, &plan);
    assert_eq!(bench.run(&["run", &manifest, "--on-failure", "hold"]).code, 8);
    plan
}

fn replayed(bench: &Bench, session: &str, plan: &Value) -> tests::program::Ran {
    let file = bench.sign(&format!("{session}-2"), plan);
    let gated = bench.run(&["gate", file.to_str().unwrap(), "--replay", session]);
    assert_eq!(gated.code, 0, "{gated:?}");
    bench.run(&["replay", session, gated.value["manifest"].as_str().unwrap()])
}

#[test]
fn a_receipt_also_lists_the_tokens_of_steps_that_a_corrected_plan_replaced() {
    let bench = Bench::new();
    let mut plan = held(&bench, "s");
    plan["steps"][1] = write("c", "c");
    let ran = replayed(&bench, "s", &plan);
    assert_eq!(ran.value["end"], "committed", "{ran:?}");
    let mut all = tokens(&ran.value);
    let replaced = ran.value["replaced"].as_array().unwrap();
    all.extend(replaced.iter().map(|token| token.as_str().unwrap().to_owned()));
    all.sort();
    let run = ran.value["run"].as_str().unwrap();
    assert_eq!(all, (0..4).map(|act| format!("{run}.{act}")).collect::<Vec<_>>(), "a, b, b undone, c");
    assert_eq!(bench.run(&["verify"]).code, 0);
}

#[test]
fn a_replay_uses_up_the_limits_like_a_run() {
    let bench = Bench::new();
    bench.inventory("[[limit]]\nname = \"writes\"\nper = \"session\"\nat_most = 3\nverbs = [\"create\"]\n");
    let mut plan = held(&bench, "s");
    let of = |names: &[&str]| names.iter().map(|name| write(name, name)).collect::<Vec<_>>();
    plan["steps"] = json!(of(&["a", "c", "d", "e"]));
    let file = bench.sign("s-2", &plan);
    let gated = bench.run(&["gate", file.to_str().unwrap(), "--replay", "s"]);
    assert_eq!((gated.code, gated.value["type"].as_str()), (5, Some("limit")), "{gated:?}");
    plan["steps"] = json!(of(&["a", "c", "d"]));
    let ran = replayed(&bench, "s", &plan);
    assert_eq!(ran.value["end"], "committed", "{ran:?}");
    let budgets = bench.run(&["limits"]).value["budgets"].clone();
    assert_eq!(budgets[0]["used"], 3, "what the plan before reserved is given back: {budgets}");
}

#[test]
fn a_no_to_a_plan_holds_for_every_manifest_of_it_and_for_a_run_that_goes_on() {
    let bench = Bench::new();
    let asked = plan("s", slow());
    let (one, other) = (bench.gated("s", &asked), bench.gated("s", &asked));
    let third = bench.gated("s", &asked);
    crash_in(&bench, &["run", &third], "wait");
    assert_eq!(bench.run(&["reject", &one, "--as", "vera"]).code, 0);
    let resumed = bench.run(&["recover", "s", "--resume"]);
    assert_eq!((resumed.code, bench.path("world/b").exists()), (5, false), "{resumed:?}");
    assert_eq!(bench.run(&["recover", "s"]).value["end"], "rolled_back");
    assert_eq!(bench.run(&["run", &other]).code, 5);
}

#[test]
fn a_run_does_not_go_on_where_a_root_leads_elsewhere() {
    let bench = Bench::new();
    let (one, two, link) = (bench.path("one"), bench.path("two"), bench.path("link"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&two).unwrap();
    std::os::unix::fs::symlink(&one, &link).unwrap();
    bench.site(&format!("[environments.test]\nroots = [{link:?}]\n"));
    let manifest = bench.gated("s", &plan("s", slow()));
    crash_in(&bench, &["run", &manifest], "wait");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&two, &link).unwrap();
    assert_eq!(bench.run(&["recover", "s", "--resume"]).code, 7);
    assert_eq!(bench.run(&["recover", "s"]).value["end"], "rolled_back");
}

#[test]
fn a_way_back_needs_no_runner_that_is_in_the_trust_root() {
    let bench = Bench::new();
    let manifest = bench.gated("s", &plan("s", json!([write("a", "a")])));
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    std::fs::copy(bench.path("state/keys/tester.key"), bench.path("state/keys/runner.key")).unwrap();
    bench.run(&["undo", "s"]);
    assert!(!bench.path("world/a").exists());
}

#[test]
fn a_log_that_opened_a_run_with_another_plan_lends_it_no_manifest() {
    use journal::{Entry, Journal as _, LogSigner, SqliteJournal};
    use schemas::{RecordBody, SecretKey};
    for ran_before in [false, true] {
        let bench = Bench::new();
        let (good, other) = (
            bench.gated("s", &plan("s", json!([write("a", "a")]))),
            bench.gated("t", &plan("t", json!([write("x", "x")]))),
        );
        if ran_before {
            assert_eq!(bench.run(&["run", &good]).code, 0);
        }
        let text = std::fs::read_to_string(bench.path("state/keys/log.key")).unwrap();
        let signer = LogSigner::new(&SecretKey::from_pem(&text).unwrap()).unwrap();
        let mut journal = SqliteJournal::open_to_write(&bench.path("state/journal.db"), signer).unwrap();
        let named = |manifest: &str| {
            let file = bench.path("state/documents").join(format!("{}.json", manifest.trim_start_matches("sha256:")));
            let kept = schemas::Envelope::from_json(&std::fs::read(file).unwrap()).unwrap();
            let said: Value = serde_json::from_slice(&kept.unverified_payload().unwrap()).unwrap();
            said["predicate"].clone()
        };
        let digest = |value: &Value| value.as_str().unwrap().parse::<schemas::Digest>().unwrap();
        let (first, second) = (named(&good), named(&other));
        let forged = RecordBody::RunOpened {
            plan: digest(&second["plan"]),
            manifest: digest(&json!(good)),
            assessment: digest(&second["assessment"]),
            decisions: digest(&first["decisions"]),
            approvals: Vec::new(),
            on_failure: schemas::OnFailure::Undo,
            steps: 1,
            admitted: None,
            reserved: Vec::new(),
        };
        let subject = schemas::RunSubject {
            run: "run-forged".to_owned(),
            session: "s".to_owned(),
            agent: "tester".to_owned(),
            environment: "test".to_owned(),
        };
        let entry = Entry { subject: Some(std::sync::Arc::new(subject)), fact: forged };
        journal.append(jiff::Timestamp::now(), &[entry]).unwrap();
        drop(journal);
        let resumed = bench.run(&["recover", "run-forged", "--resume"]);
        assert_eq!((resumed.code, bench.path("world/x").exists()), (11, false), "{resumed:?}");
    }
}
