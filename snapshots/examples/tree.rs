//! Captures a tree into a store, or puts it back: what the benchmark of this crate runs.
//!
//! `tree capture TREE STORE` captures; a second time it reads only what changed. `tree restore TREE STORE` puts the last
//! capture back and proves it.
#![allow(clippy::print_stderr)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use snapshots::{Root, SnapshotRef, Store, restore, scan};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["capture", tree, store] => capture(Path::new(tree), Path::new(store)),
        ["restore", tree, store] => put_back(Path::new(tree), Path::new(store)),
        _ => Err("tree capture|restore TREE STORE".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The root that holds the tree, and the tree's name beneath it.
fn place(tree: &Path) -> Result<(Root, PathBuf), Box<dyn Error>> {
    let (Some(parent), Some(name)) = (tree.parent(), tree.file_name()) else { return Err("name a folder".into()) };
    Ok((Root::open(parent)?, PathBuf::from(name)))
}

fn last(store: &Path) -> Result<Option<SnapshotRef>, Box<dyn Error>> {
    match std::fs::read(store.join("last.json")) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn capture(tree: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let (root, name) = place(tree)?;
    let store = Store::open(folder)?;
    let (reference, _) = store.capture(&root, &[name], last(folder)?.as_ref())?;
    std::fs::write(folder.join("last.json"), serde_json::to_vec(&reference)?)?;
    Ok(())
}

fn put_back(tree: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let (root, name) = place(tree)?;
    let store = Store::open(folder)?;
    let wanted = last(folder)?.ok_or("nothing was captured")?;
    let known = store.tree(&wanted)?;
    let now = scan(&root, std::slice::from_ref(&name), Some(&known))?;
    restore(&store, &root, &[name], &wanted, &now, "bench")?;
    Ok(())
}
