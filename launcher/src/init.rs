//! The init of a pid namespace: it builds the view, starts the program behind its walls, and takes everything with it when it ends.
//!
//! Must never start the program before every wall stands.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open, wait};

use crate::keeper::{Failed, one_byte, trying};
use crate::messages::{Ended, READY, Report, TERM, Tried};
use crate::server::Streams;
use crate::sys::{self, Half};
use crate::wall;
use crate::wanted::Wanted;

/// How often ended orphans are collected.
const COLLECT: Duration = Duration::from_millis(200);
/// Most different things of one program that are told.
const MOST_TRIED: usize = 50;

/// Does all that init does, and ends.
pub(crate) fn run(wanted: &Wanted, streams: Streams, mut orders: File, mut saying: File) -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let report = match one_byte(&mut orders) {
        Some(READY) => Some(match wall::limit_processes(&wanted.limits).and_then(|()| start(wanted, streams)) {
            Ok(Start::Running(program)) => Report::Ended(program.attend(orders, Reach::Namespace)),
            Ok(Start::Failed(report)) => report,
            Err((doing, error)) => Report::setup(doing, &error),
        }),
        _ => None,
    };
    if let Some(report) = report {
        let _ = saying.write_all(&report.to_bytes());
    }
    std::process::exit(0)
}

/// What ends with the program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everything in the namespace of which this process is the init.
    Namespace,
    /// Everything that descends from this process, to which orphans come.
    Descendants,
}

/// How starting came out.
pub(crate) enum Start {
    Running(Program),
    Failed(Report),
}

/// The program, seen from init.
pub(crate) struct Program {
    pid: Pid,
    gone: OwnedFd,
    /// Where the calls come that the program may not make.
    listener: Option<OwnedFd>,
    ended: Ended,
}

pub(crate) fn start(wanted: &Wanted, streams: Streams) -> Result<Start, Failed> {
    crate::view::build(wanted)?;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(trying("cannot make a socket"))?;
    match sys::split(0).map_err(trying("cannot fork"))? {
        Half::Child => {
            drop(ours);
            let failed = become_program(wanted, streams, &theirs);
            tell(&theirs, &Report::setup(failed.0, &failed.1).to_bytes(), None);
            std::process::exit(127)
        }
        Half::Parent(pid) => {
            drop((theirs, streams));
            let gone = pidfd_open(pid, PidfdFlags::empty()).map_err(trying("cannot watch the program"))?;
            let mut program = Program { pid, gone, listener: None, ended: Ended::default() };
            // First the listener, then nothing: `exec` closes the socket. Words are a failure.
            while let Some((words, fd)) = hear(&ours) {
                if let Some(fd) = fd {
                    program.listener = Some(fd);
                    continue;
                }
                let unclear =
                    |_| Report::setup("cannot start the program", &std::io::Error::other("it did not say why"));
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                return Ok(Start::Failed(serde_json::from_slice(&words).unwrap_or_else(unclear)));
            }
            Ok(Start::Running(program))
        }
    }
}

fn tell(socket: &OwnedFd, words: &[u8], fd: Option<&OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let _ = sendmsg(socket, &[IoSlice::new(words)], &mut control, SendFlags::NOSIGNAL);
}

fn hear(socket: &OwnedFd) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut words = vec![0u8; 4096];
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut words)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Ok(got) if got.bytes > 0 => {
                let fd = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                });
                words.truncate(got.bytes);
                return Some((words, fd));
            }
            Ok(_) | Err(_) => return None,
        }
    }
}

/// Turns this process into the program; comes back only where that failed.
fn become_program(wanted: &Wanted, streams: Streams, init: &OwnedFd) -> Failed {
    let run = || -> Result<std::convert::Infallible, Failed> {
        let dup = trying("cannot set the standard streams");
        rustix::stdio::dup2_stdin(&streams.input)
            .and_then(|()| rustix::stdio::dup2_stdout(&streams.output))
            .and_then(|()| rustix::stdio::dup2_stderr(&streams.errors))
            .map_err(dup)?;
        rustix::process::setsid().map_err(trying("cannot make a session"))?;
        sys::default_signals();
        rustix::process::chdir(&wanted.cwd).map_err(trying(&format!("cannot go to {}", wanted.cwd.display())))?;
        wall::limit(&wanted.limits)?;
        wall::drop_rights()?;
        sys::close_on_exec().map_err(trying("cannot close descriptors"))?;
        wall::files(wanted)?;
        if let Some(listener) = wall::calls(wanted.network)? {
            tell(init, b"L", Some(&listener));
        }
        let (name, args) = wanted.argv.split_first().ok_or_else(|| trying("no program")(Errno::INVAL))?;
        let path = wanted.env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path);
        let program = find(name, path);
        let mut command = Command::new(&program);
        command.args(args).env_clear().envs(wanted.env.iter().map(|(name, value)| (name, value)));
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        Err((format!("cannot start {name}"), command.exec()))
    };
    match run() {
        Ok(never) => match never {},
        Err(failed) => failed,
    }
}

