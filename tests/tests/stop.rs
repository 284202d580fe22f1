//! Stops on the real program: at once, over restarts, when nothing else works, and lifted by operators alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::program::{Bench, Ran};

fn write(id: &str, path: &str) -> Value {
    json!({"id": id, "uses": "file.write", "with": {"path": path, "content": "1\n"}})
}

/// A write, a command of a minute, a write.
fn slow(session: &str) -> Value {
    let mut wait = json!({"id": "wait", "uses": "command.run", "with": {"argv": ["sleep", "60"]}, "needs": ["a"]});
    wait["timeout_ms"] = json!(90_000);
    let mut last = write("b", "b");
    last["needs"] = json!(["wait"]);
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "take long",
        "steps": [write("a", "a"), wait, last]})
}

fn quick(session: &str, path: &str) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "be quick", "steps": [write("w", path)]})
}

/// A run that is in its long command.
fn running(bench: &Bench, session: &str) -> Child {
    let manifest = bench.gated(session, &slow(session));
    let mut child = bench.command(&["run", &manifest]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let begun = |line: &str| line.contains("apply_started") && line.contains("\"id\":\"wait\"");
    while !begun(&lines.next().unwrap().unwrap()) {}
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn stop(bench: &Bench, words: &[&str]) -> Ran {
    let ran = bench.run(&[&["stop", "--reason", "test"], words].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    ran
}

fn id(stopped: &Ran) -> &str {
    stopped.value["stop"]["id"].as_str().unwrap()
}

/// The state folder must be beneath a place where the processes of this run alone are.
fn sleepers(run: &str) -> usize {
    let marked = |pid: &std::path::Path| {
        std::fs::read(pid.join("environ"))
            .is_ok_and(|env| String::from_utf8_lossy(&env).contains(&format!("BACKOUT_RUN={run}")))
    };
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter(|entry| marked(&entry.path())).count()
}

#[test]
fn a_stop_ends_what_runs_at_once_and_keeps_it_from_going_on_until_it_is_lifted() {
    let bench = Bench::new();
    let mut child = running(&bench, "s");
    let asked = Instant::now();
    let stopped = stop(&bench, &["--session", "s"]);
    let reached = stopped.value["reached"].as_array().unwrap();
    assert_eq!(reached.len(), 1, "{stopped:?}");
    assert_eq!(child.wait().unwrap().code(), Some(8));
    assert!(asked.elapsed() < Duration::from_secs(20), "the command would have slept for a minute");
    let run = reached[0].as_str().unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(sleepers(&run), 0);
    assert!(bench.path("world/a").exists() && !bench.path("world/b").exists());

    assert_eq!(bench.run(&["recover", "s", "--resume"]).code, 8, "it stays stopped in another process");
    let lifted = bench.run(&["resume", id(&stopped), "--as", "ada", "--reason", "all clear"]);
    assert_eq!(lifted.code, 0, "{lifted:?}");
    assert_eq!(bench.run(&["stops"]).code, 0);
    assert_eq!(bench.run(&["undo", "s"]).value["end"], "rolled_back");
    assert_eq!(bench.run(&["verify"]).code, 0);
}

#[test]
fn a_stop_may_say_that_everything_is_put_back() {
    let bench = Bench::new();
    let mut child = running(&bench, "s");
    stop(&bench, &["--all", "--then", "undo"]);
    assert_eq!(child.wait().unwrap().code(), Some(8), "put back, and never green");
    assert!(!bench.path("world/a").exists());
    let status = bench.run(&["show", "s"]);
    assert_eq!(status.value["receipt"]["end"], "rolled_back", "{status:?}");
}

#[test]
fn a_stop_covers_what_it_names_and_nothing_else() {
    let bench = Bench::new();
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}]\n[environments.prod]\nroots = [{root:?}]\n"));
    for (words, stopped) in [
        (["--session", "s"], true),
        (["--session", "t"], false),
        (["--agent", "tester"], true),
        (["--environment", "prod"], false),
        (["--kind", "file"], true),
        (["--kind", "git"], false),
    ] {
        let manifest = bench.gated("s", &quick("s", &format!("x{}{}", words[0], words[1])));
        let stop = stop(&bench, &words);
        let ran = bench.run(&["run", &manifest]);
        assert_eq!(ran.code == 8, stopped, "{words:?}: {ran:?}");
        let lifted = bench.run(&["resume", id(&stop), "--as", "ada", "--reason", "next"]);
        assert_eq!(lifted.code, 0, "{lifted:?}");
    }
}

#[test]
fn a_stop_of_everything_is_lifted_by_two_operators_and_by_nobody_else() {
    let bench = Bench::new();
    for (name, owner) in [("oscar", "oscar"), ("ada-2", "ada")] {
        assert_eq!(bench.run(&["key", "new", name, "--owner", owner, "--role", "operator"]).code, 0);
    }
    let stopped = stop(&bench, &["--all"]);
    let file = bench.sign("g", &quick("g", "x"));
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    assert_eq!((gated.code, &gated.value["stopped"][0]), (0, &serde_json::json!(id(&stopped))), "{gated:?}");
    let resume = |names: &[&str]| {
        let keys = names.iter().flat_map(|name| ["--as", name]);
        bench.run(&[&["resume", id(&stopped), "--reason", "r"][..], &keys.collect::<Vec<_>>()].concat()).code
    };
    for names in [&["ada"][..], &["ada", "ada"], &["ada", "ada-2"], &["ada", "vera"], &["tester", "oscar"]] {
        assert_eq!(resume(names), 3, "{names:?}");
        assert_eq!(bench.run(&["stops"]).code, 8);
    }
    // Those whom `init` made.
    assert_eq!(resume(&["ada", "grace"]), 0);
    assert_eq!(bench.run(&["stops"]).code, 0);
}

#[test]
fn where_nobody_can_tell_what_is_stopped_everything_is() {
    let bench = Bench::new();
    let manifest = bench.gated("s", &quick("s", "x"));
    let folder = bench.path("state/stops");
    std::fs::write(folder.join("odd.stop.json"), "not a stop").unwrap();
    assert_eq!(bench.run(&["run", &manifest]).code, 8);
    std::fs::remove_file(folder.join("odd.stop.json")).unwrap();
    std::fs::remove_dir(&folder).unwrap();
    let ran = bench.run(&["run", &manifest]);
    assert_eq!((ran.code, bench.path("world/x").exists()), (8, false), "{ran:?}");
    std::fs::create_dir(&folder).unwrap();

    let stopped = stop(&bench, &["--session", "elsewhere"]);
    let file = folder.join(format!("{}.stop.json", id(&stopped)));
    let kept = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let ran = bench.run(&["run", &manifest]);
    assert!(ran.code == 8 && ran.value["title"].as_str().unwrap().contains("its file is gone"), "{ran:?}");
    std::fs::write(&file, kept).unwrap();
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
}

#[test]
fn a_lift_is_for_one_stop_and_not_older_than_it() {
    let bench = Bench::new();
    let first = stop(&bench, &["--session", "s"]);
    assert_eq!(bench.run(&["resume", id(&first), "--as", "ada", "--reason", "r"]).code, 0);
    let second = stop(&bench, &["--session", "s"]);
    let folder = bench.path("state/stops");
    let old = folder.join("lifted").join(format!("{}.lift.json", id(&first)));
    std::fs::copy(old, folder.join(format!("{}.lift.json", id(&second)))).unwrap();
    assert_eq!(bench.run(&["stops"]).code, 8, "the lift of another stop lifts nothing");
}

#[test]
fn a_lift_outlives_the_key_that_signed_it_and_a_revoked_key_lifts_nothing() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["key", "new", "oscar", "--role", "operator"]).code, 0);
    let first = stop(&bench, &["--session", "s"]);
    assert_eq!(bench.run(&["resume", id(&first), "--as", "oscar", "--reason", "r"]).code, 0);
    assert_eq!(bench.run(&["key", "revoke", "oscar"]).code, 0);
    assert_eq!(bench.run(&["stops"]).code, 0, "no stop comes back");
    let second = stop(&bench, &["--session", "s"]);
    assert_eq!(bench.run(&["resume", id(&second), "--as", "oscar", "--reason", "r"]).code, 3);
    let manifest = bench.gated("t", &quick("t", "x"));
    assert_eq!(bench.run(&["run", &manifest]).code, 0, "another session goes on, and the log misses no stop");
}

#[test]
fn stopping_works_when_the_journal_is_gone_and_undoing_works_when_stopped() {
    let bench = Bench::new();
    let manifest = bench.gated("s", &quick("s", "x"));
    assert_eq!(bench.run(&["run", &manifest]).code, 0);
    let stopped = stop(&bench, &["--agent", "tester"]);
    assert_eq!(bench.run(&["undo", "s"]).value["end"], "rolled_back");
    assert!(!bench.path("world/x").exists());
    std::fs::remove_file(bench.path("state/journal.db")).unwrap();
    let again = stop(&bench, &["--all"]);
    assert!(again.value["unknown"].is_string() && again.value["noted"] == false, "{again:?}");
    assert_ne!(id(&again), id(&stopped));
}

#[test]
fn what_a_killed_runner_left_in_the_temporary_folder_is_cleared_by_recover() {
    let bench = Bench::new();
    let mut child = running(&bench, "s");
    let own = format!("backout-own-{}-", child.id());
    let left = || {
        let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().filter_map(Result::ok);
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count()
    };
    while left() == 0 {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(left(), 1);
    let recovered = bench.run(&["recover"]);
    assert_eq!((recovered.code, left()), (4, 0), "{recovered:?}");
}
