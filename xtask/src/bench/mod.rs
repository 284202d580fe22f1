//! Benchmarks: figures and ratios within one run, written to `docs/benchmarks.md` by hand with machine and date; never tests.

mod runs;
mod trees;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::install;

/// CPU and wall seconds of one command, and the peak memory of its largest process.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
    peak_mb: f64,
}

/// `cargo xtask bench runs [STEPS] [SHAPE]`, `cargo xtask bench snapshots [small|big]`, `cargo xtask bench contain [starts|large|work|commits|inventory]`,
/// `cargo xtask bench stops [ROUNDS]`.
pub(crate) fn bench(args: &[String]) -> Result<(), String> {
    install(&[("time", "time"), ("make", "make")])?;
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["runs", rest @ ..] => runs::bench(rest),
        ["snapshots", rest @ ..] => trees::bench(rest),
        ["contain", rest @ ..] => example("contain", rest),
        ["stops", rest @ ..] => example("stops", rest),
        [] => runs::bench(&[]).and_then(|()| trees::bench(&[])),
        _ => Err("bench runs [STEPS] [chain|wide|layered] | bench snapshots [small|big] | bench contain [starts|large|work|commits|inventory] | bench stops [ROUNDS]".to_owned()),
    }
}

/// Runs a measuring program of the test kit.
fn example(name: &str, rest: &[&str]) -> Result<(), String> {
    install(&[("bwrap", "bubblewrap")])?;
    let words = [&["run", "--release", "--locked", "-q", "-p", "tests", "--example", name, "--"], rest].concat();
    crate::run::cargo(&words, &[])
}

/// A folder of this process for what is measured.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("backout-bench-{name}-{}", std::process::id()))
}

/// Runs a command under bash's own clock, which counts the time of all its children, and `time`, which knows the peak.
fn timed(dir: &Path, program: &Path, words: &[&str]) -> Result<Cost, String> {
    let script = "TIMEFORMAT='%U %S %R'; time { command time -o \"$0\" -f %M \"$@\" >/dev/null 2>/dev/null; }";
    let peak = std::env::temp_dir().join(format!("backout-bench-peak-{}", std::process::id()));
    let output = Command::new("bash")
        .args(["-c", script])
        .arg(&peak)
        .arg(program)
        .args(words)
        .current_dir(dir)
        .output()
        .map_err(|error| error.to_string())?;
    let kilobytes = std::fs::read_to_string(&peak).unwrap_or_default();
    let _ = std::fs::remove_file(&peak);
    if !output.status.success() {
        return Err(format!("{} {} failed", program.display(), words.join(" ")));
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let peak_mb = kilobytes.trim().parse::<f64>().unwrap_or(0.0) / 1024.0;
    match numbers.as_slice() {
        [user, system, wall] => Ok(Cost { cpu: user + system, wall: *wall, peak_mb }),
        _ => Err(format!("bash did not tell the time: {text}")),
    }
}
