//! The process that forks: one for each process of backout, with one thread and little memory.
//!
//! Must never outlive whoever asks it: when the socket closes, it ends.

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Seek as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::keeper;
use crate::messages::Report;
use crate::sys::{self, Half};
use crate::wall;
use crate::wanted::Wanted;

/// What comes with a request, in this order: the request, the control socket, input, output, error output.
pub(crate) const PARTS: usize = 5;

/// The standard streams of a program.
pub(crate) struct Streams {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) errors: OwnedFd,
}

/// Serves requests from standard input, a socket, until it closes. Returns the exit code of the process.
pub fn serve() -> u8 {
    let Ok(mut requests) = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3) else { return 1 };
    let Ok(null) = File::open("/dev/null") else { return 1 };
    if rustix::stdio::dup2_stdin(&null).is_err() {
        return 1;
    }
    let _ = rustix::thread::set_name(c"backout-exec");
    sys::wait_for_children(false);
    // Whoever is forked has them ready.
    wall::build_filters();
    loop {
        match receive(&requests) {
            Ok(Some(parts)) => take(parts, &mut requests, &null),
            Ok(None) => return 0,
            Err(Errno::INTR) => {}
            Err(_) => return 1,
        }
    }
}

/// The descriptors of one request; nothing at the end.
fn receive(requests: &OwnedFd) -> rustix::io::Result<Option<Vec<OwnedFd>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PARTS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    let got = recvmsg(requests, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut parts = Vec::with_capacity(PARTS);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            parts.extend(fds);
        }
    }
    Ok(Some(parts))
}

fn take(parts: Vec<OwnedFd>, requests: &mut OwnedFd, null: &File) {
    let Ok([request, control, input, output, errors]) = <[OwnedFd; PARTS]>::try_from(parts) else { return };
    match sys::split(0) {
        Ok(Half::Child) => {
            sys::wait_for_children(true);
            // Whoever asks must notice when the one that answers is gone.
            let _ = rustix::io::dup2(null, requests);
            let outcome = wanted(request);
            let code = match outcome {
                Ok(wanted) => keeper::keep(&wanted, control, Streams { input, output, errors }),
                Err(error) => keeper::say(&control, &Report::setup("cannot read what to start", &error)),
            };
            std::process::exit(code);
        }
        Ok(Half::Parent(_)) => {}
        Err(error) => {
            keeper::say(&control, &Report::setup("cannot fork", &error));
        }
    }
}

fn wanted(request: OwnedFd) -> std::io::Result<Wanted> {
    let mut file = File::from(request);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(std::io::Error::other)
}
