//! Input that nobody should send: mutated plans and envelopes, huge and hostile plans, links that are swapped while a run goes on,
//! clocks that jump. Each comes to a finding or an error, touches nothing, and never panics.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use kernel::Facts;
use schemas::{Document as _, Envelope, Plan, Role, SecretKey, TrustRoot, TrustedKey};
use serde_json::{Value, json};
use snapshots::Store;
use tests::program::{Bench, Ran, ran};

fn plan(session: &str, steps: Value) -> Value {
    json!({"session": session, "agent": "tester", "environment": "test", "intent": "hurt", "steps": steps})
}

fn write(id: &str, path: &str) -> Value {
    json!({"id": id, "uses": "file.write", "with": {"path": path, "content": "x\n"}})
}

/// A small generator (xorshift64), so that a failure can be played again.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    /// A few bytes changed, left out, doubled or replaced by what parsers trip over.
    fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        const TRAPS: [&[u8]; 12] = [
            b"\"",
            b"{",
            b"[[[[",
            b"\\u0000",
            b"\xff",
            b"null",
            b"1e999",
            b"-",
            b",,",
            b"\"a\":1,\"a\":2,",
            b"..",
            b"/",
        ];
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len());
            match self.below(4) {
                0 => out[at] = self.below(256) as u8,
                1 => drop(out.drain(at..(at + 1 + self.below(8)).min(bytes.len()).min(out.len()).max(at))),
                2 => out.splice(at..at, TRAPS[self.below(TRAPS.len())].iter().copied()).for_each(drop),
                _ => {
                    let end = (at + 16).min(out.len());
                    let part = out[at..end].to_vec();
                    out.splice(at..at, part).for_each(drop);
                }
            }
        }
        out
    }
}

/// A plan with every kind of step in it.
fn rich() -> Vec<u8> {
    let mut plan = tests::world::plan("rich", 1);
    plan["checks"] = json!([{"uses": "file.exists", "with": {"path": "conf/a.txt"}}]);
    plan["steps"][0]["expect"] = json!({"created": 1});
    plan["steps"][8]["undo"] =
        json!({"argv": ["true"], "capture": [{"name": "x", "argv": ["cat", "n"], "regex": "(.)"}]});
    serde_json::to_vec(&plan).unwrap()
}

fn drivers() -> (tempfile::TempDir, kernel::DriverSet, Arc<Facts>) {
    let dir = tempfile::tempdir().unwrap();
    let drivers = drivers::all(&Store::open(&dir.path().join("store")).unwrap(), None);
    let roots = vec![dir.path().canonicalize().unwrap()];
    (
        dir,
        drivers,
        Arc::new(Facts {
            environment: "test".to_owned(),
            roots,
            protected: Vec::new(),
            backups: Vec::new(),
            contains: false,
        }),
    )
}

#[test]
fn mutated_plans_are_parsed_or_found_wanting() {
    let (_dir, drivers, facts) = drivers();
    let (genuine, mut random) = (rich(), Seeded(0x2545_f491_4f6c_dd1d));
    let (mut parsed, mut checked) = (0, 0);
    for _ in 0..4_000 {
        let Ok(plan) = planner::parse(&random.mutated(&genuine)) else { continue };
        parsed += 1;
        checked += usize::from(planner::check(plan, &drivers, &facts).is_ok());
    }
    assert!(parsed > 50 && checked > 10, "{parsed} parsed, {checked} checked: the mutations are too coarse");
}

#[test]
fn a_mutated_envelope_is_never_good_unless_it_says_the_same() {
    let key = SecretKey::from_seed([3; 32]);
    let mut trust = TrustRoot::new(1, Timestamp::now() + jiff::SignedDuration::from_hours(1));
    let trusted = TrustedKey {
        public: key.public_hex(),
        scheme: "ed25519".to_owned(),
        owner: "tester".to_owned(),
        not_after: Timestamp::now() + jiff::SignedDuration::from_hours(1),
        revoked_at: None,
        environments: vec!["test".to_owned()],
        duties: Vec::new(),
    };
    trust.enrol(trusted, &Role::Agent).unwrap();
    let payload = rich();
    let genuine = Envelope::sign(Plan::PAYLOAD_TYPE, &payload, &[&key]).to_json();
    let mut random = Seeded(0x9e37_79b9_7f4a_7c15);
    let mut good = 0;
    for _ in 0..4_000 {
        let bytes = random.mutated(&genuine);
        let Ok(envelope) = Envelope::from_json(&bytes) else { continue };
        if let Ok(verified) = envelope.verify::<Plan>(&trust, &Role::Agent, Timestamp::now()) {
            good += 1;
            assert_eq!(verified.digest(), schemas::Digest::of(&payload), "{}", String::from_utf8_lossy(&bytes));
        }
    }
    assert!(good < 4_000);
}

#[test]
fn a_hundred_thousand_steps_that_all_want_one_file_are_findings() {
    let (_dir, drivers, facts) = drivers();
    for shape in ["unordered", "chain", "tree"] {
        let step = |ix: usize| {
            let mut step = write(&format!("s{ix}"), "one/file");
            match shape {
                "chain" if ix > 0 => step["needs"] = json!([format!("s{}", ix - 1)]),
                "tree" if ix > 0 => step["needs"] = json!([format!("s{}", (ix - 1) / 2)]),
                _ => {}
            }
            step
        };
        let steps: Vec<Value> = (0..100_000).map(step).collect();
        let parsed = planner::parse(&serde_json::to_vec(&plan("many", json!(steps))).unwrap()).unwrap();
        let outcome = planner::check(parsed, &drivers, &facts);
        assert_eq!(outcome.is_ok(), shape == "chain", "{shape}");
    }
}

