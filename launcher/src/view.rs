//! What a program sees of the machine: made of mounts in a namespace of its own.
//!
//! Must never leave anything mounted outside that namespace, and never show what was not asked for.

use std::fs::{DirBuilder, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, open as open_path};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
    move_mount, open_tree, unmount,
};

use crate::messages::{Failed, trying};
use crate::sys;
use crate::wall;
use crate::wanted::{Layer, View, Wanted};

/// Folders of the machine that programs live on; those that are links there are links in the view.
const SYSTEM: [&str; 9] = ["/usr", "/etc", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix"];
/// Devices that do nothing to anybody.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// What of `/etc` is nobody's but the machine's: readable to root alone, and so to a program that root runs.
const SECRETS: [&str; 8] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers",
    "/etc/kubernetes",
];

/// Where a view of layers is built: a folder that every machine has and that no root of anybody lies in. In the namespace of the view alone
/// something is mounted there.
const BASE: &str = "/sys";
/// Bytes that a program over layers may write beside them.
const BESIDE: u64 = 256 << 20;

/// Builds the view and makes it the root of this process. What comes back shows the processes of its namespace.
pub(crate) fn build(wanted: &Wanted) -> Result<OwnedFd, Failed> {
    match &wanted.view {
        View::Bare => processes(),
        View::Machine => {
            let proc = proc()?;
            wall::limit_processes(&proc, &wanted.limits)?;
            machine(wanted)?;
            Ok(proc)
        }
        View::Layers(layers) => base()?.finish(wanted, layers),
    }
}

/// The processes of the machine, where there is no other namespace.
pub(crate) fn processes() -> Result<OwnedFd, Failed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_path("/proc", flags, Mode::empty()).map_err(trying("cannot open /proc"))
}

/// Nothing that is mounted here is seen elsewhere.
fn keep_private() -> Result<(), Failed> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(trying("cannot make mounts private"))
}

/// The processes of this namespace, mounted nowhere yet.
fn proc() -> Result<OwnedFd, Failed> {
    let open = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&fs)?;
        let flags =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    open().map_err(trying("cannot mount /proc"))
}

/// The machine itself, read only but for what may be written: Landlock knows nothing of modes, owners and times.
fn machine(wanted: &Wanted) -> Result<(), Failed> {
    keep_private()?;
    let doing = |path: &Path| format!("cannot keep {} writable", path.display());
    let mut writable = Vec::new();
    for path in wanted.writes.iter().chain([&wanted.scratch]) {
        writable.push((path, copied(path).map_err(trying(&doing(path)))?));
    }
    let all = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC).map_err(trying("cannot hold the root"))?;
    sys::set_mount(&all, libc::MOUNT_ATTR_RDONLY).map_err(trying("cannot make the machine read only"))?;
    for (path, copy) in &writable {
        attach(copy, path).map_err(trying(&doing(path)))?;
    }
    wanted.hidden.iter().try_for_each(|folder| cover(folder))
}

/// Puts an empty folder over another, or something that cannot be opened over a file.
fn cover(folder: &Path) -> Result<(), Failed> {
    if folder.is_file() {
        let doing = format!("cannot cover {}", folder.display());
        let nothing = copied(Path::new("/dev/null")).map_err(trying(&doing))?;
        sys::set_mount(&nothing, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC)
            .map_err(trying(&doing))?;
        return attach(&nothing, folder).map_err(trying(&doing));
    }
    if !folder.is_dir() {
        return Ok(());
    }
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", folder, "tmpfs", flags, Some(c"mode=000,size=4k"))
        .map_err(trying(&format!("cannot cover {}", folder.display())))
}

/// What every view of layers has, waiting for the layers.
pub(crate) struct Base {
    proc: OwnedFd,
}

fn inside(path: &Path) -> PathBuf {
    Path::new(BASE).join(path.strip_prefix("/").unwrap_or(path))
}

/// Builds what does not depend on what is wanted.
pub(crate) fn base() -> Result<Base, Failed> {
    keep_private()?;
    let size = std::ffi::CString::new(format!("mode=755,size={BESIDE}")).unwrap_or_default();
    mount("none", BASE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(size.as_c_str()))
        .map_err(trying("cannot mount a root for the view"))?;
    let nothing = inside(Path::new(".nothing"));
    make_folder(&nothing, 0o555)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(trying("cannot read the mounts"))?;
    let mounts: Vec<&Path> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new).collect();
    for folder in SYSTEM {
        system(Path::new(folder), &nothing, &mounts)?;
    }
    for (folder, mode) in [("var", 0o755), ("dev", 0o755), ("proc", 0o755)] {
        make_folder(&Path::new(BASE).join(folder), mode)?;
    }
    for folder in ["tmp", "var/tmp", "dev/shm", "run"] {
        make_folder(&Path::new(BASE).join(folder), 0o1777)?;
    }
    devices(&inside(Path::new("/dev")))?;
    if rustix::process::geteuid().is_root() {
        secrets()?;
    }
    Ok(Base { proc: proc()? })
}

