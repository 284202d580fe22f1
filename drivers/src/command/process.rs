//! Running a program: its own process group, nothing inherited, output capped, ended as a tree.
//!
//! Must never use a shell, and never `pre_exec`, which would fork the whole of this process.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use super::confine::{Confinement, Reach};
use kernel::{Cancel, DriverError, Output};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// Where programs are found.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Bytes kept of each of output and error output.
const CAP: usize = 1 << 20;
/// How often a running program's stop flag is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long a program has to end after SIGTERM.
pub(super) const GRACE: Duration = Duration::from_millis(1_500);
/// Parts of names whose values never reach a record.
const SECRET_NAMES: [&str; 5] = ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "KEY"];

/// What keeps git from running a program that a configuration names, or from taking a folder further up for its repository.
const GIT_ENV: [(&str, &str); 8] = [
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_CONFIG_COUNT", "2"),
    ("GIT_CONFIG_KEY_0", "core.fsmonitor"),
    ("GIT_CONFIG_VALUE_0", "false"),
    ("GIT_CONFIG_KEY_1", "core.hooksPath"),
    ("GIT_CONFIG_VALUE_1", "/dev/null"),
];

/// What to run.
pub(crate) struct Program<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) cwd: &'a Path,
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) stdin: Option<&'a [u8]>,
    pub(crate) timeout_ms: u64,
    pub(crate) run: &'a str,
    pub(crate) cancel: &'a Cancel,
    pub(crate) ground: Ground<'a>,
}

/// Where it runs.
pub(crate) enum Ground<'a> {
    /// As it is, with nothing around it but a process group: where nothing can be put around it, and in tests of other things.
    Plain,
    /// Behind walls.
    Walled(&'a Confinement, &'a Reach),
}

/// Runs it to its end, to its timeout, or until somebody stops it. A program that exits otherwise than with 0 is an error.
pub(crate) fn run(program: &Program<'_>) -> Result<Output, DriverError> {
    match program.ground {
        Ground::Plain => run_plain(program),
        Ground::Walled(confinement, reach) => super::walled::run(program, confinement, reach),
    }
}

fn run_plain(program: &Program<'_>) -> Result<Output, DriverError> {
    let name = program.argv.first().cloned().unwrap_or_default();
    let started = Running::start(program).map_err(|error| DriverError::io(format!("cannot start {name}"), error));
    let mut running = started?;
    let ending = running.attend(program).map_err(|error| DriverError::io(format!("cannot watch {name}"), error));
    if !matches!(ending, Ok(Ending::Exited)) {
        running.end_tree(program.run, program.cancel);
    }
    let status = running.child.wait().map_err(|error| DriverError::io(format!("cannot wait for {name}"), error))?;
    running.drain();
    let exit_code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let captured = redacted(running.captured(), program.env);
    let (printed, cut) = (running.out.kept.clone(), running.out.cut > 0);
    let output = Output { exit_code: Some(exit_code), captured, printed, cut, ..Output::default() };
    match ending? {
        Ending::TimedOut => Err(DriverError::TimedOut { after_ms: program.timeout_ms, output }),
        Ending::Cancelled => Err(DriverError::Stopped { output }),
        Ending::Exited if status.success() => Ok(output),
        Ending::Exited => Err(DriverError::Exit { message: format!("{name} exited with {exit_code}"), output }),
    }
}

impl Program<'_> {
    /// The whole environment.
    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        // A home of its own, or a file that a plan wrote would configure programs; git reads its repository's own alone.
        // What python keeps beside its modules is nobody's to declare.
        let fixed = [("PATH", PATH), ("LANG", "C.UTF-8"), ("HOME", "/nonexistent"), ("PYTHONDONTWRITEBYTECODE", "1")];
        let fixed = fixed.iter().chain(&GIT_ENV).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut out: BTreeMap<String, String> = fixed.collect();
        out.extend(self.env.clone());
        out.insert(MARK.to_owned(), self.run.to_owned());
        out
    }
}

