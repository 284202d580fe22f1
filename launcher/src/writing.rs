//! Calls that would change a file by its name, and whether a program may: so that what it tried is known by path, and not only to itself.
//!
//! Must never be the only wall where somebody means harm: what a path leads to may change after it was looked at. Landlock and read-only
//! mounts are the walls; where there are none for owners, modes and times this keeps an honest program from them.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat, readlinkat};

use crate::sys::Referred;
use crate::wanted::Wanted;

/// When a call changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Always.
    Always,
    /// Where an argument has one of [`WRITES`].
    Flags(u8),
    /// Where the structure that an argument points to begins with one of them.
    How(u8),
}

/// Where a call names a file: a folder's descriptor, and a path in the program's memory. One of both may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    folder: Option<u8>,
    path: Option<u8>,
}

/// A call that changes files by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writing {
    pub(crate) number: i64,
    name: &'static str,
    pub(crate) when: When,
    places: &'static [Place],
    /// Whether a link as the last name is followed.
    follows: bool,
}

/// Flags of `open` that write or make something.
pub(crate) const WRITES: u32 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u32;

const fn path(at: u8) -> Place {
    Place { folder: None, path: Some(at) }
}

const fn in_folder(folder: u8, at: u8) -> Place {
    Place { folder: Some(folder), path: Some(at) }
}

const OPENED: &[Place] = &[Place { folder: Some(0), path: None }];
const FIRST: &[Place] = &[path(0)];
const IN_FOLDER: &[Place] = &[in_folder(0, 1)];

const fn made(number: i64, name: &'static str, places: &'static [Place]) -> Writing {
    Writing { number, name, when: When::Always, places, follows: false }
}

const fn changed(number: i64, name: &'static str, places: &'static [Place]) -> Writing {
    Writing { number, name, when: When::Always, places, follows: true }
}

/// Calls of every machine.
const CALLS: &[Writing] = &[
    Writing { when: When::Flags(2), ..changed(libc::SYS_openat, "open", IN_FOLDER) },
    Writing { when: When::How(2), ..changed(libc::SYS_openat2, "open", IN_FOLDER) },
    made(libc::SYS_mkdirat, "mkdir", IN_FOLDER),
    made(libc::SYS_mknodat, "mknod", IN_FOLDER),
    made(libc::SYS_unlinkat, "unlink", IN_FOLDER),
    made(libc::SYS_renameat2, "rename", &[in_folder(0, 1), in_folder(2, 3)]),
    made(libc::SYS_linkat, "link", &[in_folder(2, 3)]),
    made(libc::SYS_symlinkat, "symlink", &[in_folder(1, 2)]),
    changed(libc::SYS_truncate, "truncate", FIRST),
    changed(libc::SYS_fchmod, "chmod", OPENED),
    changed(libc::SYS_fchmodat, "chmod", IN_FOLDER),
    changed(libc::SYS_fchmodat2, "chmod", IN_FOLDER),
    changed(libc::SYS_fchown, "chown", OPENED),
    changed(libc::SYS_fchownat, "chown", IN_FOLDER),
    changed(libc::SYS_utimensat, "utimensat", IN_FOLDER),
    changed(libc::SYS_setxattr, "setxattr", FIRST),
    made(libc::SYS_lsetxattr, "setxattr", FIRST),
    changed(libc::SYS_fsetxattr, "setxattr", OPENED),
    changed(libc::SYS_removexattr, "removexattr", FIRST),
    made(libc::SYS_lremovexattr, "removexattr", FIRST),
    changed(libc::SYS_fremovexattr, "removexattr", OPENED),
    // `setxattrat`, `removexattrat`, `file_setattr`: newer than the names that are known here, with one number everywhere.
    changed(463, "setxattr", IN_FOLDER),
    changed(466, "removexattr", IN_FOLDER),
    changed(469, "setattr", IN_FOLDER),
];

/// Calls that only some machines have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[Writing] = &[
    Writing { when: When::Flags(1), ..changed(libc::SYS_open, "open", FIRST) },
    changed(libc::SYS_creat, "open", FIRST),
    made(libc::SYS_mkdir, "mkdir", FIRST),
    made(libc::SYS_mknod, "mknod", FIRST),
    made(libc::SYS_unlink, "unlink", FIRST),
    made(libc::SYS_rmdir, "rmdir", FIRST),
    made(libc::SYS_rename, "rename", &[path(0), path(1)]),
    made(libc::SYS_renameat, "rename", &[in_folder(0, 1), in_folder(2, 3)]),
    made(libc::SYS_link, "link", &[path(1)]),
    made(libc::SYS_symlink, "symlink", &[path(1)]),
    changed(libc::SYS_chmod, "chmod", FIRST),
    changed(libc::SYS_chown, "chown", FIRST),
    made(libc::SYS_lchown, "chown", FIRST),
    changed(libc::SYS_utime, "utime", FIRST),
    changed(libc::SYS_utimes, "utimes", FIRST),
    changed(libc::SYS_futimesat, "utimes", IN_FOLDER),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[Writing] = &[];

/// All of them.
pub(crate) fn calls() -> impl Iterator<Item = &'static Writing> {
    CALLS.iter().chain(OLD_CALLS)
}

/// Whether a call is one of them.
pub(crate) fn is_one(call: &Referred) -> bool {
    calls().any(|writing| writing.number == i64::from(call.number))
}

/// What programs try for their own comfort and do without: terminals, their own streams, and what the kernel tells of processes. The walls refuse it all the same.
const COMFORT: [&str; 9] = [
    "/dev/tty",
    "/dev/pts",
    "/dev/ptmx",
    "/dev/fd",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
    "/proc",
    // The home of every command.
    "/nonexistent",
];

