//! The first minutes after something went wrong: whatever a step started is gone, credentials are taken away and probed, evidence is kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::program::Bench;

/// Process trees of fifty that a command leaves running in ways of their own.
const TREES: [(&str, &str); 5] = [
    ("plain", "for n in $(seq 49); do sleep 600 & done; sleep 600"),
    ("setsid", "for n in $(seq 49); do setsid sleep 600 & done; sleep 600"),
    ("daemonised", "for n in $(seq 49); do (setsid sh -c 'sleep 600 & exit' &) ; done; sleep 600"),
    ("deep", "export D='if [ $0 -gt 0 ]; then sh -c \"$D\" $(($0 - 1)) & fi; sleep 600'; sh -c \"$D\" 49"),
    (
        "deaf",
        "for n in $(seq 49); do setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 600; done' & done; sleep 600",
    ),
];

fn plan(session: &str, line: &str, contain: &str) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "take long", "steps": [
        {"id": "w", "uses": "file.write", "with": {"path": "a", "content": "1\n"}},
        {"id": "c", "uses": "command.run", "needs": ["w"], "timeout_ms": 300_000,
         "with": {"argv": ["sh", "-c", line], "contain": contain, "writes": ["b"], "present": ["test", "-e", "b"]}, "undo": {"argv": ["true"]}}]})
}

/// Processes that carry the mark of a run of this bench, by their environment.
fn marked(bench: &Bench) -> usize {
    let own = bench.path("world").display().to_string();
    let is_mine = |pid: &std::path::Path| {
        let env = std::fs::read(pid.join("environ")).unwrap_or_default();
        let env = String::from_utf8_lossy(&env).into_owned();
        env.contains("BACKOUT_RUN=") && env.contains(&format!("PWD={own}"))
    };
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter(|entry| is_mine(&entry.path())).count()
}

/// A run whose command has all its processes.
fn running(bench: &Bench, session: &str, line: &str, contain: &str) -> Child {
    let file = bench.sign(session, &plan(session, line, contain));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}")).to_owned();
    for person in ["vera", "walt"].iter().take(gated.value["people"].as_u64().unwrap() as usize) {
        assert_eq!(bench.run(&["approve", &manifest, "--as", person]).code, 0);
    }
    let mut child = bench.command(&["run", &manifest]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.for_each(drop));
    let from = Instant::now();
    while marked(bench) < 50 {
        assert!(from.elapsed() < Duration::from_secs(60), "{session}: only {} processes", marked(bench));
        std::thread::yield_now();
    }
    child
}

fn until_none(bench: &Bench, what: &str) {
    let from = Instant::now();
    while marked(bench) > 0 {
        assert!(from.elapsed() < Duration::from_secs(10), "{what}: {} processes are left", marked(bench));
        std::thread::yield_now();
    }
}

/// A site in which irreversible steps may run, with these lines more.
fn site(bench: &Bench, more: &str) {
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}]\nallow_irreversible = true\n{more}"));
}

#[test]
fn a_stop_leaves_nothing_of_a_tree_whatever_it_did_to_get_away() {
    for (name, line) in TREES {
        let bench = Bench::new();
        site(&bench, "");
        let mut child = running(&bench, name, line, "none");
        assert_eq!(bench.run(&["stop", "--session", name, "--reason", "test"]).code, 0);
        until_none(&bench, name);
        assert_eq!(child.wait().unwrap().code(), Some(8), "{name}");
        assert_eq!(bench.run(&["undo", name]).value["end"], "rolled_back", "{name}");
    }
}

#[test]
fn a_runner_that_is_killed_leaves_nothing_running() {
    for (name, line) in TREES {
        let bench = Bench::new();
        site(&bench, "");
        let mut child = running(&bench, name, line, "none");
        child.kill().unwrap();
        child.wait().unwrap();
        // Nobody had to recover anything.
        until_none(&bench, name);
    }
}

