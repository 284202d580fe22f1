//! The system calls that have no safe wrapper. Nothing else in the workspace is `unsafe`.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libc::sock_filter;
use rustix::process::Pid;

/// One half of a split process.
pub(crate) enum Half {
    /// The new one.
    Child,
    /// The old one, with the id of the new one.
    Parent(Pid),
}

/// `fork`, into new namespaces where `flags` (`CLONE_NEW*`) say so, and into a cgroup.
///
/// Only for processes with one thread, which every process of the launcher is.
pub(crate) fn split(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Half> {
    /// `CLONE_INTO_CGROUP`, of which the bit has no place in the flags of `clone`.
    const INTO_CGROUP: u64 = 1 << 33;
    let Some(cgroup) = cgroup else { return fork(flags) };
    // SAFETY: the structure is plain numbers, for which zero is a value that says nothing.
    let mut wanted: libc::clone_args = unsafe { std::mem::zeroed() };
    (wanted.flags, wanted.exit_signal) = (u64::from(flags as u32) | INTO_CGROUP, libc::SIGCHLD as u64);
    wanted.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: as for `fork` below; the structure is as large as is said.
    half(unsafe { libc::syscall(libc::SYS_clone3, &raw const wanted, size_of::<libc::clone_args>()) })
}

/// Without a cgroup, by the older call, which works where a container's filter does not know the newer one.
fn fork(flags: libc::c_int) -> io::Result<Half> {
    // SAFETY: without CLONE_VM and with no stack the call is a fork: the child goes on here with a copy of the memory. This process
    // has one thread, so that no lock can be held by a thread that does not exist in the child.
    half(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) })
}

fn half(pid: libc::c_long) -> io::Result<Half> {
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Half::Child),
        pid => Pid::from_raw(pid as i32).map(Half::Parent).ok_or_else(|| io::Error::other("no pid")),
    }
}

/// Runs `work` in a new process that shares the memory of this one, while this one waits until it has become another program or ended:
/// nothing is copied. What `work` returns is the exit code of the new process.
pub(crate) fn split_until_exec(work: &mut dyn FnMut() -> i32) -> io::Result<Pid> {
    extern "C" fn enter(work: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the pointer that is given to `clone` below, to a reference that lives until `clone` has returned.
        let work = unsafe { &mut *work.cast::<&mut dyn FnMut() -> i32>() };
        work()
    }
    const STACK: usize = 512 * 1024;
    let (mut stack, mut work) = (vec![0u128; STACK / size_of::<u128>()], work);
    let top = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the new process has a stack of its own, which stays until it has become another program or ended, as this process waits for
    // that; it is the only thread that runs on this memory meanwhile. Its own descriptors, signals, folders and rights are not shared.
    let pid = unsafe { libc::clone(enter, top.cast(), flags, (&raw mut work).cast()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::other("no pid")),
    }
}

/// A program with its arguments and environment, ready to be started without allocating anything.
pub(crate) struct Image {
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Image {
    /// A word with a NUL is an error.
    pub(crate) fn new(program: &Path, argv: &[String], env: &[(String, String)]) -> io::Result<Self> {
        let argv = argv.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
        let env = env.iter().map(|(name, value)| CString::new(format!("{name}={value}"))).collect::<Result<_, _>>()?;
        Ok(Self { program: CString::new(program.as_os_str().as_bytes())?, argv, env })
    }

    /// Becomes the program; comes back only where that failed.
    pub(crate) fn exec(&self) -> io::Error {
        let list = |words: &[CString]| -> Vec<*const libc::c_char> {
            words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, env) = (list(&self.argv), list(&self.env));
        // SAFETY: the lists end with a null pointer, and their strings live in `self`.
        unsafe { libc::execvpe(self.program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Gives every signal its default again but SIGPIPE, and blocks none: what is ignored or blocked stays so in all that is started.
pub(crate) fn default_signals() {
    // SAFETY: an empty set is all zeros, and is only read.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &std::mem::zeroed(), std::ptr::null_mut()) };
    for signal in (1..32).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: the disposition has no handler; the signals that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Gives SIGPIPE its default again, which would end a process that serves others.
pub(crate) fn default_pipe_signal() {
    // SAFETY: the disposition has no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Marks every descriptor from 3 on to be closed by `exec`.
pub(crate) fn close_on_exec() -> io::Result<()> {
    // SAFETY: the call takes no memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `mount_setattr` on a mount that is held open, with everything below it.
pub(crate) fn set_mount(mount: impl AsFd, set: u64) -> io::Result<()> {
    let wanted = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is an empty C string and the structure is as large as is said.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a filter on this process and all that it starts; what the filter refers is asked of the descriptor that comes back.
pub(crate) fn install(filter: &[sock_filter]) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the kernel copies the program, which is as long as is said.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match done {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel returns a descriptor that nobody else has.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

/// A call that the filter refers.
pub(crate) struct Referred {
    id: u64,
    /// The process or thread that makes it, as this process sees it.
    pub(crate) pid: u32,
    /// Its number.
    pub(crate) number: i32,
    /// Its arguments.
    pub(crate) args: [u64; 6],
}

/// Takes one referred call.
pub(crate) fn referred(listener: impl AsFd) -> io::Result<Referred> {
    // SAFETY: the structure is plain numbers, for which zero is a value; the kernel wants it zeroed.
    let mut note: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel writes one structure of this type.
    if unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut note) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Referred { id: note.id, pid: note.pid, number: note.data.nr, args: note.data.args })
}

/// Refuses a referred call with an error number. A caller that is gone needs no answer.
pub(crate) fn refuse(listener: impl AsFd, call: &Referred, errno: i32) {
    let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: -errno, flags: 0 };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel reads one structure of this type.
    unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
}

/// Has the kernel do a referred call: whatever it refuses besides stays refused.
pub(crate) fn allow(listener: impl AsFd, call: &Referred) {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel reads one structure of this type.
    unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
}

/// The version of Landlock that the kernel has; 0 where it has none.
pub fn landlock_version() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no memory and says a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    version.max(0)
}

/// Ends every process that this one may signal but itself and the init of its namespace.
pub(crate) fn kill_all() {
    // SAFETY: the call takes no memory. INVARIANT: only the init of a pid namespace calls it, where it reaches no process outside.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}
