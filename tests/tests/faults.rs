//! System calls of the real program fail: EIO, ENOSPC, a failing sync, writes that are cut short. Whatever fails, wherever:
//! the log verifies, and every run ends as the log says once the fault is gone.
//!
//! Calls are made to fail by `strace`, short writes by a limit on the size of files. A short version runs always;
//! `BACKOUT_FAULTS=300` the long one.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic, clippy::indexing_slicing)]

use std::process::{Command, Stdio};

use tests::program::{Bench, backout, ran};
use tests::world::{digest, digest_of_contents, make_world, plan};

/// Calls, what they fail with, and how many of them a run of the plan makes at most.
const FAULTS: [(&str, &str, usize); 9] = [
    ("pwrite64,write", "ENOSPC", 400),
    ("pwrite64,write", "EIO", 400),
    ("fdatasync,fsync", "EIO", 120),
    ("fdatasync,fsync", "ENOSPC", 120),
    ("renameat,renameat2,rename", "EIO", 40),
    ("openat,openat2", "EMFILE", 500),
    ("pread64,read", "EIO", 600),
    ("mkdirat,mkdir,linkat,symlinkat", "ENOSPC", 20),
    ("unlinkat,unlink", "EIO", 40),
];

fn faults_wanted() -> usize {
    std::env::var("BACKOUT_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(36)
}

/// The program under a tool that breaks it, with the words of `Bench::command`.
fn broken(bench: &Bench, tool: &[String], words: &[&str]) -> Command {
    let mut command = Command::new(&tool[0]);
    command.args(&tool[1..]).arg(backout()).args(["--format", "jsonl", "--dir"]).arg(bench.path("state")).args(words);
    command.current_dir(bench.path("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[derive(Default, Debug)]
struct Figures {
    faults: usize,
    committed: usize,
    rolled_back: usize,
    refused: usize,
    stuck: usize,
    never_opened: usize,
}

/// Runs the plan under `tool`, then lets recovery finish without it, and judges what is there. Says whether the world is used up.
fn play(bench: &Bench, round: usize, tool: &[String], figures: &mut Figures) -> bool {
    figures.faults += 1;
    let (before, contents) = (digest(bench), digest_of_contents(bench));
    let manifest = bench.gated("p", &plan(&format!("s{round}"), round));
    let first = ran(&broken(bench, tool, &["run", &manifest]).output().unwrap());
    assert!(first.code != 255 && !first.stderr.contains("panicked"), "{tool:?}: {first:?}");
    let recovered = bench.run(&["recover"]);
    assert_eq!(bench.run(&["verify"]).code, 0, "{tool:?}: the log does not verify");
    let status = bench.run(&["status"]);
    let line = status.value["runs"].as_array().and_then(|lines| lines.last().cloned()).unwrap_or_default();
    let mine = line["session"] == format!("s{round}");
    let end = if mine { line["end"].as_str().unwrap_or("").to_owned() } else { "never_opened".to_owned() };
    let now = digest(bench);
    match end.as_str() {
        "never_opened" => figures.never_opened += 1,
        "rolled_back" => figures.rolled_back += 1,
        "refused" => figures.refused += 1,
        "stuck" => {
            // The fault is gone: another look must find the way back, or name the lock that a library could not take away.
            figures.stuck += 1;
            let mut again = bench.run(&["recover", &format!("s{round}")]);
            if again.value["end"] == "stuck" {
                assert!(again.value["steps"].to_string().contains(".lock"), "{tool:?}: {again:?}");
                remove_locks(&bench.path("world/repo/.git"));
                again = bench.run(&["recover", &format!("s{round}")]);
            }
            assert_eq!(again.value["end"], "rolled_back", "{tool:?}: {again:?}");
            assert_eq!(digest_of_contents(bench), contents, "{tool:?} claims to be rolled back after it was stuck");
            return false;
        }
        "committed" => {
            figures.committed += 1;
            let lines = std::fs::read_to_string(bench.path("world/conf/log.txt")).unwrap();
            let count = lines.lines().filter(|line| *line == format!("line {round}")).count();
            assert_eq!(count, 1, "{tool:?}: round {round} was done {count} times");
            return true;
        }
        other => panic!("{tool:?}: {other:?} is no end: {first:?} {recovered:?}"),
    }
    assert_eq!(now, before, "{tool:?} claims {end}: {first:?} {recovered:?}");
    false
}

/// What a person does who reads that a lock is in the way.
fn remove_locks(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            remove_locks(&entry.path());
        } else if entry.path().extension().is_some_and(|end| end == "lock") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn no_call_that_fails_leaves_a_wrong_claim() {
    let mut figures = Figures::default();
    let rounds = faults_wanted();
    let mut bench = Bench::new();
    make_world(&bench);
    for round in 0..rounds {
        let (calls, error, most) = FAULTS[round % FAULTS.len()];
        // Spread over the whole run.
        let when = 1 + (round / FAULTS.len()) * most / rounds.div_ceil(FAULTS.len());
        // Once, or from then on: a disk that is full stays full.
        let on = if (round / FAULTS.len()).is_multiple_of(2) { "" } else { "+" };
        let inject = format!("inject={calls}:error={error}:when={when}{on}");
        let trace = format!("trace={calls}");
        let tool = words(&["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
        if play(&bench, round, &tool, &mut figures) {
            bench = Bench::new();
            make_world(&bench);
        }
    }
    println!("{figures:?}");
    assert!(figures.rolled_back + figures.refused + figures.never_opened > 0, "no fault did anything");
}

#[test]
fn no_write_that_is_cut_short_leaves_a_wrong_claim() {
    let mut figures = Figures::default();
    for (round, kilobytes) in [1, 40, 90, 130, 200, 260, 330, 600].into_iter().enumerate() {
        let bench = Bench::new();
        make_world(&bench);
        // Beyond the limit a write is short, and the next one fails with EFBIG, as the signal is ignored.
        let limited = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$@\"");
        let tool = words(&["bash", "-c", &limited, "bash"]);
        play(&bench, round, &tool, &mut figures);
    }
    println!("{figures:?}");
    assert!(figures.committed < 8, "no limit did anything");
}
