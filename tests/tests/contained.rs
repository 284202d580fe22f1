//! Commands over layers from plan to commit: what is measured, what is refused by name, what must be the same when it runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tests::program::{Bench, Ran, backout, ran};

fn plan(session: &str, with: &Value) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "try", "steps": [
        {"id": "c", "uses": "command.run", "with": with}]})
}

fn sh(line: &str, writes: &[&str]) -> Value {
    json!({"argv": ["sh", "-c", line], "writes": writes})
}

fn with(mut params: Value, name: &str, value: Value) -> Value {
    params[name] = value;
    params
}

fn world() -> Bench {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("world/d")).unwrap();
    for name in ["a", "b", "d/c"] {
        std::fs::write(bench.path("world").join(name), "1\n").unwrap();
    }
    bench
}

fn gate(bench: &Bench, session: &str, with: &Value) -> Ran {
    let file = bench.sign(session, &plan(session, with));
    bench.run(&["gate", file.to_str().unwrap()])
}

fn read(bench: &Bench, name: &str) -> String {
    std::fs::read_to_string(bench.path("world").join(name)).unwrap_or_default()
}

fn detail(ran: &Ran) -> String {
    ran.value["findings"][0]["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_unknown_program_is_measured_before_it_is_approved_and_can_be_undone() {
    let bench = world();
    let line = "echo 2 > a; rm b; mv d e; echo new > f";
    let file = bench.sign("s", &plan("s", &sh(line, &["a", "b", "d", "e", "f"])));
    let shown = bench.run(&["plan", "show", file.to_str().unwrap()]);
    let step = &shown.value["steps"][0];
    assert_eq!((&step["confidence"], &step["class"]), (&json!("verified"), &json!("reversible_with_backup")), "{step}");
    let changes: Vec<String> =
        step["changes"].as_array().unwrap().iter().map(|it| it["change"].as_str().unwrap().to_owned()).collect();
    assert_eq!(changes.len(), 7, "{step}");
    assert!(step["notes"].to_string().contains("moves d/c to e/c"), "{step}");
    assert!(step["preview"].as_str().unwrap().contains("-1\n+2"), "{step}");
    assert_eq!((read(&bench, "a"), read(&bench, "b")), ("1\n".to_owned(), "1\n".to_owned()), "nothing was done yet");
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!(gated.code, 0, "{gated:?}");
    assert_eq!(bench.run(&["run", gated.value["manifest"].as_str().unwrap()]).value["end"], "committed");
    assert_eq!(
        (read(&bench, "a"), read(&bench, "e/c"), read(&bench, "f")),
        ("2\n".into(), "1\n".into(), "new\n".into())
    );
    assert_eq!(bench.run(&["undo", "s"]).value["end"], "rolled_back");
    assert_eq!(
        (read(&bench, "a"), read(&bench, "d/c"), read(&bench, "f")),
        ("1\n".into(), "1\n".into(), String::new())
    );
}

#[test]
fn what_is_not_declared_is_refused_by_name_before_anything_is_done() {
    let bench = world();
    let refused = gate(&bench, "s", &sh("echo 2 > a; echo 2 > d/c", &["a"]));
    assert_eq!(refused.code, 5);
    assert!(detail(&refused).contains("world/d/c (updated)") && !detail(&refused).contains("world/a"), "{refused:?}");
    let refused = gate(&bench, "n", &sh("python3 -c 'import socket; socket.socket()' || true", &["a"]));
    assert!(refused.code == 5 && detail(&refused).contains("socket(AF_INET)"), "{refused:?}");
    let refused = gate(&bench, "u", &sh("cp /bin/true a; chmod u+s a", &["a"]));
    assert!(refused.code == 5 && detail(&refused).contains("setuid"), "{refused:?}");
    let refused = gate(&bench, "p", &sh("mkfifo d/pipe", &["d"]));
    assert!(refused.code == 5 && detail(&refused).contains("pipe"), "{refused:?}");
    assert_eq!(read(&bench, "a"), "1\n");
}

#[test]
fn a_step_that_does_something_else_than_when_it_was_assessed_is_not_committed() {
    let bench = world();
    let random = || sh("head -c 8 /dev/urandom | base64 > a", &["a"]);
    let gated = gate(&bench, "s", &random());
    let failed = bench.run(&["run", gated.value["manifest"].as_str().unwrap()]);
    assert_eq!(failed.value["end"], "rolled_back", "{failed:?}");
    assert!(failed.value["reason"].to_string().contains("something else than when it was assessed"), "{failed:?}");
    assert_eq!(read(&bench, "a"), "1\n");

    let mut expected = plan("e", &random());
    expected["steps"][0]["expect"] = json!({"created": 0, "updated": 1, "deleted": 0});
    let manifest = bench.gated("e", &expected);
    assert_eq!(bench.run(&["run", &manifest]).value["end"], "committed");
    assert_ne!(read(&bench, "a"), "1\n");

    let file = bench.sign("x", &plan("x", &with(random(), "commit", json!("approved"))));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let shown = bench.run(&["approvals"]);
    assert_eq!(shown.code, 0);
    assert_eq!(bench.run(&["run", gated.value["manifest"].as_str().unwrap()]).value["end"], "committed");
}

#[test]
fn a_layer_that_was_approved_is_committed_as_it_is_or_not_at_all() {
    let bench = world();
    let params = with(sh("head -c 8 /dev/urandom | base64 > a", &["a"]), "commit", json!("approved"));
    let file = bench.sign("s", &plan("s", &params));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let layers = bench.path("state/layers");
    let kept = std::fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    let assessed = std::fs::read_to_string(kept.join("upper-0/a")).unwrap();
    assert_eq!(bench.run(&["run", gated.value["manifest"].as_str().unwrap()]).value["end"], "committed");
    assert_eq!(read(&bench, "a"), assessed, "the very bytes that were assessed");

    // Somebody writes into the layer that waits.
    let file = bench.sign("t", &plan("t", &params));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let is_kept = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("approved-");
    let mut all = std::fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().path());
    std::fs::write(all.find(is_kept).unwrap().join("upper-0/a"), "evil\n").unwrap();
    let failed = bench.run(&["run", gated.value["manifest"].as_str().unwrap()]);
    assert_eq!(failed.value["end"], "rolled_back", "{failed:?}");
    assert_eq!(read(&bench, "a"), assessed);

    // What lies below changed since: stale, nothing touched.
    let file = bench.sign("w", &plan("w", &params));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    std::fs::write(bench.path("world/a"), "somebody else\n").unwrap();
    let stale = bench.run(&["run", gated.value["manifest"].as_str().unwrap()]);
    assert_eq!(stale.code, 7, "{stale:?}");
    assert_eq!(read(&bench, "a"), "somebody else\n");
}

