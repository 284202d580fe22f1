//! `backout doctor`: what this machine can do, what that costs in promises, and how to mend it. Everything is found out by doing it.
//!
//! Must never call a promise kept that it did not see kept.

use std::path::Path;

use schemas::ExitCode;
use serde::Serialize;

use crate::home::Home;
use crate::output::Output;
use crate::problem::Problem;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    /// Whether it is as it should be.
    good: bool,
    /// What was seen.
    saw: String,
    /// What is not promised because of it.
    #[serde(skip_serializing_if = "str::is_empty")]
    costs: &'static str,
    /// What to do.
    #[serde(skip_serializing_if = "str::is_empty")]
    fix: &'static str,
}

impl Finding {
    fn good(check: &'static str, saw: impl Into<String>) -> Self {
        Self { check, good: true, saw: saw.into(), costs: "", fix: "" }
    }
}

pub(crate) fn run(home: &Home, output: &Output) -> Result<ExitCode, Problem> {
    let mut found = vec![containment(home)?, landlock(), processes(), cgroup(), state(home.dir()), solver()];
    found.extend(roots(home)?);
    output.result(&serde_json::json!({ "checks": found }), || found.iter().map(told).collect());
    Ok(ExitCode::Done)
}

fn told(finding: &Finding) -> String {
    let mark = if finding.good { "ok  " } else { "NOT " };
    let mut out = format!("{mark} {}: {}\n", finding.check, finding.saw);
    for (word, text) in [("costs", finding.costs), ("fix", finding.fix)] {
        if !text.is_empty() {
            out.push_str(&format!("       {word}: {text}\n"));
        }
    }
    out
}

fn containment(home: &Home) -> Result<Finding, Problem> {
    const CHECK: &str = "commands over layers";
    let confinement = home.confinement()?;
    Ok(match confinement.ability() {
        Ok(()) => {
            Finding::good(CHECK, "a command was run in namespaces of its own over a layer, behind Landlock and seccomp")
        }
        Err(said) => Finding {
            check: CHECK,
            good: false,
            saw: said.to_owned(),
            costs: "unknown commands cannot be tried out before approval and count as irreversible; known ones are inventoried after they ran",
            fix: "allow user namespaces (kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces>0), in a container \
                  run without its seccomp profile or on the host; Linux 5.13 or later",
        },
    })
}

fn landlock() -> Finding {
    const CHECK: &str = "Landlock";
    match launcher::landlock_version() {
        version @ 4.. => Finding::good(CHECK, format!("version {version}: files and ports")),
        version @ 1..=3 => Finding {
            check: CHECK,
            good: true,
            saw: format!("version {version}: files, not ports"),
            costs: "a command that is not contained and declares no network is kept from it by its namespace alone",
            fix: "Linux 6.7 or later",
        },
        _ => Finding {
            check: CHECK,
            good: false,
            saw: "the kernel has none".to_owned(),
            costs: "no command is started at all: none could be kept to what it declares",
            fix: "a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in the parameter lsm=",
        },
    }
}

fn processes() -> Finding {
    const CHECK: &str = "limit of processes";
    match (launcher::has_pid_limit(), rustix_is_root()) {
        (true, _) => Finding::good(CHECK, "each command has its own"),
        (false, false) => Finding::good(CHECK, "by RLIMIT_NPROC, as this is an ordinary user"),
        (false, true) => Finding {
            check: CHECK,
            good: false,
            saw: "the kernel counts the processes of root nowhere".to_owned(),
            costs: "a command of root that forks without end is ended when memory gets low, not before",
            fix: "run as an ordinary user, or Linux 6.14 or later",
        },
    }
}

fn rustix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

fn cgroup() -> Finding {
    const CHECK: &str = "cgroup v2";
    match launcher::cgroup() {
        Ok(saw) => Finding::good(CHECK, format!("each command has one of its own in {saw}")),
        Err(saw) => Finding {
            check: CHECK,
            good: true,
            saw,
            costs: "memory is limited for each process of a command, not for all of them; what is left of the machine is watched",
            fix: "give backout a cgroup of its own: systemd-run --user --scope -p Delegate=yes backout …",
        },
    }
}

