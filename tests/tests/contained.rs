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
    assert!(step["notes"].to_string().contains("moves d to e, with what is in it (1)"), "{step}");
    let made = step["changes"].as_array().unwrap().iter().find(|it| it["resource"].as_str().unwrap().ends_with("/f"));
    assert_eq!(made.unwrap()["digest"], format!("{}", snapshots::Hash::of(b"new\n")), "{step}");
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
    let refused = gate(&bench, "o", &sh("echo 2 > a; echo evil >> /etc/hosts", &["a"]));
    assert!(refused.code == 5 && detail(&refused).contains("open(/etc/hosts)"), "{refused:?}");
    let refused = gate(&bench, "u", &sh("cp /bin/true a; chmod u+s a", &["a"]));
    assert!(refused.code == 5 && detail(&refused).contains("setuid"), "{refused:?}");
    let refused = gate(&bench, "p", &sh("mkfifo d/pipe", &["d"]));
    assert!(refused.code == 5 && detail(&refused).contains("world/d/pipe is a pipe"), "{refused:?}");
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
    std::fs::write(root.join("dump"), "BACKUP\n").unwrap();
    let backups = format!("file:{0}/backups\", \"file:{0}/dump", root.display());
    bench.site(&format!(
        "[environments.test]\nroots = [{root:?}]\nallow_irreversible = true\nbackups = [\"{backups}\"]\n"
    ));
    // In a script of its own, where no word of the command names them.
    let line = format!("cat backups/db du* {}/keys/* > a 2>&1; echo seen >> a", bench.path("state").display());
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

/// Runs what was gated, and does something once the command is on its way.
fn meanwhile(bench: &Bench, manifest: &str, act: impl FnOnce()) -> Ran {
    use std::io::{BufRead as _, BufReader};
    let mut child = bench.command(&["run", manifest]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("apply_started")));
    act();
    let last = lines.last().unwrap_or_default();
    let code = child.wait().unwrap().code().unwrap();
    Ran { code, value: serde_json::from_str(&last).unwrap_or_default(), stderr: String::new() }
}

#[test]
fn what_somebody_writes_while_a_contained_command_runs_stays_theirs() {
    for (line, end) in
        [("sleep 1; echo step > a", "rolled_back"), ("sleep 1; test ! -e d/stop && echo step > a", "rolled_back")]
    {
        let bench = world();
        let gated = gate(&bench, "s", &sh(line, &["a", "d"]));
        let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}")).to_owned();
        let ran = meanwhile(&bench, &manifest, || {
            std::fs::write(bench.path("world/a"), "theirs\n").unwrap();
            std::fs::write(bench.path("world/d/theirs"), "theirs\n").unwrap();
        });
        assert_eq!(ran.value["end"], end, "{ran:?}");
        assert_eq!((read(&bench, "a"), read(&bench, "d/theirs")), ("theirs\n".into(), "theirs\n".into()), "{ran:?}");
    }
    let bench = world();
    let gated = gate(&bench, "s", &sh("sleep 1; echo step > d/c", &["d"]));
    let manifest = gated.value["manifest"].as_str().unwrap().to_owned();
    let ran = meanwhile(&bench, &manifest, || std::fs::write(bench.path("world/d/theirs"), "theirs\n").unwrap());
    assert_eq!(ran.value["end"], "committed", "{ran:?}");
    assert!(!ran.value["steps"].to_string().contains("theirs"), "a receipt claims what the step did: {ran:?}");
    let undone = bench.run(&["undo", "s"]);
    assert_eq!(read(&bench, "d/theirs"), "theirs\n", "{undo:?}", undo = undone);
    assert_eq!(undone.code, 7, "{undone:?}");
}

