//! The init of a pid namespace: it builds the view, starts the program behind its walls, and takes everything with it when it ends.
//! Without namespaces it is the process to which orphans come.
//!
//! Must never start the program before every wall stands, and never say that it ended before nothing of it is left.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open, wait};

use crate::filter::{self, Terms};
use crate::floor::Floors;
use crate::messages::{Ended, Failed, KILL, READY, Report, TERM, Tried, say, trying};
use crate::request::{Request, Streams, Usual, read_wanted, receive};
use crate::sys;
use crate::wall;
use crate::wanted::{View, Wanted};
use crate::writing::{self, Allowed};

/// How often ended orphans are collected, and what is left of disk and memory is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Most different things of one program that are told.
const MOST_TRIED: usize = 50;

/// Why a file is not changed.
const UNDECLARED: &str = "it would change what the step does not declare";

/// What a launch is made of.
pub(crate) struct Launch<'a> {
    pub(crate) wanted: &'a Wanted,
    pub(crate) control: &'a OwnedFd,
    pub(crate) streams: Streams,
    /// A byte comes when the user namespace is ready; nothing where there is none.
    pub(crate) ready: Option<File>,
}

/// Does all that init does, says how it came out, and ends.
pub(crate) fn run(launch: Launch<'_>) -> ! {
    let Launch { wanted, control, streams, ready } = launch;
    let reach = Reach::of(&wanted.view);
    let begun = begin(reach, ready);
    let floors = Floors::of(wanted);
    let built = begun.and_then(|()| crate::view::build(wanted));
    finish(built.and_then(|proc| start(wanted, streams, proc, None)), control, &floors, reach)
}

/// Waits for a request, with everything done that does not depend on it.
pub(crate) fn stand_by(requests: &OwnedFd, ready: Option<File>, usual: Usual) -> ! {
    let reach = if usual == Usual::Bare { Reach::Descendants } else { Reach::Namespace };
    let begun = begin(reach, ready);
    let ready = begun.and_then(|()| match usual {
        Usual::Layers => crate::view::base().map(Ready::View),
        Usual::Bare => wear_filter().map(Ready::Filter),
    });
    let request = loop {
        match receive(requests) {
            Ok(Some((parts, _))) => break Request::of(parts),
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => std::process::exit(0),
        }
    };
    let Some(Request { request, control, streams }) = request else { std::process::exit(1) };
    let wanted = match read_wanted(&request).map_err(trying("cannot read what to start")) {
        Ok(wanted) => wanted,
        Err((doing, error)) => {
            say(&control, &Report::setup(doing, &error));
            std::process::exit(0)
        }
    };
    let floors = Floors::of(&wanted);
    let built = ready.and_then(|ready| match (ready, &wanted.view) {
        (Ready::View(base), View::Layers(layers)) => base.finish(&wanted, layers).map(|proc| (proc, None)),
        (Ready::Filter(listener), View::Bare) => crate::view::processes().map(|proc| (proc, Some(listener))),
        _ => Err(trying("another view was prepared")(Errno::INVAL)),
    });
    let started = built.and_then(|(proc, listener)| start(&wanted, streams, proc, listener));
    finish(started, &control, &floors, reach)
}

/// What is done before it is known what is wanted.
enum Ready {
    /// A view that waits for its layers.
    View(crate::view::Base),
    /// A filter that this process has on, and that the program will have from it, with where its calls come. This process makes none of them.
    Filter(OwnedFd),
}

fn wear_filter() -> Result<OwnedFd, Failed> {
    rustix::thread::set_no_new_privs(true).map_err(trying("cannot give up rights"))?;
    filter::put_on(filter::OF_READERS)
}

/// What comes before anything that depends on what is wanted.
fn begin(reach: Reach, ready: Option<File>) -> Result<(), Failed> {
    let in_user = ready.is_some();
    if reach == Reach::Namespace {
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    }
    await_ids(ready);
    if in_user {
        wall::drop_bounds();
    }
    match reach {
        Reach::Namespace => Ok(()),
        Reach::Descendants => rustix::process::set_child_subreaper(Some(rustix::process::getpid())),
    }
    .map_err(trying("cannot adopt orphans"))
}

