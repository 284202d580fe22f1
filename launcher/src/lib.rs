//! Starting programs so that they reach no further than they may, and none of them outlives its step.
//!
//! One small process for each process of backout (`backout __exec`) forks for every program: the large one never forks, and
//! only this crate calls the kernel without a safe wrapper, in `sys.rs` alone. Must never start a program with less around it than
//! was wanted: what the kernel refuses is an error that cannot be mistaken for the program's own exit.
//!
//! ```text
//! backout --requests--> server --clone(namespaces)--> init --vfork--> program
//!    \________________ control: stop, end; report ________/      walls: Landlock, seccomp
//! ```
//!
//! Whoever dies takes with it what is below: init ends when the server does or its control socket closes, and with the init of a pid
//! namespace the kernel ends everything in it. The server holds every control socket until nothing is left of its launch.

mod cgroup;
mod client;
mod filter;
mod floor;
mod ids;
mod init;
mod messages;
mod request;
mod server;
mod sys;
mod view;
mod wall;
mod wanted;
mod writing;

pub use cgroup::cgroup;
pub use client::{Launcher, Started};
pub use messages::{Ended, Report, Tried};
pub use server::serve;
pub use sys::landlock_version;
pub use wall::has_pid_limit;
pub use wanted::{Layer, Limits, View, Wanted};

/// The word by which the program is started as the launcher.
pub const WORD: &str = "__exec";
