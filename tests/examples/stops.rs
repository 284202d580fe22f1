//! Measures how long a tree of fifty processes lives after `backout stop`, and after its runner was killed. The tree holds a pipe with a
//! name: its end is the end of the last process. Run by `cargo xtask bench stops [ROUNDS]`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::program::Bench;

const TREES: [(&str, &str); 5] = [
    ("plain", "for n in $(seq 49); do sleep 600 & echo >&9; done; echo >&9; sleep 600"),
    ("setsid", "for n in $(seq 49); do setsid sleep 600 & echo >&9; done; echo >&9; sleep 600"),
    ("daemonised", "for n in $(seq 49); do (setsid sh -c 'sleep 600 & exit' &); echo >&9; done; echo >&9; sleep 600"),
    ("deep", "export D='echo >&9; if [ $0 -gt 0 ]; then sh -c \"$D\" $(($0 - 1)) & fi; sleep 600'; sh -c \"$D\" 49"),
    (
        "mixed",
        "for n in $(seq 16); do sleep 600 & echo >&9; setsid sleep 600 & echo >&9; (setsid sh -c 'sleep 600 & exit' &); echo >&9; done; echo >&9; echo >&9; sleep 600",
    ),
];

/// A run with its tree, and the pipe that the tree holds.
fn running(bench: &Bench, line: &str) -> (std::process::Child, std::fs::File) {
    let fifo = bench.path("world/fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let pipe = std::fs::File::options().read(true).custom_flags(0o4000).open(&fifo).unwrap();
    let script = format!("exec 9> fifo; {line}");
    let plan = json!({"session": "s", "agent": "tester", "environment": "test", "intent": "measure", "steps": [
        {"id": "c", "uses": "command.run", "timeout_ms": 300_000, "undo": {"argv": ["true"]},
         "with": {"argv": ["sh", "-c", script], "contain": "none", "writes": ["b"], "present": ["test", "-e", "b"]}}]});
    let file = bench.sign("s", &plan);
    let gated = bench.run(&["gate", file.to_str().unwrap()]);
    let manifest = gated.value["manifest"].as_str().unwrap_or_else(|| panic!("{gated:?}")).to_owned();
    for person in ["vera", "walt"].iter().take(gated.value["people"].as_u64().unwrap() as usize) {
        bench.run(&["approve", &manifest, "--as", person]);
    }
    let child = bench.command(&["run", &manifest]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let (mut seen, mut buffer, mut pipe) = (0, [0u8; 256], pipe);
    let from = Instant::now();
    while seen < 50 {
        seen += pipe.read(&mut buffer).unwrap_or(0);
        assert!(from.elapsed() < Duration::from_secs(30), "only {seen} processes");
    }
    (child, pipe)
}

/// Waits until nobody holds the pipe any more.
fn gone(mut pipe: std::fs::File) -> Instant {
    let mut buffer = [0u8; 256];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Instant::now(),
            _ => std::thread::yield_now(),
        }
    }
}

fn told(name: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let bars: Vec<String> = [1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0, f64::INFINITY]
        .windows(2)
        .map(|edge| format!("{}", times.iter().filter(|time| **time > edge[0] && **time <= edge[1]).count()))
        .collect();
    let first = times.iter().filter(|time| **time <= 1.0).count();
    println!("| {name} | {:.1} | {:.1} | {:.1} | {first} {} |", at(0.5), at(0.99), at(1.0), bars.join(" "));
}

fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20);
    println!("milliseconds; the histogram counts up to 1, 2, 3, 5, 7, 10, 20, 50 and more");
    println!("| tree of 50 | p50 | p99 | most | histogram |\n|---|---|---|---|---|");
    for (name, line) in TREES {
        let (mut from_file, mut from_return, mut from_kill) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let bench = Bench::new();
            site(&bench);
            let (mut child, pipe) = running(&bench, line);
            let watcher = std::thread::spawn(move || gone(pipe));
            let mut stop = bench.command(&["stop", "--session", "s", "--reason", "bench"]).spawn().unwrap();
            let folder = bench.path("state/stops");
            let is_stop = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".stop.json");
            while !std::fs::read_dir(&folder).unwrap().filter_map(Result::ok).any(is_stop) {}
            let durable = Instant::now();
            stop.wait().unwrap();
            let returned = Instant::now();
            let end = watcher.join().unwrap();
            let ms = |since: Instant| end.checked_duration_since(since).unwrap_or_default().as_secs_f64() * 1000.0;
            from_file.push(ms(durable));
            from_return.push(ms(returned));
            child.wait().unwrap();

            let bench = Bench::new();
            site(&bench);
            let (mut child, pipe) = running(&bench, line);
            let killed = Instant::now();
            child.kill().unwrap();
            from_kill.push(gone(pipe).duration_since(killed).as_secs_f64() * 1000.0);
            child.wait().unwrap();
        }
        told(&format!("{name}: stop returned"), from_return);
        told(&format!("{name}: stop file there"), from_file);
        told(&format!("{name}: runner killed"), from_kill);
    }
}

fn site(bench: &Bench) {
    let root = bench.path("world").canonicalize().unwrap();
    bench.site(&format!("[environments.test]\nroots = [{root:?}]\nallow_irreversible = true\n"));
}