#[test]
fn a_program_cannot_be_good_when_it_is_tried_out_and_bad_when_it_runs() {
    let bench = world();
    let line = "case $BACKOUT_RUN in try) echo 2 > a;; *) rm b; echo 2 > a;; esac";
    let mut bait = plan("s", &sh(line, &["a", "b"]));
    bait["steps"][0]["expect"] = json!({"updated": 1});
    let file = bench.sign("s", &bait);
    let shown = bench.run(&["plan", "show", file.to_str().unwrap()]);
    assert!(
        shown.value["steps"][0]["changes"].to_string().contains("deleted"),
        "a trial has the mark of a run: {shown:?}"
    );
    // Something that differs from run to run: what the plan says nothing of is as it was assessed.
    let line = "if [ -e d/c ]; then echo 2 > a; fi; test $(($(date +%N | sed 's/^0*//') % 2)) -eq 0 || rm -f b; true";
    let mut loose = plan("l", &sh(line, &["a", "b"]));
    loose["steps"][0]["expect"] = json!({"updated": 1});
    for round in 0..6 {
        loose["session"] = json!(format!("l{round}"));
        let file = bench.sign("l", &loose);
        let gated = bench.run(&["gate", file.to_str().unwrap()]);
        let deletes = gated.value["blast"]["resources"]["file"]["deleted"].as_u64().unwrap_or_default();
        let ran = bench.run(&["run", gated.value["manifest"].as_str().unwrap()]);
        let deleted = u64::from(!bench.path("world/b").exists());
        assert_eq!(deleted, if ran.value["end"] == "committed" { deletes } else { 0 }, "{ran:?}");
        std::fs::write(bench.path("world/b"), "1\n").unwrap();
        std::fs::write(bench.path("world/a"), "1\n").unwrap();
    }
    // One that fails when it is tried out is not called reversible by its snapshot alone.
    let file = bench.sign("f", &plan("f", &sh("exit 1", &["a"])));
    let shown = bench.run(&["plan", "show", file.to_str().unwrap()]);
    assert_eq!(shown.value["steps"][0]["class"], "partially_reversible", "{shown:?}");
}

#[test]
fn names_links_and_roots_are_what_they_seem() {
    let bench = world();
    let odd = gate(&bench, "o", &json!({"argv": ["python3", "-c", "open(b'd/n\\xff', 'w')"], "writes": ["d"]}));
    assert!(odd.code == 5 && detail(&odd).contains("no text"), "{odd:?}");
    // Times of folders that nobody declared stay.
    let time = || std::fs::metadata(bench.path("world/d")).unwrap().modified().unwrap();
    let was = time();
    let gated = gate(&bench, "t", &sh("touch -d 2000-01-01 d; echo 2 > a", &["a"]));
    assert_eq!(bench.run(&["run", gated.value["manifest"].as_str().unwrap()]).value["end"], "committed");
    assert_eq!(time(), was);
    // A root in a root.
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}, {:?}]\nallow_irreversible = true\n", root.join("d")));
    let gated = gate(&bench, "n", &sh("echo 2 > d/c", &["d/c"]));
    let ran = bench.run(&["run", gated.value["manifest"].as_str().unwrap()]);
    assert_eq!((&ran.value["end"], read(&bench, "d/c").as_str()), (&json!("committed"), "2\n"), "{ran:?}");
    // Not contained: what it tried is in the record, by path, also where the program says nothing of it.
    let elsewhere = bench.path("elsewhere");
    std::fs::write(&elsewhere, "theirs\n").unwrap();
    let line = format!("echo 4 > a; echo evil > {} 2>/dev/null; exit 0", elsewhere.display());
    let file = bench.sign("q", &plan("q", &with(sh(&line, &["a"]), "contain", json!("none"))));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}"));
    for person in ["vera", "walt"] {
        bench.run(&["approve", manifest, "--as", person, "--confirm", "q"]);
    }
    let ran = bench.run(&["run", manifest]);
    assert_ne!(ran.value["end"], "committed", "{ran:?}");
    // What it may have done is named, and a look whether it could be undone does not promise it.
    assert!(bench.run(&["show", "q"]).value.to_string().contains("world/a"), "{ran:?}");
    let looked = bench.run(&["undo", "q", "--dry-run"]);
    assert_eq!((looked.code, &looked.value["no_way_back"]), (10, &json!(["c"])), "{looked:?}");
    let records = bench.command(&["log", "q"]).output().unwrap();
    let records = String::from_utf8_lossy(&records.stdout).into_owned();
    assert!(records.contains(&format!("open({})", elsewhere.canonicalize().unwrap().display())), "{records}");
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "theirs\n");
    // A link that is declared opens nothing outside, and modes outside stay, for a command that is not contained.
    let outside = bench.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("x"), "1\n").unwrap();
    std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
    let line = format!("echo evil > link/x; chmod 777 {0}; chown 7 {0}; echo 3 > a", outside.join("x").display());
    let params = with(sh(&line, &["a", "link"]), "contain", json!("none"));
    let file = bench.sign("m", &plan("m", &params));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    if let Some(manifest) = gated.value["manifest"].as_str() {
        for person in ["vera", "walt"] {
            bench.run(&["approve", manifest, "--as", person, "--confirm", "m"]);
        }
        bench.run(&["run", manifest]);
    }
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(outside.join("x")).unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("x")).unwrap(), "1\n");
    assert_eq!((meta.mode() & 0o777, meta.uid() == 7), (0o644, false));
}