#[test]
fn a_command_sees_no_backups_and_no_state_and_leaves_nothing_undeclared() {
    let bench = world();
    let root = bench.path("world").canonicalize().unwrap();
    std::fs::create_dir(root.join("backups")).unwrap();
    std::fs::write(root.join("backups/db"), "BACKUP\n").unwrap();
    let backups = format!("file:{}", root.join("backups").display());
    bench.site(&format!(
        "[environments.test]\nroots = [{root:?}]\nallow_irreversible = true\nbackups = [{backups:?}]\n"
    ));
    // In a script of its own, where no word of the command names them.
    let line = format!("cat backups/db {}/keys/* > a 2>&1; echo seen >> a", bench.path("state").display());
    std::fs::write(root.join("peek"), &line).unwrap();
    let gated = gate(&bench, "s", &json!({"argv": ["sh", "peek"], "writes": ["a"]}));
    let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}"));
    assert_eq!(bench.run(&["run", manifest]).value["end"], "committed");
    let seen = read(&bench, "a");
    assert!(seen.contains("seen") && !seen.contains("BACKUP") && !seen.contains("PRIVATE"), "{seen}");

    // Not contained, the same: and a file beside the declared one is found.
    std::fs::write(root.join("peek"), format!("{line}; echo x > beside")).unwrap();
    let params = json!({"argv": ["sh", "peek"], "writes": ["a"], "contain": "none"});
    let file = bench.sign("n", &plan("n", &params));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}")).to_owned();
    for person in ["vera", "walt"] {
        assert_eq!(bench.run(&["approve", &manifest, "--as", person, "--confirm", "n"]).code, 0);
    }
    let ran = bench.run(&["run", &manifest]);
    assert!(ran.value.to_string().contains("beside") && ran.value.to_string().contains("not declared"), "{ran:?}");
    let seen = read(&bench, "a");
    assert!(!seen.contains("BACKUP") && !seen.contains("PRIVATE"), "{seen}");
}

/// The program where no namespaces can be made: in a user namespace that allows no more of them.
fn without_namespaces(bench: &Bench, words: &[&str]) -> Ran {
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(backout());
    command.args(["--format", "jsonl", "--dir"]).arg(bench.path("state")).args(words);
    command.current_dir(bench.path("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ran(&command.output().unwrap())
}

#[test]
fn where_the_kernel_refuses_it_is_said_and_the_class_is_another() {
    let bench = world();
    let told = without_namespaces(&bench, &["doctor"]);
    let layers = told.value["checks"].as_array().unwrap_or_else(|| panic!("{told:?}"))[0].clone();
    assert_eq!(layers["good"], false, "{layers}");
    assert!(
        layers["costs"].as_str().unwrap().contains("irreversible")
            && layers["fix"].as_str().unwrap().contains("user namespaces")
    );
    let unknown = bench.sign("s", &plan("s", &sh("echo 2 > a", &["a"])));
    let shown = without_namespaces(&bench, &["plan", "show", unknown.to_str().unwrap()]);
    let step = &shown.value["steps"][0];
    assert_eq!((&step["confidence"], &step["class"]), (&json!("none"), &json!("irreversible")), "{shown:?}");
    assert!(step["notes"].to_string().contains("NOT contained"), "{step}");
    assert_eq!(without_namespaces(&bench, &["gate", unknown.to_str().unwrap()]).code, 5);
    // A known command is inventoried instead, and says so.
    let known = json!({"argv": ["sed", "-i", "s/1/2/", "a"], "writes": ["a"]});
    let file = bench.sign("k", &plan("k", &known));
    let gated = without_namespaces(&bench, &["gate", file.to_str().unwrap()]);
    assert_eq!(gated.code, 0, "{gated:?}");
    let ran = without_namespaces(&bench, &["run", gated.value["manifest"].as_str().unwrap()]);
    assert_eq!((&ran.value["end"], read(&bench, "a").as_str()), (&json!("committed"), "2\n"), "{ran:?}");
    // What was assessed over a layer is not run without one.
    let gated = gate(&bench, "l", &sh("echo 3 > a", &["a"]));
    let refused = without_namespaces(&bench, &["run", gated.value["manifest"].as_str().unwrap()]);
    assert_eq!((&refused.value["end"], read(&bench, "a").as_str()), (&json!("rolled_back"), "2\n"), "{refused:?}");
}
