//! What the words of a known command lead to: never to backout's own state, never through a symlink to somewhere else.
//!
//! An entry of the library says what a command does to the names that it is given. That holds only if the names are what they
//! seem: so they are looked at when the step is assessed and once more directly before it runs.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use kernel::{DriverError, Facts, SideCommand, StepSpec};
use library::{Library, Match, Restore};
use rustix::fs::{FileType, Mode, OFlags};
use schemas::Check;
use snapshots::Root;

use super::lower::cwd_of;
use super::params::{Run, Succeeds};
use crate::paths::{place, snapshot_failed};

/// The library's entry for a command. One that sets variables is another command than the library knows.
pub(super) fn known(params: &Run) -> Option<Match<'static>> {
    if params.env.is_empty() { Library::shipped().find(&params.argv) } else { None }
}

/// A command that looks: known to only read, or unknown.
pub(super) fn side_command(argv: &[String], cwd: &Path, facts: &Facts) -> SideCommand {
    let found = Library::shipped().find(argv).filter(|found| found.entry.restore == Restore::ReadOnly);
    let only_reads = found.is_some_and(|found| lexical(&found, argv, cwd, facts).is_ok());
    SideCommand { argv: argv.to_vec(), only_reads }
}

/// The command of a check.
pub(super) fn of_check(check: &Check, facts: &Facts) -> Vec<SideCommand> {
    let Ok(wanted) = serde_json::from_str::<Succeeds>(check.with.get()) else { return Vec::new() };
    let cwd = match &wanted.cwd {
        Some(cwd) => place(cwd, facts).map(|place| place.absolute()).unwrap_or_default(),
        None => facts.roots.first().cloned().unwrap_or_default(),
    };
    vec![side_command(&wanted.argv, &cwd, facts)]
}

/// Every word that may be a path, and what stands after `=`, without `.` and `..`.
fn candidates(argv: &[String], cwd: &Path) -> Vec<PathBuf> {
    let words = argv.iter().skip(1).flat_map(|word| {
        let value = word.split_once('=').map(|(_, value)| value);
        [(!word.starts_with('-')).then_some(word.as_str()), value]
    });
    words.flatten().filter(|word| !word.is_empty()).map(|word| normal(&cwd.join(word))).collect()
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Programs that show names and never what is in them.
const NAMES_ONLY: [&str; 5] = ["ls", "test", "echo", "true", "sleep"];

/// What can be said of the words without looking.
pub(super) fn lexical(found: &Match<'_>, argv: &[String], cwd: &Path, facts: &Facts) -> Result<(), String> {
    let entry = found.entry;
    if entry.restore == Restore::None {
        return Ok(());
    }
    let names_only = NAMES_ONLY.contains(&entry.id.as_str());
    for path in candidates(argv, cwd) {
        let inside = |own: &&PathBuf| path.starts_with(own) || (!names_only && own.starts_with(&path));
        if let Some(own) = facts.protected.iter().find(inside) {
            return Err(format!("{} reaches {}, where backout keeps its own state", path.display(), own.display()));
        }
        if entry.restore == Restore::Snapshot && path.components().any(|part| part.as_os_str() == OsStr::new(".git")) {
            return Err(format!("{} lies in a .git folder, which only the kind git changes", path.display()));
        }
    }
    Ok(())
}

/// Names that a known command reads, beside those that it changes.
fn sources(found: &Match<'_>, cwd: &Path) -> Vec<PathBuf> {
    found.bindings.get("from").into_iter().flatten().map(|word| normal(&cwd.join(word))).collect()
}

/// Looks at what the words lead to now.
pub(super) fn look_where_they_lead(step: &StepSpec, params: &Run) -> Result<(), DriverError> {
    let refused = |text: String| Err(DriverError::Refused(text));
    let cwd = cwd_of(params, &step.facts).map_err(DriverError::Refused)?;
    let (root, relative) = opened(&cwd, &step.facts)?;
    let folder = OFlags::PATH | OFlags::DIRECTORY;
    root.open_beneath(&relative, folder, Mode::empty()).map_err(snapshot_failed)?;
    if step.undo.is_some() {
        return Ok(());
    }
    let Some(found) = known(params).filter(|found| found.entry.restore != Restore::None) else { return Ok(()) };
    for path in candidates(&params.argv, &cwd) {
        let Ok(real) = path.canonicalize() else { continue };
        if let Some(own) = step.facts.protected.iter().find(|own| real.starts_with(own)) {
            return refused(format!("{} leads to {}, backout's own state", path.display(), own.display()));
        }
    }
    if found.entry.restore != Restore::Snapshot {
        return Ok(());
    }
    for source in sources(&found, &cwd) {
        let Ok(real) = source.canonicalize() else { continue };
        let harmless = ["/dev/zero", "/dev/null"].iter().any(|device| real == Path::new(device));
        if !harmless && !step.facts.roots.iter().any(|root| real.starts_with(root)) {
            return refused(format!("{} leads out of the roots of the environment", source.display()));
        }
    }
    let targets = found.entry.targets.as_ref().and_then(|name| found.bindings.get(name));
    for target in targets.into_iter().flatten() {
        let path = normal(&cwd.join(target));
        let (root, relative) = opened(&path, &step.facts)?;
        // Fails where a folder on the way is a symlink.
        let kind = |path: &Path| -> Result<Option<FileType>, DriverError> {
            let stat = root.stat(path).map_err(snapshot_failed)?;
            Ok(stat.map(|stat| FileType::from_raw_mode(stat.st_mode)))
        };
        let there = kind(&relative)?;
        let mut is_link = there == Some(FileType::Symlink);
        if there == Some(FileType::Directory) {
            // A copy into a folder goes to a name in it, which may be a link as well.
            for name in sources(&found, &cwd).iter().filter_map(|source| source.file_name()) {
                is_link |= kind(&relative.join(name))? == Some(FileType::Symlink);
            }
        }
        let keeps = |flag: &String| flag == "*" || params.argv.contains(flag);
        if is_link && !found.entry.keeps_links.iter().any(keeps) {
            return refused(format!("{} is a symlink, and {} would follow it", path.display(), found.entry.id));
        }
    }
    Ok(())
}

fn opened(path: &Path, facts: &Facts) -> Result<(Root, PathBuf), DriverError> {
    let found = place(&path.display().to_string(), facts).map_err(DriverError::Refused)?;
    Ok((Root::open(&found.root).map_err(snapshot_failed)?, found.relative))
}