fn await_ids(ready: Option<File>) {
    if ready.is_some_and(|mut ready| one_byte(&mut ready) != Some(READY)) {
        std::process::exit(1);
    }
}

fn finish(started: Result<Start, Failed>, control: &OwnedFd, floors: &Floors, reach: Reach) -> ! {
    let report = match started {
        Ok(Start::Running(program)) => Report::Ended(program.attend(control, floors, reach)),
        Ok(Start::Failed(report)) => report,
        Err((doing, error)) => Report::setup(doing, &error),
    };
    say(control, &report);
    std::process::exit(0)
}

/// Waits for one byte; nothing at the end of the stream.
fn one_byte(from: &mut File) -> Option<u8> {
    let mut byte = [0u8; 1];
    loop {
        match from.read(&mut byte) {
            Ok(1) => return byte.first().copied(),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

/// What ends with the program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Everything in the namespace of which this process is the init.
    Namespace,
    /// Everything that descends from this process, to which orphans come.
    Descendants,
}

impl Reach {
    fn of(view: &View) -> Self {
        if *view == View::Bare { Self::Descendants } else { Self::Namespace }
    }
}

/// How starting came out.
enum Start {
    Running(Program),
    Failed(Report),
}

/// The program, seen from init.
struct Program {
    pid: Pid,
    gone: OwnedFd,
    /// Where the calls come that the program may not make.
    listener: Option<OwnedFd>,
    /// Where it is asked which files it may change.
    allowed: Option<Allowed>,
    ended: Ended,
}

/// `listener` is there where the filter is on already.
fn start(wanted: &Wanted, streams: Streams, proc: OwnedFd, listener: Option<OwnedFd>) -> Result<Start, Failed> {
    let (name, _) = wanted.argv.split_first().ok_or_else(|| trying("no program")(Errno::INVAL))?;
    let path = wanted.env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path);
    let image = sys::Image::new(&find(name, path), &wanted.argv, &wanted.env)
        .map_err(|error| (format!("cannot start {name}"), error))?;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(trying("cannot make a socket"))?;
    let mut become_it = || {
        let (doing, error) = become_program(wanted, &streams, &theirs, &image, listener.is_some());
        tell(&theirs, &Report::setup(doing, &error).to_bytes(), None);
        127
    };
    let pid = sys::split_until_exec(&mut become_it).map_err(trying("cannot fork"))?;
    drop((theirs, streams));
    let gone = pidfd_open(pid, PidfdFlags::empty()).map_err(trying("cannot watch the program"))?;
    let allowed = wanted.tells_writes.then(|| Allowed::of(wanted, proc, &wall::free(wanted)));
    let mut program = Program { pid, gone, listener, allowed, ended: Ended::default() };
    // First the listener, then nothing: `exec` closes the socket. Words are a failure.
    while let Some((words, fd)) = hear(&ours) {
        if let Some(fd) = fd {
            program.listener = Some(fd);
            continue;
        }
        let unclear = |_| Report::setup("cannot start the program", &std::io::Error::other("it did not say why"));
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        return Ok(Start::Failed(serde_json::from_slice(&words).unwrap_or_else(unclear)));
    }
    Ok(Start::Running(program))
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

/// Turns a new process, which shares the memory of this one, into the program; comes back only where that failed.
fn become_program(wanted: &Wanted, streams: &Streams, init: &OwnedFd, image: &sys::Image, is_filtered: bool) -> Failed {
    let run = || -> Result<std::convert::Infallible, Failed> {
        let dup = trying("cannot set the standard streams");
        rustix::stdio::dup2_stdin(&streams.input)
            .and_then(|()| rustix::stdio::dup2_stdout(&streams.output))
            .and_then(|()| rustix::stdio::dup2_stderr(&streams.errors))
            .map_err(dup)?;
        rustix::process::setsid().map_err(trying("cannot make a session"))?;
        sys::default_pipe_signal();
        rustix::process::chdir(&wanted.cwd).map_err(trying(&format!("cannot go to {}", wanted.cwd.display())))?;
        wall::limit(&wanted.limits)?;
        wall::drop_rights()?;
        sys::close_on_exec().map_err(trying("cannot close descriptors"))?;
        wall::files(wanted)?;
        if !is_filtered {
            let listener = filter::put_on(Terms { network: wanted.network, tells_writes: wanted.tells_writes })?;
            tell(init, b"L", Some(&listener));
        }
        let name = wanted.argv.first().map_or("", String::as_str);
        Err((format!("cannot start {name}"), image.exec()))
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

/// What woke init.
#[derive(Default)]
struct Woken {
    asked: bool,
    called: bool,
}

impl Program {
    /// Collects orphans, refuses what is not allowed, follows orders, until the program is gone; then ends what is left of it.
    fn attend(mut self, control: &OwnedFd, floors: &Floors, reach: Reach) -> Ended {
        let (mut code, mut looked) = (None, Instant::now());
        loop {
            code = code.or(self.collect(WaitOptions::NOHANG).1);
            if code.is_some() {
                break;
            }
            let Ok(woken) = self.wait(control) else { break };
            if woken.asked {
                let mut order = [0u8; 1];
                match recv(control, &mut order, RecvFlags::DONTWAIT) {
                    Ok((_, 1)) if order == [TERM] => drop(kill_process_group(self.pid, Signal::TERM)),
                    Ok((_, 1)) if order == [KILL] => break,
                    Ok((_, 1)) | Err(Errno::INTR | Errno::AGAIN) => {}
                    // A closed socket is whoever asked having died: the kernel ends everything in the namespace with its init.
                    Ok(_) | Err(_) if reach == Reach::Namespace => std::process::exit(0),
                    Ok(_) | Err(_) => break,
                }
            }
            if woken.called {
                self.refuse();
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.ended.exhausted = floors.reached();
                if self.ended.exhausted.is_some() {
                    break;
                }
            }
        }
        let left = match reach {
            Reach::Namespace => {
                sys::kill_all();
                self.collect(WaitOptions::empty()).0
            }
            Reach::Descendants => end_descendants(),
        };
        self.ended.left = if code.is_some() { left } else { 0 };
        self.ended.code = code.unwrap_or(128 + Signal::KILL.as_raw());
        self.ended
    }

    fn wait(&mut self, control: &OwnedFd) -> Result<Woken, Errno> {
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
        let mut fds = vec![PollFd::new(&self.gone, PollFlags::IN), PollFd::new(control, PollFlags::IN)];
        fds.extend(self.listener.as_ref().map(|listener| PollFd::new(listener, PollFlags::IN)));
        match poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let said = |at: usize| fds.get(at).map_or(PollFlags::empty(), PollFd::revents);
        let (asked, calls) = (!said(1).is_empty(), said(2));
        let called = calls.contains(PollFlags::IN);
        // Nobody is left who could call: waiting for it would be no waiting.
        if !called && !calls.is_empty() {
            self.listener = None;
        }
        Ok(Woken { asked, called })
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
        if !writing::is_one(&call) {
            sys::refuse(listener, &call, libc::EPERM);
            let (call, why) = filter::name(&call);
            return self.note(Tried { call, why: why.to_owned() });
        }
        match self.allowed.as_ref().and_then(|allowed| allowed.overstepped(&call)) {
            None => sys::allow(listener, &call),
            Some(tried) => {
                sys::refuse(listener, &call, libc::EACCES);
                self.note(Tried { call: tried, why: UNDECLARED.to_owned() });
            }
        }
    }

    fn note(&mut self, tried: Tried) {
        let known = self.ended.tried.iter().any(|known| known.call == tried.call);
        if !known && self.ended.tried.len() < MOST_TRIED {
            self.ended.tried.push(tried);
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
