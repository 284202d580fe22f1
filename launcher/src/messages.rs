//! What the processes of a launch say to one another: one message a packet, JSON where it has content.

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};
use serde::{Deserialize, Serialize};

/// Ends the program at once.
pub(crate) const KILL: u8 = b'K';
/// Asks the program to end: SIGTERM to its group.
pub(crate) const TERM: u8 = b'T';
/// The user namespace is ready.
pub(crate) const READY: u8 = b'R';

/// How a launch came out; sent when nothing of the program is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The program never started: this was tried, and this is what the operating system said.
    Setup {
        /// What was tried.
        doing: String,
        /// What it said: an error number, 0 where it is none of the kernel's.
        errno: i32,
    },
    /// The program ended.
    Ended(Ended),
}

/// How a program ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Its exit code, or 128 and the signal.
    pub code: i32,
    /// What it tried although it may not, each once, in order.
    pub tried: Vec<Tried>,
    /// Processes that were still there when the program ended, and were ended.
    pub left: u32,
    /// Why it was ended before it would have used up the machine.
    pub exhausted: Option<String>,
}

/// One thing that a program tried although it may not. It was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// The system call, with what tells it apart: `mount`, `socket(AF_INET)`.
    pub call: String,
    /// Why it is refused.
    pub why: String,
}

impl Report {
    pub(crate) fn setup(doing: impl Into<String>, error: &std::io::Error) -> Self {
        Self::Setup { doing: doing.into(), errno: error.raw_os_error().unwrap_or(0) }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // INVARIANT: strings and numbers always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Sends a report to whoever asked, who may be gone.
pub(crate) fn say(control: &OwnedFd, report: &Report) {
    let _ = send(control, &report.to_bytes(), SendFlags::NOSIGNAL);
}

/// What was tried, and what came of it.
pub(crate) type Failed = (String, std::io::Error);

/// Puts what was tried to an error.
pub(crate) fn trying<E: Into<std::io::Error>>(doing: &str) -> impl FnOnce(E) -> Failed {
    move |error| (doing.to_owned(), error.into())
}
