//! The process that forks: one for each process of backout, with one thread and little memory.
//!
//! Must never outlive whoever asks it: when the socket closes, it ends, and what it started with it. Must never let the control socket of
//! a launch close before nothing is left of it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::cgroup::{Cgroups, Group};
use crate::client::pair;
use crate::filter;
use crate::ids::Ids;
use crate::init::{self, Launch};
use crate::messages::{Ended, Failed, READY, Report, say, trying};
use crate::request::{Request, Usual, read_wanted, receive};
use crate::sys::{self, Half};
use crate::wall;
use crate::wanted::{Limits, View, Wanted};

/// A launch, until nothing is left of it.
struct Child {
    made: Made,
    control: OwnedFd,
}

/// A process that was made for a launch.
struct Made {
    pid: Pid,
    gone: OwnedFd,
    /// What it and all that comes from it is in, where there are cgroups. Dropped last: what is in it is ended with it.
    group: Option<Group>,
}

/// A process that waits for a request of its kind, with everything done that does not depend on it.
#[derive(Default)]
struct Spare {
    /// Requests of the kind so far.
    asked: u32,
    waiting: Option<Waiting>,
}

struct Waiting {
    made: Made,
    requests: OwnedFd,
}

/// The namespaces of every init.
const NAMESPACES: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;

/// How many requests of a kind come before one is kept waiting: who asks once or twice has nothing of it.
const BEFORE_SPARE: u32 = 2;

struct Server {
    requests: OwnedFd,
    null: File,
    ids: Ids,
    children: Vec<Child>,
    /// By [`Usual`].
    spares: [Spare; 2],
    cgroups: Option<Cgroups>,
}

/// Serves requests from standard input, a socket, until it closes. Returns the exit code of the process.
pub fn serve() -> u8 {
    let Ok(requests) = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3) else { return 1 };
    let Ok(null) = File::open("/dev/null") else { return 1 };
    if rustix::stdio::dup2_stdin(&null).is_err() {
        return 1;
    }
    let Ok(ids) = Ids::own() else { return 1 };
    sys::default_signals();
    wall::drop_bounds();
    let _ = rustix::thread::set_name(c"backout-exec");
    // Whoever is forked has them ready.
    filter::build();
    wall::open_devices();
    let cgroups = Cgroups::own();
    Server { requests, null, ids, children: Vec::new(), spares: Default::default(), cgroups }.serve()
}

