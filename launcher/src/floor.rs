//! What a program must leave of the machine: disk where its writes go, and memory.
//!
//! Must be opened before the view is built, in which neither can be seen.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::wanted::{Limits, View, Wanted};

/// The floors, and what tells how near they are.
pub(crate) struct Floors {
    limits: Limits,
    takes_writes: Option<OwnedFd>,
    memory: Option<File>,
}

impl Floors {
    /// Of what is wanted; what cannot be looked at has no floor.
    pub(crate) fn of(wanted: &Wanted) -> Self {
        let takes_writes = match &wanted.view {
            View::Layers(layers) => layers.first().map(|layer| layer.upper.as_path()),
            View::Bare | View::Machine => wanted.writes.first().map(|path| path.parent().unwrap_or(Path::new("/"))),
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Self {
            limits: wanted.limits,
            takes_writes: takes_writes.and_then(|path| rustix::fs::open(path, flags, Mode::empty()).ok()),
            memory: File::open("/proc/meminfo").ok(),
        }
    }

    /// What of the machine is nearly used up.
    pub(crate) fn reached(&self) -> Option<String> {
        let stat = self.takes_writes.as_ref().and_then(|fd| rustix::fs::fstatvfs(fd).ok());
        let free = stat.map(|stat| stat.f_bavail * stat.f_frsize);
        if let Some(free) = free.filter(|free| *free < self.limits.disk_floor) {
            return Some(format!("only {} MiB of disk were left", free >> 20));
        }
        let mut buffer = [0u8; 512];
        let count = self.memory.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let known = std::str::from_utf8(buffer.get(..count)?).ok()?;
        let line = known.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        (kib << 10 < self.limits.memory_floor).then(|| format!("only {} MiB of memory were left", kib >> 10))
    }
}