/// The program of that name: as it is where it has a slash, else the first in the folders of `path`.
fn find(name: &str, path: &str) -> std::path::PathBuf {
    if name.contains('/') {
        return name.into();
    }
    let there = |folder: &str| Some(std::path::Path::new(folder).join(name)).filter(|file| file.is_file());
    path.split(':').find_map(there).unwrap_or_else(|| std::path::Path::new("/nonexistent").join(name))
}

impl Program {
    /// Collects orphans, refuses what is not allowed, passes on orders, until the program is gone; then ends what is left of it.
    pub(crate) fn attend(mut self, mut orders: File, reach: Reach) -> Ended {
        let mut code = None;
        while code.is_none() {
            code = self.collect(WaitOptions::NOHANG).1;
            if code.is_some() {
                break;
            }
            let Ok([asked, called]) = self.wait(&orders) else { break };
            if asked {
                match one_byte(&mut orders) {
                    Some(TERM) => drop(kill_process_group(self.pid, Signal::TERM)),
                    // The kernel ends everything in the namespace with its init.
                    Some(_) | None if reach == Reach::Namespace => std::process::exit(0),
                    Some(_) | None => break,
                }
            }
            if called {
                self.refuse();
            }
        }
        self.ended.left = match reach {
            Reach::Namespace => {
                sys::kill_all();
                self.collect(WaitOptions::empty()).0
            }
            Reach::Descendants => end_descendants(),
        };
        self.ended.code = code.unwrap_or(128 + Signal::KILL.as_raw());
        self.ended
    }

    fn wait(&self, orders: &File) -> Result<[bool; 2], Errno> {
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(COLLECT.subsec_nanos()) };
        let mut fds = vec![PollFd::new(&self.gone, PollFlags::IN), PollFd::new(orders, PollFlags::IN)];
        fds.extend(self.listener.as_ref().map(|listener| PollFd::new(listener, PollFlags::IN)));
        match poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let called = fds.get(2).is_some_and(|fd| fd.revents().contains(PollFlags::IN));
        Ok([ready(1), called])
    }

    /// Waits for children; says how many there were besides the program, and its exit code if it was among them.
    fn collect(&self, options: WaitOptions) -> (u32, Option<i32>) {
        let (mut others, mut code) = (0, None);
        loop {
            match wait(options) {
                Ok(Some((pid, status))) if pid == self.pid => {
                    let signal = status.terminating_signal().map(|signal| 128 + signal);
                    code = status.exit_status().or(signal).or(Some(1));
                    if options.contains(WaitOptions::NOHANG) {
                        return (others, code);
                    }
                }
                Ok(Some(_)) => others += 1,
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return (others, code),
            }
        }
    }

    fn refuse(&mut self) {
        let Some(listener) = &self.listener else { return };
        let Ok(call) = sys::referred(listener) else { return };
        sys::refuse(listener, &call, libc::EPERM);
        let (call, why) = wall::name(&call);
        let known = self.ended.tried.iter().any(|tried| tried.call == call);
        if !known && self.ended.tried.len() < MOST_TRIED {
            self.ended.tried.push(Tried { call, why: why.to_owned() });
        }
    }
}

/// Ends what descends from this process, until there is nothing; says how many were waited for.
fn end_descendants() -> u32 {
    let mut ended = 0;
    loop {
        for pid in descendants(std::process::id() as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
        // Whoever loses its parent comes here, so that in the end all do.
        match wait(WaitOptions::empty()) {
            Ok(Some(_)) => ended += 1,
            Ok(None) | Err(Errno::INTR) => {}
            Err(_) => return ended,
        }
    }
}

fn descendants(of: i32) -> Vec<Pid> {
    let listed = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    let children: Vec<i32> = listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    let inner = children.iter().flat_map(|child| descendants(*child)).collect::<Vec<_>>();
    children.into_iter().filter_map(Pid::from_raw).chain(inner).collect()
}
