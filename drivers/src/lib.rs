//! The kinds of steps. A new kind is one folder here and one line in [`all`].
//!
//! Nothing in this crate may decide whether something should be done; it does what a token covers, and looks.

mod command;
mod file;
mod folders;
mod git;
#[cfg(test)]
mod laws;
mod paths;
mod preview;
mod reach;
mod sqlite;

use std::sync::Arc;

pub use command::Confinement;

use kernel::{Driver, DriverSet};
use snapshots::Store;

/// Ends every process that a command of a run left; says how many there were.
pub fn end_processes(run: &str) -> u32 {
    command::process::end_marked(run, |_| true)
}

/// Every kind, over one snapshot store. Without a confinement commands run as they are, and none is contained.
pub fn all(store: &Store, confinement: Option<Arc<Confinement>>) -> DriverSet {
    let drivers: Vec<Arc<dyn Driver>> = vec![
        Arc::new(command::Command::new(store.clone(), confinement)),
        Arc::new(file::File::new(store.clone())),
        Arc::new(git::Git::new(store.clone())),
        Arc::new(sqlite::Sqlite::new(store.clone())),
    ];
    DriverSet::new(drivers)
}
