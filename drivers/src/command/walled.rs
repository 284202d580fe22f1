//! Running a program behind walls: watched through the launcher, which says how it ended when nothing of it is left.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{Bell, DriverError, Output};
use launcher::{Ended, Report, Started, View};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::confine::{Bench, Confinement, Reach};
use super::process::{Ending, GRACE, Program, Stream, redacted};

/// How long the launcher has to report after it was told to end a program.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Runs it to its end, to its timeout, or until somebody stops it.
pub(super) fn run(program: &Program<'_>, confinement: &Confinement, reach: &Reach) -> Result<Output, DriverError> {
    let name = program.argv.first().cloned().unwrap_or_default();
    let (scratch, mut env) = (scratch(reach)?, program.environment());
    let folder = scratch.as_ref().map_or(Path::new(""), Bench::path);
    if scratch.is_some() {
        env.insert("TMPDIR".to_owned(), folder.display().to_string());
    }
    let env = env.into_iter().collect();
    let failed = |doing: &str| {
        let doing = format!("{doing} {name}");
        move |error: std::io::Error| DriverError::io(doing, error)
    };
    let started = confinement.start(program, reach, env, folder).map_err(failed("cannot start"))?;
    let mut watched = Watched::new(started, program).map_err(failed("cannot watch"))?;
    let (ending, report) = watched.attend().map_err(failed("cannot watch"))?;
    let ended = match report {
        Report::Ended(ended) => ended,
        Report::Setup { doing, errno } => {
            return Err(DriverError::io(doing, std::io::Error::from_raw_os_error(errno)));
        }
    };
    let output = watched.output(&ended);
    match ending {
        Ending::TimedOut => Err(DriverError::TimedOut { after_ms: program.timeout_ms, output }),
        Ending::Cancelled => Err(DriverError::Stopped { output }),
        Ending::Exited => verdict(&name, &ended, output),
    }
}

/// A program that tried what it may not has failed, whatever it says itself.
fn verdict(name: &str, ended: &Ended, output: Output) -> Result<Output, DriverError> {
    if let Some(reason) = &ended.exhausted {
        let message = format!("{name} was ended before it used up the machine: {reason}");
        return Err(DriverError::Exit { message, output });
    }
    if let [first, ..] = ended.tried.as_slice() {
        let all: Vec<&str> = ended.tried.iter().map(|tried| tried.call.as_str()).collect();
        let message = format!("{name} tried {}, which it may not: {}", all.join(", "), first.why);
        return Err(DriverError::Exit { message, output });
    }
    match ended.code {
        0 => Ok(output),
        code => {
            let why = if speaks_of_walls(&output) {
                "; it may write what the step declares in writes, and nothing else"
            } else {
                ""
            };
            Err(DriverError::Exit { message: format!("{name} exited with {code}{why}"), output })
        }
    }
}

/// Whether a program says that it was not let do something.
pub(super) fn speaks_of_walls(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.captured);
    ["Permission denied", "Read-only file system", "EROFS", "EACCES"].iter().any(|words| said.contains(words))
}

/// On the machine, a temporary folder of the program's own: over layers it has one that nobody else sees.
fn scratch(reach: &Reach) -> Result<Option<Bench>, DriverError> {
    match &reach.view {
        View::Layers(_) => Ok(None),
        View::Bare | View::Machine => Bench::new(&std::env::temp_dir(), &super::confine::own_name()).map(Some),
    }
}

struct Watched<'a> {
    program: &'a Program<'a>,
    started: Started,
    out: Stream<File>,
    err: Stream<File>,
    /// Readable when somebody wants an end.
    called: Arc<std::os::fd::OwnedFd>,
    _bell: Arc<Bell>,
    from: Instant,
}

impl<'a> Watched<'a> {
    fn new(started: Started, program: &'a Program<'a>) -> std::io::Result<Self> {
        let out = Stream::new(Some(File::from(started.output.try_clone()?)));
        let err = Stream::new(Some(File::from(started.errors.try_clone()?)));
        let called = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let rung = called.clone();
        let bell: Arc<Bell> = Arc::new(move || {
            let _ = rustix::io::write(rung.as_fd(), &1u64.to_ne_bytes());
        });
        program.cancel.ring(&bell);
        Ok(Self { program, started, out, err, called, _bell: bell, from: Instant::now() })
    }

    /// Reads what it writes until the launcher says that it is gone; ends it when its time is over or somebody wants that.
    fn attend(&mut self) -> std::io::Result<(Ending, Report)> {
        let limit = Duration::from_millis(self.program.timeout_ms);
        loop {
            if self.program.cancel.is_cancelled() {
                return self.end(Ending::Cancelled);
            }
            let Some(left) = limit.checked_sub(self.from.elapsed()).filter(|left| !left.is_zero()) else {
                return self.end(Ending::TimedOut);
            };
            if self.wait(left)? {
                return Ok((Ending::Exited, self.started.report()?));
            }
        }
    }

    /// Asks it to end, then ends it.
    fn end(&mut self, ending: Ending) -> std::io::Result<(Ending, Report)> {
        let asked = Instant::now();
        if !self.program.cancel.is_killed() {
            self.started.ask_to_end();
            while asked.elapsed() < GRACE && !self.program.cancel.is_killed() {
                if self.wait(GRACE.saturating_sub(asked.elapsed()))? {
                    return Ok((ending, self.started.report()?));
                }
            }
        }
        self.started.end();
        while asked.elapsed() < GRACE + LAST_WORD {
            if self.wait(LAST_WORD)? {
                return Ok((ending, self.started.report()?));
            }
        }
        Err(std::io::Error::other("it was told to end, and whoever watches it does not say that it did"))
    }

    /// Waits until something is there to be read; tells whether it is the report.
    fn wait(&mut self, most: Duration) -> std::io::Result<bool> {
        let wait = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: i64::from(most.subsec_nanos()) };
        let control = self.started.control();
        let mut fds = vec![PollFd::from_borrowed_fd(control, PollFlags::IN)];
        // Once it rang there is nothing to hear from it any more, but that somebody is in more of a hurry.
        fds.push(PollFd::from_borrowed_fd(self.called.as_fd(), PollFlags::IN));
        let pipes: [Option<BorrowedFd<'_>>; 2] =
            [self.out.pipe.as_ref().map(AsFd::as_fd), self.err.pipe.as_ref().map(AsFd::as_fd)];
        fds.extend(pipes.into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)));
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let reported = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        let mut count = [0u8; 8];
        let _ = rustix::io::read(self.called.as_fd(), &mut count);
        self.out.take();
        self.err.take();
        Ok(reported)
    }

    fn output(&mut self, ended: &Ended) -> Output {
        self.out.take();
        self.err.take();
        let mut all = self.out.text("output");
        all.extend(self.err.text("error output"));
        for tried in &ended.tried {
            all.extend(format!("[backout: refused {}: {}]\n", tried.call, tried.why).into_bytes());
        }
        if ended.left > 0 {
            all.extend(format!("[backout: ended {} processes that it left running]\n", ended.left).into_bytes());
        }
        let captured = redacted(all, self.program.env);
        let (printed, cut) = (self.out.kept.clone(), self.out.cut > 0);
        let tried = ended.tried.iter().map(|tried| tried.call.clone()).collect();
        Output { exit_code: Some(ended.code), captured, printed, cut, tried, ..Output::default() }
    }
}
