//! The test command: set-up, format, lints, tests, documentation.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Programs that tests and builds use, or files of them, with the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("git", "git"),
    ("cc", "gcc"),
    ("sed", "sed"),
    ("setsid", "util-linux"),
    ("rsync", "rsync"),
    ("patch", "patch"),
    ("make", "make"),
    ("perl", "perl"),
    ("sqlite3", "sqlite3"),
    ("cpio", "cpio"),
    ("zip", "zip"),
    ("unzip", "unzip"),
    ("strace", "strace"),
    ("cvc5", "cvc5"),
    ("ssh-keygen", "openssh-client"),
    ("openssl", "openssl"),
    ("/usr/bin/python3", "python3"),
    ("/usr/lib/python3/dist-packages/securesystemslib/__init__.py", "python3-securesystemslib"),
    ("/usr/lib/python3/dist-packages/nacl/__init__.py", "python3-nacl"),
    ("/usr/lib/python3/dist-packages/cryptography/__init__.py", "python3-cryptography"),
];

/// Prints a line for whoever runs the command.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "xtask: {text}");
}

pub(crate) fn test() -> Result<(), String> {
    install(PROGRAMS)?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    cargo(&["build", "--workspace", "--locked"], &[])?;
    cargo(&["test", "--workspace", "--locked", "--no-fail-fast"], &[])?;
    cargo(&["doc", "--workspace", "--no-deps", "--locked"], &[("RUSTDOCFLAGS", "-D warnings")])
}

/// The long crash tests, of runs and of the commit of a layer: at least 500 kills each unless told otherwise.
pub(crate) fn crash(args: &[String]) -> Result<(), String> {
    let kills = args.first().map_or("500", String::as_str);
    let words =
        ["test", "--release", "--locked", "-p", "tests", "--test", "crash", "--test", "overlay", "--", "--nocapture"];
    cargo(&words, &[("BACKOUT_KILLS", kills)])
}

pub(crate) fn schemas() -> Result<(), String> {
    for (file, schema) in schemas::published() {
        let text = serde_json::to_string_pretty(&schema).map_err(|error| error.to_string())? + "\n";
        std::fs::write(Path::new("schemas/published").join(file), text).map_err(|error| error.to_string())?;
    }
    Ok(())
}

pub(crate) fn cargo(words: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
    say(&format!("cargo {}", words.join(" ")));
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(program).args(words).envs(env.iter().copied()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo {} failed: {status}", words.join(" "))),
        Err(error) => Err(format!("cargo cannot be started: {error}")),
    }
}

fn is_there(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Installs what is missing of these programs, by name of the Debian package.
pub(crate) fn install(programs: &[(&str, &str)]) -> Result<(), String> {
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    for words in [vec!["update"], [vec!["install", "-y", "--no-install-recommends"], missing.clone()].concat()] {
        let status = Command::new("apt-get")
            .args(&words)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(format!("apt-get {} failed: install {} by hand", words.join(" "), missing.join(" ")));
        }
    }
    Ok(())
}