/// A plan of shell lines, each after the one before, with what each writes.
fn session(name: &str, lines: &[(&str, &[&str])]) -> Value {
    let step = |(at, (line, writes)): (usize, &(&str, &[&str]))| {
        let needs: Vec<String> = at.checked_sub(1).map(|before| format!("s{before}")).into_iter().collect();
        json!({"id": format!("s{at}"), "uses": "command.run", "with": sh(line, writes), "needs": needs})
    };
    let steps: Vec<Value> = lines.iter().enumerate().map(step).collect();
    json!({"session": name, "agent": "tester", "environment": "test", "intent": "try", "steps": steps})
}

#[test]
fn a_whole_session_is_tried_out_before_anything_of_it_is_done() {
    let bench = world();
    let plan = session(
        "s",
        &[
            ("mkdir build; echo 1 > build/x; rm b; mv d e", &["build", "b", "d", "e"]),
            ("sed s/1/2/ build/x > build/y; echo again > b; echo 9 >> e/c", &["build", "b", "e"]),
            ("rm -r build && mkdir build && cat b e/c > build/z; rm e/c", &["build", "b", "e"]),
        ],
    );
    let file = bench.sign("s", &plan);
    let shown = bench.run(&["plan", "show", file.to_str().unwrap()]);
    let steps = shown.value["steps"].as_array().unwrap_or_else(|| panic!("{shown:?}"));
    for step in steps {
        let seen = (&step["confidence"], &step["class"]);
        assert_eq!(seen, (&json!("verified"), &json!("reversible_with_backup")), "{step}");
    }
    assert!(steps[1]["notes"].to_string().contains("on top of what s0 would leave"), "{shown:?}");
    let changes: Vec<String> = steps[1]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            format!(
                "{} {}",
                it["change"].as_str().unwrap(),
                it["resource"].as_str().unwrap().rsplit("world/").next().unwrap()
            )
        })
        .collect();
    assert_eq!(changes, ["created b", "created build/y", "updated e/c"], "{shown:?}");
    assert!(steps[1]["preview"].as_str().unwrap().contains("+9"), "{shown:?}");
    assert!(steps[2]["changes"].to_string().contains("deleted"), "{shown:?}");
    assert!(!bench.path("world/build").exists() && bench.path("world/b").exists(), "nothing was done yet");
    let left = std::fs::read_dir(bench.path("state/layers")).unwrap().count();
    assert_eq!(left, 0, "what was tried out is gone");
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!(gated.code, 0, "{gated:?}");
    let ran = bench.run(&["run", gated.value["manifest"].as_str().unwrap()]);
    assert_eq!(ran.value["end"], "committed", "{ran:?}");
    assert_eq!((read(&bench, "build/z"), read(&bench, "e/c")), ("again\n1\n9\n".into(), String::new()));
    let undone = bench.run(&["undo", "s"]);
    assert_eq!(undone.value["end"], "rolled_back", "{undone:?}");
    assert_eq!((read(&bench, "b"), read(&bench, "d/c")), ("1\n".into(), "1\n".into()));
    assert!(!bench.path("world/build").exists() && !bench.path("world/e").exists());
}

