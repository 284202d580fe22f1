//! Whole runs of no-op steps against make, plan check, and how fast a log is verified and folded.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{scratch, timed};
use crate::run::{cargo, say};

/// Shapes of graphs, as the measurement harness of the design has them.
const SHAPES: [&str; 3] = ["chain", "wide", "layered"];

const HEAD: &str = "| shape | steps | check cpu | gate cpu | run cpu | run wall | run peak | make cpu | make wall | cpu ratio | wall ratio | verify cpu |
|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// Most steps for which make is run beside.
const MAKE_STEPS: usize = 20_000;

pub(super) fn bench(args: &[&str]) -> Result<(), String> {
    let count: usize =
        args.first().map_or(Ok(1_000), |text| text.parse()).map_err(|_| "bench runs [STEPS]".to_owned())?;
    let shapes = args.get(1).map_or(SHAPES.to_vec(), |shape| vec![*shape]);
    cargo(&["build", "--release", "--locked", "-p", "cli"], &[])?;
    let program = std::env::current_dir().map_err(|error| error.to_string())?.join("target/release/backout");
    let folder = scratch("runs");
    let mut table = String::from(HEAD);
    for shape in shapes {
        let row = measure(&program, &folder.join(shape), shape, count);
        std::fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
        table.push_str(&row?);
    }
    say(&format!("\n{table}"));
    Ok(())
}

fn measure(program: &Path, dir: &Path, shape: &str, count: usize) -> Result<String, String> {
    std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    write_inputs(dir, shape, count)?;
    let ours = |words: &[&str]| timed(dir, program, words);
    ours(&["init", "."])?;
    ours(&["plan", "sign", "b.draft.json", "--as", "deploy-bot"])?;
    let check = ours(&["plan", "check", "b.plan.json", "--format", "json"])?;
    let gate = ours(&["gate", "b.plan.json", "--format", "json"])?;
    let run = ours(&["run", "bench", "--jobs", "2", "--format", "json"])?;
    // make itself takes minutes for a chain of so many rules: beyond this, only growth is of interest.
    let make = match count <= MAKE_STEPS {
        true => Some(timed(dir, &PathBuf::from("make"), &["-j2", "-s", "-r", "-R", "all"])?),
        false => None,
    };
    let beside = make.map_or("- | - | - | -".to_owned(), |make| {
        format!("{:.2} s | {:.2} s | {:.2} | {:.2}", make.cpu, make.wall, run.cpu / make.cpu, run.wall / make.wall)
    });
    let verify = ours(&["verify"])?;
    Ok(format!(
        "| {shape} | {count} | {:.2} s | {:.2} s | {:.2} s | {:.2} s | {:.0} MB | {beside} | {:.2} s |\n",
        check.cpu, gate.cpu, run.cpu, run.wall, run.peak_mb, verify.cpu
    ))
}

fn write_inputs(dir: &Path, shape: &str, count: usize) -> Result<(), String> {
    let needs = graph(shape, count);
    let list =
        |row: &[usize], quote: &str| -> Vec<String> { row.iter().map(|ix| format!("{quote}s{ix}{quote}")).collect() };
    let step = |(ix, row): (usize, &Vec<usize>)| {
        format!(
            r#"{{"id":"s{ix}","uses":"command.run","with":{{"argv":["/bin/true"]}},"needs":[{}]}}"#,
            list(row, "\"").join(",")
        )
    };
    let steps: Vec<String> = needs.iter().enumerate().map(step).collect();
    let head = r#""session":"bench","agent":"deploy-bot","environment":"staging","intent":"bench""#;
    let plan = format!("{{{head},\"steps\":[{}]}}", steps.join(","));
    let all: Vec<usize> = (0..count).collect();
    let mut make = format!(".PHONY: all {0}\nall: {0}\n", list(&all, "").join(" "));
    for (ix, row) in needs.iter().enumerate() {
        let _ = write!(make, "s{ix}: {}\n\t@/bin/true\n", list(row, "").join(" "));
    }
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).map_err(|error| error.to_string());
    write("b.draft.json", plan)?;
    write("Makefile", make)
}

/// What each step needs; layers of about the square root of the count, each step needing one to three of the layer before.
fn graph(shape: &str, count: usize) -> Vec<Vec<usize>> {
    let width = (1..).find(|width| width * width >= count).unwrap_or(1);
    let mut random = 12_345u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let row = |ix: usize| match shape {
        "chain" => ix.checked_sub(1).into_iter().collect(),
        "layered" if ix >= width => {
            let layer = (ix / width - 1) * width;
            let picks = 1 + next() % 3;
            let mut row: Vec<usize> = (0..picks).map(|_| layer + next() % width).collect();
            row.sort_unstable();
            row.dedup();
            row
        }
        _ => Vec::new(),
    };
    (0..count).map(row).collect()
}
