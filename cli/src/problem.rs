//! What went wrong, for whoever has to do something about it: a stable code, all findings, the next command.

use std::error::Error as StdError;

use schemas::{Code, ExitCode, Finding};
use serde::Serialize;

/// A failed command. Member names follow RFC 9457.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    /// The page about it.
    #[serde(rename = "type")]
    pub(crate) kind: Code,
    pub(crate) title: String,
    #[serde(skip)]
    pub(crate) exit: ExitCode,
    #[serde(rename = "exit_code")]
    exit_number: u8,
    /// What to type next.
    pub(crate) next: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) findings: Vec<Finding>,
    /// The kept decisions by which the policy said no: `.backout/documents` has them, with the id of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) decisions: Option<Box<schemas::Digest>>,
}

impl Problem {
    pub(crate) fn new(exit: ExitCode, kind: Code, title: impl Into<String>, next: impl Into<String>) -> Self {
        let (title, next) = (title.into(), next.into());
        Self { kind, title, exit, exit_number: exit.number(), next, findings: Vec::new(), decisions: None }
    }

    /// Wrong usage.
    pub(crate) fn usage(title: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, Code::USAGE, title, next)
    }

    /// The operating system or a tool failed.
    pub(crate) fn failure(doing: &str, error: &dyn StdError) -> Self {
        let title = format!("{doing}: {}", chain(error));
        Self::new(ExitCode::Failure, Code::FAILURE, title, "mend what it names, then the same command again")
    }

    /// Findings about a document.
    pub(crate) fn findings(
        exit: ExitCode,
        title: impl Into<String>,
        findings: Vec<Finding>,
        next: impl Into<String>,
    ) -> Self {
        let kind = findings.first().map_or(Code::FAILURE, |finding| finding.code);
        Self { findings, ..Self::new(exit, kind, title, next) }
    }

    /// A journal that cannot be used.
    pub(crate) fn journal(error: &journal::JournalError) -> Self {
        use journal::JournalError as E;
        let title = chain(error);
        match error {
            E::Integrity(_) => Self::new(
                ExitCode::Integrity,
                Code::INTEGRITY,
                title,
                "keep the file as evidence; restore .backout from a copy that `backout verify` accepts",
            ),
            E::Missing(_) => {
                Self::new(ExitCode::Integrity, Code::INTEGRITY, title, "restore .backout/journal.db from a copy")
            }
            E::Busy { silent_for_s, .. } if *silent_for_s > 10 => {
                let next = "backout recover ends that process and takes over";
                Self::new(ExitCode::Failure, Code::JOURNAL_BUSY, title, next)
            }
            E::Busy { .. } | E::Fenced => Self::new(ExitCode::Failure, Code::JOURNAL_BUSY, title, "backout status"),
            _ => Self::new(ExitCode::Failure, Code::FAILURE, title, "make room or mend the disk, then backout recover"),
        }
    }

    /// A snapshot store that cannot be used.
    pub(crate) fn snapshot(error: &snapshots::SnapshotError) -> Self {
        match error {
            snapshots::SnapshotError::Integrity { .. } => Self::new(
                ExitCode::Integrity,
                Code::INTEGRITY,
                chain(error),
                "keep .backout as evidence; nothing was put back from it",
            ),
            _ => Self::failure("the snapshot store", error),
        }
    }

    /// A signature or a signer that is not good.
    pub(crate) fn identity(title: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(ExitCode::Identity, Code::SIGNATURE, title, next)
    }

    /// Something changed since it was approved.
    pub(crate) fn stale(title: impl Into<String>) -> Self {
        Self::new(ExitCode::Stale, Code::STALE, title, "backout gate PLAN, then approve the new manifest")
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        cause = inner.source();
    }
    out
}
