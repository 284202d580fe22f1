//! The process outside the namespaces: it makes init, watches over it, and says how it ended when nothing is left.
//!
//! Must never end before init is gone, but by a kill; then init ends by the same kill.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::init;
use crate::messages::{Ended, KILL, READY, Report, TERM};
use crate::server::Streams;
use crate::sys::{self, Half};
use crate::wanted::{View, Wanted};

/// How often it looks at what is left of memory and disk.
const LOOK: Duration = Duration::from_millis(50);

/// Sends a report. Whoever asked may be gone.
pub(crate) fn say(control: &OwnedFd, report: &Report) -> i32 {
    let _ = send(control, &report.to_bytes(), SendFlags::NOSIGNAL);
    0
}

/// Starts what is wanted and stays until nothing of it is left. Returns the exit code of the process.
pub(crate) fn keep(wanted: &Wanted, control: OwnedFd, streams: Streams) -> i32 {
    let report = match &wanted.view {
        View::Bare => bare(wanted, streams, &control),
        View::Machine | View::Layers(_) => start(wanted, streams).map(|mut kept| kept.attend(wanted, &control)),
    };
    say(&control, &report.unwrap_or_else(|(doing, error)| Report::setup(doing, &error)))
}

/// What was tried, and what came of it.
pub(crate) type Failed = (String, std::io::Error);

/// Puts what was tried to an error.
pub(crate) fn trying<E: Into<std::io::Error>>(doing: &str) -> impl FnOnce(E) -> Failed {
    move |error| (doing.to_owned(), error.into())
}

/// Without namespaces the keeper does what init would, and orphans come to it.
fn bare(wanted: &Wanted, streams: Streams, control: &OwnedFd) -> Result<Report, Failed> {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).map_err(trying("cannot adopt orphans"))?;
    let orders = control.try_clone().map_err(trying("cannot listen"))?;
    Ok(match init::start(wanted, streams)? {
        init::Start::Running(program) => Report::Ended(program.attend(File::from(orders), init::Reach::Descendants)),
        init::Start::Failed(report) => report,
    })
}

struct Kept {
    init: Pid,
    /// Closing it ends init.
    lifeline: File,
    said: File,
    words: Vec<u8>,
}

fn start(wanted: &Wanted, streams: Streams) -> Result<Kept, Failed> {
    let (orders, lifeline) = pipe_with(PipeFlags::CLOEXEC).map_err(trying("cannot make a pipe"))?;
    let (said, saying) = pipe_with(PipeFlags::CLOEXEC).map_err(trying("cannot make a pipe"))?;
    let privileged = rustix::process::geteuid().is_root();
    let in_user = matches!(wanted.view, View::Layers(_)) || !privileged;
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;
    flags |= if in_user { libc::CLONE_NEWUSER } else { 0 };
    flags |= if wanted.network { 0 } else { libc::CLONE_NEWNET };
    match sys::split(flags).map_err(trying("cannot make namespaces"))? {
        Half::Child => {
            drop((lifeline, said));
            init::run(wanted, streams, File::from(orders), File::from(saying))
        }
        Half::Parent(init) => {
            drop((streams, orders, saying));
            let mut kept = Kept { init, lifeline: File::from(lifeline), said: File::from(said), words: Vec::new() };
            let ready = if in_user { map_ids(init, privileged) } else { Ok(()) };
            let ready = ready.and_then(|()| {
                kept.lifeline.write_all(&[READY]).map_err(trying("cannot speak to the init of the namespace"))
            });
            if let Err(failed) = ready {
                kept.end();
                return Err(failed);
            }
            Ok(kept)
        }
    }
}

