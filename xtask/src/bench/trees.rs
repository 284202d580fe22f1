//! Snapshots of a tree against restic, tar and, where it is named, the floor program of the measurement harness.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{scratch, timed};
use crate::run::{cargo, install, say};

/// Rounds; each starts with an empty store, and every figure is the median.
const ROUNDS: usize = 5;
/// Names a program that is called as `PROGRAM pack|restore TREE STORE 2`: the floor.
const FLOOR: &str = "BACKOUT_TREE_FLOOR";

/// What is measured, in this order.
const PHASES: [&str; 4] = ["first", "unchanged", "1 % changed", "restore of 1 %"];

/// One program with the words of each phase; none where it cannot do it.
struct Tool {
    name: &'static str,
    program: PathBuf,
    words: [Option<Vec<String>>; 4],
    setup: Option<Vec<String>>,
}

pub(super) fn bench(args: &[&str]) -> Result<(), String> {
    let big = match args {
        [] | ["small"] => false,
        ["big"] => true,
        _ => return Err("bench snapshots [small|big]".to_owned()),
    };
    install(&[("restic", "restic"), ("tar", "tar")])?;
    cargo(&["build", "--release", "--locked", "-p", "snapshots", "--example", "tree"], &[])?;
    let folder = scratch("trees");
    let outcome = rows(&folder, big);
    std::fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    say(&format!("\n{}", outcome?));
    Ok(())
}

fn rows(folder: &Path, big: bool) -> Result<String, String> {
    let tree = folder.join("tree");
    let mut random = Random(1);
    make_tree(&tree, big, &mut random)?;
    let mut walls: Vec<(&'static str, [Vec<f64>; 4])> = Vec::new();
    for round in 0..ROUNDS {
        for tool in tools(folder)? {
            let store = folder.join("store");
            std::fs::create_dir_all(&store).map_err(|error| error.to_string())?;
            if let Some(words) = &tool.setup {
                run(folder, &tool.program, words)?;
            }
            let at = walls.iter().position(|(name, _)| *name == tool.name).unwrap_or(walls.len());
            if at == walls.len() {
                walls.push((tool.name, Default::default()));
            }
            for (phase, words) in tool.words.iter().enumerate() {
                if phase >= 2 {
                    change(&tree, big, &mut random)?;
                }
                let (Some(words), Some((_, figures))) = (words, walls.get_mut(at)) else { continue };
                let wall = run(folder, &tool.program, words)?;
                if let Some(figures) = figures.get_mut(phase) {
                    figures.push(wall);
                }
            }
            std::fs::remove_dir_all(&store).map_err(|error| error.to_string())?;
        }
        say(&format!("round {} of {ROUNDS}", round + 1));
    }
    Ok(table(&walls))
}

fn run(folder: &Path, program: &Path, words: &[String]) -> Result<f64, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    timed(folder, program, &words).map(|cost| cost.wall)
}

fn tools(folder: &Path) -> Result<Vec<Tool>, String> {
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    let (tree, store) = (folder.join("tree").display().to_string(), folder.join("store").display().to_string());
    let list = |words: &[&str]| -> Option<Vec<String>> { Some(words.iter().map(|word| (*word).to_owned()).collect()) };
    let mut out = Vec::new();
    if let Some(floor) = std::env::var_os(FLOOR) {
        let pack = || list(&["pack", &tree, &store, "2"]);
        let words = [pack(), pack(), pack(), list(&["restore", &tree, &store, "2"])];
        out.push(Tool { name: "floor", program: floor.into(), words, setup: None });
    }
    let capture = || list(&["capture", &tree, &store]);
    let words = [capture(), capture(), capture(), list(&["restore", &tree, &store])];
    out.push(Tool { name: "backout", program: here.join("target/release/examples/tree"), words, setup: None });
    let (repo, cache, archive) = (format!("{store}/r"), format!("{store}/c"), format!("{store}/a.tar"));
    let fixed = ["-q", "--repo", &repo, "--cache-dir", &cache, "--password-command", "echo bench"];
    let restic = |rest: &[&str]| list(&[fixed.as_slice(), rest].concat());
    let backup = || restic(&["backup", &tree]);
    out.push(Tool {
        name: "restic",
        program: "restic".into(),
        words: [backup(), backup(), backup(), restic(&["restore", "latest", "--target", "/"])],
        setup: restic(&["init"]),
    });
    let incremental = format!("--listed-incremental={store}/list");
    let tar = || list(&["-C", &tree, "-cf", &archive, &incremental, "."]);
    out.push(Tool { name: "tar", program: "tar".into(), words: [tar(), tar(), tar(), None], setup: None });
    Ok(out)
}

