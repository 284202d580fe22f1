//! The compensation library: known commands, how reversible they are, and the way back. Data with a loader and a matcher.
//!
//! Must never guess: a command that an entry does not describe completely is not matched.

mod entry;
mod matcher;

pub use entry::{Capture, Entry, Library, LibraryError, Restore};
pub use matcher::{Bindings, Match, PROGRAM_FOLDERS, bind};
