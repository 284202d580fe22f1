//! Remotes, through the `git` program with fixed arguments and a clean environment: libgit2 has no push with a lease.

use std::collections::BTreeMap;

use git2::{Oid, Repository};
use kernel::{Cancel, DriverError};

use crate::command::process::{Ground, Program, run};

const TIMEOUT_MS: u64 = 120_000;
/// Not what `remote.NAME.uploadpack` of the repository says, which may be any program.
const UPLOAD: &str = "--upload-pack=git-upload-pack";

fn git(repo: &Repository, words: &[&str]) -> Result<String, DriverError> {
    let fixed = [
        "git",
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "credential.helper=",
        "-c",
        "protocol.ext.allow=never",
        "-c",
        "core.sshCommand=ssh",
        "-c",
        "core.gitProxy=",
        "-c",
        "core.fsmonitor=false",
    ];
    let argv: Vec<String> = fixed.iter().chain(words).map(|word| (*word).to_owned()).collect();
    let env = BTreeMap::from([("GIT_DIR".to_owned(), repo.path().display().to_string())]);
    let cancel = Cancel::default();
    let program = Program {
        argv: &argv,
        // Where git itself starts: a remote may be named by a relative path.
        cwd: repo.workdir().unwrap_or_else(|| repo.path()),
        env: &env,
        stdin: None,
        timeout_ms: TIMEOUT_MS,
        run: "",
        cancel: &cancel,
        // The words are ours, and the remote and its transport are the step's own business.
        ground: Ground::Plain,
    };
    match run(&program) {
        Ok(output) => Ok(String::from_utf8_lossy(&output.captured).into_owned()),
        Err(DriverError::Exit { output, .. }) => {
            let text = String::from_utf8_lossy(&output.captured).trim().chars().take(400).collect::<String>();
            Err(DriverError::Tool(format!("git {}: {text}", words.first().unwrap_or(&""))))
        }
        Err(error) => Err(error),
    }
}

fn checked(remote: &str) -> Result<&str, DriverError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let named = !remote.is_empty() && !remote.starts_with(['-', '/', '.']) && remote.bytes().all(good);
    if named { Ok(remote) } else { Err(DriverError::Refused(format!("{remote:?} is not the name of a remote"))) }
}

/// Where a ref of the remote points; `None` if it is not there.
pub(super) fn read(repo: &Repository, remote: &str, name: &str) -> Result<Option<Oid>, DriverError> {
    let text = git(repo, &["ls-remote", UPLOAD, checked(remote)?, name])?;
    let line = text.lines().find_map(|line| line.split_once('\t').filter(|(_, found)| *found == name));
    match line {
        None => Ok(None),
        Some((oid, _)) => Oid::from_str(oid).map(Some).map_err(super::change::failed("read what git printed")),
    }
}

/// Moves a ref of the remote from `before` to `after`, unless somebody else moved it.
pub(super) fn push(
    repo: &Repository,
    remote: &str,
    name: &str,
    before: Option<&str>,
    after: Option<&str>,
) -> Result<(), DriverError> {
    let lease = format!("--force-with-lease={name}:{}", before.unwrap_or(""));
    let refspec = format!("{}:{name}", after.unwrap_or(""));
    git(
        repo,
        &["push", "--porcelain", "--no-verify", "--receive-pack=git-receive-pack", &lease, checked(remote)?, &refspec],
    )
    .map(|_| ())
}

/// Fetches a commit of the remote that is not here, under a ref that keeps it.
pub(super) fn fetch(repo: &Repository, remote: &str, name: &str, keep: &str) -> Result<(), DriverError> {
    git(repo, &["fetch", "--no-tags", UPLOAD, checked(remote)?, &format!("+{name}:{keep}")]).map(|_| ())
}
