//! What is to be started, and what it may reach. Plain data: it crosses a process boundary.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A program and the walls around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The program and its arguments; found in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// Absolute working directory.
    pub cwd: PathBuf,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// What of the machine it sees.
    pub view: View,
    /// Whether it shares the machine's network.
    pub network: bool,
    /// Whether every file that it tries to change and may not is told by its path. Each call that changes a file by its name then waits
    /// for init.
    pub tells_writes: bool,
    /// Files and folders that it may write, besides a `/tmp` of its own. Nothing else can be written.
    pub writes: Vec<PathBuf>,
    /// Folders that it must not see into.
    pub hidden: Vec<PathBuf>,
    /// An empty folder that is its temporary folder on the machine itself; over layers it has a `/tmp` of its own.
    pub scratch: PathBuf,
    /// What it may use up.
    pub limits: Limits,
}

/// What of the machine a program sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The machine itself, without namespaces: for programs that are known to only read. `hidden` is not covered.
    Bare,
    /// The machine itself, `hidden` covered, in namespaces for processes, mounts and IPC.
    Machine,
    /// The programs of the machine, read only, and these folders through layers that take what is written. Nothing else is there.
    Layers(Vec<Layer>),
}

/// One folder as a program sees it: what lies below is read, what is written goes to `upper`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Where the program sees it.
    pub at: PathBuf,
    /// Folders that lie below, the topmost first; the last is the real one.
    pub lower: Vec<PathBuf>,
    /// Takes what is written. On one file system with `work`.
    pub upper: PathBuf,
    /// Empty; the kernel's own.
    pub work: PathBuf,
}

/// What a program may use up. A program that would use up the machine is ended before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of private memory of one process (`RLIMIT_DATA`).
    pub memory: u64,
    /// Processes and threads of its user (`RLIMIT_NPROC`), which a program in a user namespace has for itself alone.
    pub processes: u64,
    /// Open files of one process (`RLIMIT_NOFILE`).
    pub files: u64,
    /// Bytes of one file (`RLIMIT_FSIZE`).
    pub file_size: u64,
    /// Seconds of CPU time of one process (`RLIMIT_CPU`).
    pub cpu_s: u64,
    /// Bytes that stay free on the file system that takes its writes: below that it is ended.
    pub disk_floor: u64,
    /// Bytes of memory that stay available on the machine: below that it is ended.
    pub memory_floor: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let gib = 1 << 30;
        Self {
            memory: 8 * gib,
            processes: 1_024,
            files: 4_096,
            file_size: 64 * gib,
            cpu_s: 3_600,
            disk_floor: gib / 2,
            memory_floor: gib / 4,
        }
    }
}
