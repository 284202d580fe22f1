//! The filter of system calls: which are refused and told, which do not exist, and the program that the kernel runs for each.
//!
//! Must never let a call through by another number of it, and never run longer than a few comparisons: the kernel runs it for
//! every call, and for every number once when it is put on. The language is that of `seccomp(2)`, classic BPF.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use libc::sock_filter;

use crate::messages::{Failed, trying};
use crate::sys::{self, Referred};
use crate::writing::{self, When};

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
    // `open_tree_attr`: newer than the names that are known here, with one number everywhere.
    (467, "open_tree_attr", MOUNTS),
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
const LOCAL: [u32; 2] = [libc::AF_UNIX as u32, libc::AF_NETLINK as u32];

/// What is to become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ruling {
    /// The kernel does it.
    Allow,
    /// The program is told that there is no such call.
    Unknown,
    /// Init is asked.
    Refer,
    /// Init is asked where one of these bits is in the lower half of an argument.
    ReferWith { argument: u8, bits: u32 },
    /// Init is asked where the lower half of an argument is none of these.
    ReferBut { argument: u8, values: &'static [u32] },
}

/// The terms of every known reader: its filter is put on before it is known which program it will be.
pub(crate) const OF_READERS: Terms = Terms { network: true, tells_writes: true };

/// What a filter lets a program do, and what is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether the network is shared.
    pub(crate) network: bool,
    /// Whether init is asked about every file that is changed by its name.
    pub(crate) tells_writes: bool,
}

type Built = Result<Vec<sock_filter>, String>;

/// The filters that were built.
static FILTERS: OnceLock<Vec<(Terms, Built)>> = OnceLock::new();

/// Builds the filters before they are needed.
pub(crate) fn build() -> &'static [(Terms, Built)] {
    let terms = [(false, false), (false, true), (true, false), (true, true)];
    let terms = terms.map(|(network, tells_writes)| Terms { network, tells_writes });
    FILTERS.get_or_init(|| terms.into_iter().map(|terms| (terms, program(&rules(terms)))).collect())
}

/// Puts the filter on; what it refers comes to the descriptor.
pub(crate) fn put_on(terms: Terms) -> Result<OwnedFd, Failed> {
    let failed = |text: &str| ("cannot build the filter of calls".to_owned(), std::io::Error::other(text.to_owned()));
    let built = build().iter().find(|(built, _)| *built == terms).ok_or_else(|| failed("there is none"))?;
    let filter = built.1.as_ref().map_err(|text| failed(text))?;
    sys::install(filter).map_err(trying("cannot put on the filter of calls"))
}

/// Every call that the kernel is not just left to do, by number.
fn rules(terms: Terms) -> Vec<(u32, Ruling)> {
    let mut all: Vec<(i64, Ruling)> = REFUSED.iter().map(|(call, ..)| (*call, Ruling::Refer)).collect();
    all.extend(UNKNOWN.map(|call| (call, Ruling::Unknown)));
    let bits = NEW_NAMESPACES.iter().fold(0, |bits, flag| bits | *flag as u32);
    all.push((libc::SYS_clone, Ruling::ReferWith { argument: 0, bits }));
    if !terms.network {
        all.push((libc::SYS_socket, Ruling::ReferBut { argument: 0, values: &LOCAL }));
    }
    if terms.tells_writes {
        all.extend(writing::calls().map(|writing| match writing.when {
            When::Flags(argument) => (writing.number, Ruling::ReferWith { argument, bits: writing::WRITES }),
            When::Always | When::How(_) => (writing.number, Ruling::Refer),
        }));
    }
    let mut out: Vec<(u32, Ruling)> = all.into_iter().map(|(call, ruling)| (call as u32, ruling)).collect();
    out.sort_by_key(|(call, _)| *call);
    out
}

// `linux/bpf_common.h`: what an instruction does.
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const HAS_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

// `linux/seccomp.h`: where things lie in what the filter looks at.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const OURS: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OURS: u32 = 0xc000_00b7;

/// Where the numbers of the x32 interface begin, which are other numbers of the same calls.
const X32: u32 = 0x4000_0000;

fn line(code: u16, k: u32, jt: usize, jf: usize) -> Result<sock_filter, String> {
    let near = |far: usize| u8::try_from(far).map_err(|_| "a jump is too far".to_owned());
    Ok(sock_filter { code, jt: near(jt)?, jf: near(jf)?, k })
}

fn give(value: u32) -> Result<sock_filter, String> {
    line(RETURN, value, 0, 0)
}

