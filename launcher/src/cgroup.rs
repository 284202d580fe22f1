//! The cgroup of a launch: what all its processes together may use up, and one word that ends them all
//! (`Documentation/admin-guide/cgroup-v2.rst`).
//!
//! Must never touch a cgroup in which anybody else's processes are: where this process has one that was delegated to it, it is used.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::messages::{Failed, trying};
use crate::wanted::Limits;

/// What is limited by cgroups, where it is.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// Where the processes that have to make room go: limits are given to children of a cgroup in which no process is.
const ASIDE: &str = "backout";
/// How long an ended cgroup may take to become empty.
const EMPTY: Duration = Duration::from_secs(1);

/// The cgroup of this process, of which children can be limited.
pub(crate) struct Cgroups {
    folder: PathBuf,
    made: u64,
}

/// The cgroup of one launch; dropped, it ends what is in it and is gone.
pub(crate) struct Group {
    folder: PathBuf,
    opened: File,
}

/// Whether commands are limited as a whole by cgroups: by which controllers in which folder, or why not.
pub fn cgroup() -> Result<String, String> {
    let folder = own()?;
    let usable = usable(&folder);
    if usable.is_empty() {
        return Err(format!("{} has neither memory nor processes to limit", folder.display()));
    }
    match given(&folder, &usable) || can_make_room(&folder, &BTreeSet::from([std::process::id()])) {
        true => Ok(format!("{} ({})", folder.display(), usable.join(", "))),
        false => Err(format!("{} is not delegated to this process alone", folder.display())),
    }
}

impl Cgroups {
    /// Of this process and the one that started it, if theirs can limit children.
    pub(crate) fn own() -> Option<Self> {
        let folder = own().ok()?;
        let usable = usable(&folder);
        if usable.is_empty() {
            return None;
        }
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        let ours: BTreeSet<u32> = parent.into_iter().chain([std::process::id()]).collect();
        if given(&folder, &usable) || (can_make_room(&folder, &ours) && make_room(&folder, &usable).is_ok()) {
            return Some(Self { folder, made: 0 });
        }
        None
    }

    /// Makes one for a launch.
    pub(crate) fn make(&mut self, limits: &Limits) -> Result<Group, Failed> {
        self.made += 1;
        let folder = self.folder.join(format!("step-{}-{}", std::process::id(), self.made));
        let group = Group::make(folder).map_err(trying("cannot make a cgroup"))?;
        group.limit(limits).map_err(trying("cannot limit a cgroup"))?;
        Ok(group)
    }
}

impl Group {
    fn make(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir(&folder)?;
        let opened = File::open(&folder)?;
        Ok(Self { folder, opened })
    }

    /// Sets what all processes in it may use up; what the cgroup cannot limit is limited elsewhere.
    pub(crate) fn limit(&self, limits: &Limits) -> std::io::Result<()> {
        // The process that watches the program is in it as well.
        let processes = limits.processes + 1;
        let each = [
            ("memory.max", limits.memory.to_string()),
            ("memory.swap.max", "0".to_owned()),
            ("memory.oom.group", "1".to_owned()),
            ("pids.max", processes.to_string()),
        ];
        for (name, value) in each {
            let file = self.folder.join(name);
            if file.is_file() {
                std::fs::write(file, value)?;
            }
        }
        Ok(())
    }

    /// Closes it without ending anything: it is another process's.
    pub(crate) fn leave(self) {
        // Its descriptor is closed by `exec`, or with the process.
        std::mem::forget(self);
    }

    /// Why everything in it was ended by the kernel, where it was.
    pub(crate) fn exhausted(&self) -> Option<String> {
        let events = std::fs::read_to_string(self.folder.join("memory.events")).ok()?;
        let killed = events.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        let limit = std::fs::read_to_string(self.folder.join("memory.max")).ok()?;
        let mib = limit.trim().parse::<u64>().ok()? >> 20;
        (killed.trim() != "0").then(|| format!("all of it together used more than {mib} MiB of memory"))
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.opened.as_fd()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write(self.folder.join("cgroup.kill"), "1");
        let from = Instant::now();
        // One that is not empty in time is left: it costs nothing, and nothing in it lives.
        while std::fs::remove_dir(&self.folder).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
            && from.elapsed() < EMPTY
        {
            std::thread::yield_now();
        }
    }
}

