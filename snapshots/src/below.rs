//! What lies under a layer: a folder, and what layers between would make of it that nobody committed.
//!
//! Must never read what a layer between hides, and never take its word for what it does not change.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::beneath::Root;
use crate::capture::{glance, scan};
use crate::entry::{Entry, Node, Tree, path_order};
use crate::error::SnapshotError;
use crate::layer::Effect;
use crate::walk::absent;

/// A folder as it would be if the effects of some layers were committed.
#[derive(Debug)]
pub struct Below<'a> {
    pub(crate) root: &'a Root,
    made: BTreeMap<PathBuf, Entry>,
}

impl<'a> Below<'a> {
    /// The folder as it is.
    pub fn new(root: &'a Root) -> Self {
        Self { root, made: BTreeMap::new() }
    }

    /// Lays the effects of another layer over it.
    pub fn lay(&mut self, effects: &[Effect]) {
        self.made.extend(effects.iter().map(|effect| (effect.path.clone(), effect.after.clone())));
    }

    /// Whether a layer between makes `path` something else, or nothing.
    fn changes(&self, path: &Path) -> bool {
        self.made.contains_key(path)
    }

    /// The names themselves and not what is in folders; files with several names as files.
    pub(crate) fn glance(&self, names: &[PathBuf]) -> Result<Tree, SnapshotError> {
        let mut tree = glance(self.root, names)?;
        for entry in &mut tree.entries {
            let Some(made) = self.made.get(&entry.path) else { continue };
            *entry = made.clone();
            if let Node::HardLink(first) = &made.node
                && let Some(first) = self.made.get(first)
            {
                entry.node = first.node.clone();
            }
        }
        Ok(tree)
    }

    /// Everything at and beneath `paths`, contents included.
    pub fn scan(&self, paths: &[PathBuf]) -> Result<Tree, SnapshotError> {
        let real = scan(self.root, paths, None)?;
        if self.made.is_empty() {
            return Ok(real);
        }
        let mut all: BTreeMap<PathBuf, Entry> =
            real.entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        for path in paths {
            let inside = self.made.range(path.clone()..).take_while(|(name, _)| name.starts_with(path));
            all.extend(inside.map(|(name, entry)| (name.clone(), entry.clone())));
            all.entry(path.clone()).or_insert_with(|| absent(path));
        }
        // A name that is nowhere is told only where it was asked for.
        let mut entries: Vec<Entry> =
            all.into_values().filter(|entry| entry.exists() || is_asked(paths, &entry.path)).collect();
        entries.sort_by(|a, b| path_order(&a.path, &b.path));
        self.refuse_others_links(&entries)?;
        Ok(Tree { entries })
    }

    /// What `scan` refuses once the layers between are committed is refused before as well.
    fn refuse_others_links(&self, entries: &[Entry]) -> Result<(), SnapshotError> {
        let is_shared =
            |entry: &&Entry| entry.stamp.links > 1 && matches!(entry.node, Node::File(_) | Node::HardLink(_));
        let mut names: HashMap<(bool, u64), (&Entry, u64)> = HashMap::new();
        for entry in entries.iter().filter(is_shared) {
            // Inodes of the folder and of layers are not of one file system.
            names.entry((self.changes(&entry.path), entry.stamp.inode)).or_insert((entry, 0)).1 += 1;
        }
        match names.values().find(|(entry, seen)| entry.stamp.links != *seen) {
            Some((entry, _)) => Err(SnapshotError::LinksLeaveScope { path: self.root.path().join(&entry.path) }),
            None => Ok(()),
        }
    }
}

fn is_asked(paths: &[PathBuf], path: &Path) -> bool {
    paths.iter().any(|asked| asked == path)
}
