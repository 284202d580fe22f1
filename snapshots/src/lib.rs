//! Content-addressed before-images of files and folders, and the way to put them back exactly.
//!
//! This crate must never follow a symlink out of a root, never leave anything out silently, and never count a snapshot
//! that it has not read back.
//!
//! BLAKE3 names contents here: it reads 100,000 files three times as fast as SHA-256, and nothing outside signs these names
//! but through records that carry them.

mod below;
mod beneath;
mod capture;
mod encode;
mod entry;
mod error;
mod layer;
mod pack;
mod restore;
mod store;
mod walk;

#[cfg(test)]
mod tests;

pub use below::Below;
pub use beneath::{Root, is_plain_relative};
pub use capture::scan;
pub use entry::{Content, Difference, Entry, EntryMeta, Node, Stamp, Tree, Xattrs};
pub use error::SnapshotError;
pub use layer::{Effect, Layer};
pub use pack::Hash;
pub use restore::{restore, set_xattrs, temporary_name, temporary_prefix};
pub use store::{SnapshotRef, Store};