/// What a program may write, by path.
pub(crate) struct Allowed {
    /// The processes of its namespace.
    proc: OwnedFd,
    within: Vec<PathBuf>,
}

impl Allowed {
    /// Of what is wanted, in the view in which this process is; `proc` shows the processes that calls come from.
    pub(crate) fn of(wanted: &Wanted, proc: OwnedFd, free: &[PathBuf]) -> Self {
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let devices = crate::wall::DEVICES.iter().map(PathBuf::from);
        Self { proc, within: wanted.writes.iter().chain(free).map(real).chain(devices).collect() }
    }

    /// What a call would change although the program may not: the call and the path. What cannot be read is left to the walls.
    pub(crate) fn overstepped(&self, call: &Referred) -> Option<String> {
        let writing = calls().find(|writing| writing.number == i64::from(call.number))?;
        if let When::How(at) = writing.when {
            let how = self.memory(call, argument(call, at)?, 8)?;
            let flags = u64::from_ne_bytes(how.try_into().ok()?);
            if flags & u64::from(WRITES) == 0 {
                return None;
            }
        }
        let outside = |place: &Place| {
            let written = self.named(call, place)?;
            let by_names = plain(&written);
            let led = self.without_magic(call, &by_names);
            // Links and `..` are the kernel's to follow, but for those of the program itself.
            let named = if led == by_names { written } else { led.clone() };
            // By its names alone: a link to one of them is another thing.
            let is_comfort = COMFORT.iter().any(|known| led.starts_with(known));
            let real = real(&named, writing.follows);
            let is_allowed = self.within.iter().any(|known| real.starts_with(known));
            (!is_comfort && !is_allowed).then(|| format!("{}({})", writing.name, real.display()))
        };
        writing.places.iter().find_map(outside)
    }

    /// The absolute path that a place names, as the program wrote it.
    fn named(&self, call: &Referred, place: &Place) -> Option<PathBuf> {
        let path = match place.path.map(|at| argument(call, at)) {
            Some(None) => return None,
            // No path where there could be one: it is about the descriptor.
            Some(Some(0)) | None => PathBuf::new(),
            Some(Some(address)) => self.text(call, address)?,
        };
        if path.is_absolute() {
            return Some(path);
        }
        let descriptor = place.folder.and_then(|at| argument(call, at)).map(|fd| fd as i32);
        let folder = match descriptor.filter(|fd| *fd != libc::AT_FDCWD) {
            Some(fd) => self.link(call, &format!("fd/{fd}"))?,
            None => self.link(call, "cwd")?,
        };
        Some(if path.as_os_str().is_empty() { folder } else { folder.join(path) })
    }

    fn text(&self, call: &Referred, address: u64) -> Option<PathBuf> {
        let bytes = self.memory(call, address, libc::PATH_MAX as usize)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        Some(PathBuf::from(OsString::from_vec(bytes.get(..end)?.to_vec())))
    }

    /// Where a path leads that goes through what the kernel tells of a process: its root, its working directory, what it has open.
    fn without_magic(&self, call: &Referred, named: &Path) -> PathBuf {
        let parts: Vec<&OsStr> = named.iter().skip(1).collect();
        let words: Vec<&str> = parts.iter().map(|part| part.to_str().unwrap_or_default()).collect();
        let (link, depth) = match words.as_slice() {
            ["proc", _, "root", ..] => (Some("/".into()), 3),
            ["proc", _, "cwd", ..] => (self.link(call, "cwd"), 3),
            ["proc", _, "fd", number, ..] => (self.link(call, &format!("fd/{number}")), 4),
            ["dev", "fd", number, ..] => (self.link(call, &format!("fd/{number}")), 3),
            _ => (None, 0),
        };
        // What is open itself, and not something in it, is nobody's path.
        match (link, parts.get(depth..)) {
            (Some(link), Some(rest @ [_, ..])) => rest.iter().fold(link, |path: PathBuf, part| path.join(part)),
            _ => named.to_owned(),
        }
    }

    fn link(&self, call: &Referred, name: &str) -> Option<PathBuf> {
        let found = readlinkat(&self.proc, format!("{}/{name}", call.pid), Vec::new()).ok()?;
        Some(PathBuf::from(OsString::from_vec(found.into_bytes())))
    }

    /// Up to that many bytes of the program's memory.
    fn memory(&self, call: &Referred, address: u64, most: usize) -> Option<Vec<u8>> {
        let name = format!("{}/mem", call.pid);
        let file = openat(&self.proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut bytes = vec![0u8; most];
        let count = rustix::io::pread(&file, &mut bytes, address).ok()?;
        bytes.truncate(count);
        Some(bytes)
    }
}

fn argument(call: &Referred, at: u8) -> Option<u64> {
    call.args.get(usize::from(at)).copied()
}

/// Where a path leads; what is not there yet lies where its folder leads, and what has no folder where its names say.
fn real(named: &Path, follows: bool) -> PathBuf {
    if follows && let Ok(real) = named.canonicalize() {
        return real;
    }
    if let (Some(parent), Some(name)) = (named.parent(), named.file_name())
        && let Ok(parent) = parent.canonicalize()
    {
        return parent.join(name);
    }
    plain(named)
}

/// A path by its names alone.
fn plain(named: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in named.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_lies_where_its_names_say() {
        let dir = tempfile::tempdir().unwrap().path().canonicalize().unwrap();
        let gone = dir.join("world/../other/file");
        assert_eq!(real(&gone, true), dir.join("other/file"));
        assert_eq!(real(Path::new("/usr/./lib/../nothing"), false), Path::new("/usr/nothing"));
        assert_eq!(real(Path::new("/usr/lib/.."), false), Path::new("/usr"));
    }
}
