//! Measures what containment costs: starts, file work, commits. Paired: every round measures each way once, the figures are medians.
//! Run by `cargo xtask bench contain`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use launcher::View;
use snapshots::{Layer, Root, scan};
use tests::cage::Cage;
use tests::program::Bench;

const STARTS: usize = 200;
const ROUNDS: usize = 3;

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn timed(work: impl FnOnce()) -> Duration {
    let from = Instant::now();
    work();
    from.elapsed()
}

fn plain(argv: &[&str], cwd: &Path) {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).current_dir(cwd).stdin(Stdio::null()).stdout(Stdio::null());
    assert!(command.status().unwrap().success(), "{argv:?}");
}

fn walled(cage: &Cage, argv: &[&str], view: Option<View>) {
    let (mut wanted, _) = cage.wanted(argv);
    if let Some(view) = view {
        // As commands on the machine are started.
        (wanted.view, wanted.network, wanted.tells_writes) = (view, true, true);
    }
    let from = Instant::now();
    let (report, text) = cage.start(&wanted);
    assert!(matches!(&report, launcher::Report::Ended(ended) if ended.code == 0), "{report:?} {text}");
    LAST.with(|last| last.set(from.elapsed()));
}

thread_local! {
    /// The time of the last launch alone: making folders for its layer is not the launch.
    static LAST: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

fn starts(cage: &Cage, who: &str) {
    let names = [
        "posix_spawn",
        "Landlock + seccomp",
        "machine, pid + mount + ipc namespaces",
        "layer, everything",
        "bwrap, everything but a layer",
    ];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); names.len()];
    let bwrap = [
        "bwrap",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/bin",
        "/bin",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--ro-bind",
        "/etc",
        "/etc",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
        "--unshare-all",
        "--die-with-parent",
        "/bin/true",
    ];
    let has_bwrap = Command::new("bwrap").arg("--version").stdout(Stdio::null()).status().is_ok();
    for _ in 0..STARTS {
        times[0].push(timed(|| plain(&["/bin/true"], Path::new("/"))));
        for (at, view) in [(1, Some(View::Bare)), (2, Some(View::Machine)), (3, None)] {
            walled(cage, &["/bin/true"], view);
            times[at].push(LAST.with(std::cell::Cell::get));
        }
        if has_bwrap {
            times[4].push(timed(|| plain(&bwrap, Path::new("/"))));
        }
    }
    let base = median(&mut times[0]);
    println!("\n| start of /bin/true, {who} | ms | over posix_spawn |\n|---|---|---|");
    for (name, times) in names.iter().zip(&mut times).filter(|(_, times)| !times.is_empty()) {
        let one = median(times);
        println!("| {name} | {one:.2} | {:+.2} |", one - base);
    }
}

fn large(cage: &Cage) {
    let mut small: Vec<Duration> = (0..STARTS)
        .map(|_| {
            walled(cage, &["/bin/true"], None);
            LAST.with(std::cell::Cell::get)
        })
        .collect();
    let ballast = vec![1u8; 1 << 30];
    let mut big: Vec<Duration> = (0..STARTS)
        .map(|_| {
            walled(cage, &["/bin/true"], None);
            LAST.with(std::cell::Cell::get)
        })
        .collect();
    assert_eq!(ballast[ballast.len() / 2], 1);
    let (small, big) = (median(&mut small), median(&mut big));
    println!(
        "\nstart over a layer from a runner with 1 GiB resident: {big:.2} ms, from a small one {small:.2} ms: {:.2}x",
        big / small
    );
}

const TREE: &str =
    "mkdir -p d && cd d && for a in $(seq 100); do mkdir $a; for b in $(seq 100); do echo $a $b > $a/$b; done; done";

/// Work on 10,000 files: natively in a folder of its own, and over a layer.
fn work() {
    println!("\n| 10,000 files | native ms | over a layer ms | ratio |\n|---|---|---|---|");
    let lines = [
        ("find and stat", "find d -type f -size +100k"),
        ("read all", "cat d/*/* > /dev/null"),
        ("grep", "grep -rc x d > /dev/null; true"),
        ("make a hundred more", "for n in $(seq 100); do echo x > d/1/new$n; done"),
        ("sed -i on 1,000", "sed -i s/1/2/ d/1?/*"),
        ("tar", "tar cf /dev/null --exclude=nothing d/. > /dev/null"),
        ("chmod -R 1,000", "chmod -R 700 d/2?"),
        ("git status of all", "cd d && git init -q . && git add . && git status --short > /dev/null"),
    ];
    for (name, line) in lines {
        let (mut native, mut over) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let cage = Cage::new();
            for folder in ["world", "other"] {
                plain(&["sh", "-c", TREE], &cage.path(folder));
            }
            native.push(timed(|| plain(&["sh", "-c", line], &cage.path("other"))));
            walled(&cage, &["sh", "-c", line], None);
            over.push(LAST.with(std::cell::Cell::get));
        }
        let (native, over) = (median(&mut native), median(&mut over));
        println!("| {name} | {native:.0} | {over:.0} | {:.2} |", over / native);
    }
}