pub(super) enum Ending {
    Exited,
    TimedOut,
    Cancelled,
}

/// The first bytes of a stream, and how many more there were.
pub(super) struct Stream<R> {
    pub(super) pipe: Option<R>,
    pub(super) kept: Vec<u8>,
    pub(super) cut: u64,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(pipe: Option<R>) -> Self {
        Self { pipe, kept: Vec::new(), cut: 0 }
    }

    /// Takes what is there without waiting; a stream that ended is closed.
    pub(super) fn take(&mut self) {
        let mut buffer = [0u8; 16 * 1024];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    let room = CAP.saturating_sub(self.kept.len()).min(count);
                    self.kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
                    self.cut += (count - room) as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    pub(super) fn text(&self, label: &str) -> Vec<u8> {
        let mut out = self.kept.clone();
        if self.cut > 0 {
            out.extend_from_slice(format!("\n[backout: {} more bytes of {label} were cut]\n", self.cut).as_bytes());
        }
        out
    }
}

struct Running {
    child: Child,
    pid: Option<Pid>,
    gone: OwnedFd,
    out: Stream<ChildStdout>,
    err: Stream<ChildStderr>,
    started: Instant,
}

impl Running {
    fn start(program: &Program<'_>) -> std::io::Result<Self> {
        let mut argv = program.argv.iter();
        let name = argv.next().ok_or_else(|| std::io::Error::other("no program"))?;
        let mut command = std::process::Command::new(name);
        command.args(argv).current_dir(program.cwd).process_group(0).env_clear().envs(program.environment());
        command.stdin(if program.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), program.stdin) {
            // A program that does not read its input ends the writing, not the step.
            let _ = pipe.write_all(bytes);
        }
        let pid = Pid::from_raw(child.id() as i32);
        let gone = pid
            .ok_or_else(|| std::io::Error::other("no pid"))
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from))?;
        let (out, err) = (Stream::new(child.stdout.take()), Stream::new(child.stderr.take()));
        for fd in [out.pipe.as_ref().map(AsFd::as_fd), err.pipe.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        Ok(Self { child, pid, gone, out, err, started: Instant::now() })
    }

    /// Reads what it writes until it is gone.
    fn attend(&mut self, program: &Program<'_>) -> std::io::Result<Ending> {
        let limit = Duration::from_millis(program.timeout_ms);
        loop {
            let left = limit.saturating_sub(self.started.elapsed()).min(TICK);
            let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = vec![PollFd::new(&self.gone, PollFlags::IN)];
            fds.extend(self.out.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            fds.extend(self.err.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            match poll(&mut fds, Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let gone = fds.first().is_some_and(|fd| !fd.revents().is_empty());
            drop(fds);
            self.drain();
            if gone {
                return Ok(Ending::Exited);
            }
            if program.cancel.is_cancelled() {
                return Ok(Ending::Cancelled);
            }
            if self.started.elapsed() >= limit {
                return Ok(Ending::TimedOut);
            }
        }
    }

    fn drain(&mut self) {
        self.out.take();
        self.err.take();
    }

    fn captured(&self) -> Vec<u8> {
        let mut out = self.out.text("output");
        out.extend(self.err.text("error output"));
        out
    }

    /// Asks the group to end, then ends it and whatever left the group but carries this run's mark.
    fn end_tree(&mut self, run: &str, cancel: &Cancel) {
        let Some(pid) = self.pid else { return };
        let _ = kill_process_group(pid, Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < GRACE && !cancel.is_killed() {
            let wait = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            let mut fds = [PollFd::new(&self.gone, PollFlags::IN)];
            if poll(&mut fds, Some(&wait)).is_ok_and(|count| count > 0) {
                break;
            }
            self.drain();
        }
        let _ = kill_process_group(pid, Signal::KILL);
        end_marked(run, |other| other != pid);
    }
}

/// The variable by which processes of a run are found again.
const MARK: &str = "BACKOUT_RUN";

/// Ends every process that carries the mark of `run`, until none is left; says how many there were.
pub(crate) fn end_marked(run: &str, also: impl Fn(Pid) -> bool) -> u32 {
    let mut ended = 0;
    for _ in 0..50 {
        let marked: Vec<Pid> = marked(run).into_iter().filter(|pid| also(*pid)).collect();
        if marked.is_empty() {
            return ended;
        }
        for pid in marked {
            ended += u32::from(kill_process(pid, Signal::KILL).is_ok());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    ended
}

fn marked(run: &str) -> Vec<Pid> {
    let needle = format!("{MARK}={run}");
    let me = std::process::id();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid as u32 != me)
        .filter(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|entry| entry == needle.as_bytes())
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// Takes the values of secret-looking variables out of what a program wrote.
pub(super) fn redacted(captured: Vec<u8>, env: &BTreeMap<String, String>) -> Vec<u8> {
    let is_secret = |name: &str| SECRET_NAMES.iter().any(|part| name.to_ascii_uppercase().contains(part));
    let secrets: Vec<&String> =
        env.iter().filter(|(name, value)| is_secret(name) && value.len() > 3).map(|e| e.1).collect();
    if secrets.is_empty() {
        return captured;
    }
    let mut text = String::from_utf8_lossy(&captured).into_owned();
    for secret in secrets {
        text = text.replace(secret.as_str(), "[redacted]");
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program<'a>(
        argv: &'a [String],
        env: &'a BTreeMap<String, String>,
        cancel: &'a Cancel,
        run: &'a str,
    ) -> Program<'a> {
        Program { argv, cwd: Path::new("/"), env, stdin: None, timeout_ms: 300, run, cancel, ground: Ground::Plain }
    }

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn output_is_whole_up_to_the_cap_and_the_cut_is_marked() {
        let (env, cancel) = (BTreeMap::new(), Cancel::default());
        let small = run(&program(&argv(&["sh", "-c", "echo out; echo err >&2"]), &env, &cancel, "t1")).unwrap();
        assert_eq!(String::from_utf8_lossy(&small.captured), "out\nerr\n");
        let large = argv(&["sh", "-c", "head -c 1500000 /dev/zero"]);
        let output = run(&Program { timeout_ms: 10_000, ..program(&large, &env, &cancel, "t2") }).unwrap();
        assert!(String::from_utf8_lossy(&output.captured).contains("451424 more bytes of output were cut"));
    }

    #[test]
    fn a_timeout_ends_the_whole_tree_also_what_left_its_group() {
        let (env, cancel) = (BTreeMap::new(), Cancel::default());
        let words = argv(&["sh", "-c", "setsid sleep 60 & sleep 60"]);
        let ended = run(&program(&words, &env, &cancel, "t-tree"));
        assert!(matches!(ended, Err(DriverError::TimedOut { .. })), "{ended:?}");
        assert!(marked("t-tree").is_empty());
    }

    #[test]
    fn secrets_do_not_reach_the_record_and_the_environment_is_scrubbed() {
        let env = BTreeMap::from([("API_TOKEN".to_owned(), "hunter22".to_owned())]);
        let output = run(&program(&argv(&["env"]), &env, &Cancel::default(), "t3")).unwrap();
        let text = String::from_utf8_lossy(&output.captured).into_owned();
        assert!(text.contains("API_TOKEN=[redacted]") && !text.contains("hunter22"));
        assert!(!text.contains("CARGO"), "{text}");
    }

    #[test]
    fn a_failure_keeps_code_and_output() {
        let (env, cancel) = (BTreeMap::new(), Cancel::default());
        match run(&program(&argv(&["sh", "-c", "echo no; exit 7"]), &env, &cancel, "t4")) {
            Err(DriverError::Exit { output, .. }) => {
                assert_eq!((output.exit_code, output.captured), (Some(7), b"no\n".to_vec()))
            }
            other => panic!("{other:?}"),
        }
    }
}