#[test]
fn a_hundred_megabytes_are_refused_by_their_size() {
    let bench = Bench::new();
    let file = bench.path("large.json");
    let mut text = b"{\"session\":\"".to_vec();
    text.resize(100 << 20, b'x');
    text.extend_from_slice(b"\"}");
    std::fs::write(&file, text).unwrap();
    for words in [&["plan", "check"][..], &["gate"], &["plan", "sign", "--as", "tester"]] {
        let ran = bench.run(&[words, &[file.to_str().unwrap()]].concat());
        assert!(matches!(ran.code, 2 | 3), "{words:?}: {ran:?}");
    }
}

#[test]
fn links_that_are_swapped_while_a_run_goes_on_lead_nowhere() {
    let bench = Bench::new();
    let outside = bench.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let (folder, link) = (bench.path("world/d"), bench.path("world/other"));
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let steps: Vec<Value> = (0..60).map(|ix| write(&format!("s{ix}"), &format!("d/f{ix}"))).collect();
    for round in 0..6 {
        let manifest = bench.gated("p", &plan(&format!("r{round}"), json!(steps)));
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                // The folder and a link to another place change names, again and again, in one atomic step each.
                while !stop.load(Ordering::SeqCst) {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, &folder, rustix::fs::CWD, &link, exchange).unwrap();
                }
            });
            let ran = bench.run(&["run", &manifest]);
            stop.store(true, Ordering::SeqCst);
            assert!(ran.code != 255 && ran.code != -1, "{ran:?}");
        });
        if std::fs::symlink_metadata(&folder).unwrap().is_symlink() {
            std::fs::rename(&folder, bench.path("world/tmp")).unwrap();
            std::fs::rename(&link, &folder).unwrap();
            std::fs::rename(bench.path("world/tmp"), &link).unwrap();
        }
        let _ = bench.run(&["recover"]);
        assert_eq!(bench.run(&["verify"]).code, 0);
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was written outside the root");
}

/// A library that shifts the wall clock of a program by `BACKOUT_TEST_SHIFT` seconds.
fn shifted_clock(bench: &Bench) -> PathBuf {
    let (source, library) = (bench.path("clock.c"), bench.path("clock.so"));
    let text = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdlib.h>
        #include <time.h>
        int clock_gettime(clockid_t id, struct timespec *out) {
            static int (*real)(clockid_t, struct timespec *);
            if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
            int code = real(id, out);
            const char *shift = getenv("BACKOUT_TEST_SHIFT");
            if (code == 0 && shift && id == CLOCK_REALTIME) out->tv_sec += atol(shift);
            return code;
        }"#;
    std::fs::write(&source, text).unwrap();
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(made.unwrap().success());
    library
}

fn at(bench: &Bench, library: &PathBuf, seconds: i64, words: &[&str]) -> Ran {
    let mut command = bench.command(words);
    command.env("LD_PRELOAD", library).env("BACKOUT_TEST_SHIFT", seconds.to_string());
    ran(&command.output().unwrap())
}

#[test]
fn a_clock_that_jumps_takes_no_run_over_and_revives_nothing() {
    let bench = Bench::new();
    let clock = shifted_clock(&bench);
    let wait = json!([{"id": "wait", "uses": "command.run", "with": {"argv": ["sleep", "3"]}}]);
    let manifest = bench.gated("a", &plan("a", wait));
    let late = at(&bench, &clock, 61 * 60, &["run", &manifest]);
    assert_eq!((late.code, late.value["type"].as_str()), (7, Some("expired")), "{late:?}");
    let second = bench.gated("b", &plan("b", json!([write("w", "x")])));
    let mut child = bench.command(&["run", &manifest]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("apply_started") {}
    for seconds in [3_600, -3_600] {
        let other = at(&bench, &clock, seconds, &["run", &second, "--wait", "0"]);
        assert_eq!(other.value["type"], "journal-busy", "{seconds}: {other:?}");
    }
    assert!(child.wait().unwrap().success(), "the run went on undisturbed");
}

#[test]
fn a_clock_that_was_set_back_lets_nobodys_edit_be_overwritten() {
    for seconds in [-600, 600] {
        let bench = Bench::new();
        let clock = shifted_clock(&bench);
        std::fs::write(bench.path("world/f"), "before\n").unwrap();
        let slow = json!([{"id": "t", "uses": "command.run", "with": {"argv": ["sh", "-c", "sleep 60"], "writes": ["f"], "present": ["grep", "-q", "x", "f"]},
            "undo": {"argv": ["true"]}}]);
        let file = bench.sign("a", &plan("a", slow));
        let manifest = bench.run(&["gate", file.to_str().unwrap()]).value["manifest"].as_str().unwrap().to_owned();
        assert_eq!(bench.run(&["approve", &manifest, "--as", "vera"]).code, 0);
        let mut child = bench.command(&["run", &manifest]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next().unwrap().unwrap().contains("apply_started") {}
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::write(bench.path("world/f"), "mine\n").unwrap();
        let recovered = at(&bench, &clock, seconds, &["recover"]);
        assert_eq!(std::fs::read_to_string(bench.path("world/f")).unwrap(), "mine\n", "{seconds}: {recovered:?}");
        assert_eq!(recovered.value["end"], "stuck", "{seconds}: {recovered:?}");
    }
}