impl Server {
    fn serve(mut self) -> u8 {
        loop {
            let mut fds = vec![PollFd::new(&self.requests, PollFlags::IN)];
            fds.extend(self.children.iter().map(|child| PollFd::new(&child.made.gone, PollFlags::IN)));
            if poll(&mut fds, None).is_err_and(|errno| errno != Errno::INTR) {
                return 1;
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
            let asked = ready.next().unwrap_or(false);
            self.children.retain(|child| !ready.next().unwrap_or(false) || !child.is_gone());
            if asked {
                match receive(&self.requests) {
                    Ok(Some((parts, usual))) => self.take(parts, usual),
                    Ok(None) => return 0,
                    Err(Errno::INTR) => {}
                    Err(_) => return 1,
                }
            }
        }
    }

    fn take(&mut self, parts: Vec<OwnedFd>, usual: Option<Usual>) {
        let Some(request) = Request::of(parts) else { return };
        match usual.and_then(|usual| self.hand_on(&request, usual)) {
            Some(made) => self.children.push(Child { made, control: request.control }),
            None => match read_wanted(&request.request).map_err(trying("cannot read what to start")) {
                Ok(wanted) => self.start(&wanted, request),
                Err((doing, error)) => say(&request.control, &Report::setup(doing, &error)),
            },
        }
        if let Some(usual) = usual {
            self.provide(usual);
        }
    }

    fn spare(&mut self, usual: Usual) -> &mut Spare {
        let [bare, layers] = &mut self.spares;
        match usual {
            Usual::Bare => bare,
            Usual::Layers => layers,
        }
    }

    /// Hands a request on to the process that waits for one of its kind.
    fn hand_on(&mut self, request: &Request, usual: Usual) -> Option<Made> {
        let Waiting { made, requests } = self.spare(usual).waiting.take()?;
        let limited = |group: &Group| read_wanted(&request.request).and_then(|wanted| group.limit(&wanted.limits));
        if made.group.as_ref().map_or(Ok(()), limited).is_ok() && request.send(&requests).is_ok() {
            return Some(made);
        }
        end(made.pid);
        None
    }

    /// Has another one wait, where more of the kind are to be expected.
    fn provide(&mut self, usual: Usual) {
        let spare = self.spare(usual);
        spare.asked += 1;
        if spare.asked > BEFORE_SPARE {
            // Where it cannot be made, the next request says why.
            let waiting = self.stand_by(usual).ok();
            self.spare(usual).waiting = waiting;
        }
    }

    /// Makes the process that starts the program and watches it: the init of namespaces, or, without, one to which orphans come.
    fn start(&mut self, wanted: &Wanted, request: Request) {
        let Request { control, streams, .. } = request;
        let in_user = matches!(wanted.view, View::Layers(_)) || (wanted.view == View::Machine && !self.ids.are_roots());
        let mut flags = match wanted.view {
            View::Bare => 0,
            View::Machine | View::Layers(_) => NAMESPACES,
        };
        flags |= if in_user { libc::CLONE_NEWUSER } else { 0 };
        // What it sees of its own cgroup is the same when it is tried out and when it runs.
        flags |= if matches!(wanted.view, View::Layers(_)) { libc::CLONE_NEWCGROUP } else { 0 };
        flags |= if wanted.network || flags == 0 { 0 } else { libc::CLONE_NEWNET };
        match self.fork(flags, &wanted.limits) {
            Ok(Forked::Child(ready)) => init::run(Launch { wanted, control: &control, streams, ready }),
            Ok(Forked::Parent(made)) => self.children.push(Child { made, control }),
            Err((doing, error)) => say(&control, &Report::setup(doing, &error)),
        }
    }

    fn stand_by(&mut self, usual: Usual) -> Result<Waiting, Failed> {
        let (ours, theirs) = pair().map_err(trying("cannot make a socket"))?;
        let flags = match usual {
            Usual::Bare => 0,
            Usual::Layers => NAMESPACES | libc::CLONE_NEWUSER | libc::CLONE_NEWCGROUP | libc::CLONE_NEWNET,
        };
        match self.fork(flags, &Limits::default())? {
            Forked::Child(ready) => {
                drop(ours);
                init::stand_by(&theirs, ready, usual)
            }
            Forked::Parent(made) => Ok(Waiting { made, requests: ours }),
        }
    }

    /// A process of its own; in a user namespace it has to wait for its ids.
    fn fork(&mut self, flags: libc::c_int, limits: &Limits) -> Result<Forked, Failed> {
        let in_user = flags & libc::CLONE_NEWUSER != 0;
        let group = self.cgroups.as_mut().map(|cgroups| cgroups.make(limits)).transpose()?;
        let (wait, ready) = pipe_with(PipeFlags::CLOEXEC).map_err(trying("cannot make a pipe"))?;
        match sys::split(flags, group.as_ref().map(AsFd::as_fd)).map_err(trying("cannot make namespaces"))? {
            Half::Child => {
                // Whoever asks must notice when one that answers is gone. Groups are left to the process that made them.
                let spares = std::mem::take(&mut self.spares).into_iter().filter_map(|spare| spare.waiting);
                let made = spares.map(|waiting| waiting.made).chain(self.children.drain(..).map(|child| child.made));
                made.map(|made| made.group).chain([group]).flatten().for_each(Group::leave);
                drop(ready);
                let _ = rustix::io::dup2(&self.null, &mut self.requests);
                Ok(Forked::Child(in_user.then(|| File::from(wait))))
            }
            Half::Parent(pid) => {
                let mapped = if in_user { self.ids.map(pid) } else { Ok(()) };
                let mut ready = File::from(ready);
                let told = mapped.and_then(|()| match in_user {
                    true => ready.write_all(&[READY]).map_err(trying("cannot speak to an init")),
                    false => Ok(()),
                });
                let gone = told
                    .and_then(|()| pidfd_open(pid, PidfdFlags::empty()).map_err(trying("cannot watch an init")))
                    .inspect_err(|_| end(pid))?;
                Ok(Forked::Parent(Made { pid, gone, group }))
            }
        }
    }
}

/// The two sides of a fork.
enum Forked {
    /// The new process, with what tells it that its ids are there.
    Child(Option<File>),
    /// The old one.
    Parent(Made),
}

fn end(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
    while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
}

impl Child {
    /// Whether it is gone, and with it everything that it started. One that was killed could not say so itself.
    fn is_gone(&self) -> bool {
        match waitpid(Some(self.made.pid), WaitOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => false,
            Ok(Some((_, status))) if status.exit_status() == Some(0) => true,
            Ok(Some(_)) | Err(_) => {
                let exhausted = self.made.group.as_ref().and_then(Group::exhausted);
                let code = 128 + Signal::KILL.as_raw();
                say(&self.control, &Report::Ended(Ended { code, exhausted, ..Ended::default() }));
                true
            }
        }
    }
}
