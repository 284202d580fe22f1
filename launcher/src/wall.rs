//! The walls around a program: what it may use up, what rights it has, which files and which system calls.
//!
//! Must never fail open: a wall that cannot be built is a program that is not started.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use crate::keeper::{Failed, trying};
use crate::sys::Referred;
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

/// Lets no more processes than that be in the pid namespace of this process: `RLIMIT_NPROC` does not count those of root. A
/// namespace has a limit of its own since Linux 6.14; before, the number would be that of the machine and is left alone.
pub(crate) fn limit_processes(limits: &Limits) -> Result<(), Failed> {
    if !has_pid_limit() {
        return Ok(());
    }
    let failed = || trying::<Errno>("cannot limit the number of processes");
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed())?;
    fsconfig_create(&fs).map_err(failed())?;
    let proc = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(failed())?;
    let file = openat(&proc, "sys/kernel/pid_max", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed())?;
    let most = limits.processes.max(FEWEST).to_string();
    rustix::io::write(&file, most.as_bytes()).map(drop).map_err(failed())
}

/// Gives up every right of an administrator; root keeps those over files and ids that any program of root reckons with.
pub(crate) fn drop_rights() -> Result<(), Failed> {
    let failed = || trying::<Errno>("cannot give up rights");
    let kept = if rustix::process::geteuid().is_root() {
        CapabilitySet::CHOWN
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::FOWNER
            | CapabilitySet::FSETID
            | CapabilitySet::KILL
            | CapabilitySet::SETGID
            | CapabilitySet::SETUID
    } else {
        CapabilitySet::empty()
    };
    // The names of the last ones may be unknown to this kernel.
    for number in 0..=63u32 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !kept.contains(one) && rustix::thread::remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(failed())?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(failed())?;
    rustix::thread::set_no_new_privs(true).map_err(failed())
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
    let free = match &wanted.view {
        View::Layers(_) => vec![Path::new("/tmp"), Path::new("/var/tmp"), Path::new("/dev/shm"), Path::new("/run")],
        View::Bare | View::Machine => vec![wanted.scratch.as_path()],
    };
    let devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
    let writes = wanted.writes.iter().map(std::path::PathBuf::as_path).chain(free);
    let made = AccessFs::from_all(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let status = rules
        .create()
        .map_err(failed)?
        .add_rules(path_beneath_rules(["/"], AccessFs::from_read(abi)))
        .map_err(failed)?
        .add_rules(path_beneath_rules(writes, made))
        .map_err(failed)?
        .add_rules(path_beneath_rules(devices, AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate))
        .map_err(failed)?
        .restrict_self()
        .map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(("the kernel has no Landlock".to_owned(), Errno::NOSYS.into()));
    }
    Ok(())
}

/// A system call that is refused and told, and why.
type Refused = (i64, &'static str, &'static str);

const NAMESPACES: &str = "it would leave its namespaces, or make new ones";
const MOUNTS: &str = "it would change what is mounted";
const OTHERS: &str = "it would reach into other processes";
const KERNEL: &str = "it would change the kernel";
const CLOCK: &str = "it would change the clock";
const KEYS: &str = "it would reach the kernel's keys";

/// Calls that no step has a use for that would not reach beyond it.
const REFUSED: &[Refused] = &[
    (libc::SYS_mount, "mount", MOUNTS),
    (libc::SYS_umount2, "umount2", MOUNTS),
    (libc::SYS_pivot_root, "pivot_root", MOUNTS),
    (libc::SYS_chroot, "chroot", MOUNTS),
    (libc::SYS_mount_setattr, "mount_setattr", MOUNTS),
    (libc::SYS_move_mount, "move_mount", MOUNTS),
    (libc::SYS_open_tree, "open_tree", MOUNTS),
    (libc::SYS_fsopen, "fsopen", MOUNTS),
    (libc::SYS_fsconfig, "fsconfig", MOUNTS),
    (libc::SYS_fsmount, "fsmount", MOUNTS),
    (libc::SYS_fspick, "fspick", MOUNTS),
    (libc::SYS_quotactl, "quotactl", MOUNTS),
    (libc::SYS_swapon, "swapon", MOUNTS),
    (libc::SYS_swapoff, "swapoff", MOUNTS),
    (libc::SYS_setns, "setns", NAMESPACES),
    (libc::SYS_unshare, "unshare", NAMESPACES),
    (libc::SYS_sethostname, "sethostname", NAMESPACES),
    (libc::SYS_setdomainname, "setdomainname", NAMESPACES),
    (libc::SYS_ptrace, "ptrace", OTHERS),
    (libc::SYS_process_vm_readv, "process_vm_readv", OTHERS),
    (libc::SYS_process_vm_writev, "process_vm_writev", OTHERS),
    (libc::SYS_kcmp, "kcmp", OTHERS),
    (libc::SYS_pidfd_getfd, "pidfd_getfd", OTHERS),
    (libc::SYS_perf_event_open, "perf_event_open", OTHERS),
    (libc::SYS_userfaultfd, "userfaultfd", OTHERS),
    (libc::SYS_fanotify_init, "fanotify_init", OTHERS),
    (libc::SYS_open_by_handle_at, "open_by_handle_at", OTHERS),
    (libc::SYS_bpf, "bpf", KERNEL),
    (libc::SYS_kexec_load, "kexec_load", KERNEL),
    (libc::SYS_init_module, "init_module", KERNEL),
    (libc::SYS_finit_module, "finit_module", KERNEL),
    (libc::SYS_delete_module, "delete_module", KERNEL),
    (libc::SYS_reboot, "reboot", KERNEL),
    (libc::SYS_acct, "acct", KERNEL),
    (libc::SYS_syslog, "syslog", KERNEL),
    (libc::SYS_settimeofday, "settimeofday", CLOCK),
    (libc::SYS_clock_settime, "clock_settime", CLOCK),
    (libc::SYS_adjtimex, "adjtimex", CLOCK),
    (libc::SYS_clock_adjtime, "clock_adjtime", CLOCK),
    (libc::SYS_add_key, "add_key", KEYS),
    (libc::SYS_request_key, "request_key", KEYS),
    (libc::SYS_keyctl, "keyctl", KEYS),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_kexec_file_load, "kexec_file_load", KERNEL),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_iopl, "iopl", KERNEL),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ioperm, "ioperm", KERNEL),
];