fn solver() -> Finding {
    const CHECK: &str = "cvc5";
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).map(|folder| folder.join("cvc5")).find(|file| file.is_file()) {
        Some(file) => Finding::good(CHECK, file.display().to_string()),
        None => Finding {
            check: CHECK,
            good: false,
            saw: "not found".to_owned(),
            costs: "a bundle of policies is signed without a proof of what it can never do, and says so",
            fix: "install the package cvc5",
        },
    }
}

/// The file system of the state folder: what a commit to the log is worth after the power went.
fn state(folder: &Path) -> Finding {
    const CHECK: &str = "state folder";
    let kind = file_system(folder).unwrap_or_else(|| "unknown".to_owned());
    let saw = format!("{} on {kind}", folder.display());
    match kind.as_str() {
        "ext4" | "xfs" | "btrfs" | "zfs" | "f2fs" => Finding::good(CHECK, saw),
        _ => Finding {
            check: CHECK,
            good: false,
            saw,
            costs: "nobody knows here whether what is on record survives a loss of power",
            fix: "keep the state folder on a local file system with a journal: ext4, XFS, btrfs, ZFS",
        },
    }
}

/// The type of the file system that holds a folder, as the kernel lists it.
fn file_system(folder: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let of = |line: &str| -> Option<(usize, String)> {
        let (left, right) = line.split_once(" - ")?;
        let at = left.split(' ').nth(4)?;
        folder.starts_with(at).then(|| (at.len(), right.split(' ').next().unwrap_or("").to_owned()))
    };
    mounts.lines().filter_map(of).max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

/// Each environment: whether layers reach all of it, and how they are committed.
fn roots(home: &Home) -> Result<Vec<Finding>, Problem> {
    const CHECK: &str = "root";
    let site = home.site()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut out = Vec::new();
    for (name, root) in site.roots() {
        let Ok(real) = root.canonicalize() else {
            out.push(Finding {
                check: CHECK,
                good: false,
                saw: format!("{} of {name} is not there", root.display()),
                costs: "no plan for the environment can be looked at",
                fix: "mount or make it, or mend backout.toml",
            });
            continue;
        };
        let inside = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        let mounted: Vec<&Path> = inside.filter(|at| at.starts_with(&real) && *at != real).collect();
        if let [first, ..] = mounted.as_slice() {
            out.push(Finding {
                check: CHECK,
                good: false,
                saw: format!("{} is mounted in {} of {name}", first.display(), real.display()),
                costs: "commands in this root cannot be contained",
                fix: "make what is mounted a root of its own",
            });
            continue;
        }
        let same = can_rename(&real, home);
        out.push(match (real == home.dir() || home.dir().starts_with(&real), same) {
            (true, _) => Finding {
                check: CHECK,
                good: true,
                saw: format!("{} of {name} holds the state folder", real.display()),
                costs: "layers lie in the temporary folder, and where that is another file system a commit copies instead of renaming",
                fix: "keep the state folder beside the root: backout init --dir",
            },
            (false, true) => Finding::good(CHECK, format!("{} of {name}: layers are committed by renames", real.display())),
            (false, false) => Finding {
                check: CHECK,
                good: true,
                saw: format!("{} of {name} is on another file system than the state folder", real.display()),
                costs: "a commit of a layer copies each file before it renames it",
                fix: "keep the state folder on the file system of the root",
            },
        });
    }
    Ok(out)
}

/// Whether a file can be renamed from where layers lie into a root: only within one mount, though two may show one file system.
fn can_rename(root: &Path, home: &Home) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of = |path: &Path| -> Option<String> {
        let each = mounts.lines().filter_map(|line| Some((line.split(' ').next()?, line.split(' ').nth(4)?)));
        let around = each.filter(|(_, at)| path.starts_with(at.replace("\\040", " ")));
        // Of mounts at one place the last one is seen.
        around.max_by_key(|(_, at)| at.len()).map(|(id, _)| id.to_owned())
    };
    of(root).is_some() && of(root) == of(&home.path("layers"))
}