/// The folder of the cgroup that this process is in.
fn own() -> Result<PathBuf, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let none = || "no cgroup v2".to_owned();
    let own = read("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or_else(none)?;
    let mounts = read("/proc/self/mountinfo")?;
    let of = |line: &str| -> Option<PathBuf> {
        let (left, right) = line.split_once(" - ")?;
        let mut parts = left.split(' ').skip(3);
        let (root, at) = (parts.next()?, parts.next()?);
        let inside = Path::new(own).strip_prefix(root).ok()?;
        right.starts_with("cgroup2 ").then(|| Path::new(at).join(inside))
    };
    let folder = mounts.lines().find_map(of).filter(|folder| folder.join("cgroup.procs").is_file()).ok_or_else(none)?;
    // Where one of us made room before, the room is around.
    let around = folder.parent().filter(|around| folder.ends_with(ASIDE) && given(around, &usable(around)));
    Ok(around.map_or(folder.clone(), Path::to_owned))
}

fn words(folder: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// What the cgroup can limit of what is wanted.
fn usable(folder: &Path) -> Vec<&'static str> {
    let there = words(folder, "cgroup.controllers");
    CONTROLLERS.into_iter().filter(|name| there.iter().any(|it| it == name)).collect()
}

/// Whether children are limited already.
fn given(folder: &Path, usable: &[&str]) -> bool {
    let given = words(folder, "cgroup.subtree_control");
    !usable.is_empty() && usable.iter().all(|name| given.iter().any(|it| it == name)) && is_ours(folder)
}

/// Whether this user may make children.
fn is_ours(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
        && rustix::fs::access(folder.join("cgroup.subtree_control"), rustix::fs::Access::WRITE_OK).is_ok()
}

/// Whether nobody but `ours` is in it.
fn can_make_room(folder: &Path, ours: &BTreeSet<u32>) -> bool {
    let there = words(folder, "cgroup.procs");
    is_ours(folder) && there.iter().all(|pid| pid.parse().is_ok_and(|pid| ours.contains(&pid)))
}

/// Moves the processes that are in it aside and has its children limited.
fn make_room(folder: &Path, usable: &[&str]) -> std::io::Result<()> {
    let aside = folder.join(ASIDE);
    match std::fs::create_dir(&aside) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for pid in words(folder, "cgroup.procs") {
        std::fs::write(aside.join("cgroup.procs"), pid)?;
    }
    let wanted = usable.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    std::fs::write(folder.join("cgroup.subtree_control"), wanted).map_err(Error::other)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Where children of the own cgroup can be made, whether they are limited or not; `None` where this user cannot.
    fn somewhere() -> Option<PathBuf> {
        own().ok().filter(|folder| is_ours(folder))
    }

    #[test]
    fn everything_in_a_group_ends_with_it() {
        let Some(folder) = somewhere() else {
            assert!(
                !rustix::process::geteuid().is_root() || own().is_err(),
                "root can make cgroups where there are any"
            );
            return;
        };
        let at = folder.join(format!("backout-test-{}", std::process::id()));
        let group = Group::make(at.clone()).unwrap();
        group.limit(&Limits::default()).unwrap();
        let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        std::fs::write(at.join("cgroup.procs"), child.id().to_string()).unwrap();
        assert_eq!(group.exhausted(), None);
        drop(group);
        assert!(child.wait().unwrap().code().is_none(), "it was killed");
        assert!(!at.exists());
    }

    #[test]
    fn a_process_starts_in_its_group() {
        let Some(folder) = somewhere() else { return };
        let at = folder.join(format!("backout-test-start-{}", std::process::id()));
        let group = Group::make(at.clone()).unwrap();
        // The child of a program with several threads may do nothing but end.
        let pid = match crate::sys::split(0, Some(group.as_fd())).unwrap() {
            crate::sys::Half::Child => loop {
                rustix::thread::sched_yield();
            },
            crate::sys::Half::Parent(pid) => pid,
        };
        assert_eq!(words(&at, "cgroup.procs"), [pid.as_raw_nonzero().to_string()]);
        drop(group);
        let status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap().1;
        assert_eq!(status.terminating_signal(), Some(9));
        assert!(!at.exists());
    }

    #[test]
    fn nobody_elses_processes_are_moved() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("cgroup.procs", "1\n2\n"), ("cgroup.subtree_control", "")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert!(!can_make_room(dir.path(), &BTreeSet::from([1])));
        assert!(can_make_room(dir.path(), &BTreeSet::from([1, 2, 3])));
    }
}
