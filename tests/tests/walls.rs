//! What a contained program can reach.

use tests::cage::{Cage, names};

#[test]
fn smoke() {
    let cage = Cage::new();
    for line in ["true", "echo hi > new; cat file; rm file; ls -la / /tmp /dev /proc/self/fd; id; cat /proc/self/status | grep Cap; mount | head -30",
        "ls /root /home; cat ../state/key", "unshare -r true", "python3 -c 'import socket; socket.socket()'", "exit 3", "setsid sleep 100 & sleep 100 & exit 0", "echo x > /etc/passwd; echo x > /usr/y; echo x > /foo; cat /etc/shadow"] {
        let came = cage.sh(line);
        eprintln!("--- {line}\n{:?}\n{}", came.report, came.text);
        eprintln!("{:?}", names(&came.upper));
    }
    assert!(cage.still("world/file", "first\n"));
}

#[test]
fn timing() {
    let cage = Cage::new();
    for kind in 0..3 {
        let mut times = Vec::new();
        for _ in 0..200 {
            let (mut wanted, _) = cage.wanted(&["/bin/true"]);
            if kind == 1 { wanted.view = launcher::View::Machine; wanted.network = true; }
            if kind == 2 { wanted.view = launcher::View::Bare; wanted.network = true; }
            let from = std::time::Instant::now();
            cage.start(&wanted);
            times.push(from.elapsed());
        }
        times.sort();
        eprintln!("{kind} {:?} {:?}", times[100], times[190]);
    }
    let mut times: Vec<_> = (0..200).map(|_| { let from = std::time::Instant::now(); std::process::Command::new("/bin/true").status().unwrap(); from.elapsed() }).collect();
    times.sort();
    eprintln!("plain {:?}", times[100]);
}
