//! The commit of a layer on the real program: killed at every call that it makes, all of it is there after `recover`, or nothing.
//!
//! A short version runs always; `BACKOUT_KILLS=500` the long one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use snapshots::{Root, scan};
use tests::program::{Bench, Ran, backout, ran};

/// Changes 20 files, deletes 10, makes 10 and folders, and puts a folder in the place of a file and a file in that of a folder.
const SCRIPT: &str = "set -e; cd tree; for n in $(seq 20); do echo changed $n >> f$n; done; for n in $(seq 21 30); do rm f$n; done; \
                      mkdir -p new/er; for n in $(seq 10); do echo $n > new/er/n$n; done; rm f31; mkdir f31; echo in > f31/in; \
                      rm -r old; echo file > old; ln f32 hard; ln -s f32 soft; chmod 600 f33; mv f34 new/f34; touch -d 2001-01-01 f35";

/// Calls at which a commit is killed, with how many of each it makes.
const CALLS: [(&str, usize); 5] = [("renameat", 40), ("unlinkat", 20), ("mkdirat", 6), ("utimensat", 8), ("syncfs", 2)];

fn make_tree(bench: &Bench) {
    let script = "mkdir -p tree/old/er && cd tree && for n in $(seq 40); do echo $n > f$n; done && echo o > old/er/o && \
                  find . -exec touch -d '2021-02-03 04:05:06' {} +";
    let done = Command::new("sh").args(["-c", script]).current_dir(bench.path("world")).status().unwrap();
    assert!(done.success());
}

fn plan(session: &str, commit: &str) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "be killed", "steps": [
        {"id": "c", "uses": "command.run", "with": {"argv": ["sh", "-c", SCRIPT], "writes": ["tree"], "commit": commit}}]})
}

/// Every name with all that it is; without times where they are made anew.
fn told(world: &Path, timeless: bool) -> Vec<String> {
    let tree = scan(&Root::open(world).unwrap(), &["tree".into()], None).unwrap();
    let print = |entry: &snapshots::Entry| if timeless { entry.content_fingerprint() } else { entry.fingerprint() };
    tree.entries.iter().map(|entry| format!("{} {}", entry.path.display(), print(entry))).collect()
}

fn killed_at(bench: &Bench, call: &str, when: usize, manifest: &str) -> Ran {
    let mut command = Command::new("strace");
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=SIGKILL:when={when}"));
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]).arg(backout());
    command.args(["--format", "jsonl", "--dir"]).arg(bench.path("state")).args(["run", manifest]);
    command.current_dir(bench.path("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ran(&command.output().unwrap())
}

#[test]
fn a_commit_that_is_killed_anywhere_is_there_as_a_whole_or_not_at_all() {
    let wanted: usize = std::env::var("BACKOUT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let all: usize = CALLS.iter().map(|(_, most)| most).sum();
    let (mut whole, mut none, mut session) = (0, 0, 0);
    let mut bench = Bench::new();
    make_tree(&bench);
    let before = told(&bench.path("world"), false);
    for round in 0..wanted {
        // Spread over all calls; every other round commits the layer that was approved.
        let mut at = (round * all / wanted.min(all) + round / all) % all;
        let (call, _) = CALLS
            .iter()
            .find(|(_, most)| {
                at < *most || {
                    at -= most;
                    false
                }
            })
            .unwrap();
        let commit = if round % 2 == 0 { "rerun" } else { "approved" };
        session += 1;
        let manifest = bench.gated("p", &plan(&format!("s{session}"), commit));
        let after = killed_at(&bench, call, at + 1, &manifest);
        let recovered = bench.run(&["recover"]);
        assert_eq!(bench.run(&["verify"]).code, 0, "{call} {at}: the log does not verify");
        if told(&bench.path("world"), false) == before {
            none += 1;
            continue;
        }
        // Then everything is: what the same command leaves without a kill.
        let other = Bench::new();
        make_tree(&other);
        let manifest = other.gated("p", &plan("whole", commit));
        assert_eq!(other.run(&["run", &manifest]).code, 0);
        assert_eq!(
            told(&bench.path("world"), true),
            told(&other.path("world"), true),
            "killed at {call} {at}: {after:?} {recovered:?}"
        );
        whole += 1;
        bench = Bench::new();
        make_tree(&bench);
    }
    println!("{wanted} kills: {whole} whole, {none} not at all");
    assert!(none > 0 && whole + none == wanted);
}

#[test]
fn without_the_note_of_a_commit_nobody_claims_to_know_whose_changes_are_there() {
    // In the middle of the commit: some names are as before and others as the step leaves them.
    let interrupted = |when: &usize| {
        let bench = Bench::new();
        make_tree(&bench);
        let before = told(&bench.path("world"), true);
        let manifest = bench.gated("p", &plan("s", "rerun"));
        killed_at(&bench, "renameat", *when, &manifest);
        let entries = std::fs::read_dir(bench.path("state/layers")).unwrap().map(|entry| entry.unwrap().path());
        let notes: Vec<_> = entries.filter(|path| path.to_string_lossy().contains("/commit-")).collect();
        let changed = told(&bench.path("world"), true);
        (changed != before && notes.len() == 1).then_some((bench, notes, changed))
    };
    let (bench, notes, changed) = [12, 18, 24, 30, 36].iter().find_map(interrupted).expect("no kill hit a commit");
    std::fs::remove_file(&notes[0]).unwrap();
    let recovered = bench.run(&["recover"]);
    assert_eq!(recovered.code, 10, "{recovered:?}");
    assert_eq!(told(&bench.path("world"), true), changed, "nothing was put back over what may be somebody else's");
}