#[test]
fn a_session_that_was_approved_is_committed_as_it_was_seen() {
    let bench = world();
    let mut plan = session(
        "s",
        &[
            ("head -c 8 /dev/urandom | base64 > a; mv d e", &["a", "d", "e"]),
            ("cp a e/copy; head -c 8 /dev/urandom | base64 >> e/c", &["a", "e"]),
        ],
    );
    for step in plan["steps"].as_array_mut().unwrap() {
        step["with"]["commit"] = json!("approved");
    }
    let file = bench.sign("s", &plan);
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}"));
    let kept: Vec<_> =
        std::fs::read_dir(bench.path("state/layers")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let find = |name: &str| -> String {
        kept.iter().find_map(|at| std::fs::read_to_string(at.join("upper-0").join(name)).ok()).unwrap()
    };
    let (a, c) = (find("a"), find("e/copy"));
    assert_eq!(a, c, "the second saw what the first would leave");
    assert_eq!(bench.run(&["run", manifest]).value["end"], "committed");
    assert_eq!((read(&bench, "a"), read(&bench, "e/copy")), (a, c));
    assert_eq!(read(&bench, "e/c").lines().count(), 2);
    assert_eq!(bench.run(&["undo", "s"]).value["end"], "rolled_back");

    // Somebody changes what only the second step touches: nothing of the session stays.
    std::fs::write(bench.path("world/f"), "1\n").unwrap();
    let mut plan = session("t", &[("echo 2 > a", &["a"]), ("echo 2 > b; cat a >> b", &["a", "b"])]);
    plan["steps"][1]["with"]["reads"] = json!(["f"]);
    plan["steps"][1]["with"]["commit"] = json!("approved");
    for (name, theirs) in [("b", "theirs\n"), ("f", "theirs\n")] {
        plan["session"] = json!(format!("t{name}"));
        let file = bench.sign("t", &plan);
        let gated = bench.run(&["gate", file.to_str().unwrap()]);
        let was = read(&bench, name);
        std::fs::write(bench.path("world").join(name), theirs).unwrap();
        let stale = bench.run(&["run", gated.value["manifest"].as_str().unwrap()]);
        assert_eq!((stale.value["end"].as_str(), stale.code), (Some("rolled_back"), 7), "{stale:?}");
        assert_eq!((read(&bench, "a"), read(&bench, name)), ("1\n".to_owned(), theirs.to_owned()), "{stale:?}");
        std::fs::write(bench.path("world").join(name), was).unwrap();
    }
}

