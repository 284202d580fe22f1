//! The ids of a user namespace: inside they are those outside.
//!
//! Must never map an id that the process outside does not have.

use rustix::process::Pid;

use crate::messages::{Failed, trying};

/// What this process may map, read once.
pub(crate) struct Ids {
    /// Of root all that it has itself, of others their own.
    users: String,
    groups: String,
    is_root: bool,
}

impl Ids {
    /// Those of this process.
    pub(crate) fn own() -> Result<Self, Failed> {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            return Ok(Self { users: format!("{user} {user} 1\n"), groups: format!("{group} {group} 1\n"), is_root });
        }
        let known = |name: &str| -> Result<String, Failed> {
            let text = std::fs::read_to_string(format!("/proc/self/{name}")).map_err(trying("cannot read the ids"))?;
            let same = |line: &str| -> Option<String> {
                let mut parts = line.split_whitespace();
                let (first, _, count) = (parts.next()?, parts.next()?, parts.next()?);
                Some(format!("{first} {first} {count}\n"))
            };
            Ok(text.lines().filter_map(same).collect())
        };
        Ok(Self { users: known("uid_map")?, groups: known("gid_map")?, is_root })
    }

    /// Whether they are those of root.
    pub(crate) fn are_roots(&self) -> bool {
        self.is_root
    }

    /// Gives them to the user namespace of a process.
    pub(crate) fn map(&self, process: Pid) -> Result<(), Failed> {
        let raw = process.as_raw_nonzero();
        let write = |name: &str, text: &str| {
            std::fs::write(format!("/proc/{raw}/{name}"), text).map_err(trying(&format!("cannot write {name}")))
        };
        if !self.is_root {
            write("setgroups", "deny")?;
        }
        write("uid_map", &self.users)?;
        write("gid_map", &self.groups)
    }
}