const UNKNOWN_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The program of a sorted table: programs of another architecture are killed, all other numbers are allowed.
fn program(rules: &[(u32, Ruling)]) -> Result<Vec<sock_filter>, String> {
    let mut spans = vec![(0, Ruling::Allow)];
    for (number, ruling) in rules {
        spans.retain(|(start, _)| start != number);
        spans.extend([(*number, *ruling), (number + 1, Ruling::Allow)]);
    }
    let mut out = vec![
        line(LOAD, ARCHITECTURE, 0, 0)?,
        line(EQUAL, OURS, 1, 0)?,
        give(libc::SECCOMP_RET_KILL_PROCESS)?,
        line(LOAD, NUMBER, 0, 0)?,
    ];
    if cfg!(target_arch = "x86_64") {
        out.extend([line(AT_LEAST, X32, 0, 1)?, give(UNKNOWN_CALL)?]);
    }
    out.extend(tree(&spans)?);
    Ok(out)
}

/// Finds the span that a number is in by halving.
fn tree(spans: &[(u32, Ruling)]) -> Result<Vec<sock_filter>, String> {
    let (below, from) = spans.split_at(spans.len() / 2);
    match (below, from) {
        ([], [(_, ruling)]) => leaf(*ruling),
        (_, [(start, _), ..]) => {
            let (below, from) = (tree(below)?, tree(from)?);
            let fork = line(AT_LEAST, *start, below.len(), 0)?;
            Ok([fork].into_iter().chain(below).chain(from).collect())
        }
        (_, []) => Err("there are no spans".to_owned()),
    }
}

fn leaf(ruling: Ruling) -> Result<Vec<sock_filter>, String> {
    let (allow, refer) = (give(libc::SECCOMP_RET_ALLOW)?, give(libc::SECCOMP_RET_USER_NOTIF)?);
    let load = |argument: u8| line(LOAD, ARGUMENTS + 8 * u32::from(argument), 0, 0);
    match ruling {
        Ruling::Allow => Ok(vec![allow]),
        Ruling::Unknown => Ok(vec![give(UNKNOWN_CALL)?]),
        Ruling::Refer => Ok(vec![refer]),
        Ruling::ReferWith { argument, bits } => Ok(vec![load(argument)?, line(HAS_BITS, bits, 0, 1)?, refer, allow]),
        Ruling::ReferBut { argument, values } => {
            let mut out = vec![load(argument)?];
            for (at, value) in values.iter().enumerate() {
                out.push(line(EQUAL, *value, values.len() - at, 0)?);
            }
            out.extend([refer, allow]);
            Ok(out)
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel makes of a call (`Documentation/networking/filter.rst`).
    fn outcome(program: &[sock_filter], number: u32, architecture: u32, argument: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let line = program[at];
            at += 1;
            let holds = match line.code {
                LOAD => {
                    value = match line.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        at if at >= ARGUMENTS && (at - ARGUMENTS).is_multiple_of(8) => argument,
                        other => panic!("nothing lies at {other}"),
                    };
                    continue;
                }
                RETURN => return line.k,
                EQUAL => value == line.k,
                AT_LEAST => value >= line.k,
                HAS_BITS => value & line.k != 0,
                other => panic!("{other}"),
            };
            at += usize::from(if holds { line.jt } else { line.jf });
        }
    }

    #[test]
    fn every_number_comes_to_what_the_table_says_and_no_other() {
        for (terms, program) in build() {
            let (rules, program) = (rules(*terms), program.as_ref().unwrap());
            for number in 0..1_000 {
                let ruling = rules.iter().find(|(call, _)| *call == number).map_or(Ruling::Allow, |(_, it)| *it);
                for first in [0, 1, 2, 16, 17, 0x40, libc::CLONE_NEWNS as u32, u32::MAX] {
                    let referred = match ruling {
                        Ruling::Allow => libc::SECCOMP_RET_ALLOW,
                        Ruling::Unknown => UNKNOWN_CALL,
                        Ruling::Refer => libc::SECCOMP_RET_USER_NOTIF,
                        Ruling::ReferWith { bits, .. } if first & bits == 0 => libc::SECCOMP_RET_ALLOW,
                        Ruling::ReferBut { values, .. } if values.contains(&first) => libc::SECCOMP_RET_ALLOW,
                        Ruling::ReferWith { .. } | Ruling::ReferBut { .. } => libc::SECCOMP_RET_USER_NOTIF,
                    };
                    assert_eq!(outcome(program, number, OURS, first), referred, "{number} {first}");
                }
            }
        }
    }

    #[test]
    fn other_numbers_of_the_same_calls_lead_nowhere() {
        let program = build()[0].1.as_ref().unwrap();
        assert_eq!(outcome(program, 0, 0x4000_0003, 0), libc::SECCOMP_RET_KILL_PROCESS);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(outcome(program, X32 | libc::SYS_mount as u32, OURS, 0), UNKNOWN_CALL);
        }
    }
}