#[test]
fn what_a_step_does_on_top_of_another_is_bounded_like_any() {
    let bench = world();
    // Undeclared on top of another step: refused, with the step that does it.
    let file = bench.sign("u", &session("u", &[("mkdir n; echo 1 > n/x", &["n"]), ("cat n/x > b", &["n"])]));
    let refused = bench.run(&["gate", file.to_str().unwrap()]);
    assert!(refused.code == 5 && detail(&refused).contains("world/b (updated)"), "{refused:?}");
    assert_eq!(refused.value["findings"][0]["step"], "s1", "{refused:?}");
    // The first may differ within its bounds; the second is held to what it was seen to do, in its own bounds.
    let mut loose = session(
        "l",
        &[("head -c 8 /dev/urandom | base64 > a", &["a"]), ("cp a copy; echo 1 > f", &["a", "copy", "f"])],
    );
    loose["steps"][0]["expect"] = json!({"updated": 1});
    loose["steps"][1]["expect"] = json!({"created": 2});
    let manifest = bench.gated("l", &loose);
    let ran = bench.run(&["run", &manifest]);
    assert_eq!(ran.value["end"], "committed", "{ran:?}");
    assert_eq!(read(&bench, "a"), read(&bench, "copy"));
    // What fails on its own is not known, nor is what is built on it.
    let file = bench.sign("f", &session("f", &[("echo 3 > a; exit 1", &["a"]), ("cat a > b", &["a", "b"])]));
    let shown = bench.run(&["plan", "show", file.to_str().unwrap()]);
    let told = |at: usize| shown.value["steps"][at]["confidence"].clone();
    assert_eq!((told(0), told(1)), (json!("none"), json!("none")), "{shown:?}");
    let mut after_a_file = session("w", &[("cat d/c > f", &["f"])]);
    after_a_file["steps"][0]["needs"] = json!(["w"]);
    after_a_file["steps"][0]["with"]["reads"] = json!(["d/c"]);
    let write = json!({"id": "w", "uses": "file.write", "with": {"path": "d/c", "content": "2\n"}});
    after_a_file["steps"].as_array_mut().unwrap().push(write);
    let file = bench.sign("w", &after_a_file);
    let shown = bench.run(&["plan", "show", file.to_str().unwrap()]);
    let step = &shown.value["steps"][0];
    assert_eq!((&step["confidence"], &step["class"]), (&json!("none"), &json!("partially_reversible")), "{shown:?}");
}

#[test]
fn what_a_killed_gate_leaves_is_cleared_by_the_next() {
    let bench = world();
    let file = bench.sign("s", &plan("s", &sh("sleep 30", &["a"])));
    let mut child = bench.command(&["gate", file.to_str().unwrap()]).spawn().unwrap();
    let layers = bench.path("state/layers");
    let count = || std::fs::read_dir(&layers).map_or(0, Iterator::count);
    while count() == 0 {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(count() > 0);
    assert_eq!(gate(&bench, "t", &sh("echo 2 > a", &["a"])).code, 0);
    assert_eq!(count(), 0, "{:?}", tests::cage::names(&layers));
}

fn approved(mut plan: Value) -> Value {
    for step in plan["steps"].as_array_mut().unwrap() {
        if step["uses"] == "command.run" {
            step["with"]["commit"] = json!("approved");
        }
    }
    plan
}

fn gated_run(bench: &Bench, name: &str, plan: &Value, between: impl FnOnce()) -> Ran {
    let file = bench.sign(name, plan);
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}"));
    between();
    bench.run(&["run", manifest])
}

#[test]
fn what_was_approved_as_it_is_has_no_bounds_within_which_it_may_differ() {
    let bench = world();
    let mut one = approved(session("e", &[("echo 2 > a", &["a"])]));
    one["steps"][0]["expect"] = json!({"updated": 1});
    let ran = gated_run(&bench, "e", &one, || {
        let mut all = std::fs::read_dir(bench.path("state/layers")).unwrap().map(|entry| entry.unwrap().path());
        let kept = all.find(|path| path.to_string_lossy().contains("approved-")).unwrap();
        std::fs::write(kept.join("upper-0/a"), "evil\n").unwrap();
    });
    assert_eq!((&ran.value["end"], read(&bench, "a").as_str()), (&json!("rolled_back"), "1\n"), "{ran:?}");
    // What lies under a step that is approved is approved as well.
    let mut loose = session("l", &[("head -c 8 /dev/urandom | base64 > a", &["a"]), ("echo 2 > b", &["b"])]);
    loose["steps"][0]["expect"] = json!({"updated": 1});
    loose["steps"][1]["with"]["commit"] = json!("approved");
    let file = bench.sign("l", &loose);
    let refused = bench.run(&["gate", file.to_str().unwrap()]);
    assert!(refused.code == 5 && detail(&refused).contains("what s0 will leave may be something else"), "{refused:?}");
    let mut after_a_file = approved(session("f", &[("cat d/c > f", &["f"])]));
    after_a_file["steps"][0]["needs"] = json!(["w"]);
    let write = json!({"id": "w", "uses": "file.write", "with": {"path": "d/c", "content": "2\n"}});
    after_a_file["steps"].as_array_mut().unwrap().push(write);
    let file = bench.sign("f", &after_a_file);
    let refused = bench.run(&["gate", file.to_str().unwrap()]);
    assert!(refused.code == 5 && detail(&refused).contains("what w will leave may be something else"), "{refused:?}");
    // Run again instead, it does what was seen or nothing.
    after_a_file["steps"][0]["with"]["commit"] = json!("rerun");
    let ran = gated_run(&bench, "f", &after_a_file, || {});
    assert_eq!((&ran.value["end"], read(&bench, "d/c").as_str()), (&json!("rolled_back"), "1\n"), "{ran:?}");
}