/// Calls that programs try and do without: they are told that the kernel has none.
const UNKNOWN: [i64; 4] =
    [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Flags of `clone` that make namespaces.
const NEW_NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Kinds of sockets that stay on the machine.
const LOCAL: [libc::c_int; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

/// The filters: of what the kernel is said not to have, and of what is told, without and with the network.
struct Filters {
    unknown: BpfProgram,
    told: [BpfProgram; 2],
}

/// Built once, by the process that forks.
static FILTERS: OnceLock<Result<Filters, String>> = OnceLock::new();

/// Builds the filters before they are needed.
pub(crate) fn build_filters() {
    let _ = FILTERS.get_or_init(|| built().map_err(|error| error.to_string()));
}

fn built() -> Result<Filters, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let build =
        |rules: BTreeMap<i64, Vec<SeccompRule>>, action: SeccompAction| -> Result<BpfProgram, seccompiler::Error> {
            Ok(BpfProgram::try_from(SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?)?)
        };
    let unknown = UNKNOWN.iter().map(|call| (*call, Vec::new())).collect();
    let unknown = without_x32(build(unknown, SeccompAction::Errno(libc::ENOSYS as u32))?);
    let listened = |network| -> Result<BpfProgram, seccompiler::Error> {
        let program = build(told(network)?, SeccompAction::Trace(MARK))?;
        Ok(program.into_iter().map(to_listener).collect())
    };
    Ok(Filters { unknown, told: [listened(false)?, listened(true)?] })
}

/// Puts both filters on; what the second one refers comes to the listener.
pub(crate) fn calls(network: bool) -> Result<Option<OwnedFd>, Failed> {
    build_filters();
    let failed = |text: &str| ("cannot build the wall around calls".to_owned(), std::io::Error::other(text.to_owned()));
    let Some(Ok(filters)) = FILTERS.get() else {
        return Err(failed(FILTERS.get().and_then(|built| built.as_ref().err()).map_or("", String::as_str)));
    };
    let put = || trying::<std::io::Error>("cannot put up the wall around calls");
    crate::sys::install(&filters.unknown, false).map_err(put())?;
    let [without, with] = &filters.told;
    crate::sys::install(if network { with } else { without }, true).map_err(put())
}

fn told(network: bool) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|(call, ..)| (*call, Vec::new())).collect();
    let one = |at: u8, operator: SeccompCmpOp, value: u64| {
        SeccompCondition::new(at, SeccompCmpArgLen::Dword, operator, value)
    };
    let mut clones = Vec::new();
    for flag in NEW_NAMESPACES {
        let flag = flag as u32 as u64;
        clones.push(SeccompRule::new(vec![one(0, SeccompCmpOp::MaskedEq(flag), flag)?])?);
    }
    rules.insert(libc::SYS_clone, clones);
    if !network {
        let other = LOCAL.iter().map(|kind| one(0, SeccompCmpOp::Ne, *kind as u64)).collect::<Result<Vec<_>, _>>()?;
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(other)?]);
    }
    Ok(rules)
}

/// What the builder puts where a call is to be referred: it has no word for that.
const MARK: u32 = 0x0b0;
const TRACE: u32 = 0x7ff0_0000 | MARK;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

fn to_listener(line: sock_filter) -> sock_filter {
    if line.code == RETURN && line.k == TRACE { sock_filter { k: libc::SECCOMP_RET_USER_NOTIF, ..line } } else { line }
}

/// Before everything else: no calls by the numbers of the x32 interface, which a list of numbers does not know.
fn without_x32(filter: BpfProgram) -> BpfProgram {
    if cfg!(not(target_arch = "x86_64")) {
        return filter;
    }
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS: the number of the call is the first word
    const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const X32: u32 = 0x4000_0000;
    let deny = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let head = [
        sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: AT_LEAST, jt: 0, jf: 1, k: X32 },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: deny },
    ];
    head.into_iter().chain(filter).collect()
}

/// A referred call in words, and why it is refused.
pub(crate) fn name(call: &Referred) -> (String, &'static str) {
    let number = i64::from(call.number);
    if number == libc::SYS_socket {
        let [family, ..] = call.args;
        let family = match i32::try_from(family) {
            Ok(libc::AF_INET) => "AF_INET".to_owned(),
            Ok(libc::AF_INET6) => "AF_INET6".to_owned(),
            Ok(libc::AF_PACKET) => "AF_PACKET".to_owned(),
            Ok(libc::AF_VSOCK) => "AF_VSOCK".to_owned(),
            _ => family.to_string(),
        };
        return (format!("socket({family})"), "it would reach the network, which the step does not declare");
    }
    if number == libc::SYS_clone {
        return ("clone(CLONE_NEW…)".to_owned(), NAMESPACES);
    }
    let found = REFUSED.iter().find(|(known, ..)| *known == number);
    found.map_or_else(|| (format!("system call {number}"), KERNEL), |(_, name, why)| ((*name).to_owned(), *why))
}
