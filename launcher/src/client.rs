//! Asking for programs: the half of the crate that runs in backout itself.
//!
//! Must never leave a descriptor open that a program could inherit: all are closed on `exec`, and the launcher gets its own.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::messages::{KILL, Report, TERM};
use crate::request::{PARTS, Usual, send_parts};
use crate::wanted::Wanted;

/// Largest report in bytes.
const REPORT_BYTES: usize = 64 * 1024;

/// Starts programs by a process of its own, which is started when it is needed first.
#[derive(Debug)]
pub struct Launcher {
    program: PathBuf,
    server: Mutex<Option<Server>>,
}

#[derive(Debug)]
struct Server {
    requests: OwnedFd,
    process: Child,
}

/// A program that was asked for. Dropping it ends the program.
#[derive(Debug)]
pub struct Started {
    control: OwnedFd,
    /// What it writes to standard output; does not block.
    pub output: OwnedFd,
    /// What it writes to standard error; does not block.
    pub errors: OwnedFd,
}

impl Launcher {
    /// A launcher that is `program` started with [`crate::WORD`].
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), server: Mutex::new(None) }
    }

    /// Asks for a program with `input` as its standard input.
    pub fn start(&self, wanted: &Wanted, input: Option<&[u8]>) -> std::io::Result<Started> {
        let request = in_memory(c"request", &serde_json::to_vec(wanted)?)?;
        let input = match input {
            Some(bytes) => in_memory(c"input", bytes)?,
            // Not the machine's own /dev/null, of which a program of root could change the mode.
            None => in_memory(c"input", &[])?,
        };
        let (control, theirs) = pair()?;
        let (output, out) = pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, err) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        rustix::io::ioctl_fionbio(&errors, true)?;
        let parts = [request.as_fd(), theirs.as_fd(), input.as_fd(), out.as_fd(), err.as_fd()];
        self.ask(parts, Usual::of(wanted))?;
        Ok(Started { control, output, errors })
    }

    /// Sends a request; a launcher that is gone is started anew, once.
    fn ask(&self, parts: [BorrowedFd<'_>; PARTS], usual: Option<Usual>) -> std::io::Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..2 {
            let running = match server.take() {
                Some(running) => running,
                None => self.serve()?,
            };
            match send_parts(&running.requests, parts, usual) {
                Ok(()) => {
                    *server = Some(running);
                    return Ok(());
                }
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => drop(running),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(std::io::Error::other("the launcher ends as soon as it is started"))
    }

    fn serve(&self) -> std::io::Result<Server> {
        let (requests, theirs) = pair()?;
        let mut command = Command::new(&self.program);
        command.arg(crate::WORD).env_clear().current_dir("/").process_group(0);
        // The launcher's own words are its messages; nothing that it or a library prints may end up elsewhere.
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Server { requests, process: command.spawn()? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends when its socket closes, which is a field of this; it is waited for by nobody else.
        let _ = rustix::net::shutdown(&self.requests, rustix::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

impl Started {
    /// Readable when the report is there.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Asks the program to end.
    pub fn ask_to_end(&self) {
        let _ = send(&self.control, &[TERM], SendFlags::NOSIGNAL);
    }

    /// Ends the program and everything that it started. The report follows when nothing is left.
    pub fn end(&self) {
        let _ = send(&self.control, &[KILL], SendFlags::NOSIGNAL);
    }

    /// How it came out, once [`Started::control`] is readable. A socket that closed without one is an error: the launcher was killed,
    /// and what it started with it.
    pub fn report(&self) -> std::io::Result<Report> {
        let mut bytes = vec![0u8; REPORT_BYTES];
        let (_, count) = recv(&self.control, bytes.as_mut_slice(), RecvFlags::empty())?;
        match bytes.get(..count) {
            Some(message) if count > 0 => serde_json::from_slice(message).map_err(std::io::Error::other),
            _ => Err(std::io::Error::other("whoever watched the program was killed, and the program with it")),
        }
    }
}

pub(crate) fn pair() -> std::io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn in_memory(name: &std::ffi::CStr, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file.into())
}
