//! The walls around a program: what it may use up, what rights it has, which files. Which system calls: `filter.rs`.
//!
//! Must never fail open: a wall that cannot be built is a program that is not started.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::messages::{Failed, trying};
use crate::wanted::{Limits, View, Wanted};

/// Sets what the program may use up.
pub(crate) fn limit(limits: &Limits) -> Result<(), Failed> {
    let each = [
        (Resource::Data, limits.memory),
        (Resource::Nproc, limits.processes),
        (Resource::Nofile, limits.files),
        (Resource::Fsize, limits.file_size),
        (Resource::Cpu, limits.cpu_s),
        (Resource::Core, 0),
    ];
    for (resource, wanted) in each {
        let now = rustix::process::getrlimit(resource);
        let value = now.maximum.map_or(wanted, |most| most.min(wanted));
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
            .map_err(trying("cannot limit what the program may use"))?;
    }
    Ok(())
}

/// Fewest numbers of processes that the kernel takes for a namespace.
const FEWEST: u64 = 301;

/// Whether the kernel limits the processes of each pid namespace.
pub fn has_pid_limit() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 14)
}

/// Lets no more processes than that be in the pid namespace of this process, of which `proc` is a mount that can be written:
/// `RLIMIT_NPROC` does not count those of root. A namespace has a limit of its own since Linux 6.14; before, the number would be that of
/// the machine and is left alone.
pub(crate) fn limit_processes(proc: &OwnedFd, limits: &Limits) -> Result<(), Failed> {
    if !has_pid_limit() {
        return Ok(());
    }
    let failed = || trying::<Errno>("cannot limit the number of processes");
    let file = openat(proc, "sys/kernel/pid_max", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed())?;
    let most = limits.processes.max(FEWEST).to_string();
    rustix::io::write(&file, most.as_bytes()).map(drop).map_err(failed())
}

/// The rights that root keeps: those over files and ids that any program of root reckons with.
fn kept() -> CapabilitySet {
    if !rustix::process::geteuid().is_root() {
        return CapabilitySet::empty();
    }
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::SETGID
        | CapabilitySet::SETUID
}

/// No program that this process or one that comes from it starts can have more rights than those that are kept. Of this process itself it
/// takes none. An ordinary user has none to give up; a new user namespace has them all again.
pub(crate) fn drop_bounds() {
    let kept = kept();
    for number in 0..=63u32 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        // The names of the last ones may be unknown to this kernel.
        if !kept.contains(one) && rustix::thread::remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
}

/// Gives up every right of an administrator, and the way to any.
pub(crate) fn drop_rights() -> Result<(), Failed> {
    let (failed, kept) = (|| trying::<Errno>("cannot give up rights"), kept());
    rustix::thread::clear_ambient_capability_set().map_err(failed())?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(failed())?;
    rustix::thread::set_no_new_privs(true).map_err(failed())
}

/// Folders of its own that a program may write to besides.
pub(crate) fn free(wanted: &Wanted) -> Vec<PathBuf> {
    match &wanted.view {
        View::Layers(_) => ["/tmp", "/var/tmp", "/dev/shm", "/run"].map(PathBuf::from).to_vec(),
        View::Bare | View::Machine => vec![wanted.scratch.clone()],
    }
}

/// Devices that any program may write to: they do nothing to anybody.
pub(crate) const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// The devices, opened once by the process that forks: a rule is about what was opened, wherever it is seen.
static OPENED: OnceLock<Vec<OwnedFd>> = OnceLock::new();

/// Opens the devices before they are needed.
pub(crate) fn open_devices() -> &'static [OwnedFd] {
    let open = |path: &&str| rustix::fs::open(*path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
    OPENED.get_or_init(|| DEVICES.iter().filter_map(open).collect())
}

/// Lets the program write beneath `writes` and its temporary folders, read everything that it sees, and nothing else.
pub(crate) fn files(wanted: &Wanted) -> Result<(), Failed> {
    let failed =
        |error: landlock::RulesetError| ("cannot build the wall around files".to_owned(), std::io::Error::other(error));
    let abi = ABI::V7;
    let net = AccessNet::BindTcp | AccessNet::ConnectTcp;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(failed)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .map_err(failed)?;
    rules = rules.scope(Scope::from_all(ABI::V6)).map_err(failed)?;
    if !wanted.network {
        rules = rules.handle_access(net).map_err(failed)?;
    }
    let free = free(wanted);
    let writes = wanted.writes.iter().chain(&free);
    let made = AccessFs::from_all(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
    let devices = open_devices().iter().map(|fd| Ok::<_, landlock::RulesetError>(PathBeneath::new(fd, device)));
    let status = rules
        .create()
        .map_err(failed)?
        .add_rules(path_beneath_rules(["/"], AccessFs::from_read(abi)))
        .map_err(failed)?
        .add_rules(path_beneath_rules(writes, made))
        .map_err(failed)?
        .add_rules(devices)
        .map_err(failed)?
        .restrict_self()
        .map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(("the kernel has no Landlock".to_owned(), Errno::NOSYS.into()));
    }
    Ok(())
}