#[test]
fn revoked_is_what_a_probe_finds_refused() {
    let bench = Bench::new();
    let (good, bad) = (bench.path("good"), bench.path("bad"));
    std::fs::write(&good, "").unwrap();
    std::fs::write(&bad, "").unwrap();
    let credential = |name: &str, revoke: &[&str], probe: &std::path::Path| {
        format!(
            "[[environments.test.credentials]]\nname = {name:?}\nagent = \"tester\"\nrevoke = {revoke:?}\nprobe = [\"test\", \"-e\", {probe:?}]\n"
        )
    };
    let all = credential("works", &["rm", "-f", good.to_str().unwrap()], &good);
    site(&bench, &all);
    let plan = json!({"session": "s", "agent": "tester", "environment": "test", "intent": "write", "steps": [
        {"id": "w", "uses": "file.write", "with": {"path": "a", "content": "1\n"}}]});
    let manifest = bench.gated("s", &plan);
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    let stopped = bench.run(&["stop", "--session", "s", "--reason", "test", "--revoke"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(stopped.value["revoked"][0]["refused"], true, "{stopped:?}");

    site(&bench, &credential("does not", &["true"], &bad));
    let stopped = bench.run(&["stop", "--agent", "tester", "--reason", "test", "--revoke", "--then", "undo"]);
    assert_eq!(stopped.code, 1, "what still works is not called revoked: {stopped:?}");
    let log = bench.run(&["log"]);
    assert_eq!(log.code, 0);
    let records = std::process::Command::new(tests::program::backout())
        .args(["--format", "jsonl", "--dir", bench.path("state").to_str().unwrap(), "log"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&records.stdout).into_owned();
    assert!(text.contains("\"works\"") && text.contains("\"does not\""), "both are on record: {text}");
    // A session that nobody knows takes nothing from anybody, and a probe that never worked proves nothing.
    std::fs::write(&good, "").unwrap();
    site(&bench, &credential("works", &["rm", "-f", good.to_str().unwrap()], &good));
    let typo = bench.run(&["stop", "--session", "no-such-session", "--reason", "test", "--revoke"]);
    assert_eq!((typo.code, typo.value["revoked"].as_array().map(Vec::len)), (0, Some(0)), "{typo:?}");
    assert!(good.exists());
    site(&bench, &credential("never", &["true"], &bench.path("missing")));
    assert_eq!(bench.run(&["stop", "--agent", "tester", "--reason", "test", "--revoke"]).code, 1);
    // An agent of whom the site names no credentials has none here.
    let other = bench.run(&["stop", "--agent", "deploy-bot", "--reason", "test", "--revoke"]);
    assert_eq!((other.code, other.value["revoked"].as_array().map(Vec::len)), (0, Some(0)), "{other:?}");
}

#[test]
fn an_incident_stops_keeps_and_plans_and_puts_nothing_back() {
    let bench = Bench::new();
    site(&bench, "");
    let mut child = running(&bench, "s", TREES[1].1, "none");
    let started = bench.run(&["incident", "start", "s", "--reason", "it deletes what it should not"]);
    assert_eq!(started.code, 0, "{started:?}");
    assert_eq!(child.wait().unwrap().code(), Some(8));
    until_none(&bench, "incident");
    let folder = std::path::PathBuf::from(started.value["folder"].as_str().unwrap());
    for name in ["records.jsonl", "journal.head", "state.json", "timeline.jsonl", "plan.txt", "incident.json"] {
        assert!(std::fs::metadata(folder.join(name)).is_ok_and(|meta| meta.len() > 0), "{name} is missing");
    }
    let steps: Vec<&str> =
        started.value["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["stop", "preserve", "preserve", "assess", "contain", "plan"]);
    assert!(started.value["steps"].as_array().unwrap().iter().all(|step| step["time"].is_string()));
    assert!(bench.path("world/a").exists(), "nothing was put back");
    let plan = started.value["plan"].to_string();
    assert!(plan.contains("backout recover") && plan.contains("backout resume"), "{plan}");
    assert_eq!(bench.run(&["recover", "s"]).value["end"], "rolled_back");
    assert_eq!(bench.run(&["verify"]).code, 0);
}

#[test]
fn doctor_says_what_is_so_and_what_it_costs() {
    let bench = Bench::new();
    let told = bench.run(&["doctor"]);
    assert_eq!(told.code, 0, "{told:?}");
    let checks = told.value["checks"].as_array().unwrap();
    let layers = checks.iter().find(|it| it["check"] == "commands over layers").unwrap();
    assert_eq!(layers["good"], true, "this machine can: {layers}");
    assert!(checks.iter().all(|it| it["good"] == true || (it["costs"].is_string() && it["fix"].is_string())));
    std::fs::remove_dir(bench.path("world")).unwrap();
    let told = bench.run(&["doctor"]);
    let root = told.value["checks"].as_array().unwrap().iter().find(|it| it["check"] == "root").unwrap().clone();
    assert_eq!(root["good"], false, "{root}");
}