impl Base {
    /// Adds the layers, covers what is hidden, and makes it the root of this process.
    pub(crate) fn finish(self, wanted: &Wanted, layers: &[Layer]) -> Result<OwnedFd, Failed> {
        wall::limit_processes(&self.proc, &wanted.limits)?;
        sys::set_mount(&self.proc, libc::MOUNT_ATTR_RDONLY).map_err(trying("cannot make /proc read only"))?;
        attach(&self.proc, &inside(Path::new("/proc"))).map_err(trying("cannot show /proc"))?;
        let mut overlays =
            layers.iter().map(|layer| Ok((layer, overlay(layer)?))).collect::<Result<Vec<_>, Failed>>()?;
        overlays.sort_by(|(one, _), (other, _)| one.at.cmp(&other.at));
        for (layer, made) in overlays {
            let at = inside(&layer.at);
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&at)
                .map_err(trying("cannot make a place for a layer"))?;
            attach(&made, &at).map_err(trying(&format!("cannot show {}", layer.at.display())))?;
        }
        wanted.hidden.iter().try_for_each(|folder| cover(&inside(folder)))?;
        rustix::process::chdir(BASE)
            .and_then(|()| rustix::process::pivot_root(".", "."))
            .and_then(|()| unmount(".", UnmountFlags::DETACH))
            .and_then(|()| rustix::process::chdir("/"))
            .map_err(trying("cannot change the root"))?;
        Ok(self.proc)
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Failed> {
    let failed = |error| (format!("cannot make {}", path.display()), error);
    DirBuilder::new().mode(0o755).create(path).map_err(failed)?;
    if mode == 0o755 {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

/// An overlay that is mounted nowhere yet.
fn overlay(layer: &Layer) -> Result<OwnedFd, Failed> {
    let doing = format!("cannot lay a layer over {}", layer.at.display());
    let open = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // By descriptor: what the kernel takes for an option has 255 bytes, and a path may have more, or a colon.
        let held = |path: &PathBuf| open_path(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let lower = layer.lower.iter().map(held).collect::<Result<Vec<_>, _>>()?;
        let (upper, work) = (held(&layer.upper)?, held(&layer.work)?);
        match lower.as_slice() {
            [only] => fsconfig_set_string(&fs, "lowerdir", name(only))?,
            several => match several.iter().try_for_each(|one| fsconfig_set_string(&fs, "lowerdir+", name(one))) {
                // Before Linux 6.5 all of them in one option, as far as they fit.
                Err(Errno::INVAL) => {
                    let joined = several.iter().map(name).collect::<Vec<_>>().join(":");
                    fsconfig_set_string(&fs, "lowerdir", joined)?;
                }
                other => other?,
            },
        }
        fsconfig_set_string(&fs, "upperdir", name(&upper))?;
        fsconfig_set_string(&fs, "workdir", name(&work))?;
        fsconfig_set_flag(&fs, "userxattr")?;
        // Nothing of a layer has to last before it is committed, and whoever commits it syncs it then.
        fsconfig_set_flag(&fs, "volatile")?;
        fsconfig_create(&fs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    open().map_err(trying(&doing))
}

/// A folder of the machine, read only, with what is mounted in it; a link as a link. Seen through an overlay, so that its sockets lead nowhere
/// and what is covered stays covered, whatever is renamed outside meanwhile.
fn system(real: &Path, nothing: &Path, mounts: &[&Path]) -> Result<(), Failed> {
    let doing = || format!("cannot show {}", real.display());
    let at = inside(real);
    let Ok(meta) = std::fs::symlink_metadata(real) else { return Ok(()) };
    if meta.is_symlink() {
        let target = std::fs::read_link(real).map_err(trying(&doing()))?;
        return symlink(target, at).map_err(trying(&doing()));
    }
    make_folder(&at, 0o755)?;
    let mut within: Vec<&Path> = mounts.iter().copied().filter(|mount| mount.starts_with(real)).collect();
    within.extend((!within.contains(&real)).then_some(real));
    within.sort();
    within.dedup();
    for mount in within {
        // A file or socket that is mounted on another is left out: what it lies on is seen.
        if mount.is_dir() {
            let shown = below(mount, nothing).map_err(trying(&format!("cannot show {}", mount.display())))?;
            attach(&shown, &inside(mount)).map_err(trying(&format!("cannot show {}", mount.display())))?;
        }
    }
    Ok(())
}

/// An overlay without an upper folder: nothing can be written, and a name leads to the overlay's own file.
fn below(real: &Path, nothing: &Path) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let held = |path: &Path| open_path(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let (real, nothing) = (held(real)?, held(nothing)?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    fsconfig_set_string(&fs, "lowerdir", format!("{}:{}", name(&real), name(&nothing)))?;
    fsconfig_set_flag(&fs, "userxattr")?;
    fsconfig_create(&fs)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn copied(real: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, real, flags)
}

fn attach(made: &OwnedFd, at: &Path) -> rustix::io::Result<()> {
    move_mount(made, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn devices(at: &Path) -> Result<(), Failed> {
    for name in DEVICES {
        let doing = format!("cannot show /dev/{name}");
        let place = at.join(name);
        File::create(&place).map_err(trying(&doing))?;
        let copy = copied(&Path::new("/dev").join(name)).map_err(trying(&doing))?;
        // Written to like anywhere; their own mode and owner are the machine's.
        sys::set_mount(&copy, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC)
            .map_err(trying(&doing))?;
        attach(&copy, &place).map_err(trying(&doing))?;
    }
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{target}"), at.join(name)).map_err(trying("cannot link /dev/fd"))?;
    }
    Ok(())
}

/// Covers what of `/etc` only root may read.
fn secrets() -> Result<(), Failed> {
    let nothing = inside(Path::new("/run/.nothing"));
    for secret in SECRETS {
        let at = inside(Path::new(secret));
        let Ok(stat) = rustix::fs::lstat(&at) else { continue };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => cover(&at)?,
            FileType::RegularFile => {
                File::create(&nothing).map_err(trying("cannot make an empty file"))?;
                let copy = copied(&nothing).map_err(trying("cannot make an empty file"))?;
                attach(&copy, &at).map_err(trying(&format!("cannot cover {secret}")))?;
            }
            _ => {}
        }
    }
    Ok(())
}