/// The ids inside are those outside: of root all that it has itself, of others their own.
fn map_ids(init: Pid, privileged: bool) -> Result<(), Failed> {
    let raw = init.as_raw_nonzero();
    let write = |name: &str, text: &str| {
        std::fs::write(format!("/proc/{raw}/{name}"), text).map_err(trying(&format!("cannot write {name}")))
    };
    let map = |name: &str, own: u32| -> Result<String, Failed> {
        if !privileged {
            return Ok(format!("{own} {own} 1\n"));
        }
        let known = std::fs::read_to_string(format!("/proc/self/{name}")).map_err(trying("cannot read the ids"))?;
        let same = |line: &str| -> Option<String> {
            let mut parts = line.split_whitespace();
            let (first, _, count) = (parts.next()?, parts.next()?, parts.next()?);
            Some(format!("{first} {first} {count}\n"))
        };
        Ok(known.lines().filter_map(same).collect())
    };
    if !privileged {
        write("setgroups", "deny")?;
    }
    write("uid_map", &map("uid_map", rustix::process::geteuid().as_raw())?)?;
    write("gid_map", &map("gid_map", rustix::process::getegid().as_raw())?)
}

impl Kept {
    /// Listens to whoever asked, and to init, until init is gone.
    fn attend(&mut self, wanted: &Wanted, control: &OwnedFd) -> Report {
        let (mut exhausted, mut looked) = (None, Instant::now());
        loop {
            let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
            let mut fds = [PollFd::new(control, PollFlags::IN), PollFd::new(&self.said, PollFlags::IN)];
            // An interruption is an empty look.
            let _ = poll(&mut fds, Some(&wait));
            let [asked, said] = fds.map(|fd| !fd.revents().is_empty());
            if asked {
                let mut order = [0u8; 1];
                match recv(control, &mut order, RecvFlags::DONTWAIT) {
                    Ok((_, 1)) if order == [TERM] => drop(self.lifeline.write_all(&order)),
                    Ok((_, 1)) if order != [KILL] => {}
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    // A closed socket is whoever asked having died.
                    Ok(_) | Err(_) => return self.outcome(None),
                }
            }
            if said && self.listen() {
                return self.outcome(exhausted);
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                exhausted = exhausted.or_else(|| floor_reached(wanted));
                if exhausted.is_some() {
                    self.end();
                }
            }
        }
    }

    /// Takes what init says; tells whether it has said all.
    fn listen(&mut self) -> bool {
        let mut buffer = [0u8; 4096];
        match self.said.read(&mut buffer) {
            Ok(0) => true,
            Ok(count) => {
                self.words.extend_from_slice(buffer.get(..count).unwrap_or_default());
                false
            }
            Err(error) => error.kind() != std::io::ErrorKind::Interrupted,
        }
    }

    /// Ends init, and with it everything in its namespace, and waits for that.
    fn end(&mut self) {
        let _ = kill_process(self.init, Signal::KILL);
        while matches!(waitpid(Some(self.init), WaitOptions::empty()), Err(Errno::INTR)) {}
    }

    fn outcome(&mut self, exhausted: Option<String>) -> Report {
        self.end();
        while !self.listen() {}
        match serde_json::from_slice(&self.words) {
            Ok(Report::Ended(ended)) => Report::Ended(Ended { exhausted, ..ended }),
            Ok(report) => report,
            Err(_) => Report::Ended(Ended { code: 128 + Signal::KILL.as_raw(), exhausted, ..Ended::default() }),
        }
    }
}

/// What of the machine is nearly used up.
fn floor_reached(wanted: &Wanted) -> Option<String> {
    let takes_writes = match &wanted.view {
        View::Layers(layers) => layers.first().map(|layer| layer.upper.as_path()),
        View::Bare | View::Machine => wanted.writes.first().map(|path| path.parent().unwrap_or(Path::new("/"))),
    };
    let free = takes_writes.and_then(|path| rustix::fs::statvfs(path).ok()).map(|stat| stat.f_bavail * stat.f_frsize);
    if let Some(free) = free.filter(|free| *free < wanted.limits.disk_floor) {
        return Some(format!("only {} MiB of disk were left", free >> 20));
    }
    let known = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = known.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    (kib << 10 < wanted.limits.memory_floor).then(|| format!("only {} MiB of memory were left", kib >> 10))
}

/// Waits for one byte; nothing at the end of the stream.
pub(crate) fn one_byte(from: &mut File) -> Option<u8> {
    let mut byte = [0u8; 1];
    loop {
        match from.read(&mut byte) {
            Ok(1) => return byte.first().copied(),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return None,
        }
    }
}
