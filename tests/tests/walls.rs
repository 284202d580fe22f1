//! Programs that try to get out of a layer, as root and as an ordinary user: nothing outside changes, nothing secret is seen, nothing goes
//! on, and what was tried is on record.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use launcher::Report;
use tests::cage::{Cage, Came};

/// What shows that an attempt came to nothing.
enum Shown {
    /// The call is told.
    Tried(&'static str),
    /// The program was told no, in one of these words.
    Says(&'static [&'static str]),
    /// It changed the layer and nothing else.
    Layer,
    /// It left processes behind, which were ended.
    Left,
    /// It saw this and no more.
    Sees(&'static str),
}

use Shown::{Layer, Left, Says, Sees, Tried};

const NO: &[&str] = &[
    "Read-only file system",
    "Permission denied",
    "nonexistent",
    "No such file",
    "Operation not permitted",
    "cross-device",
    "not permitted",
];

/// Shell lines. `PORT` is a listener of the machine, `ABSTRACT` an abstract socket of it, `SELF` the process of the test.
const LINES: &[(&str, Shown)] = &[
    // Files outside.
    ("echo x > ../other/file", Says(NO)),
    ("echo x > /etc/passwd", Says(NO)),
    ("echo x > /usr/bin/backout-was-here", Says(NO)),
    ("echo x > /was-here", Says(NO)),
    ("rm -f /usr/lib/os-release", Says(NO)),
    ("mv /etc/hostname /etc/hostname.old", Says(NO)),
    ("ln -s ../other/file link && echo x > link", Says(NO)),
    ("ln -s /etc/passwd link && echo x >> link", Says(NO)),
    ("cd / && echo x > ../../../etc/hostname", Says(NO)),
    ("ln /etc/passwd hard", Says(NO)),
    ("ln ../state/key hard", Says(NO)),
    ("mv ../world ../elsewhere", Says(&["Permission denied", "busy", "not permitted", "cross-device"])),
    ("mkdir ../beside", Layer),
    ("chmod 777 /etc/passwd", Says(NO)),
    ("touch /etc/passwd", Says(NO)),
    ("chown 1 /etc/passwd", Says(NO)),
    ("exec 3< / && echo x > /proc/self/fd/3/was-here", Says(NO)),
    ("echo x > /proc/self/root/etc/passwd", Says(NO)),
    ("echo x > /proc/self/cwd/../other/file", Says(NO)),
    ("echo x > /proc/1/root/etc/passwd", Says(NO)),
    ("echo x > /etc/ld.so.preload", Says(NO)),
    // What is secret.
    ("cat ../state/key", Says(NO)),
    ("cat /etc/shadow /etc/shadow- 2>/dev/null | wc -c", Sees("0")),
    ("ls /root/.ssh /home/*", Says(NO)),
    ("cat /proc/1/environ", Says(NO)),
    ("cat /proc/1/mem", Says(NO)),
    ("ls /proc/SELF", Says(NO)),
    ("env | grep -vE '^(PATH|PWD|_|SHLVL|OLDPWD)=' | wc -l", Sees("0")),
    ("ls /proc/self/fd | wc -l", Sees("4")),
    ("find / -name key -path '*state*' 2>/dev/null | wc -l", Sees("0")),
    // The kernel's own files and devices.
    ("echo 1 > /proc/sys/kernel/panic", Says(NO)),
    ("echo b > /proc/sysrq-trigger", Says(NO)),
    ("echo x > /sys/kernel/profiling", Says(NO)),
    ("chmod 777 /dev/null /dev/full", Says(NO)),
    ("python3 -c 'import os; os.fchmod(0, 0o600)'", Layer),
    ("cat /dev/mem", Says(NO)),
    ("ls /dev/sda /dev/vda", Says(NO)),
    ("mknod disk b 8 0", Says(NO)),
    ("mknod zero c 1 5", Says(NO)),
    // Other processes.
    ("kill -9 SELF", Says(&["No such process"])),
    ("kill -9 1; kill -9 -1; sleep 5", Layer),
    ("setsid sleep 1000 & exit 0", Left),
    ("(setsid sh -c 'sleep 1000 & sleep 1000' &) ; exit 0", Left),
    ("nohup sleep 1000 >/dev/null 2>&1 & exit 0", Left),
    ("perl -e 'fork and exit; setpgrp; fork and exit; sleep 1000' ; exit 0", Left),
    ("sh -c 'trap \"\" TERM HUP INT; while :; do sleep 1; done' & exit 0", Left),
    ("ls /proc | grep -c '^[0-9]*$'", Says(&["3", "4", "5", "6"])),
    // The network and sockets of the machine.
    ("bash -c 'exec 3<>/dev/tcp/127.0.0.1/PORT'", Tried("socket(AF_INET)")),
    ("ls /run/docker.sock /var/run/dbus /run/user", Says(NO)),
    // Rights.
    ("cp /bin/sh own && chmod 4755 own && ./own -c 'cat ../state/key'", Says(NO)),
    ("su nobody -s /bin/sh -c true", Says(&["", "su:"])),
    ("unshare -r true", Tried("unshare")),
    ("setpriv --inh-caps +all true", Says(&["", "setpriv"])),
    ("LD_PRELOAD=./evil.so cat ../state/key", Says(NO)),
    // The layer itself: what is done in it is not done.
    ("rm -rf ./* .??*", Layer),
    ("mv file moved && mkdir file && rm -rf file && mv moved file && rm file", Layer),
    ("find . -delete", Layer),
    ("chmod 000 . file", Layer),
    ("ln file second && echo x >> second", Layer),
    ("mkfifo pipe", Layer),
    ("ipcmk -M 1024 > /dev/null", Layer),
    // Using up.
    ("head -c 600M /dev/zero > /tmp/big", Says(&["No space", "write error"])),
    ("head -c 600M /dev/zero > /dev/shm/big", Says(&["No space", "write error"])),
    ("python3 -c 'x = bytearray(30 << 30)'", Says(&["MemoryError"])),
    ("ulimit -n 100000", Says(&["ulimit", "limit"])),
];

/// Python over `syscall(2)`.
fn calls() -> Vec<(String, &'static str)> {
    let plain = [
        (libc::SYS_mount, "mount"),
        (libc::SYS_umount2, "umount2"),
        (libc::SYS_pivot_root, "pivot_root"),
        (libc::SYS_chroot, "chroot"),
        (libc::SYS_open_tree, "open_tree"),
        (libc::SYS_fsopen, "fsopen"),
        (libc::SYS_move_mount, "move_mount"),
        (libc::SYS_mount_setattr, "mount_setattr"),
        (libc::SYS_setns, "setns"),
        (libc::SYS_unshare, "unshare"),
        (libc::SYS_ptrace, "ptrace"),
        (libc::SYS_process_vm_readv, "process_vm_readv"),
        (libc::SYS_kcmp, "kcmp"),
        (libc::SYS_pidfd_getfd, "pidfd_getfd"),
        (libc::SYS_perf_event_open, "perf_event_open"),
        (libc::SYS_userfaultfd, "userfaultfd"),
        (libc::SYS_open_by_handle_at, "open_by_handle_at"),
        (libc::SYS_bpf, "bpf"),
        (libc::SYS_kexec_load, "kexec_load"),
        (libc::SYS_init_module, "init_module"),
        (libc::SYS_delete_module, "delete_module"),
        (libc::SYS_reboot, "reboot"),
        (libc::SYS_acct, "acct"),
        (libc::SYS_swapon, "swapon"),
        (libc::SYS_settimeofday, "settimeofday"),
        (libc::SYS_clock_settime, "clock_settime"),
        (libc::SYS_add_key, "add_key"),
        (libc::SYS_keyctl, "keyctl"),
        (libc::SYS_sethostname, "sethostname"),
        (libc::SYS_fanotify_init, "fanotify_init"),
    ];
    let mut out: Vec<(String, &str)> =
        plain.iter().map(|(number, name)| (format!("{number},0,0,0,0,0"), *name)).collect();
    for (family, name) in [
        (libc::AF_INET, "socket(AF_INET)"),
        (libc::AF_INET6, "socket(AF_INET6)"),
        (libc::AF_PACKET, "socket(AF_PACKET)"),
        (libc::AF_VSOCK, "socket(AF_VSOCK)"),
        (libc::AF_ALG, "socket(38)"),
    ] {
        out.push((format!("{},{family},1,0", libc::SYS_socket), name));
    }
    out.push((format!("{},{},0,0,0,0", libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD), "clone(CLONE_NEW…)"));
    out
}

fn unharmed(cage: &Cage, what: &str, came: &Came) {
    assert!(cage.still("world/file", "first\n"), "{what}: {came:?}");
    assert!(cage.still("other/file", "outside\n") && cage.still("state/key", "SECRET\n"), "{what}: {came:?}");
    assert!(!came.text.contains("SECRET"), "{what}: {came:?}");
    assert!(!std::path::Path::new("/was-here").exists() && !std::path::Path::new("/usr/bin/backout-was-here").exists());
}

fn tried(what: &str, came: &Came, call: &str) {
    assert!(came.tried().contains(&call), "{what}: {came:?}");
}

fn try_everything(cage: &Cage) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for (line, shown) in LINES {
        let line = line.replace("PORT", &port).replace("SELF", &std::process::id().to_string());
        let came = cage.sh(&line);
        unharmed(cage, &line, &came);
        let Report::Ended(ended) = &came.report else { panic!("{line}: {came:?}") };
        match shown {
            Tried(call) => tried(&line, &came, call),
            Says(words) => assert!(words.iter().any(|word| came.text.contains(word)), "{line}: {came:?}"),
            Layer => {}
            Left => assert!(ended.left > 0, "{line}: {came:?}"),
            Sees(text) => assert_eq!(came.text.lines().last().map(str::trim), Some(*text), "{line}: {came:?}"),
        }
    }
    for (call, name) in calls() {
        let script = format!("import ctypes; ctypes.CDLL(None).syscall({call})");
        let came = cage.run(&["python3", "-c", &script]);
        unharmed(cage, name, &came);
        tried(name, &came, name);
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody reached the machine's port");
}

#[test]
fn whatever_a_contained_program_of_root_tries_stays_inside_and_is_told() {
    try_everything(&Cage::new());
}

#[test]
fn whatever_a_contained_program_of_an_ordinary_user_tries_stays_inside_and_is_told() {
    let Some(cage) = Cage::of_user() else { return };
    try_everything(&cage);
}

#[test]
fn calls_by_other_interfaces_are_unknown_to_the_kernel() {
    let cage = Cage::new();
    let x32 = 0x4000_0000 + libc::SYS_mount;
    for call in [x32, libc::SYS_io_uring_setup, libc::SYS_clone3] {
        let script = format!(
            "import ctypes; l=ctypes.CDLL(None,use_errno=True); l.syscall({call},0,0); print(ctypes.get_errno())"
        );
        let came = cage.run(&["python3", "-c", &script]);
        assert_eq!(came.text.trim(), libc::ENOSYS.to_string(), "{came:?}");
    }
}

#[test]
fn a_program_from_memory_has_the_same_walls() {
    let script = "import os; f=os.memfd_create('x'); os.write(f, open('/bin/sh','rb').read()); \
                  os.execve(f, ['sh','-c','echo x > /etc/passwd; cat ../state/key'], {})";
    for cage in [Some(Cage::new()), Cage::of_user()].into_iter().flatten() {
        let came = cage.run(&["python3", "-c", script]);
        unharmed(&cage, "memfd", &came);
        assert!(NO.iter().any(|word| came.text.contains(word)), "{came:?}");
    }
}

#[test]
fn sockets_of_the_machine_cannot_be_reached_abstract_or_by_path() {
    let cage = Cage::new();
    let name = format!("backout-test-{}", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let beside = UnixListener::bind(cage.path("world/socket")).unwrap();
    for (address, listener) in [(format!("'\\0{name}'"), &listener), ("'socket'".to_owned(), &beside)] {
        let script = format!("import socket; socket.socket(socket.AF_UNIX).connect({address})");
        let came = cage.run(&["python3", "-c", &script]);
        assert_ne!(came.code(), 0, "{came:?}");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "{address} was reached");
    }
}

#[test]
fn a_fork_bomb_ends_with_its_step() {
    for cage in [Some(Cage::new()), Cage::of_user()].into_iter().flatten() {
        let script = "import os, time\nfor n in range(5000):\n  try:\n    if os.fork() == 0: time.sleep(600)\n  except OSError:\n    \
                      print('refused'); break";
        let (mut wanted, _) = cage.wanted(&["python3", "-c", script]);
        wanted.limits.processes = 64;
        let (report, text) = cage.start(&wanted);
        let Report::Ended(ended) = &report else { panic!("{report:?}") };
        assert!(text.contains("refused") && ended.left > 20, "{report:?} {text}");
        assert!(cage.still("world/file", "first\n"));
        // The machine can still fork.
        assert_eq!(cage.sh("true").code(), 0);
    }
}

#[test]
fn a_program_that_would_use_up_the_disk_is_ended_before_it_does() {
    let cage = Cage::new();
    let free = rustix::fs::statvfs(cage.path("state")).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
    let (mut wanted, _) = cage.wanted(&["sh", "-c", "while :; do head -c 16M /dev/zero >> big; done"]);
    wanted.limits.disk_floor = free.saturating_sub(256 << 20);
    let (report, _) = cage.start(&wanted);
    let Report::Ended(ended) = &report else { panic!("{report:?}") };
    assert!(ended.exhausted.as_ref().is_some_and(|text| text.contains("disk")), "{report:?}");
    let (mut wanted, _) = cage.wanted(&["sh", "-c", "head -c 2M /dev/zero > big"]);
    wanted.limits.file_size = 1 << 20;
    let (report, _) = cage.start(&wanted);
    assert!(matches!(&report, Report::Ended(ended) if ended.code != 0), "{report:?}");
}

#[test]
fn what_cannot_be_set_up_is_never_taken_for_the_programs_own_exit() {
    let cage = Cage::new();
    let (mut wanted, _) = cage.wanted(&["no-such-program"]);
    assert!(matches!(cage.start(&wanted).0, Report::Setup { errno: libc::ENOENT, .. }));
    wanted.argv = vec!["true".to_owned()];
    wanted.scratch = cage.path("missing");
    assert!(matches!(cage.start(&wanted).0, Report::Setup { .. }));
}

#[test]
fn a_program_on_the_machine_itself_writes_what_it_may_and_nothing_else() {
    for cage in [Some(Cage::new()), Cage::of_user()].into_iter().flatten() {
        let (mut wanted, _) =
            cage.wanted(&["sh", "-c", "echo x > file; echo y > ../other/file; cat ../state/key; exit 0"]);
        wanted.view = launcher::View::Machine;
        wanted.network = true;
        let (report, text) = cage.start(&wanted);
        assert!(matches!(&report, Report::Ended(ended) if ended.code == 0), "{report:?} {text}");
        assert!(cage.still("world/file", "x\n") && cage.still("other/file", "outside\n"), "{text}");
        assert!(!text.contains("SECRET"), "{text}");
    }
}

#[test]
fn a_program_that_is_known_to_only_read_writes_nothing_and_needs_no_namespace() {
    let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    for cage in [Some(Cage::new()), Cage::of_user()].into_iter().flatten() {
        let (mut wanted, _) = cage.wanted(&["sh", "-c", "cat file; echo x > file; setsid sleep 600 & exit 0"]);
        wanted.view = launcher::View::Bare;
        wanted.writes.clear();
        let (report, text) = cage.start(&wanted);
        assert!(matches!(&report, Report::Ended(ended) if ended.code == 0 && ended.left == 1), "{report:?} {text}");
        assert!(text.starts_with("first\n") && cage.still("world/file", "first\n"), "{text}");
    }
    assert_eq!(mounts(), before, "nothing of the machine's mounts was touched");
}

/// What a program tries to change outside, and the call that is told.
const OUTSIDE: &[(&str, &str)] = &[
    ("echo y > {}/file", "open({}/file)"),
    ("echo y >> {}/new", "open({}/new)"),
    ("cat x 2>/dev/null > {}/../{name}/file", "open({}/file)"),
    ("mkdir {}/d", "mkdir({}/d)"),
    ("echo y > /proc/self/root{}/file", "open({}/file)"),
    ("cd {}; echo y > /proc/self/cwd/file", "open({}/file)"),
    ("echo y > /dev/fd/../../..{}/file", "open({}/file)"),
    ("exec 3< {}; echo y > /proc/self/fd/3/file", "open({}/file)"),
    ("ln -s {} l; echo y > l/file; rm l", "open({}/file)"),
    ("export HOME=/; echo y > {}/file", "open({}/file)"),
    ("python3 -c \"open(b'{}/n' + bytes([255]), 'w')\"", "open({}/n\u{fffd})"),
    ("rm -f {}/file", "unlink({}/file)"),
    ("mv {}/file {}/gone", "rename({}/file)"),
    ("cp file f && mv f {}/file", "rename({}/file)"),
    ("ln -s x {}/l", "symlink({}/l)"),
    ("ln file {}/l", "link({}/l)"),
    ("mkfifo {}/p", "mknod({}/p)"),
    ("chmod 777 {}/file", "chmod({}/file)"),
    ("chown 7 {}/file", "chown({}/file)"),
    ("touch -h -d 2001-01-01 {}/file", "utimensat({}/file)"),
    ("python3 -c \"import os; os.truncate('{}/file', 0)\"", "truncate({}/file)"),
    ("python3 -c \"import os; os.setxattr('{}/file', 'user.a', b'1')\"", "setxattr({}/file)"),
    ("python3 -c \"import os; os.fchmod(os.open('{}/file', 0), 0o777)\"", "chmod({}/file)"),
    ("python3 -c \"import os; os.utime(os.open('{}/file', 0), (1, 1))\"", "utimensat({}/file)"),
];

#[test]
fn what_a_program_tries_to_change_outside_is_told_by_its_path_whatever_it_says_itself() {
    use std::os::unix::fs::MetadataExt as _;
    let state = |cage: &Cage| {
        let meta = std::fs::metadata(cage.path("other/file")).unwrap();
        (std::fs::read(cage.path("other/file")).unwrap(), meta.mode(), meta.uid(), meta.mtime())
    };
    for cage in [Some(Cage::new()), Cage::of_user()].into_iter().flatten() {
        let other = cage.path("other").canonicalize().unwrap();
        let was = state(&cage);
        for view in [launcher::View::Machine, launcher::View::Bare] {
            for (line, call) in OUTSIDE {
                let fill = |text: &str| text.replace("{}", other.to_str().unwrap()).replace("{name}", "other");
                let (mut wanted, _) = cage.wanted(&["sh", "-c", &format!("{} 2>/dev/null; exit 0", fill(line))]);
                (wanted.view, wanted.network, wanted.tells_writes) = (view.clone(), true, true);
                let (report, text) = cage.start(&wanted);
                let Report::Ended(ended) = &report else { panic!("{line}: {report:?}") };
                let tried: Vec<&str> = ended.tried.iter().map(|tried| tried.call.as_str()).collect();
                // A program that stops at the first no has told what it would do first.
                assert!(tried.contains(&fill(call).as_str()), "{view:?} {line}: {ended:?} {text}");
                assert_eq!(ended.code, 0, "{line}: {report:?} {text}");
                assert_eq!(state(&cage), was, "{view:?} {line}");
                assert_eq!(tests::cage::names(&other), ["file"], "{view:?} {line}");
            }
        }
        let quiet =
            "echo 1 > file; mkdir d; rmdir d; cp file f; mv f g; chmod 600 g; rm g; echo > /dev/null; tty; exit 0";
        for view in [launcher::View::Machine, launcher::View::Bare] {
            let (mut wanted, _) = cage.wanted(&["sh", "-c", quiet]);
            (wanted.view, wanted.network, wanted.tells_writes) = (view, true, true);
            let (report, text) = cage.start(&wanted);
            assert!(matches!(&report, Report::Ended(ended) if ended.tried.is_empty()), "{report:?} {text}");
        }
        // Over a layer, where it is asked for.
        let (mut wanted, _) = cage.wanted(&["sh", "-c", "echo 1 > file; echo evil >> /etc/hosts; rm /usr/bin/env"]);
        wanted.tells_writes = true;
        let (report, text) = cage.start(&wanted);
        let Report::Ended(ended) = &report else { panic!("{report:?} {text}") };
        let tried: Vec<&str> = ended.tried.iter().map(|tried| tried.call.as_str()).collect();
        assert_eq!(tried, ["open(/etc/hosts)", "unlink(/usr/bin/env)"], "{report:?} {text}");
    }
}