fn table(walls: &[(&'static str, [Vec<f64>; 4])]) -> String {
    let median = |figures: &[f64]| {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    };
    let mut out = format!("| tool | {} |\n|---|---|---|---|---|\n", PHASES.join(" | "));
    let floor = walls.iter().find(|(name, _)| *name == "floor");
    for (name, phases) in walls {
        let cell = |(phase, figures): (usize, &Vec<f64>)| {
            let Some(wall) = median(figures) else { return "-".to_owned() };
            // The pairs of one round are neighbours in time: their ratio is what the machine cannot spoil.
            let pairs = floor.and_then(|(_, floor)| floor.get(phase)).filter(|_| *name == "backout");
            let ratios: Vec<f64> =
                pairs.map_or(Vec::new(), |floor| figures.iter().zip(floor).map(|(a, b)| a / b).collect());
            let ratio = median(&ratios).map_or(String::new(), |ratio| format!(" ({ratio:.2}x)"));
            format!("{wall:.2} s{ratio}")
        };
        let cells: Vec<String> = phases.iter().enumerate().map(cell).collect();
        let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
    }
    out
}

/// A small generator: the trees are the same at every call.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(count + 8);
        while out.len() < count {
            out.extend(self.next().to_le_bytes());
        }
        out.truncate(count);
        out
    }
}

/// Files of the small tree: 100,000 of 1 to 8 KiB; the big one has 20 of 100 MiB.
const SMALL: usize = 100_000;

fn small_path(tree: &Path, ix: usize) -> PathBuf {
    tree.join(format!("d{:03}/e{}/f{:02}.dat", ix / 1000, ix / 100 % 10, ix % 100))
}

fn make_tree(tree: &Path, big: bool, random: &mut Random) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    if big {
        std::fs::create_dir_all(tree).map_err(failed)?;
        for ix in 0..20 {
            std::fs::write(tree.join(format!("b{ix:02}.bin")), random.bytes(100 << 20)).map_err(failed)?;
        }
    } else {
        for ix in 0..SMALL {
            let path = small_path(tree, ix);
            if ix % 100 == 0 {
                path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
            }
            let size = 1024 + (random.next() % 7168) as usize;
            std::fs::write(path, random.bytes(size)).map_err(failed)?;
        }
    }
    sync(tree)
}

/// Changes one in a hundred: small files by rename, big ones by a mebibyte in place.
fn change(tree: &Path, big: bool, random: &mut Random) -> Result<(), String> {
    use std::os::unix::fs::FileExt as _;
    let failed = |error: std::io::Error| error.to_string();
    if big {
        for ix in 0..20 {
            let file = std::fs::File::options().write(true).open(tree.join(format!("b{ix:02}.bin"))).map_err(failed)?;
            let at = random.next() % (99 << 20);
            file.write_all_at(&random.bytes(1 << 20), at).map_err(failed)?;
        }
    } else {
        for _ in 0..SMALL / 100 {
            let path = small_path(tree, (random.next() % SMALL as u64) as usize);
            let size = 1024 + (random.next() % 7168) as usize;
            let new = path.with_extension("new");
            std::fs::write(&new, random.bytes(size)).and_then(|()| std::fs::rename(&new, &path)).map_err(failed)?;
        }
    }
    sync(tree)
}

fn sync(tree: &Path) -> Result<(), String> {
    timed(tree, Path::new("sync"), &["-f", "."]).map(|_| ())
}