fn commits() {
    let (mut ours, mut reading, mut copying) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let cage = Cage::new();
        plain(&["sh", "-c", TREE], &cage.path("world"));
        let world = cage.path("world");
        let root = Root::open(&world).unwrap();
        let was = scan(&root, &[Default::default()], None).unwrap();
        let came = cage.sh("sed -i s/^/x/ d/*/*");
        assert_eq!(came.code(), 0, "{came:?}");
        copying.push(timed(|| {
            plain(&["cp", "-a", came.upper.to_str().unwrap(), cage.path("copy").to_str().unwrap()], Path::new("/"));
            plain(&["sync", "-f", cage.path("copy").to_str().unwrap()], Path::new("/"));
        }));
        let from = Instant::now();
        let layer = Layer::read(&came.upper, &cage.path("world")).unwrap();
        reading.push(from.elapsed());
        ours.push(timed(|| layer.commit(&root, &was, "bench").unwrap()));
    }
    let (ours, reading, copying) = (median(&mut ours), median(&mut reading), median(&mut copying));
    println!(
        "\ncommit of 10,000 changed files, durable: {ours:.0} ms (and {reading:.0} ms to read the layer); cp -a of them with sync: {copying:.0} ms: {:.2}x",
        (ours + reading) / copying
    );
}

/// What a look costs at 100,000 files of which none changed: at those that a step declares, by what is known of them, and at those beside.
fn inventory() {
    let bench = Bench::new();
    let world = bench.path("world");
    for folder in 0..100 {
        let folder = world.join(format!("many/{folder}"));
        std::fs::create_dir_all(&folder).unwrap();
        (0..1_000).for_each(|file| std::fs::write(folder.join(file.to_string()), "content\n").unwrap());
    }
    let root = Root::open(&world).unwrap();
    let paths = ["many".into()];
    // The change times have to be old enough to be told from those of a later change.
    std::thread::sleep(Duration::from_secs(3));
    let known = scan(&root, &paths, None).unwrap();
    let mut looks: Vec<Duration> = (0..5)
        .map(|_| timed(|| assert!(known.differences(&scan(&root, &paths, Some(&known)).unwrap()).is_empty())))
        .collect();
    println!("\n100,000 declared files, unchanged, by what is known of them and digests: {:.0} ms", median(&mut looks));
    let run = |bench: &Bench, session: usize| {
        let file = bench.path("world/file");
        std::fs::write(&file, "1\n").unwrap();
        let with = serde_json::json!({"argv": ["sed", "-i", "s/1/2/", "file"], "writes": ["file"], "contain": "none"});
        let manifest = bench.gated(
            "p",
            &serde_json::json!({"session": format!("s{session}"), "agent": "tester",
            "environment": "test", "intent": "measure", "steps": [{"id": "c", "uses": "command.run", "with": with}]}),
        );
        timed(|| assert_eq!(bench.run(&["run", &manifest]).code, 0))
    };
    let other = Bench::new();
    let (mut many, mut few) = (Vec::new(), Vec::new());
    for session in 0..5 {
        many.push(run(&bench, session));
        few.push(run(&other, session));
    }
    let (many, few) = (median(&mut many), median(&mut few));
    println!(
        "a run of one command that is not contained, beside 100,000 files that it does not declare: {many:.0} ms, beside none {few:.0} ms: {:.0} ms a look",
        (many - few) / 2.0
    );
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|it| it == name);
    let cage = Cage::new();
    if is_wanted("starts") {
        starts(&cage, "root");
        if let Some(cage) = Cage::of_user() {
            starts(&cage, "an ordinary user");
        }
    }
    if is_wanted("large") {
        large(&cage);
    }
    if is_wanted("work") {
        work();
    }
    if is_wanted("commits") {
        commits();
    }
    if is_wanted("inventory") {
        inventory();
    }
}
