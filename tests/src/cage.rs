//! Programs behind the launcher's walls, for tests that try to get out.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use launcher::{Launcher, Layer, Limits, Report, View, Wanted};

/// A folder `world` under a layer, with things beside it that nobody may reach.
pub struct Cage {
    dir: tempfile::TempDir,
    launcher: Launcher,
    count: std::cell::Cell<u32>,
    user: Option<u32>,
}

/// An ordinary user; no account needs to have the number.
const USER: u32 = 54_321;

/// What came of a program.
#[derive(Debug)]
pub struct Came {
    /// The keeper's word.
    pub report: Report,
    /// Output and error output.
    pub text: String,
    /// Where its writes went.
    pub upper: PathBuf,
}

impl Came {
    /// The exit code; a launch that failed is a panic.
    pub fn code(&self) -> i32 {
        match &self.report {
            Report::Ended(ended) => ended.code,
            Report::Setup { .. } => panic!("{self:?}"),
        }
    }

    /// The calls that were refused.
    pub fn tried(&self) -> Vec<&str> {
        match &self.report {
            Report::Ended(ended) => ended.tried.iter().map(|tried| tried.call.as_str()).collect(),
            Report::Setup { .. } => panic!("{self:?}"),
        }
    }
}

impl Default for Cage {
    fn default() -> Self {
        Self::new()
    }
}

impl Cage {
    /// A new one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["world", "state", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("world/file"), "first\n").unwrap();
        std::fs::write(dir.path().join("state/key"), "SECRET\n").unwrap();
        std::fs::write(dir.path().join("other/file"), "outside\n").unwrap();
        Self { dir, launcher: Launcher::new(crate::program::backout()), count: std::cell::Cell::new(0), user: None }
    }

    /// One of an ordinary user, where the tests run as root and can become one.
    pub fn of_user() -> Option<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let mut cage = Self::new();
        let program = cage.path("as-user");
        // The program itself may lie where only root may go.
        std::fs::copy(crate::program::backout(), cage.path("backout")).unwrap();
        let line = format!(
            "#!/bin/sh\nexec setpriv --reuid={USER} --regid={USER} --clear-groups {} \"$@\"\n",
            cage.path("backout").display()
        );
        std::fs::write(&program, line).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        cage.user = Some(USER);
        cage.give();
        cage.launcher = Launcher::new(program);
        Some(cage)
    }

    /// Gives everything in the folder to the user.
    fn give(&self) {
        let Some(user) = self.user else { return };
        let owner = format!("{user}:{user}");
        let done = std::process::Command::new("chown").arg("-R").arg(owner).arg(self.dir.path()).status();
        assert!(done.unwrap().success());
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program over a layer on `world`.
    pub fn wanted(&self, argv: &[&str]) -> (Wanted, PathBuf) {
        self.wanted_on(argv, &[])
    }

    /// The same with the uppers of other layers between, the topmost first.
    pub fn wanted_on(&self, argv: &[&str], uppers: &[PathBuf]) -> (Wanted, PathBuf) {
        self.count.set(self.count.get() + 1);
        let at = self.path("state").join(self.count.get().to_string());
        let each = ["upper", "work", "view"].map(|name| at.join(name));
        for folder in &each {
            std::fs::create_dir_all(folder).unwrap();
        }
        let [upper, work, scratch] = each;
        self.give();
        let world = self.path("world");
        let root = snapshots::Root::open(&world).unwrap();
        let top = uppers.first().map(PathBuf::as_path);
        snapshots::Layer::begin(&upper, &snapshots::Below::new(&root), top).unwrap();
        let lower = uppers.iter().chain([&world]).cloned().collect();
        let layer = Layer { at: world.clone(), lower, upper: upper.clone(), work };
        let wanted = Wanted {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            cwd: world.clone(),
            env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            view: View::Layers(vec![layer]),
            network: false,
            tells_writes: false,
            writes: vec![world],
            hidden: vec![self.path("state")],
            scratch,
            limits: Limits::default(),
        };
        (wanted, upper)
    }

    /// Runs it over a layer.
    pub fn run(&self, argv: &[&str]) -> Came {
        let (wanted, upper) = self.wanted(argv);
        let (report, text) = self.start(&wanted);
        Came { report, text, upper }
    }

    /// A shell line over a layer on top of others.
    pub fn sh_on(&self, line: &str, uppers: &[PathBuf]) -> Came {
        let (wanted, upper) = self.wanted_on(&["sh", "-c", line], uppers);
        let (report, text) = self.start(&wanted);
        Came { report, text, upper }
    }

    /// A shell line over a layer.
    pub fn sh(&self, line: &str) -> Came {
        self.run(&["sh", "-c", line])
    }

    /// Runs what is wanted to its end.
    pub fn start(&self, wanted: &Wanted) -> (Report, String) {
        let started = self.launcher.start(wanted, None).unwrap();
        (await_report(&started), read_all(&started))
    }

    /// The launcher.
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Whether a file of the real world still has this content.
    pub fn still(&self, name: &str, content: &str) -> bool {
        std::fs::read_to_string(self.path(name)).is_ok_and(|text| text == content)
    }
}

/// Waits for the report; a minute without one is a panic.
pub fn await_report(started: &launcher::Started) -> Report {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let from = Instant::now();
    while from.elapsed() < Duration::from_secs(60) {
        let mut fds = [PollFd::from_borrowed_fd(started.control(), PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).is_ok_and(|count| count > 0) {
            return started.report().unwrap();
        }
    }
    panic!("no report within a minute");
}

fn read_all(started: &launcher::Started) -> String {
    let mut out = Vec::new();
    for fd in [&started.output, &started.errors] {
        let mut buffer = [0u8; 4096];
        while let Ok(count) = rustix::io::read(fd, &mut buffer) {
            if count == 0 {
                break;
            }
            out.extend_from_slice(&buffer[..count]);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut out: Vec<String> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    out.sort();
    out
}
