//! SIGKILL on the real program, at every record and at random times, then `recover`: every run ends as the log says, nothing is
//! lost, nothing is done twice, and no end is claimed that is not so.
//!
//! A short version runs always; `BACKOUT_KILLS=500` (`cargo xtask crash`) the long one.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Command;
use std::time::Duration;

use tests::program::{Bench, Ran};
use tests::world::{digest, make_world, plan};

/// When to kill.
#[derive(Clone, Copy, Debug)]
enum When {
    /// As soon as so many records of the run are durable.
    Record(usize),
    /// After so many microseconds.
    After(u64),
}

/// Starts a command and kills it; says whether it was still alive.
fn kill(mut command: Command, when: When) -> bool {
    let mut child = command.spawn().unwrap();
    match when {
        When::Record(count) => {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut seen = 0;
            for line in lines.map_while(Result::ok) {
                seen += usize::from(line.contains("\"event\":\"record\""));
                if seen >= count {
                    break;
                }
            }
        }
        When::After(micros) => std::thread::park_timeout(Duration::from_micros(micros)),
    }
    let alive = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    let _ = child.wait();
    let mut rest = String::new();
    if let Some(mut out) = child.stdout.take() {
        let _ = out.read_to_string(&mut rest);
    }
    alive
}

#[derive(Default, Debug)]
struct Figures {
    kills: usize,
    kills_of_recover: usize,
    committed: usize,
    rolled_back: usize,
    stuck: usize,
    never_opened: usize,
}

fn kills_wanted() -> usize {
    std::env::var("BACKOUT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// A small generator (xorshift64), so that a failure can be played again.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn no_kill_at_any_time_leaves_a_wrong_claim() {
    let mut figures = Figures::default();
    let mut random = Seeded(0x9e37_79b9_7f4a_7c15);
    let mut round = 0;
    while figures.kills < kills_wanted() {
        // A fresh world now and then: committed rounds change it, and its git history grows.
        let bench = Bench::new();
        make_world(&bench);
        for _ in 0..20 {
            round += 1;
            let when = if round % 2 == 0 {
                When::Record(1 + (round / 2) % 44)
            } else {
                When::After(1_000 + random.below(90_000))
            };
            if play(&bench, round, when, &mut random, &mut figures) || figures.kills >= kills_wanted() {
                break;
            }
        }
    }
    println!("{figures:?}");
    assert!(figures.rolled_back > 0);
}

/// One round; says whether the world is used up.
fn play(bench: &Bench, round: usize, when: When, random: &mut Seeded, figures: &mut Figures) -> bool {
    let before = digest(bench);
    let manifest = bench.gated("p", &plan(&format!("s{round}"), round));
    let alive = kill(bench.command(&["run", &manifest]), when);
    figures.kills += usize::from(alive);
    // Recovery itself is killed too.
    while random.below(4) == 0 {
        let again = kill(bench.command(&["recover"]), When::After(500 + random.below(40_000)));
        figures.kills += usize::from(again);
        figures.kills_of_recover += usize::from(again);
    }
    let recovered = bench.run(&["recover"]);
    let status = bench.run(&["status"]);
    let line = status.value["runs"].as_array().and_then(|lines| lines.last().cloned()).unwrap_or_default();
    let mine = line["session"] == format!("s{round}");
    let end = if mine { line["end"].as_str().unwrap_or("").to_owned() } else { "never_opened".to_owned() };
    judge(bench, &end, &before, round, when, &recovered, figures);
    assert_eq!(bench.run(&["verify"]).code, 0, "the log does not verify after {when:?}");
    end != "rolled_back" && end != "never_opened" && end != "refused"
}

fn judge(bench: &Bench, end: &str, before: &str, round: usize, when: When, recovered: &Ran, figures: &mut Figures) {
    match end {
        "never_opened" => {
            figures.never_opened += 1;
            assert_eq!(digest(bench), before, "{when:?} touched the world without a record");
        }
        "rolled_back" | "refused" => {
            figures.rolled_back += 1;
            assert_eq!(digest(bench), before, "round {round}, {when:?} claims {end}: {recovered:?}");
        }
        "committed" => {
            figures.committed += 1;
            let lines = std::fs::read_to_string(bench.path("world/conf/log.txt")).unwrap();
            let count = lines.lines().filter(|line| *line == format!("line {round}")).count();
            assert_eq!(count, 1, "round {round} was done {count} times");
        }
        "stuck" => {
            figures.stuck += 1;
            println!("round {round} {when:?} is stuck: {}", recovered.value);
        }
        other => panic!("round {round}, {when:?}: {other:?} is no end: {recovered:?}"),
    }
}