#[test]
fn a_loose_step_hides_no_change_of_somebody_else_to_what_it_does_not_write() {
    let bench = world();
    let mut loose = session("s", &[("head -c 8 /dev/urandom | base64 > a", &["a"]), ("echo 2 > b", &["b"])]);
    for step in loose["steps"].as_array_mut().unwrap() {
        step["expect"] = json!({"updated": 1});
    }
    let ran = gated_run(&bench, "s", &loose, || std::fs::write(bench.path("world/b"), "theirs\n").unwrap());
    assert_eq!((ran.value["end"].as_str(), read(&bench, "b").as_str()), (Some("rolled_back"), "theirs\n"), "{ran:?}");
}

#[test]
fn what_a_step_only_opened_hides_nothing_of_another_step() {
    let bench = world();
    let mut plan = session(
        "s",
        &[
            ("echo g > g; exec 3<> a", &["g"]),
            ("echo new > a; mkdir n; rmdir n", &["a"]),
            ("cp a h; echo line >> a; mkdir n; echo in > n/x", &["a", "h", "n"]),
        ],
    );
    plan["steps"][1]["needs"] = json!([]);
    plan["steps"][2]["needs"] = json!(["s0", "s1"]);
    let ran = gated_run(&bench, "s", &approved(plan), || {});
    assert_eq!(ran.value["end"], "committed", "{ran:?}");
    let all = (read(&bench, "a"), read(&bench, "h"), read(&bench, "n/x"));
    assert_eq!(all, ("new\nline\n".into(), "new\n".into(), "in\n".into()));
}

/// The program in mounts of its own, after `prepare`, with `beside` running beside it.
fn with_own_mounts(bench: &Bench, prepare: &str, beside: &str, words: &[&str]) -> Ran {
    let script = format!("set -e; {prepare}; ({beside}) & \"$@\"; code=$?; wait; exit $code");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(backout());
    command.args(["--format", "jsonl", "--dir"]).arg(bench.path("state")).args(words);
    command.current_dir(bench.path("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ran(&command.output().unwrap())
}

#[test]
fn services_of_the_machine_have_no_sockets_over_a_layer_and_its_secrets_no_content() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = world();
    let program = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ntry:\n s.connect('/opt/x.sock'); s.send(b'evil')\nexcept OSError as e: open('a','w').write(type(e).__name__)\nfor _ in range(4000):\n  import time; time.sleep(.0005)\n  n=len(open('/etc/shadow').read())\n  if n: break\nopen('b','w').write(str(n))\n";
    std::fs::write(bench.path("world/try.py"), program).unwrap();
    let file = bench.sign("s", &plan("s", &json!({"argv": ["python3", "try.py"], "writes": ["a", "b"]})));
    let prepare = "mount -t tmpfs none /opt; cp -a /etc /opt/etc; mount --bind /opt/etc /etc; echo root:secret > /etc/shadow; \
                   python3 -c \"import socket; s=socket.socket(socket.AF_UNIX); s.bind('/opt/x.sock'); s.listen(); s.settimeout(9); s.accept()[0].recv(9) and open('/opt/got','w')\" 2>/dev/null & \
                   while ! [ -S /opt/x.sock ]; do :; done";
    let beside = "sleep 0.7; cp -a /etc/shadow /etc/shadow+; mv /etc/shadow+ /etc/shadow; sleep 2; if [ -e /opt/got ]; then touch got; fi";
    let shown = with_own_mounts(&bench, prepare, beside, &["plan", "show", file.to_str().unwrap()]);
    let preview = shown.value["steps"][0]["preview"].as_str().unwrap_or_else(|| panic!("{shown:?}"));
    assert!(preview.contains("+ConnectionRefusedError") && preview.contains("+0"), "{shown:?}");
    assert!(!bench.path("got").exists());
}

#[test]
fn what_an_ordinary_user_makes_read_only_is_committed_and_undone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = world();
    let copy = bench.path("backout");
    std::fs::copy(backout(), &copy).unwrap();
    let give = || Command::new("chown").args(["-R", "54321:54321"]).arg(bench.path("")).status().unwrap();
    let as_user = |words: &[&str]| {
        assert!(give().success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups"]).arg(&copy);
        command.args(["--format", "jsonl", "--dir"]).arg(bench.path("state")).args(words);
        command.current_dir(bench.path("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ran(&command.output().unwrap())
    };
    let lines: &[(&str, &[&str])] = &[
        ("echo 2 > a; chmod 444 a; mkdir o; cp a o/x; chmod 555 o", &["a", "o"]),
        ("chmod 755 o; echo 3 > o/y; chmod 444 o/y; chmod 555 o; exec 3< b", &["o"]),
    ];
    let file = bench.sign("s", &approved(session("s", lines)));
    let gated = as_user(&["gate", file.to_str().unwrap()]);
    let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}"));
    let ran = as_user(&["run", manifest]);
    assert_eq!((&ran.value["end"], read(&bench, "o/y").as_str()), (&json!("committed"), "3\n"), "{ran:?}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |name: &str| std::fs::metadata(bench.path("world").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("a"), mode("o"), mode("o/y")), (0o444, 0o555, 0o444));
    let undone = as_user(&["undo", "s"]);
    assert_eq!((&undone.value["end"], mode("a")), (&json!("rolled_back"), 0o644), "{undone:?}");
    assert!(!bench.path("world/o").exists());
}

#[test]
fn gates_of_one_plan_do_not_take_each_others_layers_away() {
    let bench = world();
    let lines: &[(&str, &[&str])] =
        &[("mkdir n; echo 1 > n/x", &["n"]), ("sleep 1; [ -e n/x ] && echo good > b || echo bad > b", &["b"])];
    let file = bench.sign("s", &approved(session("s", lines)));
    let start = || bench.command(&["gate", file.to_str().unwrap()]).spawn().unwrap();
    let gates: Vec<_> = (0..3).map(|_| start()).collect();
    let gated: Vec<Ran> = gates.into_iter().map(|gate| ran(&gate.wait_with_output().unwrap())).collect();
    // One that finds the log busy says so; what is decided is decided on what is there.
    let manifest = gated.iter().find_map(|ran| ran.value["manifest"].as_str()).unwrap_or_else(|| panic!("{gated:?}"));
    let shown = bench.run(&["plan", "show", file.to_str().unwrap()]);
    assert!(shown.value["steps"][1]["preview"].as_str().unwrap().contains("+good"), "{shown:?}");
    let ran = bench.run(&["run", manifest]);
    assert_eq!((&ran.value["end"], read(&bench, "b").as_str()), (&json!("committed"), "good\n"), "{ran:?}");
}
